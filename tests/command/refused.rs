//! What does not work, and what is said then.

use std::{ffi::OsStr, fs, path::Path};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::support::*;

/// A command that fails with `status` and one line that has all of `parts`. `prepare` damages a copy of a model, and
/// says what to run if it is not the plain generation; `MODEL` in it is the copy, `GOLDENS` the folder of all goldens.
pub(crate) fn refused(
    name: &str,
    status: i32,
    parts: &'static [&'static str],
    prepare: impl FnOnce(&Model) -> Vec<&'static str> + Send + 'static,
) -> Trial {
    Trial::test(format!("refused::{name}"), move || {
        let model = Model::talking();
        let args = prepare(&model);
        let args = if args.is_empty() { PLAIN.to_vec() } else { args };
        let bart = golden_path("bart");
        let goldens = bart.parent().and_then(Path::to_str).ok_or("a path that is text")?;
        let place = |arg: &&str| arg.replace("MODEL", model.path()).replace("GOLDENS", goldens);
        let args: Vec<String> = args.iter().map(place).collect();
        let before = fs::read_dir(model.folder.path())?.count();
        consort(&args)?.failed(status, parts)?;
        equal("files in the folder: nothing is left behind", &fs::read_dir(model.folder.path())?.count(), &before)
    })
}

const PLAIN: [&str; 7] = ["generate", "--model", "MODEL", "--tokens", "1,5,6", "--max-new-tokens", "2"];

