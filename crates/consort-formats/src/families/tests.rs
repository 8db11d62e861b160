//! Mappings of configurations: defaults, the spellings of `transformers` 4 and 5, and what is refused.

use consort_core::config::{
    Activation, AttentionPositions, Placement, Positions, RotaryScaling, SinusoidLayout, StackConfig, TransformerConfig,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::FAMILIES;
use crate::{fuzzing, weights::Tensors};

pub(super) fn map(config: Value) -> TransformerConfig {
    map_with(config, &[])
}

pub(super) fn map_with(config: Value, names: &[&str]) -> TransformerConfig {
    fuzzing::config_with(&config.to_string(), names).unwrap_or_else(|error| panic!("{config}: {error}"))
}

pub(super) fn refused(config: Value) -> String {
    let error = match fuzzing::config(&config.to_string()) {
        Ok(mapped) => panic!("{config} maps to {mapped:?}"),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with("config.json: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

pub(super) fn decoder(config: Value) -> StackConfig {
    map(config).decoder.expect("a decoder")
}

fn scaling(config: Value) -> (RotaryScaling, f64) {
    match decoder(config).attention.positions {
        AttentionPositions::Rotary(rotary) => (rotary.scaling, rotary.theta),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_slot_has_a_row_of_its_own() {
    for family in FAMILIES {
        for extra in [json!({}), json!({"attention_bias": true, "mlp_bias": true, "feed_forward_proj": "gated-gelu"})] {
            let mut config = extra;
            config["model_type"] = family.model_type.into();
            for tie in [true, false] {
                config["tie_word_embeddings"] = tie.into();
                config["text_config"] = json!({});
                let value: Value = config.clone();
                let reader = crate::json::Reader::new("config.json", &value).expect("an object");
                let names = ["cls.predictions.transform.dense.weight", "cls.predictions.bias", "final_logits_bias"];
                let mapping = (family.map)(&reader, &Tensors::named(&names)).expect("a mapping");
                let mut rows: Vec<&str> = mapping.rows.iter().map(|row| row.slot).collect();
                rows.sort_unstable();
                let count = rows.len();
                rows.dedup();
                assert_eq!(rows.len(), count, "{}: a slot has two rows", family.model_type);
                for slot in mapping.config.slots() {
                    let general: Vec<&str> = slot
                        .name
                        .split('.')
                        .map(|part| if part.parse::<usize>().is_ok() { "*" } else { part })
                        .collect();
                    assert!(
                        rows.binary_search(&general.join(".").as_str()).is_ok(),
                        "{}: {}",
                        family.model_type,
                        slot.name
                    );
                }
            }
        }
    }
}

#[test]
fn llama_defaults() {
    let config = map(json!({"model_type": "llama"}));
    assert_eq!(config.width, 4096);
    assert!(config.head.as_ref().is_some_and(|head| !head.tied && !head.bias && head.scale == 1.0));
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.vocabulary, stack.layers, stack.context), (32000, 32, Some(2048)));
    let attention = &stack.attention;
    assert_eq!((attention.heads, attention.key_value_heads, attention.head_width), (32, 32, 128));
    assert!(!attention.input_bias && !attention.output_bias && attention.windows.is_empty());
    assert!((attention.scale - 1.0 / 128f64.sqrt()).abs() < 1e-15);
    assert_eq!((stack.feed_forward.width, stack.feed_forward.activation), (11008, Activation::Silu));
    assert!(stack.feed_forward.gated && stack.final_norm && stack.norm.epsilon == 1e-6);
}

#[test]
fn other_defaults() {
    let mistral = decoder(json!({"model_type": "mistral"}));
    assert_eq!((mistral.attention.key_value_heads, mistral.context), (8, Some(131_072)));
    assert_eq!(mistral.attention.windows, [4096; 32]);
    let qwen2 = decoder(json!({"model_type": "qwen2"}));
    assert!(qwen2.attention.input_bias && !qwen2.attention.output_bias && qwen2.attention.windows.is_empty());
    let qwen3 = decoder(
        json!({"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}),
    );
    assert_eq!((qwen3.attention.head_width, qwen3.attention.query_key_norm), (128, true));
    let gpt2 = map(json!({"model_type": "gpt2"}));
    assert!(gpt2.head.is_some_and(|head| head.tied));
    let gpt2 = gpt2.decoder.expect("a decoder");
    assert_eq!((gpt2.feed_forward.width, gpt2.feed_forward.activation), (3072, Activation::GeluTanh));
    assert_eq!(gpt2.embedding.positions, Positions::Learned { count: 1024, offset: 0 });
    let bert = map(json!({"model_type": "bert"}));
    assert!(bert.head.is_none() && bert.decoder.is_none());
    let bert = bert.encoder.expect("an encoder");
    assert_eq!((bert.placement, bert.embedding.token_types, bert.norm.epsilon), (Placement::Post, 2, 1e-12));
    let bart = map(json!({"model_type": "bart"}));
    let stack = bart.decoder.expect("a decoder");
    assert_eq!(stack.embedding.positions, Positions::Learned { count: 1026, offset: 2 });
    assert!(stack.embedding.norm && stack.cross_attention && bart.shared_embedding);
    assert_eq!(stack.embedding.scale, 1.0);
    let marian = map(json!({"model_type": "marian", "scale_embedding": true}));
    let stack = marian.decoder.expect("a decoder");
    assert_eq!(stack.embedding.positions, Positions::Sinusoidal { layout: SinusoidLayout::Halves });
    assert_eq!((stack.embedding.scale, stack.embedding.norm), (32.0, false));
}

#[test]
fn gemma2_defaults() {
    let config = map(json!({"model_type": "gemma2", "num_hidden_layers": 3}));
    assert_eq!(config.head.and_then(|head| head.soft_cap), Some(30.0));
    let stack = config.decoder.expect("a decoder");
    assert_eq!(stack.attention.windows, [4096, 0, 4096]);
    assert_eq!((stack.attention.soft_cap, stack.attention.scale), (Some(50.0), 1.0 / 16.0));
    assert_eq!((stack.embedding.scale, stack.norm.unit_offset), (48.0, true));
    assert_eq!((stack.placement, stack.feed_forward.activation), (Placement::Sandwich, Activation::GeluTanh));
    let uncapped = json!({"model_type": "gemma2", "attn_logit_softcapping": null, "final_logit_softcapping": null});
    let config = map(uncapped);
    assert_eq!(config.head.and_then(|head| head.soft_cap), None);
    assert_eq!(config.decoder.and_then(|stack| stack.attention.soft_cap), None);
}

#[test]
fn t5_heads_and_activations() {
    let scale = |config: Value, names: &[&str]| {
        let head = map_with(config, names).head.expect("a head");
        (head.tied, head.scale)
    };
    let root = 512f64.powf(-0.5);
    assert_eq!(scale(json!({"model_type": "t5"}), &["shared.weight"]), (true, root));
    // 1.1 as version 4 wrote it, and with a head that was never stored apart.
    assert_eq!(scale(json!({"model_type": "t5", "tie_word_embeddings": false}), &["shared.weight"]), (true, 1.0));
    // 1.1 as version 5 writes it.
    let new = json!({"model_type": "t5", "tie_word_embeddings": true, "scale_decoder_outputs": false});
    assert_eq!(scale(new, &["shared.weight"]), (true, 1.0));

    let inner = |feed_forward: &str| {
        let config = map(json!({"model_type": "t5", "feed_forward_proj": feed_forward}));
        let inner = config.encoder.expect("an encoder").feed_forward;
        (inner.activation, inner.gated)
    };
    assert_eq!(inner("relu"), (Activation::Relu, false));
    assert_eq!(inner("gated-gelu"), (Activation::GeluTanh, true));
    assert_eq!(inner("gated-silu"), (Activation::Silu, true));
    assert_eq!(inner("gelu"), (Activation::Gelu, false));
    for wrong in ["gelu-gated", "gated-gelu-new", "gated-", "-"] {
        refused(json!({"model_type": "t5", "feed_forward_proj": wrong}));
    }
    let config = map(json!({"model_type": "t5", "num_layers": 3, "num_decoder_layers": 5}));
    assert_eq!((config.encoder.expect("one").layers, config.decoder.expect("one").layers), (3, 5));
    let config = map(json!({"model_type": "t5", "architectures": ["T5EncoderModel"]}));
    assert!(config.decoder.is_none() && config.head.is_none());
}

#[test]
fn marian_vocabularies() {
    let config = map(json!({"model_type": "marian", "share_encoder_decoder_embeddings": false,
        "vocab_size": 100, "decoder_vocab_size": 70}));
    assert!(!config.shared_embedding);
    assert_eq!(config.decoder.expect("a decoder").vocabulary, 70);
    let config = map(json!({"model_type": "marian", "vocab_size": 100, "decoder_vocab_size": null}));
    assert!(config.shared_embedding);
    assert_eq!(config.decoder.expect("a decoder").vocabulary, 100);
}

#[test]
fn version_4_and_5_spell_the_same_rotary_choice() {
    let cases = [
        (json!({"rope_theta": 5e5}), json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})),
        (
            json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 4}}),
            json!({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
        ),
        (
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 512}}),
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 5e5}}),
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}),
            json!({"original_max_position_embeddings": 512, "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 9999, "rope_theta": 1e4}}),
        ),
        (
            json!({"rope_theta": 7.0, "rope_scaling": {}}),
            json!({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 7.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}}),
        ),
    ];
    for model_type in ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "starcoder2"] {
        for (old, new) in &cases {
            let of = |config: &Value| {
                let mut config = config.clone();
                config["model_type"] = model_type.into();
                map(config)
            };
            assert_eq!(of(old), of(new), "{model_type}: {old} and {new}");
        }
    }
}

