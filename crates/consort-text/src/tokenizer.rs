//! A tokenizer: text to ids, ids to text.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokenizers::{
    Decoder, Encoding, Model, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper, Token, Tokenizer as Inner,
};

use crate::config::{Config, Role};
use crate::embedded::scored::Scored;
use crate::guard::guard;
use crate::stream::{ByteTable, Stream};
use crate::{Error, load};

/// Embedding rows beyond the vocabulary that are always taken for padding.
///
/// Families pad to a multiple of 128 up to 1024, or keep rows for tokens to come: T5 has 32,100 tokens and 32,128
/// rows, Phi-3 32,011 and 32,064, Qwen2.5 151,665 and 151,936 or 152,064.
pub const MIN_EXTRA_ROWS: usize = 1024;

/// The vocabulary divided by this is also taken for padding, where it is more than [`MIN_EXTRA_ROWS`].
///
/// Generous on purpose: a tokenizer of another family is usually off by more than half (Llama 2 has 32,000 tokens,
/// GPT-2 50,257, Llama 3 128,256), and a model that does reserve rows must not be refused.
pub const MAX_EXTRA_ROWS_FRACTION: usize = 2;

/// The tokenizer of a model directory. Clones are cheap, and share it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Inner,
    /// Merges in place of the model, whose pieces it looks up.
    scored: Option<Scored>,
    /// Added tokens by id: their text, and whether they are special.
    added: HashMap<u32, (String, bool)>,
    roles: HashMap<Role, u32>,
    vocabulary_size: usize,
    /// Whether the model may drop characters without a word.
    lossy: bool,
    /// The decoder's stages, with nothing pushed yet.
    stream: Stream,
}

