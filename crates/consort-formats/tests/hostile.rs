//! Directories that are wrong in every way we could think of: always one line, naming the file, never a panic.

use std::{fs, path::Path};

use consort_formats::{EarlyStopping, Error, Model, fuzzing, open};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Tensors with F32 values of their own, in this order.
struct File(Vec<(String, Vec<usize>, f32)>);

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut header = Map::new();
        let mut data = Vec::new();
        for (name, shape, value) in &self.0 {
            let begin = data.len();
            for _ in 0..shape.iter().product::<usize>() {
                data.extend_from_slice(&value.to_le_bytes());
            }
            header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
        }
        with_header(&Value::Object(header).to_string(), &data)
    }
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 2, "intermediate_size": 6, "vocab_size": 5, "max_position_embeddings": 8}"#;

fn llama() -> File {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![5, 4])];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![4]),
            ("self_attn.q_proj", vec![4, 4]),
            ("self_attn.k_proj", vec![2, 4]),
            ("self_attn.v_proj", vec![2, 4]),
            ("self_attn.o_proj", vec![4, 4]),
            ("post_attention_layernorm", vec![4]),
            ("mlp.gate_proj", vec![6, 4]),
            ("mlp.up_proj", vec![6, 4]),
            ("mlp.down_proj", vec![4, 6]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![4]));
    tensors.push(("lm_head.weight".to_owned(), vec![5, 4]));
    File(tensors.into_iter().enumerate().map(|(i, (name, shape))| (name, shape, i as f32)).collect())
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("write");
    }
    directory
}

fn refused(path: &Path) -> String {
    let error = match open(path) {
        Ok(model) => panic!("{} opened: {model:?}", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(!error.contains('\n'), "{error}");
    error
}

fn refused_weights(bytes: &[u8]) -> String {
    let directory = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", bytes)]);
    let error = refused(directory.path());
    assert!(error.contains("model.safetensors") || error.contains("config.json asks for"), "{error}");
    error
}

fn opened(config: &str, file: &File) -> Model {
    let directory = directory(&[("config.json", config.as_bytes()), ("model.safetensors", &file.bytes())]);
    open(directory.path()).unwrap_or_else(|error| panic!("{error}"))
}

fn has(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error}: no {part}");
    }
}

fn config_with(key: &str, value: Value) -> String {
    let mut config: Value = serde_json::from_str(CONFIG).expect("json");
    config[key] = value;
    config.to_string()
}

#[test]
fn a_small_model_opens() {
    let model = opened(CONFIG, &llama());
    assert!(model.unused.is_empty(), "{:?}", model.unused);
    assert_eq!((model.dtype.as_str(), model.family.as_str()), ("f32", "llama"));
    assert_eq!(model.parameters, 5 * 4 * 2 + 4 + 2 * (4 * 2 + 16 * 2 + 8 * 2 + 24 * 3));
    assert_eq!(model.weights.len(), model.config.slots().len());
    let weight = model.weights.get("decoder.1.feed_forward.down.weight").expect("a weight");
    assert_eq!(weight.row(3).collect::<Vec<_>>(), [18.0; 6]);
    assert_eq!(model.weights.iter().filter(|(slot, _)| slot.starts_with("decoder.0.")).count(), 9);
}

#[test]
fn names_without_a_prefix_are_the_same() {
    let mut file = llama();
    for (name, _, _) in &mut file.0 {
        *name = name.trim_start_matches("model.").to_owned();
    }
    assert!(opened(CONFIG, &file).unused.is_empty());
}

