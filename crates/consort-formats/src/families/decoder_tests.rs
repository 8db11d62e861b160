//! Mappings of decoder-only families: what each does otherwise than Llama or GPT-2, and what is refused.

use consort_core::config::{
    Activation, AttentionPositions, NormKind, Placement, RotaryConfig, RotaryPairing, RotaryScaling, StackConfig,
};
use serde_json::{Value, json};

use super::tests::{decoder, map, map_with, refused};

fn rotary(stack: &StackConfig) -> RotaryConfig {
    match stack.attention.positions {
        AttentionPositions::Rotary(rotary) => rotary,
        other => panic!("{other:?}"),
    }
}

/// Each configuration, with its `model_type`, is refused in a line that has the part.
fn all_refused(model_type: &str, cases: &[(Value, &str)]) {
    for (config, part) in cases {
        let mut config = config.clone();
        config["model_type"] = model_type.into();
        let error = refused(config);
        assert!(error.contains(part), "{error}: no {part}");
    }
}

#[test]
fn gemma() {
    let config = map(json!({"model_type": "gemma"}));
    assert!(config.head.is_some_and(|head| head.tied && head.soft_cap.is_none()));
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.vocabulary, stack.layers, stack.context), (256_000, 28, Some(8192)));
    let attention = &stack.attention;
    assert_eq!((attention.heads, attention.key_value_heads, attention.head_width), (16, 16, 256));
    assert_eq!((attention.scale, attention.input_bias, attention.windows.len()), (1.0 / 16.0, false, 0));
    assert_eq!((stack.embedding.scale, stack.norm.unit_offset), (3072f64.sqrt(), true));
    assert_eq!((stack.placement, stack.feed_forward.activation), (Placement::Pre, Activation::GeluTanh));
    assert!(stack.feed_forward.gated);
    // The first files say gelu and mean its tanh form.
    let activation = |name: &str| decoder(json!({"model_type": "gemma", "hidden_act": name})).feed_forward.activation;
    assert_eq!([activation("gelu"), activation("relu")], [Activation::GeluTanh, Activation::Relu]);
    assert!(refused(json!({"model_type": "gemma", "use_bidirectional_attention": true})).contains("not supported"));
}

#[test]
fn phi3() {
    let rotated = |config| {
        let rotary = rotary(&decoder(config));
        (rotary.width, rotary.theta)
    };
    assert_eq!(rotated(json!({"model_type": "phi3"})), (96, 10_000.0));
    assert_eq!(rotated(json!({"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_theta": 7.0})), (72, 7.0));
    let new = json!({"partial_rotary_factor": 0.5, "rope_theta": 9.0, "rope_type": "default"});
    let both = json!({"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_parameters": new});
    assert_eq!(rotated(both), (48, 9.0));
    // A fraction of a component is cut off.
    assert_eq!(rotated(json!({"model_type": "phi3", "partial_rotary_factor": 0.5001})).0, 48);
    let stack = decoder(json!({"model_type": "phi3"}));
    assert_eq!((stack.attention.key_value_heads, stack.norm.epsilon, stack.context), (32, 1e-5, Some(4096)));
    assert!(stack.attention.windows.is_empty());
    let slides = json!({"model_type": "phi3", "num_hidden_layers": 2, "sliding_window": 2047});
    assert_eq!(decoder(slides).attention.windows, [2047, 2047]);
    all_refused(
        "phi3",
        &[
            (json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}), "'longrope'"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "'default'"),
            (json!({"partial_rotary_factor": 0.04}), "96 components"),
            (json!({"partial_rotary_factor": 1.5}), "1.5"),
            (json!({"partial_rotary_factor": -1}), "-1"),
            (json!({"partial_rotary_factor": "half"}), "expected a number"),
            (json!({"sliding_window": 0}), "sliding_window"),
        ],
    );
}

#[test]
fn starcoder2() {
    let config = map(json!({"model_type": "starcoder2"}));
    assert!(config.head.is_some_and(|head| head.tied));
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.attention.heads, stack.attention.key_value_heads, stack.layers), (24, 2, 30));
    assert_eq!((stack.norm.kind, stack.norm.bias, stack.norm.epsilon), (NormKind::Layer, true, 1e-5));
    assert!(stack.attention.input_bias && stack.attention.output_bias && stack.feed_forward.bias);
    assert_eq!((stack.feed_forward.gated, stack.feed_forward.activation), (false, Activation::GeluTanh));
    assert!(stack.attention.windows.is_empty());
    let changed = json!({"model_type": "starcoder2", "use_bias": false, "norm_epsilon": 1e-3, "sliding_window": 9,
        "num_hidden_layers": 2});
    let stack = decoder(changed);
    assert!(!stack.attention.input_bias && !stack.attention.output_bias && !stack.feed_forward.bias);
    assert_eq!((stack.norm.epsilon, stack.norm.bias), (1e-3, true));
    assert_eq!(stack.attention.windows, [9, 9]);
    assert!(refused(json!({"model_type": "starcoder2", "norm_epsilon": null})).contains("norm_epsilon"));
}