impl Tokenizer {
    /// The tokenizer in a model directory, or `None` where it has no tokenizer files.
    ///
    /// Looked for in this order:
    /// 1. `tokenizer.json`;
    /// 2. `vocab.json` and `merges.txt`: byte-level BPE, GPT-2's or RoBERTa's;
    /// 3. `vocab.txt`: BERT's WordPiece.
    ///
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` name the special tokens;
    /// `model_type` in `config.json` stands in for `tokenizer_class`. Truncation and padding in `tokenizer.json` are
    /// ignored. BOS and EOS come from its post-processor; `add_bos_token` and `add_eos_token` count only where it has
    /// none.
    ///
    /// # Errors
    /// - [`Error::Read`] where the directory or a file in it cannot be read;
    /// - [`Error::TooLarge`] and [`Error::Invalid`] where a file is damaged or contradicts another;
    /// - [`Error::Unsupported`] where there are only SentencePiece files, or the vocabulary files of another class.
    pub fn from_directory(directory: &Path) -> Result<Option<Self>, Error> {
        Ok(load::load(directory)?.map(|(inner, config)| Self::new(inner, &config)))
    }

    pub(crate) fn new(inner: Inner, config: &Config) -> Self {
        let roles = Role::ALL.into_iter();
        let roles = roles.filter_map(|role| Some((role, inner.token_to_id(config.token(role)?)?))).collect();
        Self::assemble(inner, roles, None)
    }

    /// With `scored`, that merges in place of the model.
    pub(crate) fn assemble(inner: Inner, roles: HashMap<Role, u32>, scored: Option<Scored>) -> Self {
        let added = inner.get_added_tokens_decoder();
        let added: HashMap<_, _> = added.into_iter().map(|(id, token)| (id, (token.content, token.special))).collect();
        let highest = inner.get_vocab(true).into_values().max();
        let vocabulary_size = highest.map_or(0, |id| usize::try_from(id).map_or(usize::MAX, |id| id.saturating_add(1)));
        let lossy = may_drop(&inner);
        let stream = Stream::new(inner.get_decoder());
        let shared = Shared { inner, scored, added, roles, vocabulary_size, lossy, stream };
        Self { shared: Arc::new(shared) }
    }

    /// The ids of a text, with the tokenizer's own BOS, EOS and the like where `add_special`.
    ///
    /// Special tokens that are spelt out in the text become their ids. An empty text may give no ids.
    ///
    /// # Errors
    /// - [`Error::Unencodable`] at the first character that has no token, where there is no unknown token;
    /// - [`Error::UnknownId`] where the post-processor adds an id that the vocabulary does not have;
    /// - [`Error::Encode`] where the `tokenizers` crate fails otherwise.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        let shared = &*self.shared;
        if shared.lossy
            && let Some(error) = self.first_unencodable(text)
        {
            return Err(error);
        }
        let encoding = guard(|| shared.encode(text, add_special))
            .map_err(|detail| self.first_unencodable(text).unwrap_or(Error::Encode { detail }))?;
        let ids = encoding.get_ids();
        let beyond = |id: &u32| usize::try_from(*id).is_ok_and(|id| id >= shared.vocabulary_size);
        match ids.iter().copied().find(beyond) {
            Some(id) => Err(self.unknown(id)),
            None => Ok(ids.to_vec()),
        }
    }

    /// The ids of a text as [`encode`](Self::encode) gives them, each with its piece.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn tokens_with_pieces(&self, text: &str, add_special: bool) -> Result<Vec<(u32, String)>, Error> {
        let ids = self.encode(text, add_special)?;
        ids.into_iter().map(|id| Ok((id, self.token(id).ok_or_else(|| self.unknown(id))?))).collect()
    }

    /// The text of ids; with `skip_special`, special tokens give no text. No ids give an empty text.
    ///
    /// # Errors
    /// [`Error::UnknownId`] where an id has no token, and [`Error::Decode`] where the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        let pieces = ids.iter().filter_map(|&id| self.decoder_piece(id, skip_special).transpose());
        let pieces = pieces.collect::<Result<Vec<String>, Error>>()?;
        if pieces.is_empty() {
            return Ok(String::new());
        }
        match self.shared.inner.get_decoder() {
            Some(decoder) => guard(|| decoder.decode(pieces)).map_err(|detail| Error::Decode { detail }),
            None => Ok(pieces.join(" ")),
        }
    }

    /// The highest id plus one, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.shared.vocabulary_size
    }

    /// The piece of an id as the vocabulary spells it (`Ġtime`, `▁time`, `##ing`, `<0x0A>`).
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.shared.added.get(&id).map(|(content, _)| content.clone());
        added.or_else(|| self.shared.inner.get_model().id_to_token(id))
    }

    /// The id of a piece, special and added tokens included.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.shared.inner.token_to_id(piece)
    }

    /// Whether decoding can skip this id.
    pub fn is_special(&self, id: u32) -> bool {
        self.shared.added.get(&id).is_some_and(|(_, special)| *special)
    }

    /// The id of the token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.role(Role::Bos)
    }

    /// The id of the token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.role(Role::Eos)
    }

    /// The id of the token that fills a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.role(Role::Pad)
    }

    /// The id of the token that stands for what has none.
    pub fn unk_id(&self) -> Option<u32> {
        self.role(Role::Unk)
    }

    /// The id of the token between two texts.
    pub fn sep_id(&self) -> Option<u32> {
        self.role(Role::Sep)
    }

    /// The id of the token whose output stands for the whole text.
    pub fn cls_id(&self) -> Option<u32> {
        self.role(Role::Cls)
    }

    /// The id of the token that hides another.
    pub fn mask_id(&self) -> Option<u32> {
        self.role(Role::Mask)
    }

    /// The id of the token that ends a turn of a conversation; only embedded tokenizers name it.
    pub fn eot_id(&self) -> Option<u32> {
        self.role(Role::Eot)
    }

    /// The id of the token that ends a message within a turn; only embedded tokenizers name it.
    pub fn eom_id(&self) -> Option<u32> {
        self.role(Role::Eom)
    }

    /// Whether this can be the tokenizer of a model with `rows` embedding rows (its `vocab_size`).
    ///
    /// Every id must have a row. Rows without a token are fine up to [`MIN_EXTRA_ROWS`], or the vocabulary divided by
    /// [`MAX_EXTRA_ROWS_FRACTION`] where that is more.
    ///
    /// # Errors
    /// [`Error::VocabularyMismatch`] where ids have no row, or more rows have no token than padding explains.
    pub fn check_against_embedding(&self, rows: usize) -> Result<(), Error> {
        let vocabulary_size = self.shared.vocabulary_size;
        let extra = MIN_EXTRA_ROWS.max(vocabulary_size / MAX_EXTRA_ROWS_FRACTION);
        if (vocabulary_size..=vocabulary_size.saturating_add(extra)).contains(&rows) {
            Ok(())
        } else {
            Err(Error::VocabularyMismatch { vocabulary_size, rows })
        }
    }

    /// The decoder's stages at their beginning.
    pub(crate) fn stream(&self) -> Stream {
        self.shared.stream.clone()
    }

    /// The piece of an id as the decoder takes it; none where it is special and skipped.
    ///
    /// Special tokens are told by id. `tokenizers` 0.23 looks for the decoder's piece among their texts, and so never
    /// skips a special token that the normalizer changes (`▁<s>` for `<s>` with `normalized: true`).
    pub(crate) fn decoder_piece(&self, id: u32, skip_special: bool) -> Result<Option<String>, Error> {
        if skip_special && self.is_special(id) {
            return Ok(None);
        }
        self.shared.inner.id_to_token(id).map(Some).ok_or_else(|| self.unknown(id))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.shared.inner
    }

    /// Whether pieces are merged by scores.
    pub(crate) fn is_scored(&self) -> bool {
        self.shared.scored.is_some()
    }

    /// Whether an added token is special; none where the id is no added token's.
    pub(crate) fn added(&self, id: u32) -> Option<bool> {
        self.shared.added.get(&id).map(|(_, special)| *special)
    }

    fn role(&self, role: Role) -> Option<u32> {
        self.shared.roles.get(&role).copied()
    }

    fn unknown(&self, id: u32) -> Error {
        Error::UnknownId { id, vocabulary_size: self.shared.vocabulary_size }
    }

    /// The error for the first character of a text that has no token, or for the first word where each of its
    /// characters has one (a word-level vocabulary without it).
    fn first_unencodable(&self, text: &str) -> Option<Error> {
        let (piece, offset) = self.failing_word(text).map(|(from, to)| {
            let word = text.get(from..to).unwrap_or(text);
            let alone = |(at, c): (usize, char)| {
                let c = c.to_string();
                self.failing_word(&c).map(|_| (c, from + at))
            };
            word.char_indices().find_map(alone).unwrap_or_else(|| (word.to_owned(), from))
        })?;
        Some(Error::Unencodable { piece, offset })
    }

    /// Where in the text the first word is that the model rejects or takes only in part, in bytes.
    fn failing_word(&self, text: &str) -> Option<(usize, usize)> {
        let found = guard(|| {
            let split = self.shared.words(text)?;
            let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let fails = |word: &str| match self.shared.tokenize(word) {
                // The lengths of a BPE model's tokens add up to the word, but for what it dropped.
                Ok(tokens) => self.shared.lossy && tokens.last().map_or(0, |token| token.offsets.1) != word.len(),
                Err(_) => true,
            };
            let failing = |(word, _, tokens): &(&str, _, &Option<_>)| tokens.is_none() && fails(word);
            Ok(splits.into_iter().find(failing).map(|(_, offsets, _)| offsets))
        });
        found.ok().flatten()
    }
}