#[test]
fn heads_tied_and_not() {
    let tied = config_with("tie_word_embeddings", json!(true));
    let head = |model: &Model| model.config.head.as_ref().map(|head| head.tied);

    // Both stored and different: both are meant.
    let model = opened(&tied, &llama());
    assert_eq!((head(&model), model.unused.len()), (Some(false), 0));

    // Both stored and equal: one is too much.
    let mut file = llama();
    file.0.last_mut().expect("a head").2 = 0.0;
    let model = opened(&tied, &file);
    assert_eq!((head(&model), model.unused.as_slice()), (Some(true), &["lm_head.weight".to_owned()][..]));

    // Either alone.
    let mut file = llama();
    file.0.pop();
    assert_eq!(head(&opened(&tied, &file)), Some(true));
    let mut file = llama();
    file.0.remove(0);
    let model = opened(&tied, &file);
    assert_eq!(head(&model), Some(true));
    let embedding = model.weights.get("decoder.embedding.tokens.weight").expect("an embedding");
    assert_eq!((embedding.name(), embedding.row(4).collect::<Vec<_>>()), ("lm_head.weight", vec![20.0; 4]));

    // Untied needs both.
    let mut file = llama();
    file.0.pop();
    has(&refused_weights(&file.bytes()), &["missing 1 of the 21 tensors that config.json asks for: lm_head.weight"]);
    let mut file = llama();
    file.0.remove(0);
    has(&refused_weights(&file.bytes()), &["asks for: model.embed_tokens.weight"]);

    // A class without a head has none.
    let mut file = llama();
    file.0.pop();
    file.0.push(("score.weight".to_owned(), vec![2, 4], 0.0));
    let model = opened(&config_with("architectures", json!(["LlamaForSequenceClassification"])), &file);
    assert_eq!((head(&model), model.unused.as_slice()), (None, &["score.weight".to_owned()][..]));
}

#[test]
fn buffers_are_not_reported_and_the_rest_is() {
    let mut file = llama();
    file.0.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![1], 0.0));
    file.0.push(("model.layers.7.mlp.up_proj.weight".to_owned(), vec![6, 4], 0.0));
    assert_eq!(opened(CONFIG, &file).unused, ["model.layers.7.mlp.up_proj.weight"]);
}

#[test]
fn missing_and_misshapen_weights() {
    let mut file = llama();
    file.0.truncate(10);
    let error = refused_weights(&file.bytes());
    has(
        &error,
        &["missing 11 of the 21 tensors that config.json asks for", "model.layers.1.self_attn.q_proj.weight", "…"],
    );
    assert!(matches!(
        open(directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &file.bytes())]).path()),
        Err(Error::Missing { needed: 21, missing, .. }) if missing.len() == 11
    ));

    let mut file = llama();
    file.0[3].1 = vec![4, 2];
    has(
        &refused_weights(&file.bytes()),
        &["'model.layers.0.self_attn.k_proj.weight'", "expected shape [2, 4]", "found [4, 2]"],
    );
    file.0[3].1 = vec![8];
    has(&refused_weights(&file.bytes()), &["expected shape [2, 4]", "found [8]"]);
    file.0[3].1 = vec![1; 1000];
    has(&refused_weights(&file.bytes()), &["expected shape [2, 4]", "(1000 dimensions)"]);
    file.0[3].1 = vec![0, 4];
    has(&refused_weights(&file.bytes()), &["expected shape [2, 4]", "found [0, 4]"]);

    let config = config_with("num_hidden_layers", json!(4_000));
    let directory = directory(&[("config.json", config.as_bytes()), ("model.safetensors", &llama().bytes())]);
    has(&refused(directory.path()), &["config.json asks for 4000 layers", "21 tensors"]);
}

#[test]
fn element_types_matter_only_where_they_are_needed() {
    let swap = |name: &str, dtype: &str, bytes: usize| {
        let file = llama().bytes();
        let length = u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
        let mut header: Value = serde_json::from_slice(&file[8..8 + length]).expect("json");
        let mut data = file[8 + length..].to_vec();
        let begin = data.len();
        data.resize(begin + bytes, 0);
        // The tensor moves to the end, and what was after it moves up.
        let old = header[name]["data_offsets"].clone();
        let shape = header[name]["shape"].clone();
        if let (Some(from), Some(to)) = (old[0].as_u64(), old[1].as_u64()) {
            data.drain(from as usize..to as usize);
            for (_, info) in header.as_object_mut().expect("an object") {
                for end in info["data_offsets"].as_array_mut().expect("offsets") {
                    let at = end.as_u64().expect("an offset");
                    *end = (if at >= to { at - (to - from) } else { at }).into();
                }
            }
        }
        let end = data.len();
        let shape = if shape.is_null() { json!([bytes / 8]) } else { shape };
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [end - bytes, end]});
        with_header(&header.to_string(), &data)
    };
    let error = refused_weights(&swap("model.norm.weight", "I64", 32));
    has(&error, &["'model.norm.weight'", "expected F32, F16, BF16 or F64, found I64"]);
    has(&refused_weights(&swap("model.norm.weight", "F8_E4M3", 4)), &["found F8_E4M3"]);
    has(&refused_weights(&swap("model.norm.weight", "F3", 4)), &["'model.norm.weight'", "F3"]);

    for (dtype, bytes) in [("F16", 8), ("BF16", 8), ("F64", 32)] {
        let file = swap("model.norm.weight", dtype, bytes);
        let directory = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &file)]);
        let model = open(directory.path()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.dtype, format!("f32 + {}", dtype.to_lowercase()));
    }
    let file = swap("position_ids", "I64", 16);
    let directory = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &file)]);
    assert_eq!(open(directory.path()).expect("a model").unused, ["position_ids"]);
}