/// The plain generation with more flags.
fn plain(more: &[&'static str]) -> Vec<&'static str> {
    [&PLAIN[..], more].concat()
}

/// The same for a prompt.
fn prompt(more: &[&'static str]) -> Vec<&'static str> {
    [&["generate", "--model", "MODEL", "--max-new-tokens", "2", "--prompt"][..], more].concat()
}

pub(crate) fn bad() -> Vec<Trial> {
    let mut trials = bad_weights();
    trials.extend(bad_configs());
    trials.extend(bad_paths());
    trials.extend(bad_prompts());
    trials.extend(bad_flags());
    trials
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

fn bad_weights() -> Vec<Trial> {
    let weights = |name: &str, parts, change: fn(&mut Value, &mut Vec<u8>)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            model.weights(change);
            Vec::new()
        })
    };
    let bytes = |name: &str, parts, change: fn(&mut Vec<u8>)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            let mut bytes = fs::read(model.file("model.safetensors")).expect("weights");
            change(&mut bytes);
            model.write("model.safetensors", bytes);
            Vec::new()
        })
    };
    let element = |name: &str, tensor: &'static str, value: f32| {
        refused(&format!("weights::{name}"), 1, NAMED, move |model| {
            model.first_element(tensor, value);
            Vec::new()
        })
    };
    const NAMED: &[&str] = &["weight 'model.", "element [0, ", "not a finite number", "tmp"];
    let shards = |name: &str, parts, change: fn(&Model)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            fs::remove_file(model.file("model.safetensors")).expect("weights");
            for entry in fs::read_dir(golden_path("llama-sharded")).expect("a golden") {
                let path = entry.expect("an entry").path();
                fs::write(
                    model.file(path.file_name().and_then(OsStr::to_str).expect("a name")),
                    fs::read(&path).expect("a file"),
                )
                .expect("a copy");
            }
            change(model);
            Vec::new()
        })
    };
    vec![
        bytes("empty", &["model.safetensors", "empty"], Vec::clear),
        bytes("truncated", &["model.safetensors", "truncated"], |bytes| bytes.truncate(bytes.len() - 10)),
        bytes("truncated_in_the_header", &["truncated: a header of"], |bytes| bytes.truncate(40)),
        bytes("truncated_in_the_length", &["truncated: 5 bytes"], |bytes| bytes.truncate(5)),
        bytes("more_than_the_header_says", &["model.safetensors", "after its header"], |bytes| bytes.extend([0; 99])),
        bytes("header_length_huge", &["not a safetensors file", "18446744073709551615"], |bytes| bytes[..8].fill(255)),
        bytes("header_length_beyond_the_file", &["truncated: a header of 90000000 bytes"], |bytes| {
            bytes[..8].copy_from_slice(&90_000_000u64.to_le_bytes());
        }),
        bytes("header_length_too_short", &["header is not valid"], |bytes| {
            bytes[..8].copy_from_slice(&100u64.to_le_bytes());
        }),
        bytes("header_is_no_json", &["header is not valid"], |bytes| bytes[8..40].fill(b'x')),
        weights("overlapping", &["tensor '", "begins at byte", "overlaps"], |header, _| {
            header[NORM]["data_offsets"] = json!([0, 96]);
        }),
        weights("offsets_out_of_range", &[NORM, "truncated or damaged"], |header, data| {
            header[NORM]["data_offsets"] = json!([data.len(), data.len() + 96]);
        }),
        weights("offsets_that_overflow", &[NORM], |header, _| {
            header[NORM]["data_offsets"] = json!([u64::MAX - 96, u64::MAX]);
        }),
        weights("offsets_reversed", &[NORM, "before its begin"], |header, _| {
            header[NORM]["data_offsets"] = json!([96, 0]);
        }),
        weights("shape_that_overflows", &[NORM, "overflows"], |header, _| {
            header[NORM]["shape"] = json!([u64::MAX, u64::MAX]);
        }),
        weights("shape_of_other_size", &[NORM, "takes"], |header, _| header[NORM]["shape"] = json!([23])),
        weights("unknown_dtype", &[NORM, "not valid"], |header, _| header[NORM]["dtype"] = json!("F7")),
        weights("missing_tensor", &["missing 1 of the", NORM], |header, _| {
            let entry = header[NORM].take();
            header["another"] = entry;
            header.as_object_mut().expect("an object").remove(NORM);
        }),
        weights("misshapen", &[NORM, "[24]", "[4, 6]"], |header, _| header[NORM]["shape"] = json!([4, 6])),
        weights("transposed", &[EMBEDDING, "[24, 131]", "[131, 24]"], |header, _| {
            header[EMBEDDING]["shape"] = json!([24, 131]);
        }),
        element("nan_in_the_embedding", EMBEDDING, f32::NAN),
        element("nan_in_a_norm", NORM, f32::NAN),
        element("infinity", "model.layers.1.self_attn.q_proj.weight", f32::INFINITY),
        shards("missing_shard", &["model-00002-of-00003.safetensors", "missing"], |model| {
            fs::remove_file(model.file("model-00002-of-00003.safetensors")).expect("a shard");
        }),
        shards("shard_outside", &["not inside the model directory"], |model| {
            model.edit("model.safetensors.index.json", |index| {
                index["weight_map"][NORM] = json!("../other.safetensors")
            });
        }),
        shards("tensor_in_another_shard", &[NORM, "not in this file"], |model| {
            model.edit("model.safetensors.index.json", |index| {
                let (first, last) = ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors");
                let other = if index["weight_map"][NORM] == first { last } else { first };
                index["weight_map"][NORM] = json!(other);
            });
        }),
        shards("no_weights", &["no model.safetensors and no model.safetensors.index.json"], |model| {
            fs::remove_file(model.file("model.safetensors.index.json")).expect("an index");
        }),
    ]
}