#[test]
fn bloom() {
    let config = map(json!({"model_type": "bloom"}));
    assert!(config.head.is_some_and(|head| head.tied));
    assert_eq!(config.width, 64);
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.vocabulary, stack.layers, stack.context), (250_880, 2, None));
    assert_eq!((stack.attention.heads, stack.attention.head_width), (8, 8));
    assert_eq!((stack.attention.positions, stack.embedding.norm), (AttentionPositions::LinearBias, true));
    assert_eq!((stack.feed_forward.width, stack.feed_forward.activation), (256, Activation::GeluTanh));
    assert!(stack.final_norm && stack.norm.bias && stack.attention.input_bias && stack.attention.output_bias);
    // Two spellings of each, the older one first where both are there.
    let spelt = json!({"model_type": "bloom", "n_embed": 32, "hidden_size": 48, "num_attention_heads": 4,
        "num_hidden_layers": 3});
    let config = map(spelt);
    let stack = config.decoder.expect("a decoder");
    assert_eq!((config.width, stack.attention.heads, stack.layers), (32, 4, 3));
    let tensor_parallel = json!({"model_type": "bloom", "pretraining_tp": 4, "slow_but_exact": false});
    assert_eq!(map(tensor_parallel).width, 64);
    all_refused(
        "bloom",
        &[
            (json!({"apply_residual_connection_post_layernorm": true}), "post_layernorm"),
            (json!({"pretraining_tp": 4, "slow_but_exact": true}), "slow_but_exact"),
            (json!({"n_head": 7}), "7 heads"),
            (json!({"hidden_size": "64"}), "hidden_size"),
        ],
    );
}

