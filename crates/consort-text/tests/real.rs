//! Real tokenizers against the Python packages, and the streaming detokenizer against the whole text.
//!
//! Needs the shared data: `CONSORT_SHARED`, or `../../../shared` from this crate. A test whose directory is absent
//! reports `ignored`, never `ok`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use consort_text::{Detokenizer, Error, Tokenizer};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;

/// Made by `data/make_expected.py`.
const EXPECTED: &str = include_str!("data/expected.json");

fn main() {
    let arguments = Arguments::from_args();
    let shared = std::env::var_os("CONSORT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let data = shared.join("data");

    let expected: Vec<Value> = serde_json::from_str(EXPECTED).expect("expected.json is JSON");
    let mut by_tokenizer: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for case in expected {
        let name = case["tokenizer"].as_str().expect("a tokenizer").to_owned();
        by_tokenizer.entry(name).or_default().push(case);
    }

    let mut trials = Vec::new();
    for (name, cases) in by_tokenizer {
        let source = data.join(name.split(' ').next().unwrap_or_default());
        let absent = !source.is_dir();
        let of = |test: &str| format!("{test}::{}", name.replace(' ', "_"));
        let (a, b, c) = ((source.clone(), name.clone()), (source.clone(), name.clone()), (source, name.clone()));
        trials.push(
            Trial::test(of("matches_python"), move || matches_python(&load(&a.0, &a.1)?, &cases))
                .with_ignored_flag(absent),
        );
        trials.push(
            Trial::test(of("streams_to_the_same_text"), move || streams_to_the_same_text(&load(&b.0, &b.1)?))
                .with_ignored_flag(absent),
        );
        trials.push(
            Trial::test(of("continues_a_prompt"), move || continues_a_prompt(&load(&c.0, &c.1)?))
                .with_ignored_flag(absent),
        );
    }
    let absent = |name: &str| !data.join(name).is_dir();
    let at = data.clone();
    trials.push(
        Trial::test("sentencepiece_is_refused", move || sentencepiece_is_refused(&at.join("tokenizers/t5-base")))
            .with_ignored_flag(absent("tokenizers/t5-base")),
    );
    let at = data.clone();
    trials.push(
        Trial::test("tinystories_belongs_to_its_model", move || tinystories(&at.join("tinystories-656k")))
            .with_ignored_flag(absent("tinystories-656k")),
    );
    let at = data.clone();
    trials.push(
        Trial::test("a_push_costs_the_same_at_any_length", move || long_streams(&at.join("tokenizers/phi-3")))
            .with_ignored_flag(absent("tokenizers/phi-3")),
    );
    libtest_mimic::run(&arguments, trials).exit();
}

/// The tokenizer of a directory; after a space in `name`, of a copy with the options or the files named there.
fn load(source: &Path, name: &str) -> Result<Tokenizer, Failed> {
    let mut options = name.split(' ').skip(1).peekable();
    if options.peek().is_none() {
        return Ok(Tokenizer::from_directory(source)?.ok_or("no tokenizer")?);
    }
    let copy = tempfile::tempdir()?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => {
                fs::copy(source.join("vocab.txt"), copy.path().join("vocab.txt"))?;
                fs::write(copy.path().join("tokenizer_config.json"), format!("{{{key:?}: {value}}}"))?;
            }
            None => {
                fs::copy(source.join(option), copy.path().join(option))?;
            }
        }
    }
    Ok(Tokenizer::from_directory(copy.path())?.ok_or("no tokenizer")?)
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: &str) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}").into()) }
}

fn matches_python(tokenizer: &Tokenizer, cases: &[Value]) -> Result<(), Failed> {
    for case in cases {
        let ids = |key: &str| -> Result<Option<Vec<u32>>, Failed> { Ok(serde_json::from_value(case[key].clone())?) };
        if let Some(size) = case["size"].as_u64() {
            same(&tokenizer.vocabulary_size(), &usize::try_from(size)?, "vocabulary_size")?;
            continue;
        }
        let expected = ids("ids")?;
        if let Some(text) = case["text"].as_str() {
            let found = tokenizer.encode(text, true);
            if expected.is_none() {
                let refused = matches!(found, Err(Error::Unencodable { .. }));
                same(&refused, &true, &format!("encode {text:?} is refused, {found:?}"))?;
                continue;
            }
            same(&Some(found?), &expected, &format!("encode {text:?}"))?;
            same(&Some(tokenizer.encode(text, false)?), &ids("plain")?, &format!("encode {text:?} without special"))?;
        }
        let expected = expected.ok_or("neither text nor ids")?;
        for (key, skip_special) in [("all", false), ("skipped", true)] {
            if let Some(text) = case[key].as_str() {
                let found = tokenizer.decode(&expected, skip_special)?;
                same(&found.as_str(), &text, &format!("decode {expected:?}, skip_special {skip_special}"))?;
            }
        }
    }
    Ok(())
}

