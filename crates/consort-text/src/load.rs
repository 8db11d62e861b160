//! A model directory's tokenizer files, read and checked.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::config::{Config, Family, Role, kind};
use crate::guard::guard;
use crate::{Error, charsmap};

/// The largest file that is read, in bytes. The largest published `tokenizer.json` files (Gemma 3: 33 MB) are well
/// below it.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Names under which SentencePiece models are published.
const SENTENCEPIECE_FILES: [&str; 7] = [
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "source.spm",
    "target.spm",
];

/// The tokenizer of a directory and the files beside it; none where there are no tokenizer files.
pub(crate) fn load(directory: &Path) -> Result<Option<(Tokenizer, Config)>, Error> {
    // A directory that is not there is an error, not a model without a tokenizer.
    std::fs::read_dir(directory).map_err(|source| Error::Read { path: directory.to_owned(), source })?;
    let path = directory.join("tokenizer.json");
    if let Some(bytes) = read(&path)? {
        let config = Config::read(directory)?;
        let mut tokenizer = from_json(&bytes, &path)?;
        finish(&mut tokenizer, &config, &path)?;
        return Ok(Some((tokenizer, config)));
    }
    let (vocab, merges) = (directory.join("vocab.json"), directory.join("merges.txt"));
    match (read(&vocab)?, read(&merges)?) {
        (Some(vocab_bytes), Some(merges_bytes)) => {
            let mut config = Config::read(directory)?;
            let mut tokenizer = byte_level((&vocab_bytes, &vocab), (&merges_bytes, &merges), &mut config)?;
            finish(&mut tokenizer, &config, &vocab)?;
            return Ok(Some((tokenizer, config)));
        }
        (Some(_), None) => return Err(invalid(&vocab, "expected merges.txt beside it, found none")),
        (None, Some(_)) => return Err(invalid(&merges, "expected vocab.json beside it, found none")),
        (None, None) => {}
    }
    let path = directory.join("vocab.txt");
    if let Some(bytes) = read(&path)? {
        let mut config = Config::read(directory)?;
        let mut tokenizer = word_piece(&bytes, &path, &mut config)?;
        finish(&mut tokenizer, &config, &path)?;
        return Ok(Some((tokenizer, config)));
    }
    for name in SENTENCEPIECE_FILES {
        let path = directory.join(name);
        if path.exists() {
            return Err(Error::Unsupported { path, format: "SentencePiece file".to_owned() });
        }
    }
    Ok(None)
}

/// `tokenizer.json`, without its truncation and padding: `transformers` sets both anew on every call, to none.
fn from_json(bytes: &[u8], path: &Path) -> Result<Tokenizer, Error> {
    // Syntax, UTF-8 and nesting first: within the crate, some of these errors are panics.
    let object: Value = serde_json::from_slice(bytes).map_err(|error| invalid(path, error.to_string()))?;
    let Value::Object(object) = &object else {
        return Err(invalid(path, format!("expected an object, found {}", kind(&object))));
    };
    if !object.get("model").is_some_and(Value::is_object) {
        return Err(invalid(path, "expected an object as model, found none"));
    }
    if let Some(normalizer) = object.get("normalizer") {
        charsmap::check_normalizer(normalizer).map_err(|detail| invalid(path, detail))?;
    }
    guard(|| {
        let mut tokenizer = Tokenizer::from_bytes(bytes)?;
        tokenizer.with_padding(None).with_truncation(None)?;
        Ok(tokenizer)
    })
    .map_err(|detail| invalid(path, detail))
}

/// The tokenizer in the bytes of a `tokenizer.json`, with no other file beside it.
pub(crate) fn json_tokenizer(bytes: &[u8], path: &Path) -> Result<Tokenizer, Error> {
    let mut tokenizer = from_json(bytes, path)?;
    finish(&mut tokenizer, &Config::default(), path)?;
    Ok(tokenizer)
}

