//! The piece and the kind of each id.

use serde_json::Value;

use super::super::Kind;
use super::kind_of;
use crate::Tokenizer;

/// By id.
pub(super) struct Pieces {
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<Kind>,
    /// Whether the token is matched before the model sees the text.
    pub(super) added: Vec<bool>,
}

impl Pieces {
    pub(super) fn new(tokenizer: &Tokenizer, rows: usize, json: &Value, differences: &mut Vec<String>) -> Self {
        let mut this = Self { tokens: Vec::with_capacity(rows), kinds: Vec::new(), added: vec![false; rows] };
        let model = &json["model"];
        let unknown = tokenizer.unk_id();
        let sentencepiece = kind_of(model) == "Unigram" || model["byte_fallback"] == true;
        for id in 0..rows {
            let number = u32::try_from(id).ok();
            let piece = number.and_then(|number| tokenizer.token(number));
            let added = number.and_then(|number| tokenizer.added(number));
            let kind = match (&piece, added) {
                (None, _) => Kind::Unused,
                (Some(_), Some(true)) if sentencepiece && number == unknown => Kind::Unknown,
                (Some(_), Some(true)) => Kind::Control,
                (Some(_), Some(false)) => Kind::UserDefined,
                (Some(piece), None) if model["byte_fallback"] == true && is_byte(piece) => Kind::Byte,
                (Some(_), None) => Kind::Normal,
            };
            this.added[id] = added.is_some();
            this.kinds.push(kind);
            this.tokens.push(piece.unwrap_or_else(|| format!("[PAD{id}]")));
        }
        tell_flags(json, differences);
        this
    }
}

fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// GGUF has no place for how an added token is matched.
fn tell_flags(json: &Value, differences: &mut Vec<String>) {
    let tokens = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let normalizes = !json["normalizer"].is_null();
    for (flag, meaning) in [
        ("lstrip", "takes the spaces before it"),
        ("rstrip", "takes the spaces after it"),
        ("single_word", "is matched only as a word of its own"),
        ("normalized", "is matched in the normalised text"),
    ] {
        let concerned = |token: &&Value| token[flag] == true && (flag != "normalized" || normalizes);
        let mut concerned = tokens.iter().filter(concerned);
        if let Some(first) = concerned.next() {
            let more = concerned.count();
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            let content = &first["content"];
            differences.push(format!("the token {content}{more}, spelt out in a text, {meaning}: GGUF cannot say so"));
        }
    }
}
