//! `gpt2`: byte-level BPE. `pre` names the patterns that cut a text into words (see `pre`).
//!
//! Source: llama.cpp, `llm_tokenizer_bpe_session`.

use std::collections::HashSet;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Inner};

use super::{Source, pre};
use crate::Error;
use crate::config::Role;
use crate::guard::guard;

pub(super) fn build(source: &Source) -> Result<Inner, Error> {
    let pre = match source.embedded.pre.as_deref() {
        Some(name) => pre::find(name).ok_or_else(|| {
            let known = pre::names().collect::<Vec<_>>().join(", ");
            source.invalid("pre", format!("{name:?} is not a known way to cut words; known are {known}"))
        })?,
        None => return Err(source.invalid("pre", "expected the name of a way to cut words, found none")),
    };
    let vocabulary = source.vocabulary()?;
    let merges = merges(source, &vocabulary)?;
    let mut inner = guard(|| {
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(pre.ignore_merges).build()?;
        let mut inner = Inner::new(model);
        let mut steps = Vec::new();
        for pattern in pre.patterns {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
            steps.push(PreTokenizerWrapper::Split(split));
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)));
        inner.with_pre_tokenizer(Some(Sequence::new(steps)));
        inner.with_decoder(Some(ByteLevel::default()));
        Ok(inner)
    })
    .map_err(|detail| source.refused(detail))?;
    let before = source.embedded.add_bos.unwrap_or(pre.add_bos).then_some(Role::Bos);
    let after = source.embedded.add_eos.unwrap_or(false).then_some(Role::Eos);
    source.surround(&mut inner, before, after)?;
    Ok(inner)
}

/// The pairs, first merged first; of a pair that is there twice, the first counts.
fn merges(source: &Source, vocabulary: &Vocab) -> Result<Merges, Error> {
    let mut seen = HashSet::with_capacity(source.embedded.merges.len());
    let mut merges = Merges::with_capacity(source.embedded.merges.len());
    for (place, merge) in source.embedded.merges.iter().enumerate() {
        // A piece may itself begin with a space.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let Some((left, right)) = merge[first..].find(' ').map(|at| merge.split_at(first + at)) else {
            let detail = format!("expected two pieces and a space as merge {place}, found {merge:?}");
            return Err(source.invalid("merges", detail));
        };
        let right = &right[1..];
        let joined = format!("{left}{right}");
        if let Some(piece) = [left, right, &joined].into_iter().find(|piece| !vocabulary.contains_key(*piece)) {
            let detail = format!("merge {place} is {merge:?}, but {piece:?} is not among the tokens");
            return Err(source.invalid("merges", detail));
        }
        if seen.insert((left, right)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(merges)
}
