//! GGUF files that llama.cpp's own conversion made of the golden directories say what the directories say.
//!
//! `tests/gguf/NAME.gguf` is `tests/golden/NAME` in F16, by the conversion scripts of llama.cpp as llama-cpp-python 0.3.36
//! has them, with tokens `t0`, `t1` … for a tokenizer. Conversion wants some keys that `transformers` 5 calls otherwise:
//! Falcon's `num_kv_heads` was set to its one, GPT-NeoX's `rotary_pct` to its half.

use std::{fs, path::Path};

use consort_core::{
    config::{AttentionConfig, AttentionPositions, RotaryScaling},
    positions::rotary_frequencies,
};
use consort_formats::open;

/// Conversion rounds to F32 first.
const F16: f64 = 1.001 / 2048.0;
/// Half the smallest F16.
const SUBNORMAL: f64 = 1.0 / (1 << 25) as f64;

fn same(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gguf = open(&root.join(format!("tests/gguf/{name}.gguf"))).unwrap_or_else(|error| panic!("{error}"));
    let golden = open(&root.join("../../tests/golden").join(name)).unwrap_or_else(|error| panic!("{error}"));
    // Mistral's files say that they are Llama's.
    let family = if golden.family == "mistral" { "llama" } else { &golden.family };
    assert_eq!(gguf.family, family);
    assert!(gguf.unused.is_empty(), "{:?}", gguf.unused);

    let mut expected = golden.config.clone();
    let mut plus_one = 0.0;
    if let Some(stack) = &mut expected.decoder
        && stack.norm.unit_offset
    {
        stack.norm.unit_offset = false; // the file has the 1 added
        plus_one = 1.0;
    }
    if expected.decoder.is_none() {
        expected.head = None; // conversion leaves out the masked-token head
    }
    for (stack, found) in [(&mut expected.encoder, &gguf.config.encoder), (&mut expected.decoder, &gguf.config.decoder)]
    {
        if let (Some(stack), Some(found)) = (stack, found) {
            not_in_the_file(name, &mut stack.attention, &found.attention);
            if name == "falcon" {
                stack.context = Some(2048); // conversion knows no other
            }
        }
    }
    assert_eq!(gguf.config, expected, "{name}");

    for slot in expected.slots() {
        let [one, other] = [&gguf, &golden].map(|model| model.weights.get(&slot.name).expect("a weight"));
        let norm = slot.name.ends_with("norm.weight");
        let offset = if norm { plus_one } else { 0.0 };
        for row in 0..slot.shape[0] {
            for (place, (a, b)) in one.row(row).zip(other.row(row)).enumerate() {
                let b = b + offset;
                let near = (a - b).abs() <= F16 * b.abs() + SUBNORMAL;
                assert!(near, "{name}: {}[{row}, {place}]: {a}, expected {b}", slot.name);
            }
        }
    }
    let vocabulary = gguf.vocabulary.expect("a vocabulary");
    let last = vocabulary.tokens.len() - 1;
    assert_eq!(vocabulary.tokens[last], format!("t{last}"));
    let stack = expected.decoder.as_ref().or(expected.encoder.as_ref()).expect("a stack");
    assert_eq!(vocabulary.tokens.len(), stack.vocabulary);
}

/// What conversion does not write, as llama.cpp assumes it then.
fn not_in_the_file(name: &str, attention: &mut AttentionConfig, found: &AttentionConfig) {
    if matches!(name, "mistral" | "starcoder2") {
        attention.windows.clear();
    }
    if name == "gemma3" {
        attention.windows.fill(7); // five of six layers
    }
    if matches!(name, "gemma2" | "gemma3") {
        attention.scale = (attention.head_width as f64).powf(-0.5);
    }
    if let AttentionPositions::Relative { max_distance, .. } = &mut attention.positions {
        *max_distance = 128;
    }
    if let (AttentionPositions::Rotary(rotary), AttentionPositions::Rotary(found)) =
        (&mut attention.positions, found.positions)
    {
        if matches!(name, "gemma" | "gemma2" | "gpt-neox" | "falcon") {
            rotary.theta = 10_000.0;
        }
        if matches!(rotary.scaling, RotaryScaling::Llama3 { .. }) {
            // Divisors in the file; other parameters can give the same.
            let [(one, _), (other, _)] = [&*rotary, &found].map(|rotary| rotary_frequencies(rotary, 40));
            let near = one.iter().zip(&other).all(|(one, other)| (one - other).abs() <= 1e-6 * one.abs());
            assert!(near, "{one:?} {other:?}");
            rotary.scaling = found.scaling;
        }
    }
}

#[test]
fn every_file_agrees() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf");
    let mut names: Vec<String> = fs::read_dir(files)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 18, "{names:?}");
    let failed: Vec<String> =
        names.into_iter().filter(|name| std::panic::catch_unwind(|| same(name)).is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