#[test]
fn gpt_neox() {
    let config = map(json!({"model_type": "gpt_neox"}));
    assert!(config.head.is_some_and(|head| !head.tied));
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.vocabulary, stack.layers, stack.context), (50432, 44, Some(2048)));
    assert_eq!((stack.attention.heads, stack.attention.key_value_heads, stack.attention.head_width), (64, 64, 96));
    assert_eq!((rotary(&stack).width, rotary(&stack).theta), (24, 1e4));
    assert_eq!((stack.placement, stack.norm.kind, stack.norm.bias), (Placement::Parallel, NormKind::Layer, true));
    assert_eq!((stack.feed_forward.gated, stack.feed_forward.activation), (false, Activation::Gelu));
    assert!(stack.attention.input_bias && stack.attention.output_bias && stack.feed_forward.bias);

    let old = json!({"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 100, "num_key_value_heads": 8});
    let new = json!({"model_type": "gpt_neox", "rope_parameters": {"rope_type": "default", "rope_theta": 100.0,
        "partial_rotary_factor": 0.5}});
    assert_eq!(map(old.clone()), map(new));
    assert_eq!((rotary(&decoder(old.clone())).width, rotary(&decoder(old)).theta), (48, 100.0));
    let sequence = json!({"model_type": "gpt_neox", "use_parallel_residual": false, "attention_bias": false});
    let stack = decoder(sequence);
    assert_eq!((stack.placement, stack.attention.input_bias), (Placement::Pre, false));
    assert!(stack.feed_forward.bias);
    let scaled = json!({"model_type": "gpt_neox", "rope_scaling": {"type": "linear", "factor": 2.0}});
    let scaled = rotary(&decoder(scaled));
    assert_eq!((scaled.width, scaled.scaling), (24, RotaryScaling::Linear { factor: 2.0 }));
    let headless = json!({"model_type": "gpt_neox", "architectures": ["GPTNeoXModel"]});
    assert!(map(headless.clone()).head.is_none());
    assert!(map_with(headless, &["embed_out.weight"]).head.is_some());
    all_refused(
        "gpt_neox",
        &[
            (json!({"rotary_pct": 0.0}), "rotary_pct"),
            (json!({"num_attention_heads": 7}), "7 heads"),
            (json!({"use_parallel_residual": 1}), "use_parallel_residual"),
        ],
    );
}

#[test]
fn falcon() {
    let config = map(json!({"model_type": "falcon"}));
    assert!(config.head.is_some_and(|head| head.tied));
    assert_eq!(config.width, 4544);
    let stack = config.decoder.expect("a decoder");
    assert_eq!((stack.vocabulary, stack.layers, stack.context), (65024, 32, Some(2048)));
    assert_eq!((stack.attention.heads, stack.attention.key_value_heads, stack.attention.head_width), (71, 1, 64));
    assert_eq!((rotary(&stack).width, stack.placement), (64, Placement::ParallelSharedNorm));
    assert_eq!((stack.feed_forward.width, stack.feed_forward.activation), (4 * 4544, Activation::Gelu));
    assert!(!stack.attention.input_bias && !stack.feed_forward.bias && stack.norm.bias);

    let with = |more: Value| {
        let mut config = json!({"model_type": "falcon", "n_embed": 64, "num_attention_heads": 8});
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        decoder(config)
    };
    let shape = |stack: StackConfig| (stack.placement, stack.attention.key_value_heads);
    let new = json!({"new_decoder_architecture": true, "num_kv_heads": 2});
    assert_eq!(shape(with(new)), (Placement::Parallel, 2));
    let shared = json!({"new_decoder_architecture": true, "num_ln_in_parallel_attn": 1});
    assert_eq!(shape(with(shared)), (Placement::ParallelSharedNorm, 8));
    let sequence = json!({"parallel_attn": false, "multi_query": false, "bias": true});
    let sequence = with(sequence);
    assert!(sequence.attention.input_bias && sequence.attention.output_bias && sequence.feed_forward.bias);
    assert_eq!(shape(sequence), (Placement::Pre, 8));
    all_refused(
        "falcon",
        &[
            (json!({"alibi": true}), "alibi"),
            (json!({"multi_query": false, "num_kv_heads": 2}), "num_kv_heads"),
            (json!({"num_ln_in_parallel_attn": 2}), "num_ln_in_parallel_attn"),
            (json!({"new_decoder_architecture": true, "num_ln_in_parallel_attn": 3}), "found 3"),
            (json!({"new_decoder_architecture": true, "parallel_attn": false}), "parallel_attn"),
            (json!({"new_decoder_architecture": true, "num_kv_heads": 5}), "key_value_heads"),
            (json!({"num_attention_heads": 7}), "7 heads"),
        ],
    );
}

#[test]
fn gemma3() {
    let config = map(json!({"model_type": "gemma3_text", "num_hidden_layers": 7}));
    assert!(config.head.as_ref().is_some_and(|head| head.tied && head.soft_cap.is_none()));
    let stack = config.decoder.as_ref().expect("a decoder");
    let attention = &stack.attention;
    assert_eq!(attention.windows, [4096, 4096, 4096, 4096, 4096, 0, 4096]);
    assert_eq!((attention.heads, attention.key_value_heads, attention.head_width), (8, 4, 256));
    assert_eq!((attention.scale, attention.query_key_norm, attention.soft_cap), (1.0 / 16.0, true, None));
    assert_eq!((stack.embedding.scale, stack.norm.unit_offset), (48.0, true));
    assert_eq!((stack.placement, stack.context), (Placement::Sandwich, Some(131_072)));
    let plain =
        |theta| RotaryConfig { width: 256, theta, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None };
    assert_eq!((rotary(stack), attention.window_rotary), (plain(1e6), Some(plain(1e4))));

    // Beside a vision part: the same.
    let text = json!({"num_hidden_layers": 7, "model_type": "gemma3_text"});
    let wrapped = json!({"model_type": "gemma3", "text_config": text, "vision_config": {}});
    assert_eq!(map(wrapped), config);

    let old = json!({"rope_theta": 5e5, "rope_local_base_freq": 77.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 77.0}}});
    let of = |mut config: Value| {
        config["model_type"] = "gemma3_text".into();
        decoder(config)
    };
    let stack = of(old.clone());
    assert_eq!(stack, of(new));
    assert_eq!(rotary(&stack), RotaryConfig { scaling: RotaryScaling::Linear { factor: 8.0 }, ..plain(5e5) });
    // The context is given after the stretch.
    assert_eq!((stack.attention.window_rotary, stack.context), (Some(plain(77.0)), Some(131_072)));
    assert_eq!(of(json!({"sliding_window_pattern": 2, "num_hidden_layers": 3})).attention.windows, [4096, 0, 4096]);
    let types = json!({"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2,
        "sliding_window": 9, "final_logit_softcapping": 30.0});
    assert_eq!(of(types).attention.windows, [0, 9]);

    let mut both = old;
    both["rope_parameters"] = json!({"full_attention": {"rope_theta": 1e6}});
    all_refused(
        "gemma3_text",
        &[
            (both, "rope_scaling"),
            (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}), "full_attention"),
            (json!({"rope_local_base_freq": 0}), "rope_local_base_freq"),
            (json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
            (json!({"sliding_window": null}), "sliding_window"),
            (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
            (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
            (json!({"layer_types": ["chunked_attention"], "num_hidden_layers": 1}), "'chunked_attention'"),
        ],
    );
    all_refused(
        "gemma3",
        &[(json!({}), "text_config"), (json!({"text_config": {"hidden_size": 0}}), "text_config.hidden_size")],
    );
}
