//! Trained models of others, from ../shared: what they write is known, or can be checked.
//!
//! Where the folder is absent, all of it reports `ignored`.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use consort::{
    LoadOptions, Model,
    generate::{Event, Finish, Flow, Output, Request, Settings},
};
use consort_conformance::{
    bounds::Profile,
    golden::Golden,
    models::{self, Candidate, DTYPES, Found, Plan},
};
use consort_core::{Compute, Device, WeightDType};
use consort_scalar::Single;
use consort_tests::shared;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let data = shared();
    let trial = |name: &str, run: fn(&Path) -> Outcome| match data.clone() {
        Some(data) => Trial::test(name, move || run(&data)),
        None => Trial::test(name, || Ok(())).with_kind("no ../shared").with_ignored_flag(true),
    };
    let trials = vec![
        trial("stories::in_f32", |data| story(data, "f32")),
        trial("stories::in_f64", |data| story(data, "f64")),
        trial("spellings_become_phonemes", phonemes),
        trial("molecules_are_well_formed", molecules),
        trial("tinystories_656k_is_compared", |data| compared(&data.join("tinystories-656k"))),
        trial("bart_g2p_is_compared", |data| compared(&data.join("bart-g2p-us"))),
        trial("gpt2_smiles_is_compared", |data| compared(&data.join("gpt2-smiles-0.2m"))),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn load(path: &Path, dtype: &str) -> Result<Model, Failed> {
    Ok(Model::open(path)?.load(&LoadOptions { dtype: Some(dtype.to_owned()), ..LoadOptions::default() })?)
}

fn run(model: &Model, requests: &[Request]) -> Result<Vec<Output>, Failed> {
    Ok(model.generate(requests, &mut |_: Event<'_>| Flow::Continue)?.0)
}

/// Token ids and text from ../shared/data/README.md, computed by the reference implementation in f64.
fn story(data: &Path, dtype: &str) -> Outcome {
    let readme = fs::read_to_string(data.join("README.md"))?;
    let line = readme.lines().find_map(|line| line.strip_prefix("New token ids: ")).ok_or("ids in the README")?;
    let expected = line.split(',').map(|id| id.trim().parse()).collect::<Result<Vec<u32>, _>>()?;
    let quoted: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("> ")).collect();

    let model = load(&data.join("tinystories-656k"), dtype)?;
    let settings = Settings { max_new_tokens: expected.len(), ..Settings::default() };
    let mut text = String::from("Once upon a time");
    let mut pieces = 0;
    let output = model.generate_text("Once upon a time", settings, |piece| {
        pieces += usize::from(!piece.is_empty());
        text.push_str(piece);
    })?;
    equal("tokens", &output.tokens, &expected)?;
    equal("text", &text.trim_end(), &quoted.join("\n").as_str())?;
    check("it streams", pieces > 100)
}

/// Spellings as a dictionary has them: source 1, characters, 2; what comes back is 1 or nothing, phonemes, 2.
fn phonemes(data: &Path) -> Outcome {
    let folder = data.join("bart-g2p-us");
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    let characters =
        |key: &str| -> Result<Vec<char>, Failed> { Ok(config[key].as_str().ok_or(key)?.chars().collect()) };
    let (graphemes, phonemes) = (characters("grapheme_chars")?, characters("phoneme_chars")?);
    let dictionary: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(data.join("corpora/g2p/us_gold.json"))?)?;

    let model = load(&folder, "f32")?;
    let spell = |words: &[&str]| -> Result<Vec<String>, Failed> {
        let requests = words
            .iter()
            .map(|word| {
                let index = |c: char| graphemes.iter().position(|&grapheme| grapheme == c).map(|index| index as u32);
                let inner = word.chars().map(index).collect::<Option<Vec<u32>>>().ok_or("a word of graphemes")?;
                let settings = Settings { max_new_tokens: 50, ..model.files().settings() };
                Ok(model.files().request([&[1], inner.as_slice(), &[2]].concat(), settings)?)
            })
            .collect::<Result<Vec<_>, Failed>>()?;
        let text =
            |output: &Output| output.tokens.iter().filter(|&&id| id > 2).map(|&id| phonemes[id as usize]).collect();
        Ok(run(&model, &requests)?.iter().map(text).collect())
    };
    let words: Vec<(&str, &str)> = dictionary
        .iter()
        .filter_map(|(word, sound)| Some((word.as_str(), sound.as_str()?)))
        .filter(|(word, _)| word.chars().all(|c| c != '_' && graphemes.contains(&c)))
        .collect();

    // Its card says 67 % of the dictionary. A sample of 200 has a standard deviation of 3.3 points; this one is fixed.
    let mut random = Random(1);
    let sample: Vec<(&str, &str)> = (0..200).map(|_| words[random.below(words.len())]).collect();
    let spellings: Vec<&str> = sample.iter().map(|(word, _)| *word).collect();
    let found = spell(&spellings)?;
    let right = sample.iter().zip(&found).filter(|((_, sound), found)| sound == found).count();

    check(&format!("{right} of 200 words are right, expected 67 % ± 5"), (124..=144).contains(&right))?;

    // Alone as in company.
    for (word, together) in spellings.iter().zip(&found).take(20) {
        equal(word, &spell(&[word])?[0], together)?;
    }
    Ok(())
}

/// Samples of the SMILES model, from its token that begins a text.
///
/// About nine in ten are valid molecules by its card; what is checked here is less than chemistry (see [`well_formed`]),
/// so that at least eight in ten must pass.
fn molecules(data: &Path) -> Outcome {
    let model = load(&data.join("gpt2-smiles-0.2m"), "f32")?;
    let tokenizer = model.files().tokenizer().ok_or("a tokenizer")?;
    let requests = (0..100)
        .map(|seed| {
            let settings = Settings { temperature: 1.0, seed, ..model.files().settings() };
            Ok(model.files().request(vec![13], settings)?)
        })
        .collect::<Result<Vec<_>, Failed>>()?;
    let mut passed = 0;
    let mut different = std::collections::BTreeSet::new();
    for output in run(&model, &requests)? {
        let ended = output.finish == Finish::Stop && output.tokens.last() == Some(&14);
        let atoms = output.tokens.split_last().map_or(&[][..], |(_, atoms)| atoms);
        // No special token but the last: all others are of the alphabet.
        let alphabet = atoms.iter().all(|&id| id < 64 && !tokenizer.is_special(id));
        let text: String = atoms.iter().filter_map(|&id| tokenizer.token(id)).collect();
        passed += usize::from(ended && alphabet && well_formed(&text));
        different.insert(text);
    }

    check(&format!("{passed} of 100 molecules are well formed, expected at least 80"), passed >= 80)?;
    check(&format!("{} different molecules", different.len()), different.len() >= 90)?;
    // The tokenizer ends a text with 14; a prompt is to be continued.
    equal("a prompt", &model.files().encode("C")?, &vec![13, 17])
}

/// Scalar f32 beside the oracle on trained weights, kept as every type, as a whole and operation by operation.
fn compared(path: &Path) -> Outcome {
    let golden = Golden::of_model(path)?;
    let (device, profile) = (Device::new(Single::new()), Profile::ieee());
    let candidates = [Candidate { name: "scalar", device: &device, profile: &profile }];
    let folder = tempfile::tempdir()?;
    let mut wrong = Vec::new();
    for lockstep in [None, Some(folder.path())] {
        let plan = Plan { dtypes: &DTYPES, compute: Compute::F32, training: true, lockstep };
        let mut agreed = Vec::new();
        models::run(&golden, &candidates, &plan, &mut |event| match (&event.found, event.agrees()) {
            (Found::Skipped { reason }, _) => println!("{}: {reason}", golden.name),
            (_, Some(true)) => agreed.push(event.weight_dtype),
            (found, _) => wrong.push(format!("{}: {}", event.weight_dtype, serde_json::json!(found)["failures"])),
        });
        // What is not in whole blocks cannot be kept in blocks; all else can.
        let kept = [WeightDType::F32, WeightDType::F16, WeightDType::BF16];
        if !agreed.starts_with(&kept) {
            wrong.push(format!("{agreed:?} agreed, expected at least {kept:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Whether parentheses are balanced and not empty, brackets close, and each ring digit outside brackets occurs an even
/// number of times.
fn well_formed(smiles: &str) -> bool {
    let (mut depth, mut bracket, mut before) = (0u32, false, ' ');
    let mut rings = [0u32; 10];
    for c in smiles.chars() {
        match c {
            '[' if bracket => return false,
            '[' => bracket = true,
            ']' if !bracket => return false,
            ']' => bracket = false,
            _ if bracket => {}
            '(' => depth += 1,
            ')' if depth == 0 || before == '(' => return false,
            ')' => depth -= 1,
            _ => {
                if let Some(digit) = c.to_digit(10) {
                    rings[digit as usize] += 1;
                }
            }
        }
        before = c;
    }
    !smiles.is_empty() && depth == 0 && !bracket && rings.iter().all(|count| count % 2 == 0)
}

/// Steele, Lea and Flood's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}").into()) }
}

fn check(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}
