//! Tokenizers as GGUF files carry them: plain lists of tokens, scores, kinds and merges.
//!
//! What the lists mean is told by `model`:
//! - `llama`: SentencePiece's BPE. The best-scored pair is merged first, the leftmost of equals; what has no piece falls
//!   back to bytes.
//! - `gpt2`: byte-level BPE by `merges`; `pre` names how a text is cut into words first.
//! - `bert`: WordPiece, where `▁` begins a word instead of `##` continuing one.
//! - `t5`: SentencePiece's Unigram.
//!
//! Source of keys, kinds, defaults and names: the GGUF specification and llama.cpp's `llama-vocab.cpp` (version of
//! August 2026). What that program would answer by guessing (an unknown `pre`, an id outside the vocabulary) is an
//! error here.

mod bert;
mod gpt2;
mod llama;
pub(crate) mod pre;
pub(crate) mod scored;
mod t5;
mod write;

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::config::Role;
use crate::guard::guard;
use crate::load::{invalid, template};
use crate::{Error, Tokenizer};
use scored::Scored;
pub use write::Converted;

/// More tokens than any vocabulary has, and few enough that each id is exact as `f32`.
const MAX_TOKENS: usize = 1 << 24;

/// A tokenizer in the form that GGUF files carry, by the keys `tokenizer.ggml.*`.
///
/// A field is `None` or empty where the file does not have its key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// `model`: `llama`, `gpt2`, `bert` or `t5`.
    pub model: String,
    /// `pre`: how byte-level BPE cuts a text into words, by name.
    pub pre: Option<String>,
    /// `tokens`: the piece of each id.
    pub tokens: Vec<String>,
    /// `scores`, one a token.
    pub scores: Vec<f32>,
    /// `token_type`, one a token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub kinds: Vec<i32>,
    /// `merges`: two pieces and a space between, first merged first.
    pub merges: Vec<String>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn of a conversation.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message that the turn continues after.
    pub eom: Option<u32>,
    /// `unknown_token_id`
    pub unk: Option<u32>,
    /// `seperator_token_id` (the key is spelt so)
    pub sep: Option<u32>,
    /// `padding_token_id`
    pub pad: Option<u32>,
    /// `cls_token_id`
    pub cls: Option<u32>,
    /// `mask_token_id`
    pub mask: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_sep_token`: between the two texts of a pair.
    pub add_sep: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`
    pub remove_extra_whitespaces: Option<bool>,
    /// `normalizer.lowercase`, of WordPiece.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`, of WordPiece.
    pub strip_accents: Option<bool>,
    /// `precompiled_charsmap`: SentencePiece's normalisation of characters.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.chat_template`
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file carries; messages call it `name`.
    ///
    /// Control and unknown tokens are special: decoding can skip them. They and user-defined tokens become their ids
    /// wherever a text spells them out. Missing ids and flags are llama.cpp's defaults for the model, but that byte-level
    /// BPE without `bos` or `eos` has none.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the key where lists do not fit each other, a token is there twice, an id or a merge is
    /// outside the vocabulary, or `model` or `pre` is not known.
    pub fn from_embedded(embedded: &Embedded, name: &str) -> Result<Self, Error> {
        let source = Source::new(embedded, Path::new(name))?;
        let (mut inner, scored) = match embedded.model.as_str() {
            "llama" => llama::build(&source)?,
            "gpt2" => (gpt2::build(&source)?, None),
            "bert" => (bert::build(&source)?, None),
            "t5" => (t5::build(&source)?, None),
            other => {
                let known = "expected llama, gpt2, bert or t5";
                return Err(source.invalid("model", format!("{known}, found {other:?}")));
            }
        };
        source.add_tokens(&mut inner)?;
        Ok(Self::assemble(inner, source.roles, scored))
    }
}

/// What a token is for; `token_type` by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn of_number(number: i32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            // 0 is "undefined": llama.cpp gives such a token no attribute, and merges it like a normal one.
            _ => Self::Normal,
        }
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// An `Embedded` whose lists fit each other.
struct Source<'a> {
    embedded: &'a Embedded,
    path: &'a Path,
    roles: HashMap<Role, u32>,
}

impl<'a> Source<'a> {
    fn new(embedded: &'a Embedded, path: &'a Path) -> Result<Self, Error> {
        let mut source = Self { embedded, path, roles: HashMap::new() };
        let count = embedded.tokens.len();
        if count == 0 || count > MAX_TOKENS {
            return Err(source.invalid("tokens", format!("expected 1 to {MAX_TOKENS} tokens, found {count}")));
        }
        for (key, found) in [("scores", embedded.scores.len()), ("token_type", embedded.kinds.len())] {
            if found != 0 && found != count {
                return Err(source.invalid(key, format!("expected one for each of {count} tokens, found {found}")));
            }
        }
        if let Some(id) = embedded.scores.iter().position(|score| !score.is_finite()) {
            let found = embedded.scores[id];
            return Err(source.invalid("scores", format!("expected numbers, found {found} for token {id}")));
        }
        source.roles = source.find_roles()?;
        Ok(source)
    }