fn bad_configs() -> Vec<Trial> {
    let config = |name: &str, parts, key: &'static str, value: Value| {
        refused(&format!("config::{name}"), 1, parts, move |model| {
            model.edit("config.json", |config| config[key] = value);
            Vec::new()
        })
    };
    let file = |name: &str, parts, file: &'static str, text: &'static str| {
        refused(&format!("config::{name}"), 1, parts, move |model| {
            model.write(file, text);
            Vec::new()
        })
    };
    vec![
        config(
            "unknown_model_type",
            &["config.json", "model_type", "'abacus'", "llama"],
            "model_type",
            json!("abacus"),
        ),
        config("no_model_type", &["config.json", "model_type"], "model_type", Value::Null),
        config("unknown_activation", &["config.json", "hidden_act", "'wave'", "silu"], "hidden_act", json!("wave")),
        config(
            "unknown_rope_type",
            &["config.json", "rope", "'spiral'", "yarn"],
            "rope_parameters",
            json!({"rope_type": "spiral", "rope_theta": 1e4}),
        ),
        config("wrong_type", &["config.json", "hidden_size", "\"many\""], "hidden_size", json!("many")),
        config("negative", &["config.json", "hidden_size"], "hidden_size", json!(-24)),
        config("fraction", &["config.json", "num_hidden_layers"], "num_hidden_layers", json!(2.5)),
        config("zero_heads", &["config.json", "num_attention_heads"], "num_attention_heads", json!(0)),
        config(
            "heads_that_do_not_divide",
            &["config.json", "key_value_heads: 4 does not divide"],
            "num_key_value_heads",
            json!(4),
        ),
        config("zero_width", &["config.json", "hidden_size"], "hidden_size", json!(0)),
        config("many_layers", &["config.json", "num_hidden_layers"], "num_hidden_layers", json!(1_000_000_000_000u64)),
        config("a_million_layers", &["config.json", "layers: 1000000"], "num_hidden_layers", json!(1_000_000)),
        config("a_layer_more", &["missing", "model.layers.2"], "num_hidden_layers", json!(3)),
        config("huge_width", &["hidden_size"], "hidden_size", json!(1u64 << 40)),
        config("huge_vocabulary", &["vocab_size"], "vocab_size", json!(1u64 << 40)),
        config("another_vocabulary", &[EMBEDDING, "131"], "vocab_size", json!(130)),
        file("no_json", &["config.json", "not valid JSON"], "config.json", "{ \"model_type\": "),
        file("empty", &["config.json", "not valid JSON"], "config.json", ""),
        file("a_list", &["config.json", "object"], "config.json", "[1, 2]"),
        file("no_text", &["config.json"], "config.json", "\u{0}\u{1}"),
        file("generation_no_json", &["generation_config.json", "not valid JSON"], "generation_config.json", "eos: 2"),
        file(
            "generation_wrong_type",
            &["generation_config.json", "eos_token_id"],
            "generation_config.json",
            "{\"eos_token_id\": \"two\"}",
        ),
        file("tokenizer_no_json", &["tokenizer.json"], "tokenizer.json", "{"),
        file("tokenizer_of_no_kind", &["tokenizer.json"], "tokenizer.json", "{\"model\": {\"type\": \"Oracle\"}}"),
        file("tokenizer_config_no_json", &["tokenizer_config.json"], "tokenizer_config.json", "[]"),
        refused("config::deeply_nested", 1, &["config.json"], |model| {
            model.write("config.json", "[".repeat(1_000_000));
            Vec::new()
        }),
    ]
}

fn bad_paths() -> Vec<Trial> {
    let path = |name: &str, parts, path: &'static str, file: Option<&'static str>| {
        refused(&format!("path::{name}"), 1, parts, move |model| {
            if let Some(file) = file {
                fs::create_dir(model.file("sub")).expect("a folder");
                model.write(file, "x");
            }
            vec!["generate", "--tokens", "1", "--model", path]
        })
    };
    vec![
        refused("path::no_model", 1, &["no model comes with this version", "--model PATH"], |_| {
            vec!["generate", "--tokens", "1"]
        }),
        path("hub_name", &["openai-community/gpt2", "does not download", "hf download"], "openai-community/gpt2", None),
        path("absent", &["no such file or directory"], "MODEL/absent/too", None),
        path("empty_directory", &["no config.json"], "MODEL/sub", Some("other")),
        path(
            "pickle",
            &["pytorch_model.bin", "save_pretrained"],
            "MODEL/sub/pytorch_model.bin",
            Some("sub/pytorch_model.bin"),
        ),
        path("gguf", &["model.gguf", "GGUF"], "MODEL/sub/model.gguf", Some("sub/model.gguf")),
        path("a_file_of_a_model", &["give its directory"], "MODEL/model.safetensors", None),
        path("another_file", &["not a model"], "MODEL/sub/notes.txt", Some("sub/notes.txt")),
        refused("path::only_a_pickle", 1, &["pytorch_model.bin", "save_pretrained"], |model| {
            fs::rename(model.file("model.safetensors"), model.file("pytorch_model.bin")).expect("weights");
            Vec::new()
        }),
        refused("path::out_in_no_folder", 1, &["absent/x.safetensors"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1", "--out", "MODEL/absent/x.safetensors"]
        }),
        refused("path::out_is_a_folder", 1, &["is a directory"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1", "--out", "MODEL"]
        }),
        refused("path::out_of_a_failed_pass", 1, &["131"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1,131", "--out", "MODEL/x.safetensors"]
        }),
        refused("path::prompt_file_absent", 1, &["absent.txt"], |_| {
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/absent.txt"]
        }),
        refused("path::prompt_file_no_text", 1, &["prompt.txt", "byte 1 is not UTF-8"], |model| {
            model.write("prompt.txt", b"a\xff");
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/prompt.txt"]
        }),
        refused("path::prompt_file_empty", 1, &["empty"], |model| {
            model.write("prompt.txt", "\n");
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/prompt.txt"]
        }),
    ]
}