#[test]
fn nothing_need_be_aligned() {
    let file = llama().bytes();
    let length = u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
    for padding in 0..8 {
        let header = String::from_utf8(file[8..8 + length].to_vec()).expect("text") + &" ".repeat(padding);
        let moved = with_header(&header, &file[8 + length..]);
        let directory = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &moved)]);
        let model = open(directory.path()).unwrap_or_else(|error| panic!("{error}"));
        let norm = model.weights.get("decoder.norm.weight").expect("a norm");
        assert_eq!(norm.row(0).collect::<Vec<_>>(), [19.0; 4]);
    }
}

#[test]
fn headers_that_lie() {
    let good = llama().bytes();
    has(&refused_weights(&[]), &["the file is empty"]);
    has(&refused_weights(&[1, 2, 3]), &["truncated: 3 bytes"]);
    has(&refused_weights(&good[..20]), &["truncated: a header of", "in a file of 20"]);
    has(&refused_weights(&good[..good.len() - 1]), &["'lm_head.weight'", "truncated"]);
    has(&refused_weights(&[&good[..], &[0; 5]].concat()), &["the tensors take", "the file has"]);
    has(&refused_weights(&u64::MAX.to_le_bytes()), &["a header of 18446744073709551615 bytes"]);
    has(&refused_weights(&with_header("{", &[])), &["the header is not valid"]);
    has(&refused_weights(&with_header("[]", &[])), &["the header is not valid"]);
    has(&refused_weights(&with_header("{} x", &[])), &["the header is not valid"]);
    has(&refused_weights(&with_header("", &[])), &["the header is not valid"]);
    has(&refused_weights(&with_header(&"[".repeat(100_000), &[])), &["the header is not valid"]);
    let mut garbage = with_header("{}  ", &[]);
    garbage[9] = 0xff;
    has(&refused_weights(&garbage), &["the header is not valid"]);
    has(&refused_weights(b"PK\x03\x04 this is a zip file, as pickles are"), &["not a safetensors file"]);

    let one =
        |info: &str, data: usize| refused_weights(&with_header(&format!("{{\"a\\nb\": {info}}}"), &vec![0; data]));
    has(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4), &["'a\\nb'", "4 bytes", "[2] takes 8"]);
    has(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 4), &["'a\\nb'", "bytes 0 to 8", "has 4"]);
    has(&one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 8), &["begins at byte 4", "leaves a gap after"]);
    has(&one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 8), &["before its begin"]);
    has(&one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#, 8), &["overflows"]);
    has(&one(r#"{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}"#, 8), &["overflows"]);
    has(&one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}"#, 8), &["'a\\nb'", "not valid"]);
    has(&one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}"#, 8), &["not valid"]);
    has(&one(r#"{"dtype":"F32","shape":[1]}"#, 4), &["data_offsets"]);
    has(&one("7", 4), &["'a\\nb'"]);
    has(&one(r#"{"dtype":"F4","shape":[1],"data_offsets":[0,1]}"#, 1), &["model.safetensors"]);

    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    has(&refused_weights(&with_header(twice, &[0; 4])), &["'a'", "twice"]);
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    has(&refused_weights(&with_header(overlap, &[0; 8])), &["'b'", "overlaps"]);
}

/// The format's crate adds up these ends without looking: 2^64 bytes in nine tensors would be a panic or a wrap.
#[test]
fn ends_that_overflow() {
    let size = (1u64 << 61) - 1;
    let header: Map<String, Value> = (0..9u64)
        .map(|i| {
            let (begin, end) = (size.wrapping_mul(i), size.wrapping_mul(i + 1));
            (format!("t{i}"), json!({"dtype": "U8", "shape": [size], "data_offsets": [begin, end]}))
        })
        .collect();
    refused_weights(&with_header(&Value::Object(header).to_string(), &[0; 16]));
}

fn sharded(index: &Value, files: &[(&str, &[u8])]) -> TempDir {
    let index = index.to_string();
    let mut all = vec![("config.json", CONFIG.as_bytes()), ("model.safetensors.index.json", index.as_bytes())];
    all.extend_from_slice(files);
    directory(&all)
}

fn halves() -> (Value, Vec<u8>, Vec<u8>) {
    let mut first = llama();
    let second = File(first.0.split_off(9));
    let mut map = Map::new();
    for (file, name) in [(&first, "a.safetensors"), (&second, "b.safetensors")] {
        map.extend(file.0.iter().map(|(tensor, _, _)| (tensor.clone(), name.into())));
    }
    (json!({"metadata": {"total_size": 1}, "weight_map": map}), first.bytes(), second.bytes())
}

#[test]
fn shards() {
    let (index, first, second) = halves();
    let both: [(&str, &[u8]); 2] = [("a.safetensors", &first), ("b.safetensors", &second)];
    let model = open(sharded(&index, &both).path()).unwrap_or_else(|error| panic!("{error}"));
    assert!(model.unused.is_empty());
    assert_eq!(model.weights.get("decoder.norm.weight").expect("a norm").row(0).next(), Some(19.0));

    has(&refused(sharded(&index, &both[..1]).path()), &["b.safetensors: missing", "12 tensors", "index.json"]);
    let swapped: [(&str, &[u8]); 2] = [("a.safetensors", &second), ("b.safetensors", &first)];
    has(&refused(sharded(&index, &swapped).path()), &["a.safetensors", "not in this file", "index.json"]);

    for outside in ["../x.safetensors", "/etc/passwd", "a/../../x", "", ".", "..\\x", "C:x", "a\0b"] {
        let mut index = index.clone();
        index["weight_map"]["lm_head.weight"] = outside.into();
        let error = refused(sharded(&index, &both).path());
        has(&error, &["index.json", "'lm_head.weight'", "not inside the model directory"]);
    }
    let mut unlisted = index.clone();
    unlisted["weight_map"].as_object_mut().expect("a map").remove("model.norm.weight");
    has(&refused(sharded(&unlisted, &both).path()), &["asks for: model.norm.weight"]);
    for wrong in [json!({}), json!({"weight_map": []}), json!({"weight_map": {"a": 1}}), json!([])] {
        has(&refused(sharded(&wrong, &both).path()), &["index.json"]);
    }
    // A shard may have more than its index says.
    let mut more = llama();
    more.0.truncate(9);
    more.0.push(("extra".to_owned(), vec![1], 0.0));
    let both: [(&str, &[u8]); 2] = [("a.safetensors", &more.bytes()), ("b.safetensors", &second)];
    assert_eq!(open(sharded(&index, &both).path()).expect("a model").unused, ["extra"]);
}

#[test]
fn paths_that_are_no_model() {
    has(&refused(Path::new("meta-llama/Llama-3.2-1B")), &["does not download", "meta-llama/Llama-3.2-1B"]);
    has(&refused(Path::new("/no/such/place")), &["no such file or directory"]);
    let empty = directory(&[]);
    has(&refused(empty.path()), &["config.json", "config.toml"]);
    let alone = directory(&[("config.json", CONFIG.as_bytes())]);
    has(&refused(alone.path()), &["model.safetensors", "index.json"]);
    let pickled = directory(&[("config.json", CONFIG.as_bytes()), ("pytorch_model.bin", b"x")]);
    has(&refused(pickled.path()), &["pytorch_model.bin", "convert", "safe_serialization"]);
    has(&refused(&pickled.path().join("pytorch_model.bin")), &["convert"]);
    has(&refused(&pickled.path().join("config.json")), &["give its directory instead"]);
    let gguf = directory(&[("x.gguf", b"GGUF"), ("x.txt", b"")]);
    has(&refused(&gguf.path().join("x.gguf")), &["x.gguf: truncated"]);
    has(&refused(&gguf.path().join("x.txt")), &["not a model", "GGUF"]);
    has(&refused(&gguf.path().join("x.txt/deeper")), &["no such file or directory"]);
    for (config, says) in [(&b"{"[..], "not valid JSON"), (b"\xff", "not UTF-8"), (b"[]", "expected a JSON object")] {
        has(&refused(directory(&[("config.json", config)]).path()), &["config.json", says]);
    }
}

#[test]
fn native_directories() {
    let hugging = directory(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &llama().bytes())]);
    let model = open(hugging.path()).expect("a model");
    let text = toml::to_string(&model.config).expect("toml");
    let file = File(
        model
            .config
            .slots()
            .into_iter()
            .map(|slot| {
                let shape = if slot.shape[0] == 1 { vec![slot.shape[1]] } else { slot.shape.to_vec() };
                (slot.name, shape, 1.5)
            })
            .collect(),
    );
    let native = directory(&[("config.toml", text.as_bytes()), ("model.safetensors", &file.bytes())]);
    let again = open(native.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.config, model.config);
    assert_eq!((again.family.as_str(), again.weights.len()), ("consort", 21));

    let wrong = text.replace("heads = 2", "heads = 0");
    let native = directory(&[("config.toml", wrong.as_bytes()), ("model.safetensors", &file.bytes())]);
    has(&refused(native.path()), &["config.toml: decoder.attention.heads"]);
    let wrong = text.replace("heads = 2", "heads = \"2\"");
    let native = directory(&[("config.toml", wrong.as_bytes()), ("model.safetensors", &file.bytes())]);
    has(&refused(native.path()), &["config.toml: line ", "expected usize"]);
}

#[test]
fn generation_settings() {
    let generation = json!({"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": -1, "decoder_start_token_id": 4,
        "bad_words_ids": [[58100], [3, 4]], "suppress_tokens": [9], "num_beams": 6, "early_stopping": "never",
        "forced_eos_token_id": 2, "max_length": 512, "length_penalty": 0.8, "do_sample": true});
    let own = generation.to_string();
    let files: [(&str, &[u8]); 3] = [
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &llama().bytes()),
        ("generation_config.json", own.as_bytes()),
    ];
    let read = open(directory(&files).path()).expect("a model").generation;
    assert_eq!((read.bos_token_id, read.pad_token_id, read.decoder_start_token_id), (Some(1), None, Some(4)));
    assert_eq!((read.eos_token_ids, read.suppress_tokens), (vec![2, 7], vec![9, 58100]));
    assert_eq!((read.bad_words, read.num_beams, read.early_stopping), (vec![vec![3, 4]], 6, EarlyStopping::Never));
    assert_eq!((read.max_length, read.length_penalty, read.min_length), (Some(512), 0.8, 0));

    // Without the file, the same keys of config.json; with it, those do not count.
    let config = config_with("num_beams", json!(3));
    assert_eq!(opened(&config, &llama()).generation.num_beams, 3);
    let files: [(&str, &[u8]); 3] = [
        ("config.json", config.as_bytes()),
        ("model.safetensors", &llama().bytes()),
        ("generation_config.json", b"{}"),
    ];
    assert_eq!(open(directory(&files).path()).expect("a model").generation.num_beams, 1);

    for wrong in [
        json!({"eos_token_id": 1.5}),
        json!({"num_beams": 0}),
        json!({"early_stopping": "x"}),
        json!({"bad_words_ids": [[-1]]}),
    ] {
        let text = wrong.to_string();
        let files: [(&str, &[u8]); 3] = [
            ("config.json", CONFIG.as_bytes()),
            ("model.safetensors", &llama().bytes()),
            ("generation_config.json", text.as_bytes()),
        ];
        has(&refused(directory(&files).path()), &["generation_config.json: "]);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    let directory = directory(&[("config.json", CONFIG.as_bytes())]);
    let made = std::process::Command::new("mkfifo").arg(directory.path().join("model.safetensors")).status();
    if made.is_ok_and(|status| status.success()) {
        has(&refused(directory.path()), &["no model.safetensors"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A few bytes of a good file changed, some cut off: read or refused in one line.
    #[test]
    fn mutated_files_do_not_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        in_header in any::<bool>(),
    ) {
        let mut bytes = llama().bytes();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
        for (at, byte) in changes {
            let at = at.index(if in_header { header } else { bytes.len() });
            bytes[at] = byte;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Err(error) = fuzzing::safetensors(&bytes) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