#[test]
fn yarn_fills_in_as_the_reference_does() {
    let yarn = |parameters: Value| scaling(json!({"model_type": "llama", "rope_parameters": parameters})).0;
    let RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } =
        yarn(json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 0}))
    else {
        panic!("no yarn")
    };
    assert_eq!((factor, beta_fast, beta_slow, original, truncate), (4.0, 32.0, 1.0, 2048, true));
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-15);
    let RotaryScaling::Yarn { attention_factor, truncate, .. } =
        yarn(json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": false}))
    else {
        panic!("no yarn")
    };
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0) / (0.05 * 4f64.ln() + 1.0)).abs() < 1e-15);
    assert!(!truncate);
    let RotaryScaling::Yarn { attention_factor, .. } = yarn(
        json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.75, "mscale": 2.0, "mscale_all_dim": 1.0}),
    ) else {
        panic!("no yarn")
    };
    assert_eq!(attention_factor, 0.75);
    let RotaryScaling::Yarn { factor, .. } =
        yarn(json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 512}))
    else {
        panic!("no yarn")
    };
    assert_eq!(factor, 4.0);
}

#[test]
fn windows_follow_the_reference() {
    let windows = |config: Value| decoder(config).attention.windows;
    let mistral =
        |window: Value| windows(json!({"model_type": "mistral", "num_hidden_layers": 2, "sliding_window": window}));
    assert_eq!(mistral(json!(8)), [8, 8]);
    assert!(mistral(Value::Null).is_empty());
    let qwen = json!({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 8, "max_window_layers": 1});
    assert!(windows(qwen.clone()).is_empty());
    let mut on = qwen.clone();
    on["use_sliding_window"] = true.into();
    assert_eq!(windows(on.clone()), [0, 8, 8]);
    on["layer_types"] = json!(["sliding_attention", "full_attention", "attention"]);
    assert_eq!(windows(on.clone()), [8, 0, 0]);
    on["layer_types"] = json!(["full_attention"]);
    assert!(refused(on.clone()).contains("layer_types: 1 entries for 3 layers"));
    on["layer_types"] = json!(["full_attention", "chunked_attention", "full_attention"]);
    assert!(refused(on).contains("'chunked_attention'"));
    let mut off = qwen;
    off["layer_types"] = json!(["sliding_attention", "full_attention", "full_attention"]);
    assert!(refused(off).contains("sliding_window"));
    assert!(refused(json!({"model_type": "gemma2", "sliding_window": null})).contains("sliding_window"));
    assert!(refused(json!({"model_type": "mistral", "sliding_window": 0})).contains("sliding_window"));
}