fn bad_prompts() -> Vec<Trial> {
    const LONG: &str = "3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3";
    let tokenizer = |name: &str, parts, words: u32| {
        refused(&format!("prompt::{name}"), 1, parts, move |model| {
            let other = Model::copy("llama-llama3").with_tokenizer(words);
            fs::copy(other.file("tokenizer.json"), model.file("tokenizer.json")).expect("a copy");
            prompt(&["w5"])
        })
    };
    vec![
        refused("prompt::token_beyond_the_vocabulary", 1, &["token id 131", "0 to 130"], |_| {
            vec!["generate", "--model", "MODEL", "--tokens", "1,131", "--raw-tokens"]
        }),
        refused("prompt::beyond_the_context", 1, &["41 tokens", "context of 40"], |_| {
            vec!["generate", "--model", "MODEL", "--tokens", LONG]
        }),
        refused("prompt::forward_beyond_the_context", 1, &["41", "40"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", LONG, "--out", "MODEL/x.safetensors"]
        }),
        refused("prompt::empty", 1, &["the prompt is empty"], |_| prompt(&[""])),
        refused("prompt::one_of_several_empty", 1, &["the prompt is empty"], |_| prompt(&["w5", ""])),
        refused("prompt::forward_empty", 1, &["empty"], |_| {
            vec!["forward", "--model", "MODEL", "--prompt", "", "--out", "MODEL/x.safetensors"]
        }),
        refused("prompt::tokenize_empty", 1, &["empty"], |_| vec!["tokenize", "--model", "MODEL", ""]),
        refused("prompt::no_words", 1, &["no token for \"n\" at byte 3"], |_| prompt(&["w5 naïve"])),
        tokenizer("tokenizer_larger_than_the_embedding", &["132 tokens", "131 embedding rows"], 132),
        tokenizer("tokenizer_of_another_model", &["4000 tokens", "131 embedding rows"], 4000),
        refused(
            "prompt::embedding_much_larger_than_the_tokenizer",
            1,
            &["131 tokens", "3000 embedding rows"],
            |model| {
                // Both ends of the model have rows to spare.
                model.edit("config.json", |config| config["vocab_size"] = json!(3000));
                model.weights(|header, data| {
                    for name in [EMBEDDING, "lm_head.weight"] {
                        let begin = data.len();
                        data.extend(vec![0; 3000 * 24 * 4]);
                        let entry = json!({"dtype": "F32", "shape": [3000, 24], "data_offsets": [begin, data.len()]});
                        // The old rows stay under another name: offsets have no gaps.
                        let old = std::mem::replace(&mut header[name], entry);
                        header[format!("old.{name}")] = old;
                    }
                });
                prompt(&["w5"])
            },
        ),
        refused("prompt::no_tokenizer", 1, &["no tokenizer", "--tokens"], |model| {
            fs::remove_file(model.file("tokenizer.json")).expect("a tokenizer");
            prompt(&["w5"])
        }),
        refused("prompt::stop_without_a_tokenizer", 1, &["no tokenizer", "--stop"], |model| {
            fs::remove_file(model.file("tokenizer.json")).expect("a tokenizer");
            plain(&["--stop", "w5"])
        }),
        refused("prompt::no_chat_template", 1, &["no chat template", "--chat"], |_| prompt(&["w5", "--chat"])),
        refused("prompt::chat_template_that_fails", 1, &["tokenizer_config.json", "unknown role"], |model| {
            model.edit("tokenizer_config.json", |config| {
                config["chat_template"] = json!("{{ raise_exception('unknown role') }}");
            });
            prompt(&["w5", "--chat"])
        }),
        refused(
            "prompt::tokenizer_that_panics",
            1,
            &["the text cannot be encoded", "the tokenizers crate panicked"],
            |model| {
                // The tokenizers crate indexes what a template does not define.
                model.edit("tokenizer.json", |tokenizer| {
                    tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("<x>")
                });
                prompt(&["w5"])
            },
        ),
        refused("prompt::encoder_only", 1, &["encoder-only", "consort forward"], |_| {
            vec!["generate", "--tokens", "1,5", "--model", "GOLDENS/bert"]
        }),
        refused("prompt::decoder_tokens_without_an_encoder", 1, &["--decoder-tokens"], |_| {
            vec![
                "forward",
                "--model",
                "MODEL",
                "--tokens",
                "1",
                "--decoder-tokens",
                "1",
                "--out",
                "MODEL/x.safetensors",
            ]
        }),
        refused("prompt::source_beyond_the_context", 1, &["41", "context"], |_| {
            vec!["generate", "--tokens", LONG, "--model", "GOLDENS/bart"]
        }),
    ]
}

