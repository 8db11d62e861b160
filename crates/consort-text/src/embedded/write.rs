//! A tokenizer in the form that GGUF files carry.
//!
//! What GGUF cannot say is refused where it would change how ordinary text is cut, and told as a difference where it
//! concerns only texts that spell out an added token, or that are not in Unicode's composed form.

mod model;
mod pieces;
mod processor;
mod scores;

use serde_json::Value;

use super::Embedded;
use crate::guard::guard;
use crate::{ChatTemplate, Error, Tokenizer};
use pieces::Pieces;

/// What [`Tokenizer::to_embedded`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The tokenizer as GGUF's keys have it.
    pub embedded: Embedded,
    /// Where programs that read it will cut a text otherwise, one line each; mostly empty.
    pub differences: Vec<String>,
}

impl Tokenizer {
    /// This tokenizer in the form that GGUF files carry, for an embedding of `rows` rows.
    ///
    /// Rows without a token get the piece `[PAD{id}]` and the kind "unused", as llama.cpp's converter names them.
    /// [`from_embedded`](Self::from_embedded) makes the same tokenizer of it again, but for the differences told.
    ///
    /// # Errors
    /// - [`Error::NotRepresentable`] where GGUF has no form for it: a model or a way to cut words that it does not know,
    ///   or merges that no scores give; or where it came from a GGUF file with scores, whose own form is to be kept;
    /// - [`Error::VocabularyMismatch`] where `rows` is less than the vocabulary.
    pub fn to_embedded(&self, rows: usize, chat: Option<&ChatTemplate>) -> Result<Converted, Error> {
        if self.is_scored() {
            return Err(refused("it came from such a file: keep what that file carries"));
        }
        let vocabulary_size = self.vocabulary_size();
        if rows < vocabulary_size {
            return Err(Error::VocabularyMismatch { vocabulary_size, rows });
        }
        let json = guard(|| Ok(serde_json::to_value(self.inner())?)).map_err(refused)?;
        let mut differences = Vec::new();
        let pieces = Pieces::new(self, rows, &json, &mut differences);
        let mut embedded = Embedded {
            tokens: pieces.tokens.clone(),
            kinds: pieces.kinds.iter().map(|kind| kind.number()).collect(),
            bos: self.bos_id(),
            eos: self.eos_id(),
            unk: self.unk_id(),
            sep: self.sep_id(),
            pad: self.pad_id(),
            cls: self.cls_id(),
            mask: self.mask_id(),
            chat_template: chat.map(|chat| chat.text().to_owned()),
            ..Embedded::default()
        };
        model::write(self, &json, &pieces, &mut embedded, &mut differences)?;
        processor::write(&json["post_processor"], &mut embedded)?;
        Ok(Converted { embedded, differences })
    }
}

fn refused(detail: impl Into<String>) -> Error {
    Error::NotRepresentable { detail: detail.into() }
}

/// The `type` of a part of `tokenizer.json`; empty where there is no such part.
fn kind_of(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

/// A part of `tokenizer.json` as a list: of itself, of its parts where it is a sequence, of none where it is `null`.
fn flat<'a>(part: &'a Value, of: &str) -> Vec<&'a Value> {
    match part {
        Value::Null => Vec::new(),
        sequence if kind_of(sequence) == "Sequence" => {
            sequence[of].as_array().into_iter().flatten().flat_map(|part| flat(part, of)).collect()
        }
        one => vec![one],
    }
}
