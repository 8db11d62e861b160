//! `llama`: SentencePiece's BPE by scores.
//!
//! Spaces become `▁`, one is put before a text (`add_space_prefix`), also after a token that is spelt out; pairs are merged by
//! score; what has no piece becomes its bytes. Source: llama.cpp, `llm_tokenizer_spm_session`; SentencePiece,
//! `bpe_model.cc`.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{NormalizerWrapper, Tokenizer as Inner};

use super::{Kind, Scored, Source};
use crate::Error;
use crate::config::Role;
use crate::guard::guard;

pub(super) fn build(source: &Source) -> Result<(Inner, Option<Scored>), Error> {
    let vocabulary = source.vocabulary()?;
    let add_space = source.embedded.add_space_prefix.unwrap_or(true);
    let unk = source.token(Role::Unk);
    let scored = Scored::new(&vocabulary, scores(source), unk.as_ref().map(|(_, id)| *id));
    let inner = guard(|| {
        // The model keeps the pieces; `Scored` merges them.
        let mut model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).byte_fallback(true).fuse_unk(true);
        if let Some((piece, _)) = unk {
            model = model.unk_token(piece);
        }
        let mut inner = Inner::new(model.build()?);
        let escape = NormalizerWrapper::Replace(Replace::new(" ", "▁")?);
        let prepend = NormalizerWrapper::Prepend(Prepend::new("▁".to_owned()));
        let normalizers = if add_space { vec![prepend, escape] } else { vec![escape] };
        inner.with_normalizer(Some(Sequence::new(normalizers)))?;
        let mut decoders: Vec<DecoderWrapper> = vec![
            DecoderWrapper::Replace(Replace::new("▁", " ")?),
            DecoderWrapper::ByteFallback(ByteFallback::new()),
            DecoderWrapper::Fuse(Fuse::new()),
        ];
        if add_space {
            decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
        }
        inner.with_decoder(Some(Decoders::new(decoders)));
        Ok(inner)
    })
    .map_err(|detail| source.refused(detail))?;
    let mut inner = inner;
    let before = source.embedded.add_bos.unwrap_or(true).then_some(Role::Bos);
    let after = source.embedded.add_eos.unwrap_or(false).then_some(Role::Eos);
    source.surround(&mut inner, before, after)?;
    Ok((inner, Some(scored)))
}

/// The scores to merge by.
///
/// Files made from a `tokenizer.json` give all pieces the same score, as a placeholder for merges that they do not have.
/// Such vocabularies are in the order of their merges, so the id takes the score's place.
fn scores(source: &Source) -> Vec<f32> {
    let scores = &source.embedded.scores;
    let pieces = source.embedded.tokens.iter().enumerate();
    let merged = pieces.filter(|(id, piece)| source.kind(*id) == Kind::Normal && piece.chars().nth(1).is_some());
    let mut merged = merged.filter_map(|(id, _)| scores.get(id));
    let first = merged.next();
    if merged.any(|score| Some(score) != first) {
        return scores.clone();
    }
    // Exact: `MAX_TOKENS` is 2^24.
    (0..source.embedded.tokens.len()).map(|id| -(id as f32)).collect()
}
