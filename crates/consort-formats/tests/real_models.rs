//! Real models, and the golden ones that the reference implementation made, open as they should.
//!
//! Data lies in `shared/data` beside the repository (or in `$CONSORT_SHARED/data`) and in `tests/golden`; a test whose
//! data is absent reports `ignored`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use consort_core::WeightDType;
use consort_formats::{Model, open};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("CONSORT_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
    let data = shared.join("data");
    let mut trials = vec![
        on(data.join("tinystories-656k"), "tinystories", tinystories),
        on(data.join("gpt2-smiles-0.2m"), "gpt2_smiles", gpt2_smiles),
        on(data.join("bart-g2p-us"), "bart_g2p", bart_g2p),
        on(data.join("tinystories-656k"), "files_of_a_model", files_of_a_model),
        on(data.join("tinystories-656k"), "tinystories_f16_gguf", tinystories_f16_gguf),
        on(data.join("tinystories-656k"), "tinystories_q8_0_gguf", tinystories_q8_0_gguf),
        on(data.join("stories260k"), "stories260k_gguf_v1", stories260k_gguf_v1),
    ];
    let golden = repository.join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(&golden)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("case.json").is_file() && path.join("config.json").is_file())
        .collect();
    cases.sort();
    if cases.is_empty() {
        trials.push(on(golden.join("absent"), "golden", golden_case));
    }
    for case in cases {
        let name = format!("golden_{}", case.file_name().unwrap_or_default().to_string_lossy());
        trials.push(on(case, &name, golden_case));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn on(directory: PathBuf, name: &str, test: fn(&Path) -> Result<(), Failed>) -> Trial {
    let absent = !directory.is_dir();
    Trial::test(name, move || test(&directory)).with_ignored_flag(absent)
}

fn check(holds: bool, what: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

fn filled(model: &Model) -> Result<(), Failed> {
    let slots = model.config.slots();
    check(model.weights.len() == slots.len(), format!("{} of {} slots", model.weights.len(), slots.len()))?;
    for slot in slots {
        let weight = model.weights.get(&slot.name).ok_or_else(|| format!("no {}", slot.name))?;
        check(weight.shape() == slot.shape, format!("{}: {:?} is not {:?}", slot.name, weight.shape(), slot.shape))?;
        for row in [0, slot.shape[0] - 1] {
            check(weight.row(row).all(f64::is_finite), format!("{}: row {row} is not finite", slot.name))?;
        }
        weight.release();
    }
    Ok(())
}

/// The tied embedding is stored as `lm_head.weight` alone.
fn tinystories(path: &Path) -> Result<(), Failed> {
    let model = open(path)?;
    filled(&model)?;
    let embedding = model.weights.get("decoder.embedding.tokens.weight").ok_or("no embedding")?;
    check(embedding.name() == "lm_head.weight", embedding.name())?;
    check(model.unused.is_empty(), format!("unused: {:?}", model.unused))?;
    check(model.parameters == 656_000, format!("{} parameters", model.parameters))?;
    check(model.dtype == "f32" && model.family == "llama", format!("{} {}", model.dtype, model.family))?;
    check(model.generation.eos_token_ids == [2], "end token")?;
    check(model.config.decoder.as_ref().is_some_and(|stack| stack.context == Some(512)), "context")
}

fn gpt2_smiles(path: &Path) -> Result<(), Failed> {
    let model = open(path)?;
    filled(&model)?;
    check(model.unused.is_empty(), format!("unused: {:?}", model.unused))?;
    // One column of the stored [64, 192] matrix is one row of query, key or value.
    let file = fs::read(path.join("model.safetensors"))?;
    let header = usize::try_from(u64::from_le_bytes(*file.first_chunk().ok_or("short")?))?;
    let json: serde_json::Value = serde_json::from_slice(&file[8..8 + header])?;
    let begin = json["transformer.h.1.attn.c_attn.weight"]["data_offsets"][0].as_u64().ok_or("no c_attn")?;
    let at = |row: usize, column: usize| {
        let at = 8 + header + usize::try_from(begin).unwrap_or_default() + 4 * (row * 192 + column);
        f64::from(f32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]))
    };
    for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
        let weight = model.weights.get(&format!("decoder.1.attention.{name}.weight")).ok_or("no projection")?;
        for output in [0, 1, 63] {
            let expected: Vec<f64> = (0..64).map(|input| at(input, part * 64 + output)).collect();
            check(weight.row(output).eq(expected), format!("{name} row {output}"))?;
        }
    }
    Ok(())
}

fn bart_g2p(path: &Path) -> Result<(), Failed> {
    let model = open(path)?;
    filled(&model)?;
    check(model.unused.is_empty(), format!("unused: {:?}", model.unused))?;
    check(model.config.shared_embedding, "the embedding is shared")?;
    check(model.config.head.as_ref().is_some_and(|head| head.tied && head.bias), "a tied head with a bias")?;
    let generation = &model.generation;
    check(generation.decoder_start_token_id == Some(1), "start")?;
    check(generation.eos_token_ids == [2] && generation.forced_eos_token_id == Some(2), "end")
}