#[test]
fn unknown_values_name_key_and_value() {
    for (config, parts) in [
        (json!({}), &["model_type", "missing", "llama"][..]),
        (json!({"model_type": "opt"}), &["model_type", "'opt'", "gpt2", "t5"]),
        (json!({"model_type": 7}), &["model_type", "expected a string, found 7"]),
        (json!({"model_type": "llama", "hidden_act": "mish"}), &["hidden_act", "'mish'", "silu"]),
        (json!({"model_type": "t5", "feed_forward_proj": "gated-mish"}), &["feed_forward_proj", "'mish'"]),
        (
            json!({"model_type": "llama", "rope_scaling": {"type": "longrope", "factor": 2.0}}),
            &["rope_scaling.type", "'longrope'", "yarn"],
        ),
        (json!({"model_type": "llama", "rope_scaling": {"type": "linear"}}), &["rope_scaling.factor", "missing"]),
        (json!({"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "factor": 2}}), &["low_freq_factor"]),
        (
            json!({"model_type": "llama", "partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2}}),
            &["partial_rotary_factor", "0.5", "linear"],
        ),
        (
            json!({"model_type": "qwen2", "rope_parameters": {"full_attention": {"rope_theta": 1e4},
                "sliding_attention": {"rope_theta": 1e5}}}),
            &["rope_parameters.sliding_attention", "differs"],
        ),
        (json!({"model_type": "bert", "is_decoder": true}), &["is_decoder", "not supported"]),
        (json!({"model_type": "bert", "position_embedding_type": "relative_key"}), &["'relative_key'"]),
        (json!({"model_type": "gpt2", "add_cross_attention": true}), &["add_cross_attention"]),
        (json!({"model_type": "gpt2", "n_head": 7}), &["n_head", "7 heads", "768"]),
        (json!({"model_type": "llama", "num_attention_heads": 0}), &["num_attention_heads", "found 0"]),
        (json!({"model_type": "llama", "num_hidden_layers": -1}), &["num_hidden_layers", "found -1"]),
        (json!({"model_type": "llama", "hidden_size": 12.5}), &["hidden_size", "found 12.5"]),
        (json!({"model_type": "llama", "hidden_size": "12"}), &["hidden_size", "found \"12\""]),
        (json!({"model_type": "llama", "hidden_size": null}), &["hidden_size", "found null"]),
        (json!({"model_type": "llama", "num_hidden_layers": 1e12}), &["num_hidden_layers", "limit"]),
        (json!({"model_type": "llama", "num_hidden_layers": 2_000_000}), &["num_hidden_layers", "limit"]),
        (json!({"model_type": "llama", "vocab_size": u64::MAX}), &["vocab_size", "limit"]),
        (json!({"model_type": "llama", "num_key_value_heads": 5}), &["key_value_heads", "5", "32"]),
        (
            json!({"model_type": "llama", "rope_scaling": [1]}),
            &["rope_scaling", "expected an object, found a list of 1"],
        ),
        (json!({"model_type": "llama", "tie_word_embeddings": "yes"}), &["tie_word_embeddings", "true or false"]),
        (json!({"model_type": "llama", "eos_token_id": "x"}), &["eos_token_id", "token id"]),
        (
            json!({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}),
            &["quantization_config", "gptq"],
        ),
        (json!([]), &["expected a JSON object"]),
        (json!({"model_type": "llama", "hidden_act": "a\nb"}), &["a\\nb"]),
    ] {
        let error = refused(config);
        for part in parts {
            assert!(error.contains(part), "{error}: no {part}");
        }
    }
}

#[test]
fn whole_floats_are_sizes() {
    assert_eq!(map(json!({"model_type": "llama", "hidden_size": 512.0})).width, 512);
}

/// Every key that any family reads.
const KEYS: &[&str] = &[
    "activation",
    "activation_function",
    "add_cross_attention",
    "alibi",
    "apply_residual_connection_post_layernorm",
    "architectures",
    "attention_bias",
    "attn_logit_softcapping",
    "bad_words_ids",
    "bias",
    "bos_token_id",
    "d_ff",
    "d_kv",
    "d_model",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "decoder_layers",
    "decoder_start_token_id",
    "decoder_vocab_size",
    "dense_act_fn",
    "early_stopping",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layers",
    "eos_token_id",
    "feed_forward_proj",
    "ffn_hidden_size",
    "final_logit_softcapping",
    "force_bos_token_to_be_generated",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "is_decoder",
    "is_gated_act",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layer_types",
    "length_penalty",
    "max_length",
    "max_position_embeddings",
    "max_window_layers",
    "min_length",
    "mlp_bias",
    "multi_query",
    "n_embd",
    "n_embed",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    "new_decoder_architecture",
    "no_repeat_ngram_size",
    "norm_epsilon",
    "num_attention_heads",
    "num_beams",
    "num_decoder_layers",
    "num_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_kv_heads",
    "num_layers",
    "num_ln_in_parallel_attn",
    "original_max_position_embeddings",
    "pad_token_id",
    "parallel_attn",
    "partial_rotary_factor",
    "position_embedding_type",
    "pretraining_tp",
    "quantization_config",
    "query_pre_attn_scalar",
    "relative_attention_max_distance",
    "relative_attention_num_buckets",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "scale_decoder_outputs",
    "scale_embedding",
    "share_encoder_decoder_embeddings",
    "sliding_window",
    "sliding_window_pattern",
    "slow_but_exact",
    "suppress_tokens",
    "text_config",
    "tie_word_embeddings",
    "type_vocab_size",
    "use_bias",
    "use_bidirectional_attention",
    "use_parallel_residual",
    "use_sliding_window",
    "vocab_size",
];

const ROPE_KEYS: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "full_attention",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "sliding_attention",
    "truncate",
    "type",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..100).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0.0f64..40.0).prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        proptest::sample::select(vec![
            "gelu",
            "silu",
            "gated-gelu",
            "yarn",
            "linear",
            "dynamic",
            "llama3",
            "default",
            "sliding_attention",
            "full_attention",
            "never",
            "LlamaModel",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(ROPE_KEYS), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_configuration_panics(
        family in 0..FAMILIES.len(),
        pairs in proptest::collection::vec((proptest::sample::select(KEYS), any_value()), 0..12),
    ) {
        let mut config: serde_json::Map<String, Value> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        config.insert("model_type".to_owned(), FAMILIES[family].model_type.into());
        if let Err(error) = fuzzing::config(&Value::Object(config).to_string()) {
            let line = error.to_string();
            prop_assert!(line.starts_with("config.json: ") && !line.contains('\n'), "{}", line);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = fuzzing::config(&text);
        let _ = fuzzing::index(&text);
        let _ = fuzzing::native(&text);
    }
}
