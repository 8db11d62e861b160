//! Real tokenizers in the form that GGUF files carry, and back; and those that real GGUF files carry.
//!
//! Needs the shared data: `CONSORT_SHARED`, or `../../../shared` from this crate. A test whose files are absent reports
//! `ignored`, never `ok`.

#[path = "support/gguf.rs"]
mod gguf;

use std::fs;
use std::path::{Path, PathBuf};

use consort_text::{Converted, Error, Tokenizer};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Directory, options as in `real.rs`, model, `pre`, and how often something is told that GGUF cannot say.
const ROUND_TRIPS: [(&str, Option<&str>, &str, &str, usize); 9] = [
    ("tinystories-656k", None, "llama", "default", 1),
    ("tokenizers/phi-3", None, "llama", "default", 0),
    ("tokenizers/gpt2", None, "gpt2", "gpt-2", 0),
    ("tokenizers/roberta-base", None, "gpt2", "gpt-2", 1),
    ("tokenizers/bert-base-uncased", None, "bert", "", 1),
    ("tokenizers/bert-base-cased", None, "bert", "", 1),
    ("tokenizers/bert-base-cased", Some("{\"do_lower_case\": false}"), "bert", "", 0),
    ("tokenizers/t5-small", None, "t5", "default", 1),
    ("gpt2-smiles-0.2m", None, "", "", 0),
];

fn main() {
    let arguments = Arguments::from_args();
    let shared = std::env::var_os("CONSORT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let data = shared.join("data");
    let mut trials = Vec::new();
    for (name, config, model, pre, told) in ROUND_TRIPS {
        let (at, corpora) = (data.join(name), data.join("corpora"));
        let absent = !at.is_dir() || !corpora.is_dir();
        let label = format!("round_trip::{name}{}", config.map_or("", |_| " cased"));
        let test = move || match model {
            "" => word_level_is_refused(&at),
            _ => round_trip(&at, config, (model, pre, told), &corpora),
        };
        trials.push(Trial::test(label, test).with_ignored_flag(absent));
    }
    let (at, corpora) = (data.join("tinystories-656k"), data.join("corpora"));
    let absent = !at.is_dir() || !corpora.is_dir();
    let test = move || tinystories(&at, &corpora);
    trials.push(Trial::test("tinystories_in_gguf_is_the_directorys", test).with_ignored_flag(absent));
    let file = data.join("stories260k/tinyllamas-stories-260k-f32.gguf");
    let absent = !file.is_file();
    trials.push(Trial::test("stories260k", move || stories260k(&file)).with_ignored_flag(absent));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The tokenizer of a directory; with `config`, of its `vocab.txt` and that `tokenizer_config.json`.
fn load(directory: &Path, config: Option<&str>) -> Result<Tokenizer, Failed> {
    let Some(config) = config else { return Ok(Tokenizer::from_directory(directory)?.ok_or("no tokenizer")?) };
    let copy = tempfile::tempdir()?;
    fs::copy(directory.join("vocab.txt"), copy.path().join("vocab.txt"))?;
    fs::write(copy.path().join("tokenizer_config.json"), config)?;
    Ok(Tokenizer::from_directory(copy.path())?.ok_or("no tokenizer")?)
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: &str) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}").into()) }
}

/// Every `step`th line of the corpora.
fn lines(corpora: &Path, step: usize) -> Result<Vec<String>, Failed> {
    let mut lines = Vec::new();
    for folder in ["wikitext2", "shakespeare"] {
        for entry in fs::read_dir(corpora.join(folder))? {
            let text = String::from_utf8_lossy(&fs::read(entry?.path())?).into_owned();
            lines.extend(text.lines().step_by(step).map(str::to_owned));
        }
    }
    same(&(lines.len() > 100), &true, "lines of the corpora")?;
    Ok(lines)
}

/// Texts of all scripts, of characters that are normalised, and of parts that tokenizers treat specially.
fn texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "aa",
        " ",
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\t",
        "The",
        "the",
        "ing",
        "'s",
        "'S",
        "'ll",
        "1",
        "23",
        "4567",
        "½",
        "٣",
        ".",
        "...",
        "?!",
        "-",
        "_",
        "é",
        "e\u{301}",
        "ß",
        "ſ",
        "ﬁ",
        "漢字",
        "한국",
        "ไทย",
        "नमस्ते",
        "مرحبا",
        "😀",
        "👩‍👩‍👧",
        "▁",
        "▁▁",
        "##",
        "Ġ",
        "\u{a0}",
        "\u{200b}",
        "\u{feff}",
        "\u{7}",
        "Ⅷ",
        "\u{fffd}",
    ]);
    // U+0085 is the space that T5's own tokenizer knows and GGUF's does not: told as a difference.
    let other = any::<char>().prop_filter("a told difference", |&c| c != '\u{85}');
    let part =
        prop_oneof![4 => parts.prop_map(str::to_owned), 1 => "[a-zA-Z ]{1,8}", 1 => other.prop_map(|c| c.to_string())];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