fn files_of_a_model(path: &Path) -> Result<(), Failed> {
    for (file, says) in
        [("config.json", "give its directory instead"), ("model.safetensors", "give its directory instead")]
    {
        let path = path.join(file);
        if path.is_file() {
            let error = open(&path).err().ok_or("a file opened")?.to_string();
            check(error.contains(says) && !error.contains('\n'), error)?;
        }
    }
    Ok(())
}

/// Every weight of the GGUF file against that of the safetensors file: `near(from the GGUF file, block, stored)`, for each
/// block of 32 values, or all where a row has no whole ones.
fn agree(path: &Path, file: &str, near: fn(&str, &[f64], &[f64]) -> bool) -> Result<Model, Failed> {
    let (directory, model) = (open(path)?, open(&path.join(file))?);
    filled(&model)?;
    check(model.config == directory.config, format!("{:#?}\nis not {:#?}", model.config, directory.config))?;
    check(model.parameters == 656_000 && model.unused.is_empty(), format!("unused: {:?}", model.unused))?;
    for slot in model.config.slots() {
        let name = slot.name;
        let [one, other] = [&model, &directory].map(|model| model.weights.get(&name));
        let (one, other) = one.zip(other).ok_or("no weight")?;
        for row in 0..slot.shape[0] {
            let [one, other]: [Vec<f64>; 2] = [one.row(row).collect(), other.row(row).collect()];
            let same = one.chunks(32).zip(other.chunks(32)).all(|(one, other)| near(&name, one, other));
            check(same, format!("{name}, row {row}: {one:?}\nagainst {other:?}"))?;
        }
    }
    Ok(model)
}

fn tinystories_f16_gguf(path: &Path) -> Result<(), Failed> {
    let model = agree(path, "TinyStories-656K.f16.gguf", |name, one, other| {
        let mut rounded = other.to_vec();
        if !name.contains("norm") {
            WeightDType::F16.round(&mut rounded);
        }
        one == rounded
    })?;
    check(model.dtype == "f16 + f32" && model.family == "llama", format!("{} {}", model.dtype, model.family))?;
    check(
        model.weights.get("decoder.0.attention.key.weight").is_some_and(|key| key.name() == "blk.0.attn_k.weight"),
        "name",
    )?;
    check(model.generation.eos_token_ids == [2] && model.generation.bos_token_id == Some(1), "special tokens")?;
    let vocabulary = model.vocabulary.ok_or("no vocabulary")?;
    check(vocabulary.model == "llama" && vocabulary.tokens.len() == 2048, "tokens")?;
    check(vocabulary.scores.len() == 2048 && vocabulary.kinds.first() == Some(&3), "scores and kinds")?;
    check(vocabulary.add_bos == Some(true) && vocabulary.unk == Some(0), "settings")
}

/// A block's codes are at most half a step away, and its step, kept in f16, at most half a unit in its last place.
fn tinystories_q8_0_gguf(path: &Path) -> Result<(), Failed> {
    let model = agree(path, "tinystories-656k-q8_0.gguf", |name, one, other| {
        let largest = other.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let bound = largest / 127.0 * 0.5 + largest / 2048.0;
        if name.contains("norm") { one == other } else { one.iter().zip(other).all(|(a, b)| (a - b).abs() <= bound) }
    })?;
    check(model.dtype == "q8_0 + f32", model.dtype)
}

/// Version 1, with counts of 32 bits; its tokens are as many as its embedding has rows.
fn stories260k_gguf_v1(path: &Path) -> Result<(), Failed> {
    let model = open(&path.join("tinyllamas-stories-260k-f32.gguf"))?;
    filled(&model)?;
    check(model.dtype == "f32" && model.unused.is_empty(), format!("{} {:?}", model.dtype, model.unused))?;
    let stack = model.config.decoder.as_ref().ok_or("no decoder")?;
    check((stack.layers, stack.attention.heads, stack.attention.key_value_heads) == (5, 8, 4), "sizes")?;
    check((model.config.width, stack.feed_forward.width, stack.vocabulary) == (64, 172, 512), "sizes")?;
    let vocabulary = model.vocabulary.ok_or("no vocabulary")?;
    check(vocabulary.tokens.get(4).is_some_and(|token| token == "<0x01>"), "tokens")
}

/// `case.json` lists what a golden model has too much; `config.v4.json` is what version 4 of the reference would say.
fn golden_case(path: &Path) -> Result<(), Failed> {
    let model = open(path)?;
    filled(&model)?;
    let case: serde_json::Value = serde_json::from_str(&fs::read_to_string(path.join("case.json"))?)?;
    if let Some(unused) = case.get("unused") {
        let mut expected: Vec<String> = serde_json::from_value(unused.clone())?;
        // Causal masks that old GPT-2 files have: known to hold nothing, and so not reported.
        expected.retain(|name| !name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias"));
        expected.sort();
        let mut found = model.unused.clone();
        found.sort();
        check(found == expected, format!("unused: {found:?}, expected {expected:?}"))?;
    }
    let old = path.join("config.v4.json");
    if old.is_file() {
        let copy = tempfile::tempdir()?;
        fs::copy(&old, copy.path().join("config.json"))?;
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("model") {
                fs::copy(path.join(&name), copy.path().join(&name))?;
            }
        }
        let old = open(copy.path())?.config;
        check(old == model.config, format!("config.v4.json gives {old:#?}\nconfig.json gives {:#?}", model.config))?;
    }
    Ok(())
}