    /// The ids of tokens with a role, by their keys or as llama.cpp defaults them.
    fn find_roles(&self) -> Result<HashMap<Role, u32>, Error> {
        let embedded = self.embedded;
        let count = embedded.tokens.len();
        let defaults: &[(Role, u32)] = match embedded.model.as_str() {
            "llama" => &[(Role::Bos, 1), (Role::Eos, 2), (Role::Unk, 0)],
            "bert" => &[(Role::Cls, 101), (Role::Unk, 100), (Role::Sep, 102), (Role::Pad, 0), (Role::Mask, 103)],
            "t5" => &[(Role::Eos, 1), (Role::Unk, 2), (Role::Pad, 0)],
            _ => &[],
        };
        let inside = |id: u32| usize::try_from(id).is_ok_and(|id| id < count);
        let mut roles: HashMap<Role, u32> = defaults.iter().copied().filter(|&(_, id)| inside(id)).collect();
        let is_bert = embedded.model == "bert";
        let keys = [
            // Where only one of the two is named, BERT's text begins with that.
            (Role::Cls, "bos_token_id", embedded.bos.filter(|_| is_bert)),
            (Role::Bos, "bos_token_id", embedded.bos),
            (Role::Eos, "eos_token_id", embedded.eos),
            (Role::Eot, "eot_token_id", embedded.eot),
            (Role::Eom, "eom_token_id", embedded.eom),
            (Role::Unk, "unknown_token_id", embedded.unk),
            (Role::Sep, "seperator_token_id", embedded.sep),
            (Role::Pad, "padding_token_id", embedded.pad),
            (Role::Cls, "cls_token_id", embedded.cls),
            (Role::Mask, "mask_token_id", embedded.mask),
        ];
        for (role, key, id) in keys {
            let Some(id) = id else { continue };
            if !inside(id) {
                return Err(self.invalid(key, format!("expected an id below {count}, found {id}")));
            }
            roles.insert(role, id);
        }
        Ok(roles)
    }

    fn invalid(&self, key: &str, detail: impl std::fmt::Display) -> Error {
        invalid(self.path, format!("tokenizer.ggml.{key}: {detail}"))
    }

    /// An error of the `tokenizers` crate.
    fn refused(&self, detail: String) -> Error {
        invalid(self.path, format!("embedded tokenizer: {detail}"))
    }

    fn kind(&self, id: usize) -> Kind {
        self.embedded.kinds.get(id).map_or(Kind::Normal, |&number| Kind::of_number(number))
    }

    /// Whether the id is filled up only for the embedding's sake.
    fn is_padding(&self, id: usize, piece: &str) -> bool {
        self.kind(id) == Kind::Unused && padding_id(piece) == Some(id)
    }

    /// Ids by piece. A piece without text gets a name, so that it can be in a vocabulary; what only fills the embedding up
    /// has no piece.
    fn vocabulary(&self) -> Result<Vocab, Error> {
        let mut ids = Vocab::with_capacity(self.embedded.tokens.len());
        for (id, piece) in self.embedded.tokens.iter().enumerate() {
            if self.is_padding(id, piece) {
                continue;
            }
            let number = u32::try_from(id).map_err(|_| self.invalid("tokens", "too many"))?;
            let piece = self.named(id, piece);
            if let Some(first) = ids.insert(piece, number) {
                let detail = format!("expected each token once, found {:?} as {first} and {id}", self.piece(id));
                return Err(self.invalid("tokens", detail));
            }
        }
        Ok(ids)
    }

    fn named(&self, id: usize, piece: &str) -> String {
        if piece.is_empty() { format!("[EMPTY_{id}]") } else { piece.to_owned() }
    }

    fn piece(&self, id: usize) -> &str {
        self.embedded.tokens.get(id).map_or("", String::as_str)
    }

    /// The token with this role and its id.
    fn token(&self, role: Role) -> Option<(String, u32)> {
        let id = *self.roles.get(&role)?;
        let place = usize::try_from(id).ok()?;
        Some((self.named(place, self.piece(place)), id))
    }

    /// Control, unknown and user-defined tokens are matched in the raw text, before anything else.
    fn add_tokens(&self, inner: &mut Inner) -> Result<(), Error> {
        let (mut special, mut plain) = (Vec::new(), Vec::new());
        for (id, piece) in self.embedded.tokens.iter().enumerate() {
            let token = |special| AddedToken::from(piece.clone(), special).normalized(false);
            match self.kind(id) {
                Kind::Control | Kind::Unknown => special.push(token(true)),
                Kind::UserDefined => plain.push(token(false)),
                Kind::Normal | Kind::Unused | Kind::Byte => {}
            }
        }
        guard(|| {
            inner.add_special_tokens(special)?;
            inner.add_tokens(plain)?;
            Ok(())
        })
        .map_err(|detail| self.refused(detail))
    }

    /// Puts tokens before and after a text, where both the flag and the token are there.
    fn surround(&self, inner: &mut Inner, before: Option<Role>, after: Option<Role>) -> Result<(), Error> {
        let token = |role: Option<Role>, key: &str| match role {
            None => Ok(None),
            Some(role) => match self.token(role) {
                Some(token) => Ok(Some(token)),
                None => Err(self.invalid(key, "expected an id, since the token is to be added; found none")),
            },
        };
        let (before, after) = (token(before, "bos_token_id")?, token(after, "eos_token_id")?);
        if before.is_some() || after.is_some() {
            inner.with_post_processor(Some(template(before.as_ref(), after.as_ref(), self.path)?));
        }
        Ok(())
    }
}

/// The id that a filling piece `[PAD17]` is for.
pub(crate) fn padding_id(piece: &str) -> Option<usize> {
    piece.strip_prefix("[PAD")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests;