fn agree(one: &Tokenizer, other: &Tokenizer, text: &str) -> Result<(), String> {
    for add_special in [true, false] {
        match (one.encode(text, add_special), other.encode(text, add_special)) {
            (Ok(one_ids), Ok(ids)) if one_ids == ids => {
                // A special token that is matched in normalised text is also spelt so: `▁<s>`.
                let special = ids.iter().any(|&id| one.is_special(id));
                for skip_special in [true, special] {
                    let (a, b) = (one.decode(&ids, skip_special), other.decode(&ids, skip_special));
                    if a.as_ref().ok() != b.as_ref().ok() {
                        return Err(format!("decode {ids:?}: {a:?} and {b:?}"));
                    }
                }
            }
            (one, other) => return Err(format!("encode {text:?}: {one:?} and {other:?}")),
        }
    }
    Ok(())
}

fn round_trip(
    directory: &Path,
    config: Option<&str>,
    (model, pre, told): (&str, &str, usize),
    corpora: &Path,
) -> Result<(), Failed> {
    let tokenizer = load(directory, config)?;
    let rows = tokenizer.vocabulary_size() + 3;
    let Converted { embedded, differences } = tokenizer.to_embedded(rows, None)?;
    same(&(embedded.model.as_str(), embedded.pre.as_deref().unwrap_or("")), &(model, pre), "model and pre")?;
    same(&differences.len(), &told, &format!("differences {differences:?}"))?;
    same(&embedded.tokens.len(), &rows, "tokens")?;
    same(&embedded.tokens[rows - 1], &format!("[PAD{}]", rows - 1), "the last piece")?;
    let again = Tokenizer::from_embedded(&embedded, "written")?;
    // A directory without a config does not name them; GGUF always has some.
    let roles = |t: &Tokenizer| [t.bos_id(), t.eos_id(), t.unk_id(), t.pad_id(), t.sep_id(), t.cls_id(), t.mask_id()];
    for (found, expected) in roles(&again).into_iter().zip(roles(&tokenizer)) {
        same(&found, &expected.or(found), "an id with a role")?;
    }
    same(&again.vocabulary_size(), &tokenizer.vocabulary_size(), "vocabulary size")?;
    for line in lines(corpora, 40)? {
        agree(&tokenizer, &again, &line)?;
    }
    let config = Config { cases: 1500, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() };
    let run =
        TestRunner::new(config).run(&texts(), |text| agree(&tokenizer, &again, &text).map_err(TestCaseError::fail));
    run.map_err(|error| error.to_string().into())
}

fn word_level_is_refused(directory: &Path) -> Result<(), Failed> {
    let tokenizer = load(directory, None)?;
    match tokenizer.to_embedded(tokenizer.vocabulary_size(), None) {
        Err(Error::NotRepresentable { detail }) => same(&detail.as_str(), &"GGUF has no model WordLevel", "detail"),
        other => Err(format!("expected a refusal, found {other:?}").into()),
    }
}

fn tinystories(directory: &Path, corpora: &Path) -> Result<(), Failed> {
    let tokenizer = load(directory, None)?;
    for file in ["TinyStories-656K.f16.gguf", "tinystories-656k-q8_0.gguf"] {
        let embedded = gguf::tokenizer(&directory.join(file))?;
        let found = Tokenizer::from_embedded(&embedded, file)?;
        found.check_against_embedding(2048)?;
        let roles = |t: &Tokenizer| [t.bos_id(), t.eos_id(), t.pad_id(), t.unk_id()];
        same(&roles(&found), &roles(&tokenizer), "bos, eos, pad, unk")?;
        // Both files carry the same.
        for line in lines(corpora, if file.contains("f16") { 1 } else { 100 })? {
            same(&found.encode(&line, true)?, &tokenizer.encode(&line, true)?, &line)?;
        }
    }
    Ok(())
}

/// A file of GGUF's first version: its tokenizer loads, fits the model's 512 rows, and texts come back, by bytes too.
fn stories260k(file: &Path) -> Result<(), Failed> {
    let embedded = gguf::tokenizer(file)?;
    let tokenizer = Tokenizer::from_embedded(&embedded, "stories260k")?;
    tokenizer.check_against_embedding(512)?;
    let text = "Once upon a time, there was a little girl called 漢.";
    let ids = tokenizer.encode(text, true)?;
    same(&ids.first().copied(), &tokenizer.bos_id(), "the first id")?;
    same(&tokenizer.decode(&ids, true)?.as_str(), &text, "the text again")
}