impl Shared {
    fn encode(&self, text: &str, add_special: bool) -> tokenizers::Result<Encoding> {
        if self.scored.is_none() {
            return self.inner.encode_fast(text, add_special);
        }
        let mut words = self.words(text)?;
        words.tokenize(|word| self.tokenize(word.get()))?;
        let encoding = words.into_encoding(None, 0, OffsetType::None)?;
        self.inner.post_process(encoding, None, add_special)
    }

    /// A text cut into added tokens and what the model tokenises.
    fn words(&self, text: &str) -> tokenizers::Result<PreTokenizedString> {
        let mut words = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        Ok(words)
    }

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        match &self.scored {
            Some(scored) => Ok(scored.tokenize(self.inner.get_model(), word)),
            None => self.inner.get_model().tokenize(word),
        }
    }
}

/// Whether the tokenizer may drop characters that it has no token for: a BPE model without an unknown token, and with
/// neither the byte-level alphabet nor a fallback to all bytes.
fn may_drop(inner: &Inner) -> bool {
    let ModelWrapper::BPE(bpe) = inner.get_model() else { return false };
    let plain = |affix: &Option<String>| affix.as_ref().is_none_or(String::is_empty);
    if !plain(&bpe.continuing_subword_prefix) || !plain(&bpe.end_of_word_suffix) {
        return bpe.unk_token.is_none();
    }
    let vocabulary = bpe.get_vocab();
    let all_bytes = || (0..=255_u8).all(|byte| vocabulary.contains_key(&format!("<{byte:#04X}>")));
    let alphabet = || ByteTable::new().alphabet().all(|c| vocabulary.contains_key(&c.to_string()));
    bpe.unk_token.is_none() && !(bpe.byte_fallback && all_bytes()) && !(to_bytes(inner) && alphabet())
}

/// Whether texts reach the model in the byte-level alphabet.
fn to_bytes(inner: &Inner) -> bool {
    fn normalizes(normalizer: &NormalizerWrapper) -> bool {
        match normalizer {
            NormalizerWrapper::ByteLevel(_) => true,
            NormalizerWrapper::Sequence(sequence) => sequence.as_ref().iter().any(normalizes),
            _ => false,
        }
    }
    fn pre_tokenizes(pre_tokenizer: &PreTokenizerWrapper) -> bool {
        match pre_tokenizer {
            PreTokenizerWrapper::ByteLevel(_) => true,
            PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref().iter().any(pre_tokenizes),
            _ => false,
        }
    }
    inner.get_normalizer().is_some_and(normalizes) || inner.get_pre_tokenizer().is_some_and(pre_tokenizes)
}

#[cfg(test)]
mod tests;
