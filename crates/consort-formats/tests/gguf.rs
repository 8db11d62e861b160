//! GGUF files that are small, in several parts, and wrong in every way we could think of: always one line that names the
//! file, never a panic, never more memory than a few times the file.

mod support;

use std::{fs, path::Path};

use consort_core::config::{Activation, AttentionPositions};
use consort_formats::{Model, fuzzing, open};
use proptest::prelude::*;
use support::gguf::{Builder, Value, array, llama};
use tempfile::TempDir;

fn read(bytes: &[u8]) -> Model {
    fuzzing::gguf(bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(bytes: &[u8], parts: &[&str]) {
    let error = match fuzzing::gguf(bytes) {
        Ok(model) => panic!("opened: {model:?}, where {parts:?} is wrong"),
        Err(error) => error.to_string(),
    };
    assert!(!error.contains('\n') && error.starts_with("fuzz.gguf: ") && error.len() < 600, "{error}");
    for part in parts {
        assert!(error.contains(part), "{error}: no {part}");
    }
}

#[test]
fn a_small_model_opens_in_every_version() {
    for version in [1, 2, 3] {
        let model = read(&Builder { version, ..llama() }.bytes());
        assert_eq!((model.family.as_str(), model.dtype.as_str()), ("llama", "f32"));
        assert_eq!(model.unused, ["extra.weight"]);
        assert_eq!(model.generation.eos_token_ids, [2, 3]);
        let head = model.config.head.as_ref().expect("a head");
        assert!(head.tied);
        // Row r of a head's pair e is row 2r + e of the file: [0, 1, 2, 3] in one head of four comes as [0, 2, 1, 3].
        let query = model.weights.get("decoder.0.attention.query.weight").expect("a weight");
        let firsts: Vec<f64> = (0..8).map(|row| query.row(row).next().expect("an element")).collect();
        assert_eq!(firsts, [0.0, 16.0, 8.0, 24.0, 32.0, 48.0, 40.0, 56.0]);
        assert_eq!(query.name(), "blk.0.attn_q.weight");
        let key = model.weights.get("decoder.0.attention.key.weight").expect("a weight");
        let firsts: Vec<f64> = (0..4).map(|row| key.row(row).next().expect("an element")).collect();
        assert_eq!(firsts, [0.0, 16.0, 8.0, 24.0]);
        let vocabulary = model.vocabulary.expect("a vocabulary");
        assert_eq!(vocabulary.tokens, ["<unk>", "<s>", "</s>", "<eot>", "a"]);
        assert_eq!((vocabulary.eot, vocabulary.add_bos, vocabulary.model.as_str()), (Some(3), Some(true), "llama"));
        assert_eq!(vocabulary.chat_templates, [("tool".to_owned(), "y".to_owned())]);
    }
}

#[test]
fn types_and_their_names() {
    let mut file = llama();
    file.tensor("blk.0.ffn_down.weight").kind = 30; // BF16: half the bytes
    file.tensor("blk.0.ffn_down.weight").data.truncate(8 * 12 * 2);
    assert_eq!(read(&file.bytes()).dtype, "f32 + bf16");

    let mut file = llama();
    file.tensor("extra.weight").kind = 23;
    file.tensor("extra.weight").shape = vec![256];
    file.tensor("extra.weight").data = vec![0; 136];
    assert_eq!(read(&file.bytes()).unused, ["extra.weight"], "what nothing needs may be of any type");
    file.tensor("blk.0.attn_norm.weight").kind = 26;
    refused(&file.bytes(), &["tensor 'blk.0.attn_norm.weight'", "expected F32", "Q6_K", "found I32"]);
    file.tensor("blk.0.attn_norm.weight").kind = 4;
    refused(&file.bytes(), &["tensor 'blk.0.attn_norm.weight'", "element type 4"]);
}

#[test]
fn headers_that_lie() {
    let good = llama().bytes();
    for (bytes, says) in [
        (&b""[..], "the file is empty"),
        (b"GG", "truncated"),
        (b"GGUF\x03\0", "truncated"),
        (b"tjgg\x03\0\0\0", "'ggjt' format"),
        (b"lmgg\x03\0\0\0", "convert it with llama.cpp"),
        (b"GGJT\x03\0\0\0", "begins with 'GGJT'"),
        (b"GGUF\0\0\0\x03\0\0\0\0", "big-endian"),
        (b"GGUF\x04\0\0\0\0\0\0\0", "version 4"),
        (b"GGUF\0\0\0\0\0\0\0\0", "version 0"),
        (b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0\0", "claims 9223372036854775807 tensors"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", "metadata entries"),
        (b"GGUF\x01\0\0\0\xff\xff\xff\xff\0\0\0\0", "claims 4294967295 tensors"),
    ] {
        refused(bytes, &[says]);
    }
    for length in 1..good.len() {
        let error = fuzzing::gguf(&good[..length]).err().unwrap_or_else(|| panic!("{length} bytes opened"));
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn metadata_that_lies() {
    let with = |key: &str, value: Value| {
        let mut file = llama();
        file.set(key, value);
        file.bytes()
    };
    let long = (u64::MAX - 3).to_le_bytes();
    for (key, value, says) in [
        ("x", Value::Raw(8, long.to_vec()), "x: truncated or damaged"),
        ("x", Value::Raw(9, [&8u32.to_le_bytes()[..], &long].concat()), "x: truncated or damaged"),
        ("x", Value::Raw(9, [&10u32.to_le_bytes()[..], &(1u64 << 61).to_le_bytes()].concat()), "x: truncated"),
        ("x", Value::Raw(9, [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()), "x: an array of arrays"),
        ("x", Value::Raw(9, [&77u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()), "the unknown type 77"),
        ("x", Value::Raw(13, vec![0; 8]), "unknown type 13"),
        ("x", Value::Raw(7, vec![2]), "expected true (1) or false (0), found 2"),
        ("general.alignment", Value::U32(3), "expected a power of two"),
        ("general.alignment", Value::U32(4), "from 8"),
        ("general.alignment", Value::U32(1 << 30), "1073741824"),
        ("general.alignment", Value::Text("32"), "unsigned integer"),
        ("general.architecture", Value::Text("mamba"), "'mamba' is not an architecture"),
        ("general.architecture", Value::U32(1), "expected a string, found 1"),
        ("general.architecture", Value::Raw(8, [&2u64.to_le_bytes()[..], b"\xff\xff"].concat()), "not UTF-8"),
        ("general.type", Value::Text("adapter"), "not a model by itself"),
        ("llama.block_count", Value::Text("two"), "llama.block_count: expected an integer from 0 up, found the string"),
        (
            "llama.block_count",
            Value::U32(2),
            "missing 9 of the 20 tensors that its metadata asks for: blk.1.attn_q.weight",
        ),
        ("llama.block_count", Value::U32(20), "asks for 20 layers"),
        ("llama.block_count", Value::U32(u32::MAX), "llama.block_count"),
        ("llama.block_count", Value::U32(0), "llama.block_count: expected a positive integer"),
        ("llama.embedding_length", Value::U32(16), "4 of a head's 8 components"),
        ("llama.feed_forward_length", Value::U32(13), "tensor 'blk.0.ffn_gate.weight': expected shape [13, 8]"),
        ("llama.embedding_length", Value::U32(0), "llama.embedding_length"),
        ("llama.attention.head_count", Value::U32(3), "llama.attention.head_count"),
        ("llama.attention.head_count", Value::U32(u32::MAX), "llama.attention.head_count"),
        (
            "llama.attention.head_count",
            array(4, &[2u32, 4].map(u32::to_le_bytes)),
            "different values for different layers",
        ),
        ("llama.attention.head_count", array(4, &[[0u8; 4]; 0]), "an empty list"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "finite number"),
        ("llama.attention.value_length", Value::U32(5), "5, where keys have 4"),
        ("llama.rope.dimension_count", Value::U32(2), "2 of a head's 4 components"),
        ("llama.rope.freq_base", Value::F32(-1.0), "llama.rope.freq_base: expected a positive number"),
        ("llama.rope.scaling.type", Value::Text("su"), "'su' is not a scaling"),
        ("llama.rope.scaling.type", Value::Text("linear"), "llama.rope.scaling.factor: missing, and 'linear' needs it"),
        ("llama.expert_count", Value::U32(8), "8 is not supported"),
        ("llama.vocab_size", Value::U32(7), "token_embd.weight has 5 rows"),
        ("tokenizer.ggml.tokens", Value::Texts(&["a"]), "1 tokens, where token_embd.weight has 5 rows"),
        ("tokenizer.ggml.tokens", Value::U32(5), "expected a list of strings, found 5"),
        ("tokenizer.ggml.scores", array(6, &[[0u8; 4]; 4]), "4 entries for 5 tokens"),
        ("tokenizer.ggml.scores", Value::Texts(&["a", "b", "c", "d", "e"]), "expected a list of floats"),
        ("tokenizer.ggml.token_type", array(10, &[[0xff_u8; 8]; 5]), "beyond 32 bits"),
        ("tokenizer.ggml.eos_token_id", Value::U32(5), "5 is beyond the 5 tokens"),
        ("tokenizer.ggml.add_bos_token", Value::U32(1), "expected true or false, found 1"),
        ("tokenizer.ggml.merges", Value::Texts(&["a b"; 100]), "100 merges for 5 tokens"),
        ("tokenizer.chat_template.x", Value::U32(1), "expected a string"),
        ("split.count", Value::U32(2), "one of 2 parts"),
    ] {
        refused(&with(key, value), &[says]);
    }
    let mut twice = llama();
    twice.metadata.push(("llama.block_count".to_owned(), Value::U32(1)));
    refused(&twice.bytes(), &["llama.block_count", "twice"]);
    for required in ["general.architecture", "llama.embedding_length", "llama.attention.layer_norm_rms_epsilon"] {
        let mut file = llama();
        file.metadata.retain(|(key, _)| key != required);
        refused(&file.bytes(), &[required, "missing"]);
    }
}

#[test]
fn tensors_that_lie() {
    type Damage = fn(&mut Builder);
    let damages: [(Damage, &str); 13] = [
        (|file| file.tensor("output_norm.weight").shape = vec![8, 1, 1, 1, 1], "5 dimensions"),
        (|file| file.tensor("output_norm.weight").shape = vec![0], "a dimension of 0"),
        (|file| file.tensor("output_norm.weight").shape = vec![1 << 40, 1 << 40], "overflows"),
        (|file| file.tensor("output_norm.weight").shape = vec![1 << 40], "truncated or damaged"),
        (|file| file.tensor("output_norm.weight").shape = vec![7], "expected shape [8]"),
        (|file| file.tensor("token_embd.weight").shape = vec![40], "expected two dimensions"),
        (|file| file.tensor("token_embd.weight").name = "other".to_owned(), "'token_embd.weight': missing"),
        (|file| file.tensor("blk.0.ffn_up.weight").name = "other".to_owned(), "blk.0.ffn_up.weight"),
        (|file| file.tensor("extra.weight").name = "output_norm.weight".to_owned(), "twice"),
        (|file| file.tensor("output_norm.weight").offset = Some(u64::MAX - 31), "truncated or damaged"),
        (|file| file.tensor("output_norm.weight").offset = Some(1), "no multiple of 32"),
        (|file| file.tensor("output_norm.weight").offset = Some(0), "overlaps the tensor before it"),
        (|file| file.tensor("output_norm.weight").kind = 8, "no whole blocks of 32 as Q8_0"),
    ];
    for (damage, says) in damages {
        let mut file = llama();
        damage(&mut file);
        refused(&file.bytes(), &[says]);
    }
    refused(&Builder { tensors: Vec::new(), ..llama() }.bytes(), &["it has no tensors"]);
    let mut gap = llama();
    for tensor in &mut gap.tensors {
        tensor.data.extend([0; 64]); // between tensors, more than padding
    }
    refused(&gap.bytes(), &["leaves a gap"]);
}

#[test]
fn a_head_of_its_own() {
    let mut file = llama();
    file.add("output.weight", &[8, 5], 1000.0);
    let head = read(&file.bytes()).config.head.expect("a head");
    assert!(!head.tied);
    let mut copy = llama();
    let data = copy.tensor("token_embd.weight").data.clone();
    copy.add("output.weight", &[8, 5], 0.0);
    copy.tensor("output.weight").data = data;
    let model = read(&copy.bytes());
    assert!(model.config.head.expect("a head").tied && model.unused == ["extra.weight"]);
}

/// The small model as another architecture, without what `drop` is in the name of.
fn renamed(architecture: &'static str, drop: &[&str]) -> Builder {
    let mut file = llama();
    for (key, _) in &mut file.metadata {
        *key = key.replace("llama.", &format!("{architecture}."));
    }
    file.set("general.architecture", Value::Text(architecture));
    file.tensors.retain(|tensor| !drop.iter().any(|part| tensor.name.contains(part)));
    file
}

#[test]
fn windows_by_layer() {
    let with = |window: u32, pattern: Option<Value>| {
        let mut file = renamed("gemma3", &[]);
        for (name, width) in [("attn_q_norm", 4), ("attn_k_norm", 4), ("post_attention_norm", 8), ("post_ffw_norm", 8)]
        {
            file.add(&format!("blk.0.{name}.weight"), &[width], 1.0);
        }
        file.set("gemma3.attention.key_length", Value::U32(4));
        file.set("gemma3.attention.sliding_window", Value::U32(window));
        if let Some(pattern) = pattern {
            file.set("gemma3.attention.sliding_window_pattern", pattern);
        }
        file.bytes()
    };
    let list = |slides: &[u8]| Some(Value::Array(7, slides.len() as u64, slides.to_vec()));
    for (window, pattern, expected) in [
        (5, None, &[5][..]),
        (5, Some(Value::U32(0)), &[5]),
        (5, Some(Value::U32(1)), &[]),
        (5, list(&[1]), &[5]),
        (5, list(&[0]), &[]),
        (0, list(&[1]), &[]),
    ] {
        let model = read(&with(window, pattern));
        assert_eq!(model.config.decoder.expect("a decoder").attention.windows, expected);
    }
    refused(&with(5, list(&[1, 0])), &["gemma3.attention.sliding_window_pattern", "2 entries for 1 layers"]);
    refused(&with(5, Some(Value::Text("6"))), &["gemma3.attention.sliding_window_pattern", "expected an integer"]);
}

#[test]
fn a_part_of_each_head_rotates() {
    let with = |change: &dyn Fn(&mut Builder)| {
        let mut file = renamed("phi3", &["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"]);
        file.add("output.weight", &[8, 5], 0.0);
        file.add("blk.0.attn_qkv.weight", &[8, 16], 0.0);
        file.add("blk.0.ffn_up.weight", &[8, 24], 0.0);
        change(&mut file);
        file.bytes()
    };
    let rotated = |count: u32| with(&|file: &mut Builder| file.set("phi3.rope.dimension_count", Value::U32(count)));
    for count in [2, 4] {
        let model = read(&rotated(count));
        let stack = model.config.decoder.expect("a decoder");
        let AttentionPositions::Rotary(rotary) = stack.attention.positions else { panic!("{stack:?}") };
        assert_eq!((rotary.width, stack.attention.windows), (count as usize, vec![]));
        let first = |slot: &str| model.weights.get(slot).and_then(|weight| weight.row(0).next());
        assert_eq!(first("decoder.0.attention.value.weight"), Some(96.0), "after 8 queries and 4 keys");
        assert_eq!(first("decoder.0.feed_forward.up.weight"), Some(96.0), "after 12 of the gate");
    }
    for count in [0, 3, 6] {
        refused(&rotated(count), &["phi3.rope.dimension_count", "of a head's 4 components", "an even number"]);
    }
    let window = |width: u32| with(&|file: &mut Builder| file.set("phi3.attention.sliding_window", Value::U32(width)));
    for (width, expected) in [(0, vec![]), (3, vec![3])] {
        let stack = read(&window(width)).config.decoder.expect("a decoder");
        assert_eq!(stack.attention.windows, expected);
    }
    let long = with(&|file: &mut Builder| file.add("rope_factors_long.weight", &[2], 1.0));
    refused(&long, &["tensor 'rope_factors_long.weight'", "longrope", "its first context"]);
}

/// T5 without its decoder, whose feed-forward network has no gate and so is the first T5's.
#[test]
fn an_encoder_alone() {
    let mut file = Builder { version: 3, metadata: Vec::new(), tensors: Vec::new() };
    file.set("general.architecture", Value::Text("t5encoder"));
    for (key, value) in [
        ("block_count", 1),
        ("embedding_length", 8),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.key_length", 4),
        ("attention.relative_buckets_count", 6),
    ] {
        file.set(&format!("t5encoder.{key}"), Value::U32(value));
    }
    file.set("t5encoder.attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    for (name, shape) in [
        ("token_embd", &[8, 5][..]),
        ("enc.output_norm", &[8]),
        ("enc.blk.0.attn_rel_b", &[2, 6]),
        ("enc.blk.0.attn_norm", &[8]),
        ("enc.blk.0.attn_q", &[8, 8]),
        ("enc.blk.0.attn_k", &[8, 8]),
        ("enc.blk.0.attn_v", &[8, 8]),
        ("enc.blk.0.attn_o", &[8, 8]),
        ("enc.blk.0.ffn_norm", &[8]),
        ("enc.blk.0.ffn_up", &[8, 12]),
        ("enc.blk.0.ffn_down", &[12, 8]),
    ] {
        file.add(&format!("{name}.weight"), shape, 0.0);
    }
    let model = read(&file.bytes());
    assert!(model.config.decoder.is_none() && model.config.head.is_none() && model.vocabulary.is_none());
    let stack = model.config.encoder.expect("an encoder");
    assert!(!stack.feed_forward.gated && stack.feed_forward.activation == Activation::Relu);
    assert!(model.unused.is_empty(), "{:?}", model.unused);
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("write");
    }
    directory
}

fn refused_path(path: &Path, parts: &[&str]) {
    let error = open(path).expect_err("an error").to_string();
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{error}: no {part}");
    }
}

/// The model in two parts: metadata and half of the tensors, then the rest.
fn two_parts() -> [Builder; 2] {
    let whole = llama();
    let count = whole.tensors.len();
    let mut first = whole;
    let mut second = Builder { version: 3, metadata: Vec::new(), tensors: first.tensors.split_off(count / 2) };
    for (number, part) in [&mut first, &mut second].into_iter().enumerate() {
        part.set("split.no", Value::U16(number as u16));
        part.set("split.count", Value::U16(2));
        part.set("split.tensors.count", Value::I32(count as i32));
    }
    [first, second]
}

#[test]
fn models_in_parts() {
    const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let parts = two_parts();
    let [first, second] = [parts[0].bytes(), parts[1].bytes()];
    let good = directory(&[(NAMES[0], &first), (NAMES[1], &second)]);
    for path in [good.path().join(NAMES[0]), good.path().join(NAMES[1]), good.path().to_owned()] {
        let model = open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.weights.len(), model.config.slots().len());
    }
    let missing = directory(&[(NAMES[1], &second)]);
    refused_path(&missing.path().join(NAMES[1]), &["m-00001-of-00002.gguf: missing"]);
    refused_path(missing.path(), &["m-00001-of-00002.gguf: missing"]);
    let swapped = directory(&[(NAMES[0], &second), (NAMES[1], &first)]);
    refused_path(&swapped.path().join(NAMES[0]), &["split.no: expected 0", "found 1"]);
    let twice = directory(&[(NAMES[0], &first), (NAMES[1], &first)]);
    refused_path(&twice.path().join(NAMES[0]), &["split"]);
    let renamed = directory(&[("x.gguf", &first)]);
    refused_path(&renamed.path().join("x.gguf"), &["one of 2 parts", "-00001-of-00002.gguf"]);
    let beyond = directory(&[("m-00003-of-00002.gguf", &first)]);
    refused_path(&beyond.path().join("m-00003-of-00002.gguf"), &["part 3 of 2"]);
    for (key, says) in [("split.count", "expected 2"), ("split.tensors.count", "the tensors of all parts")] {
        let [_, mut second] = two_parts();
        second.set(key, Value::U16(7));
        let wrong = directory(&[(NAMES[0], &first), (NAMES[1], &second.bytes())]);
        refused_path(&wrong.path().join(NAMES[0]), &[NAMES[1], key, says]);
    }
}

#[test]
fn paths() {
    let bytes = llama().bytes();
    let one = directory(&[("anything.bin", &bytes), ("model.gguf", &bytes)]);
    for name in ["anything.bin", "model.gguf", ""] {
        assert!(open(&one.path().join(name)).is_ok(), "{name}");
    }
    let two = directory(&[("a.gguf", &bytes), ("b.gguf", &bytes)]);
    refused_path(two.path(), &["2 GGUF models", "a.gguf, b.gguf"]);
    let unweighted = directory(&[("config.json", br#"{"model_type": "llama"}"#), ("a.gguf", &bytes)]);
    refused_path(unweighted.path(), &["no model.safetensors", "the GGUF file of this directory, a.gguf"]);
    refused_path(directory(&[("a.txt", b"")]).path(), &["no config.json", "no GGUF file"]);
    refused_path(&directory(&[("a.gguf", b"")]).path().join("a.gguf"), &["a.gguf: the file is empty"]);
    refused_path(&directory(&[("a.gguf", b"text")]).path().join("a.gguf"), &["begins with 'text'"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Any damage gives a model or one line.
    #[test]
    fn damage_never_panics(
        version in 1u32..=3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        words in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![0u64, 1, u64::MAX, 1 << 32, 1 << 63, 255])), 0..2),
    ) {
        let mut bytes = Builder { version, ..llama() }.bytes();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for (at, word) in words {
            let at = at.index(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match fuzzing::gguf(&bytes) {
            Ok(model) => {
                for (_, weight) in model.weights.iter() {
                    for row in 0..weight.shape()[0] {
                        weight.row(row).for_each(drop);
                    }
                }
            }
            Err(error) => {
                let error = error.to_string();
                prop_assert!(!error.contains('\n') && error.len() < 1000, "{}", error);
            }
        }
    }
}
