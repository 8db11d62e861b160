//! `t5`: SentencePiece's Unigram: the tokens whose scores add up to most.
//!
//! Source: llama.cpp, `llm_tokenizer_ugm_session`.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Replace, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, Tokenizer as Inner};

use super::{Kind, Source};
use crate::config::Role;
use crate::guard::guard;
use crate::{Error, charsmap};

pub(super) fn build(source: &Source) -> Result<Inner, Error> {
    let embedded = source.embedded;
    if embedded.scores.is_empty() {
        return Err(source.invalid("scores", "expected one for each token, found none"));
    }
    let Some((_, unk)) = source.token(Role::Unk) else {
        return Err(source.invalid("unknown_token_id", "expected an id, found none"));
    };
    // For its check of duplicates.
    source.vocabulary()?;
    if !embedded.precompiled_charsmap.is_empty() {
        charsmap::check(&embedded.precompiled_charsmap).map_err(|detail| source.refused(detail))?;
    }
    // Ids are places in the list, so what fills the embedding up can be left out only at the end.
    let pieces = embedded.tokens.iter().enumerate();
    let count = pieces.clone().rev().find(|(id, piece)| !source.is_padding(*id, piece)).map_or(0, |(id, _)| id + 1);
    let vocabulary: Vec<(String, f64)> = pieces
        .zip(&embedded.scores)
        .take(count)
        .map(|((id, piece), &score)| {
            let score = if source.kind(id) == Kind::UserDefined { 0.0 } else { f64::from(score) };
            (source.named(id, piece), score)
        })
        .collect();
    // Pieces that hold several words need the whole text at once.
    let in_words = !embedded.tokens.iter().any(|piece| piece.chars().skip(1).any(|c| c == '▁'));
    let remove_spaces = embedded.remove_extra_whitespaces.unwrap_or(false);
    // Where spaces are merged, each word begins with one, the first too.
    let add_space = remove_spaces || embedded.add_space_prefix.unwrap_or(false);
    let mut inner = guard(|| {
        let mut inner = Inner::new(Unigram::from(vocabulary, usize::try_from(unk).ok(), false)?);
        let mut normalizers = Vec::new();
        if !embedded.precompiled_charsmap.is_empty() {
            let precompiled = Precompiled::from(&embedded.precompiled_charsmap)?;
            normalizers.push(NormalizerWrapper::Precompiled(precompiled));
        }
        if remove_spaces {
            for (pattern, content) in [("^ +| +$", ""), (" {2,}", " ")] {
                let pattern = ReplacePattern::Regex(pattern.to_owned());
                normalizers.push(NormalizerWrapper::Replace(Replace::new(pattern, content)?));
            }
        }
        if !normalizers.is_empty() {
            inner.with_normalizer(Some(Sequence::new(normalizers)))?;
        }
        let prepend = if add_space { PrependScheme::Always } else { PrependScheme::Never };
        inner.with_pre_tokenizer(Some(Metaspace::new('▁', prepend, in_words)));
        inner.with_decoder(Some(Metaspace::new('▁', prepend, in_words)));
        Ok(inner)
    })
    .map_err(|detail| source.refused(detail))?;
    let before = embedded.add_bos.unwrap_or(false).then_some(Role::Bos);
    let after = embedded.add_eos.unwrap_or(true).then_some(Role::Eos);
    source.surround(&mut inner, before, after)?;
    Ok(inner)
}