fn bad_flags() -> Vec<Trial> {
    let flags = |name: &str, status, parts, more: &'static [&'static str]| {
        refused(&format!("flags::{name}"), status, parts, move |_| plain(more))
    };
    let all = |name: &str, parts, args: &'static [&'static str]| {
        refused(&format!("flags::{name}"), 2, parts, move |_| args.to_vec())
    };
    vec![
        flags("backend", 1, &["'abacus'", "scalar"], &["--backend", "abacus"]),
        flags("dtype", 1, &["'int3'", "f32, bf16, f16, q8_0"], &["--dtype", "int3"]),
        flags("compute", 1, &["'int4'", "f32, bf16, int8"], &["--compute", "int4"]),
        flags("device", 1, &["device 3 does not exist"], &["--device", "3"]),
        flags("temperature_negative", 2, &["--temperature: -1 is not"], &["--temperature", "-1"]),
        flags("temperature_nan", 2, &["--temperature: NaN is not"], &["--temperature", "nan"]),
        flags("top_p", 2, &["--top-p: 2 is not"], &["--top-p", "2"]),
        flags("min_p", 2, &["--min-p: 1.5 is not"], &["--min-p", "1.5"]),
        flags("repetition_penalty", 2, &["--repetition-penalty: 0 is not"], &["--repetition-penalty", "0"]),
        flags("length_penalty", 2, &["--length-penalty: inf is not"], &["--length-penalty", "inf"]),
        flags("beams", 2, &["--beams: 0 is not"], &["--beams", "0"]),
        flags(
            "beams_and_temperature",
            2,
            &["--beams: 4 beams with temperature 0.7"],
            &["--beams", "4", "--temperature", "0.7"],
        ),
        flags("stop_empty", 2, &["--stop", "empty"], &["--stop", ""]),
        flags("stop_and_raw_tokens", 2, &["--stop", "--raw-tokens"], &["--stop", "a", "--raw-tokens"]),
        flags("no_new_tokens", 2, &["--max-new-tokens"], &["--max-new-tokens", "0"]),
        flags("no_threads", 2, &["--threads"], &["--threads", "0"]),
        flags("prompt_and_tokens", 2, &["--prompt", "--tokens"], &["--prompt", "a"]),
        flags("chat_with_tokens", 2, &["--chat", "--tokens"], &["--chat"]),
        flags("json_and_raw_tokens", 2, &["--json", "--raw-tokens"], &["--json", "--raw-tokens"]),
        flags("unknown", 2, &["--abacus"], &["--abacus"]),
        all("nothing", &["--prompt"], &["generate", "--model", "MODEL"]),
        all("empty_tokens", &["'' is not a token id"], &["generate", "--model", "MODEL", "--tokens", ""]),
        all("no_number", &["'x' is not a token id"], &["generate", "--model", "MODEL", "--tokens", "1,x"]),
        all("negative_token", &["'-1' is not a token id"], &["generate", "--model", "MODEL", "--tokens", "1,-1"]),
        all("system_without_chat", &["--chat"], &["generate", "--prompt", "w5", "--system", "w6"]),
        all("forward_without_out", &["--out"], &["forward", "--model", "MODEL", "--tokens", "1"]),
        all("forward_of_nothing", &["--prompt"], &["forward", "--model", "MODEL", "--out", "MODEL/x.safetensors"]),
        all("unknown_part", &["abacus"], &["abacus"]),
    ]
}
