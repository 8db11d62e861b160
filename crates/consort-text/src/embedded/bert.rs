//! `bert`: WordPiece, whose pieces GGUF spells otherwise: `▁` begins a word, and nothing marks a continuation.
//! A piece in square brackets is spelt as it is.
//!
//! Source: llama.cpp, `llm_tokenizer_wpm_session`, and the `phantom` function of its converter. A word of more than 100
//! characters is unknown, as in BERT itself; llama.cpp cuts it up.

use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::{Kind, Source};
use crate::Error;
use crate::config::Role;
use crate::guard::guard;

pub(super) fn build(source: &Source) -> Result<Inner, Error> {
    let mut vocabulary = Vocab::with_capacity(source.embedded.tokens.len());
    for (piece, id) in source.vocabulary()? {
        let kind = usize::try_from(id).map_or(Kind::Normal, |id| source.kind(id));
        let piece = match kind {
            Kind::Normal | Kind::Unused | Kind::Byte => hugging_face(&piece),
            Kind::Unknown | Kind::Control | Kind::UserDefined => piece,
        };
        if let Some(first) = vocabulary.insert(piece.clone(), id) {
            let detail = format!("expected each token once, found {piece:?} as {first} and {id}");
            return Err(source.invalid("tokens", detail));
        }
    }
    let unk = source.roles.get(&Role::Unk);
    let Some(unk) = unk.and_then(|unk| vocabulary.iter().find_map(|(piece, id)| (id == unk).then(|| piece.clone())))
    else {
        return Err(source.invalid("unknown_token_id", "expected an id with a piece, found none"));
    };
    let lowercase = source.embedded.lowercase.unwrap_or(true);
    let strip_accents = source.embedded.strip_accents.unwrap_or(lowercase);
    let mut inner = guard(|| {
        let model = WordPiece::builder().vocab(vocabulary).unk_token(unk).build()?;
        let mut inner = Inner::new(model);
        inner.with_normalizer(Some(BertNormalizer::new(true, true, Some(strip_accents), lowercase)))?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.with_decoder(Some(WordPieceDecoder::default()));
        Ok(inner)
    })
    .map_err(|detail| source.refused(detail))?;
    source.surround(&mut inner, Some(Role::Cls), Some(Role::Sep))?;
    Ok(inner)
}

/// A piece as `vocab.txt` spells it.
pub(super) fn hugging_face(piece: &str) -> String {
    match piece.strip_prefix('▁') {
        Some(word) => word.to_owned(),
        None if is_bracketed(piece) => piece.to_owned(),
        None => format!("##{piece}"),
    }
}

/// A piece of `vocab.txt` as GGUF spells it.
pub(super) fn gguf(piece: &str) -> String {
    if is_bracketed(piece) {
        return piece.to_owned();
    }
    piece.strip_prefix("##").map_or_else(|| format!("▁{piece}"), str::to_owned)
}

fn is_bracketed(piece: &str) -> bool {
    piece.starts_with('[') && piece.ends_with(']')
}
