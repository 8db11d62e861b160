//! The tokenizer that a GGUF file carries, as plain data (`tokenizer.ggml.*` and `tokenizer.chat_template*`).

use super::metadata::{Metadata, Texts};
use crate::error::{Error, printable};

/// Everything that a file says of its tokenizer. What the fields mean for each `model` is llama.cpp's (`llama-vocab.cpp`);
/// nothing is filled in for what the file leaves out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The kind: `llama` (SentencePiece BPE), `gpt2` (byte-level BPE), `bert` (WordPiece), `t5` (Unigram) …
    pub model: String,
    /// Name of the rule that splits text before BPE: `llama-bpe`, `qwen2`, `default` …
    pub pre: Option<String>,
    /// The tokens, as many as the embedding has rows.
    pub tokens: Vec<String>,
    /// A score for each token; empty where the file has none.
    pub scores: Vec<f32>,
    /// A kind for each token; empty where the file has none. 1 normal, 2 unknown, 3 control, 4 added by users, 5 unused,
    /// 6 a byte.
    pub kinds: Vec<i32>,
    /// Merges of BPE, `left right`, the first to be applied first.
    pub merges: Vec<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message of a turn that goes on.
    pub eom: Option<u32>,
    /// Stands for what has no token.
    pub unk: Option<u32>,
    /// Separates texts.
    pub sep: Option<u32>,
    /// Fills up.
    pub pad: Option<u32>,
    /// Stands before a text that is classified.
    pub cls: Option<u32>,
    /// Stands for a hidden token.
    pub mask: Option<u32>,
    /// Whether a text begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a text ends with `sep`.
    pub add_sep: Option<bool>,
    /// Whether a space is put in front of a text.
    pub add_space_prefix: Option<bool>,
    /// Whether spaces in a row become one.
    pub remove_extra_whitespaces: Option<bool>,
    /// Whether letters are made small; of WordPiece.
    pub lowercase: Option<bool>,
    /// Whether accents are taken off; of WordPiece.
    pub strip_accents: Option<bool>,
    /// SentencePiece's compiled rules of normalisation; empty where the file has none.
    pub precompiled_charsmap: Vec<u8>,
    /// The chat template.
    pub chat_template: Option<String>,
    /// Further templates by name.
    pub chat_templates: Vec<(String, String)>,
}

/// The largest public vocabularies have two merges a token.
const MERGES_PER_TOKEN: usize = 16;
/// Text of a template beyond this is none.
const MAX_TEMPLATE: usize = 4 << 20;

/// Reads the vocabulary for an embedding of `rows` tokens; `None` where the file has no tokens.
///
/// # Errors
/// For tokens that are not one for each row, lists of other lengths, ids beyond them, and values of the wrong kind.
pub(crate) fn read(metadata: &Metadata<'_>, rows: usize) -> Result<Option<Vocabulary>, Error> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let model = metadata.text(&key("model"))?.unwrap_or_default();
    let Some(tokens) = metadata.texts(TOKENS)?.filter(|tokens| tokens.len() > 0) else { return Ok(None) };
    // Before any of them is made a string.
    if tokens.len() != rows {
        let what = format!("{} tokens, where token_embd.weight has {rows} rows", tokens.len());
        return Err(metadata.error(TOKENS, what));
    }
    let one_each = |name: &str, count: usize| match count {
        0 => Ok(()),
        count if count == rows => Ok(()),
        count => Err(metadata.error(&key(name), format!("{count} entries for {rows} tokens"))),
    };
    let scores = metadata.floats(&key("scores"))?.unwrap_or_default();
    one_each("scores", scores.len())?;
    let kinds = metadata.integers(&key("token_type"))?.unwrap_or_default();
    one_each("token_type", kinds.len())?;
    let merges = match metadata.texts(&key("merges"))? {
        None => Vec::new(),
        Some(merges) if merges.len() > rows.saturating_mul(MERGES_PER_TOKEN) => {
            return Err(metadata.error(&key("merges"), format!("{} merges for {rows} tokens", merges.len())));
        }
        Some(merges) => strings(metadata, &key("merges"), merges)?,
    };
    let id = |name: &str| token(metadata, &key(name), rows);
    let either = |name: &str, other: &str| Ok::<_, Error>(id(name)?.or(id(other)?));
    Ok(Some(Vocabulary {
        model: model.to_owned(),
        pre: metadata.text(&key("pre"))?.map(str::to_owned),
        tokens: strings(metadata, TOKENS, tokens)?,
        scores,
        kinds,
        merges,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        // The misspelt key is the format's.
        sep: either("seperator_token_id", "separator_token_id")?,
        pad: id("padding_token_id")?,
        cls: id("cls_token_id")?,
        mask: id("mask_token_id")?,
        add_bos: metadata.flag(&key("add_bos_token"))?,
        add_eos: metadata.flag(&key("add_eos_token"))?,
        add_sep: metadata.flag(&key("add_sep_token"))?,
        add_space_prefix: metadata.flag(&key("add_space_prefix"))?,
        remove_extra_whitespaces: metadata.flag(&key("remove_extra_whitespaces"))?,
        lowercase: metadata.flag(&key("normalizer.lowercase"))?,
        strip_accents: metadata.flag(&key("normalizer.strip_accents"))?,
        precompiled_charsmap: metadata.bytes(&key("precompiled_charsmap"))?.unwrap_or_default().to_vec(),
        chat_template: template(metadata, "tokenizer.chat_template")?,
        chat_templates: named_templates(metadata)?,
    }))
}

/// A token id; below the number of tokens, or, as some conversions have it, all bits set for none.
pub(crate) fn token(metadata: &Metadata<'_>, key: &str, rows: usize) -> Result<Option<u32>, Error> {
    match metadata.count(key)? {
        None => Ok(None),
        Some(none) if none == u64::from(u32::MAX) => Ok(None),
        Some(id) if id < rows as u64 => Ok(u32::try_from(id).ok()),
        Some(id) => Err(metadata.error(key, format!("{id} is beyond the {rows} tokens"))),
    }
}

fn strings(metadata: &Metadata<'_>, key: &str, texts: Texts<'_>) -> Result<Vec<String>, Error> {
    let owned = |text: Result<&str, usize>| match text {
        Ok(text) => Ok(text.to_owned()),
        Err(place) => Err(metadata.error(key, format!("entry {place} is not UTF-8"))),
    };
    texts.read().map(owned).collect()
}

fn template(metadata: &Metadata<'_>, key: &str) -> Result<Option<String>, Error> {
    match metadata.text(key)? {
        Some(text) if text.len() > MAX_TEMPLATE => {
            Err(metadata.error(key, format!("{} bytes, beyond the limit of {MAX_TEMPLATE}", text.len())))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

/// `tokenizer.chat_template.NAME`, for every NAME that there is.
fn named_templates(metadata: &Metadata<'_>) -> Result<Vec<(String, String)>, Error> {
    const PREFIX: &str = "tokenizer.chat_template.";
    let keys = metadata.entries.range(PREFIX..).map(|(key, _)| *key).take_while(|key| key.starts_with(PREFIX));
    let named = |key: &str| {
        let name = key.strip_prefix(PREFIX).map(printable).unwrap_or_default();
        Ok(template(metadata, key)?.map(|text| (name, text)))
    };
    keys.filter_map(|key| named(key).transpose()).collect()
}