/// GPT-2's or RoBERTa's tokenizer from `vocab.json` and `merges.txt`.
fn byte_level(vocab: (&[u8], &Path), merges: (&[u8], &Path), config: &mut Config) -> Result<Tokenizer, Error> {
    let path = vocab.1;
    let vocab: HashMap<String, u32> = serde_json::from_slice(vocab.0)
        .map_err(|error| invalid(path, format!("expected an object of token to id: {error}")))?;
    if vocab.is_empty() {
        return Err(invalid(path, "expected tokens, found none"));
    }
    let mut by_id: HashMap<u32, &str> = HashMap::with_capacity(vocab.len());
    for (token, &id) in &vocab {
        if let Some(other) = by_id.insert(id, token) {
            return Err(invalid(path, format!("expected one token with id {id}, found {other:?} and {token:?}")));
        }
    }
    let family = match &config.family {
        Some(family @ (Family::Gpt2 | Family::Roberta)) => family.clone(),
        Some(Family::Other(class)) => {
            return Err(Error::Unsupported { path: path.to_owned(), format: format!("vocab.json of a {class}") });
        }
        // `<mask>` and its companions are RoBERTa's, and GPT-2 has none of them.
        _ if ["<s>", "</s>", "<pad>", "<mask>"].iter().all(|token| vocab.contains_key(*token)) => Family::Roberta,
        _ => Family::Gpt2,
    };
    config.family = Some(family.clone());
    let merges = parse_merges(merges.0, merges.1)?;
    let special = |role: Role| {
        let token = config.token(role)?;
        Some((token.to_owned(), *vocab.get(token)?))
    };
    let (sep, cls) = (special(Role::Sep), special(Role::Cls));
    let add_prefix_space = config.add_prefix_space.unwrap_or(false);
    let mut tokenizer = guard(|| {
        let model = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<AHashVocab>(), merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(String::new())
            .build()?;
        Ok(Tokenizer::new(model))
    })
    .map_err(|detail| invalid(path, detail))?;
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(add_prefix_space, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    if family == Family::Roberta {
        let (Some(sep), Some(cls)) = (sep, cls) else {
            return Err(invalid(path, "expected RoBERTa's <s> and </s>, found not both"));
        };
        let processor = RobertaProcessing::new(sep, cls).add_prefix_space(add_prefix_space);
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(tokenizer)
}

/// The map type that `tokenizers` builds a vocabulary from.
type AHashVocab = tokenizers::models::bpe::Vocab;

/// The pairs of `merges.txt`, first merged first.
fn parse_merges(bytes: &[u8], path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = utf8(bytes, path)?;
    let mut merges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        let mut parts = line.split(' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(left), Some(right), None) => merges.push((left.to_owned(), right.to_owned())),
            _ => {
                let detail = format!("expected two tokens and a space on line {}, found {line:?}", index + 1);
                return Err(invalid(path, detail));
            }
        }
    }
    Ok(merges)
}

/// BERT's tokenizer from `vocab.txt`: the id of a token is its line, from 0.
///
/// Lower case unless `do_lower_case` says otherwise, also for a vocabulary that has capital letters: so does
/// `transformers`, which knew the cased models by their names alone.
fn word_piece(bytes: &[u8], path: &Path, config: &mut Config) -> Result<Tokenizer, Error> {
    match &config.family {
        Some(Family::Other(class)) => {
            return Err(Error::Unsupported { path: path.to_owned(), format: format!("vocab.txt of a {class}") });
        }
        _ => config.family = Some(Family::Bert),
    }
    let text = utf8(bytes, path)?;
    let mut ids: HashMap<&str, u32> = HashMap::new();
    for (line, token) in text.lines().enumerate() {
        let id = u32::try_from(line).map_err(|_| invalid(path, "expected at most 2^32 lines, found more"))?;
        if let Some(first) = ids.insert(token, id) {
            let detail = format!("expected each token once, found {token:?} on lines {} and {}", first + 1, line + 1);
            return Err(invalid(path, detail));
        }
    }
    let special = |role: Role| -> Result<(String, u32), Error> {
        let token = config.token(role).unwrap_or_default();
        let id =
            ids.get(token).ok_or_else(|| invalid(path, format!("expected the token {token:?}, found no such line")))?;
        Ok((token.to_owned(), *id))
    };
    let (unk, sep, cls) = (special(Role::Unk)?, special(Role::Sep)?, special(Role::Cls)?);
    let vocab: AHashVocab = ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect();
    let mut tokenizer = guard(|| Ok(Tokenizer::new(WordPiece::builder().vocab(vocab).unk_token(unk.0).build()?)))
        .map_err(|detail| invalid(path, detail))?;
    guard(|| {
        let normalizer = BertNormalizer::new(
            true,
            config.tokenize_chinese_chars.unwrap_or(true),
            config.strip_accents,
            config.do_lower_case.unwrap_or(true),
        );
        tokenizer.with_normalizer(Some(normalizer))?;
        Ok(())
    })
    .map_err(|detail| invalid(path, detail))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(WordPieceDecoder::default()));
    tokenizer.with_post_processor(Some(template(Some(&cls), Some(&sep), path)?));
    Ok(tokenizer)
}