/// Ids of any kind: all of the vocabulary, its special tokens and byte tokens more often, and texts of characters of
/// several bytes.
fn any_ids(tokenizer: &Tokenizer) -> impl Strategy<Value = Vec<u32>> + use<> {
    let size = u32::try_from(tokenizer.vocabulary_size()).expect("an id");
    let known = |id: &u32| tokenizer.token(*id).is_some();
    let all: Vec<u32> = (0..size).filter(known).collect();
    // Pieces of one character or one byte come first in most vocabularies; they make unfinished characters.
    let short: Vec<u32> = all.iter().copied().filter(|&id| is_short(tokenizer, id)).collect();
    let texts: Vec<Vec<u32>> =
        ["😀 👩‍👩‍👧🇩🇪", "你好，世界", "e\u{301}\u{323} naïve ﬁ", "नमस्ते 한국어", " a  b\n\n", "漢字�x", "don't ."]
            .iter()
            .filter_map(|text| tokenizer.encode(text, false).ok())
            .filter(|ids| !ids.is_empty())
            .chain([vec![all[0]]])
            .collect();
    let part = prop_oneof![
        3 => prop::sample::select(all).prop_map(|id| vec![id]),
        3 => prop::sample::select(short).prop_map(|id| vec![id]),
        1 => prop::sample::select(texts.clone()),
        1 => (prop::sample::select(texts), any::<prop::sample::Index>())
            .prop_map(|(ids, cut)| ids[..cut.index(ids.len())].to_vec()),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

fn is_short(tokenizer: &Tokenizer, id: u32) -> bool {
    let piece = tokenizer.token(id).unwrap_or_default();
    tokenizer.is_special(id) || piece.starts_with("<0x") || piece.chars().count() <= 2
}

fn check<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Result<(), Failed> {
    let config = Config { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(strategy, test).map_err(|error| error.to_string().into())
}

fn failed(error: Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn streams_to_the_same_text(tokenizer: &Tokenizer) -> Result<(), Failed> {
    check(1000, &(any_ids(tokenizer), any::<bool>()), |(ids, skip_special)| {
        let mut stream = Detokenizer::new(tokenizer, skip_special);
        let mut text = String::new();
        for &id in &ids {
            text.push_str(&stream.push(id).map_err(failed)?);
        }
        text.push_str(&stream.finish().map_err(failed)?);
        prop_assert_eq!(text, tokenizer.decode(&ids, skip_special).map_err(failed)?);
        Ok(())
    })
}

fn continues_a_prompt(tokenizer: &Tokenizer) -> Result<(), Failed> {
    check(500, &(any_ids(tokenizer), any_ids(tokenizer)), |(prompt, more)| {
        let whole = tokenizer.decode(&[prompt.clone(), more.clone()].concat(), false).map_err(failed)?;
        let shown = tokenizer.decode(&prompt, false).map_err(failed)?;
        let mut stream = Detokenizer::with_prompt(tokenizer, &prompt, false).map_err(failed)?;
        let mut text = String::new();
        for &id in &more {
            text.push_str(&stream.push(id).map_err(failed)?);
        }
        text.push_str(&stream.finish().map_err(failed)?);
        match whole.strip_prefix(&shown) {
            Some(rest) => prop_assert_eq!(text, rest),
            // The prompt's last character was unfinished: its real text is given in place of U+FFFD.
            None => prop_assert!(whole.ends_with(&text), "{:?} does not end {:?}", text, whole),
        }
        Ok(())
    })
}

fn sentencepiece_is_refused(directory: &Path) -> Result<(), Failed> {
    let message = Tokenizer::from_directory(directory).expect_err("is refused").to_string();
    same(&message.contains("spiece.model is not read yet: SentencePiece file; convert"), &true, &message)
}

fn tinystories(directory: &Path) -> Result<(), Failed> {
    let tokenizer = Tokenizer::from_directory(directory)?.ok_or("no tokenizer")?;
    let ids = tokenizer.encode("Once upon a time", true)?;
    same(&ids, &vec![1, 80, 147, 201, 282, 57], "ids")?;
    let roles = [tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id(), tokenizer.unk_id()];
    same(&roles, &[Some(1), Some(2), Some(0), Some(0)], "bos, eos, pad, unk")?;
    tokenizer.check_against_embedding(2048)?;
    same(&tokenizer.check_against_embedding(2047).is_err(), &true, "2047 rows are refused")?;
    same(&tokenizer.check_against_embedding(50257).is_err(), &true, "50257 rows are refused")?;
    let mut stream = Detokenizer::with_prompt(&tokenizer, &ids, true)?;
    let texts = [313, 598, 303].map(|id| stream.push(id)).into_iter().collect::<Result<String, _>>()?;
    same(&texts.as_str(), &", a little girl named Lily ", "text after the prompt")
}

/// A stream of 400,000 tokens ends soon: quadratic work would take hours.
fn long_streams(directory: &Path) -> Result<(), Failed> {
    let tokenizer = Tokenizer::from_directory(directory)?.ok_or("no tokenizer")?;
    let ids = tokenizer.encode("Once 😀😀 upon 漢字 a time.\n", false)?;
    let bytes = tokenizer.id("<0xF0>").ok_or("no byte token")?;
    for pattern in [ids, vec![bytes]] {
        let mut stream = Detokenizer::new(&tokenizer, true);
        let mut length = 0;
        for &id in pattern.iter().cycle().take(400_000) {
            length += stream.push(id)?.len();
        }
        length += stream.finish()?.len();
        same(&(length > 400_000), &true, "bytes of text")?;
    }
    Ok(())
}