/// Added tokens, special tokens, and BOS and EOS where no post-processor adds them.
fn finish(tokenizer: &mut Tokenizer, config: &Config, path: &Path) -> Result<(), Error> {
    let known = |tokenizer: &Tokenizer, token: &str| tokenizer.get_added_vocabulary().get_vocab().contains_key(token);
    // In the order of their ids: `tokenizers` gives each new one the next id.
    let new: Vec<(u32, AddedToken)> = config
        .added
        .iter()
        .filter(|(_, token)| !known(tokenizer, &token.content))
        .map(|(&id, token)| (id, token.clone()))
        .collect();
    guard(|| tokenizer.add_tokens(new.iter().map(|(_, token)| token.clone())))
        .map_err(|detail| invalid(path, detail))?;
    for (id, token) in &new {
        let found = tokenizer.token_to_id(&token.content);
        if found != Some(*id) {
            let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
            let detail = format!("expected id {id} for the added token {:?}, found {found}", token.content);
            return Err(invalid(path, detail));
        }
    }
    // `transformers` makes each token with a role special, so that it is never split and decoding can skip it. One
    // that the vocabulary does not have would get a new id there, which no embedding has; here it is absent.
    let roles = Role::ALL.into_iter().filter_map(|role| config.token(role));
    let special: Vec<AddedToken> = roles
        .chain(config.more_special.iter().map(String::as_str))
        .filter(|token| !known(tokenizer, token) && tokenizer.token_to_id(token).is_some())
        .map(|token| AddedToken::from(token.to_owned(), true))
        .collect();
    guard(|| tokenizer.add_special_tokens(special)).map_err(|detail| invalid(path, detail))?;
    if tokenizer.get_post_processor().is_none() && (config.add_bos || config.add_eos) {
        let special = |wanted: bool, role: Role| {
            let token = config.token(role).filter(|_| wanted)?;
            Some((token.to_owned(), tokenizer.token_to_id(token)?))
        };
        let (bos, eos) = (special(config.add_bos, Role::Bos), special(config.add_eos, Role::Eos));
        let processor = template(bos.as_ref(), eos.as_ref(), path)?;
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(())
}

/// A post-processor that puts one token before and one after a text.
pub(crate) fn template(
    before: Option<&(String, u32)>,
    after: Option<&(String, u32)>,
    path: &Path,
) -> Result<PostProcessorWrapper, Error> {
    let token = |token: &(String, u32), segment: u32| json!({"SpecialToken": {"id": token.0, "type_id": segment}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let around = |name: &str, segment: u32| {
        let before = before.map(|before| token(before, segment));
        let after = after.map(|after| token(after, segment));
        before.into_iter().chain([text(name, segment)]).chain(after).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [before, after]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let single = around("A", 0);
    let pair: Vec<Value> = single.iter().cloned().chain(around("B", 1)).collect();
    let source = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    serde_json::from_value(source).map_err(|error| invalid(path, error.to_string()))
}

/// The bytes of a file; none where there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    // One byte more than the limit, for files whose size is not known before.
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    let found = size.max(u64::try_from(read).unwrap_or(u64::MAX));
    if found > MAX_FILE_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), found, limit: MAX_FILE_BYTES });
    }
    Ok(Some(bytes))
}

/// The object in a JSON file; none where there is no such file.
pub(crate) fn read_json_object(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(invalid(path, format!("expected an object, found {}", kind(&other)))),
        Err(error) => Err(invalid(path, error.to_string())),
    }
}

fn utf8<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        invalid(path, format!("expected UTF-8, found other bytes on line {line}"))
    })
}

pub(crate) fn invalid(path: &Path, detail: impl Into<String>) -> Error {
    Error::Invalid { path: path.to_owned(), detail: detail.into() }
}
