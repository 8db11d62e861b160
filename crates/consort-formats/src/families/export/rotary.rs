//! Decoders with rotary positions: those that began from Llama, GPT-NeoX, Falcon.

use consort_core::config::{Placement, RotaryConfig, RotaryScaling, StackConfig, TransformerConfig};
use serde_json::{Map, Value, json};

use super::{Candidate, activation, object};
use crate::families::rotary::part;

pub(super) fn decoders(config: &TransformerConfig, stack: &StackConfig, rotary: &RotaryConfig) -> Vec<Candidate> {
    let mut all = like_llama(config, stack, rotary);
    all.extend([gpt_neox(config, stack, rotary), falcon(config, stack, rotary)]);
    all
}

/// The families that began from Llama share the names of their keys.
fn like_llama(config: &TransformerConfig, stack: &StackConfig, rotary: &RotaryConfig) -> Vec<Candidate> {
    let attention = &stack.attention;
    let head = config.head.as_ref();
    let window = attention.windows.iter().copied().find(|&window| window > 0);
    let mut keys = object(json!({
        "hidden_size": config.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.key_value_heads,
        "head_dim": attention.head_width,
        "intermediate_size": stack.feed_forward.width,
        "vocab_size": stack.vocabulary,
        "rms_norm_eps": stack.norm.epsilon,
        "tie_word_embeddings": head.is_some_and(|head| head.tied),
        "attention_bias": attention.input_bias,
        "mlp_bias": stack.feed_forward.bias,
        "hidden_act": activation(stack.feed_forward.activation),
        "hidden_activation": activation(stack.feed_forward.activation),
        "attn_logit_softcapping": attention.soft_cap,
        "final_logit_softcapping": head.and_then(|head| head.soft_cap),
        "query_pre_attn_scalar": attention.scale.powi(-2),
        "sliding_window": window,
    }));
    positions(stack, rotary, &mut keys);
    if !attention.windows.is_empty() {
        let kind = |&window: &usize| if window > 0 { "sliding_attention" } else { "full_attention" };
        keys.insert("layer_types".to_owned(), attention.windows.iter().map(kind).collect());
        keys.insert("use_sliding_window".to_owned(), true.into());
    }
    let own = |model_type: &str, put: &mut dyn FnMut(&str, Value)| match model_type {
        // Some layers slide by default.
        "gemma2" | "gemma3_text" if attention.windows.is_empty() => {
            put("layer_types", vec!["full_attention"; stack.layers].into());
        }
        "phi3" => put("partial_rotary_factor", part(rotary.width, attention.head_width).into()),
        "starcoder2" => {
            put("use_bias", attention.input_bias.into());
            put("norm_epsilon", stack.norm.epsilon.into());
        }
        _ => {}
    };
    FAMILIES
        .iter()
        .map(|&(model_type, class)| {
            let mut keys = keys.clone();
            let end = if head.is_some() { "ForCausalLM" } else { "Model" };
            keys.insert("architectures".to_owned(), json!([format!("{class}{end}")]));
            own(model_type, &mut |key, value| drop(keys.insert(key.to_owned(), value)));
            if let ("gemma3_text", Some(window)) = (model_type, attention.window_rotary) {
                keys.insert("rope_local_base_freq".to_owned(), window.theta.into());
                keys.insert("max_position_embeddings".to_owned(), stack.context.into()); // after the stretch
            }
            (model_type, keys, Vec::new())
        })
        .collect()
}

/// `model_type`, and what its classes' names begin with.
const FAMILIES: &[(&str, &str)] = &[
    ("llama", "Llama"),
    ("mistral", "Mistral"),
    ("qwen2", "Qwen2"),
    ("qwen3", "Qwen3"),
    ("gemma", "Gemma"),
    ("gemma2", "Gemma2"),
    ("gemma3_text", "Gemma3"),
    ("phi3", "Phi3"),
    ("starcoder2", "Starcoder2"),
];

fn gpt_neox(config: &TransformerConfig, stack: &StackConfig, rotary: &RotaryConfig) -> Candidate {
    let head = config.head.as_ref();
    let mut keys = object(json!({
        "architectures": [if head.is_some() { "GPTNeoXForCausalLM" } else { "GPTNeoXModel" }],
        "hidden_size": config.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.attention.heads,
        "intermediate_size": stack.feed_forward.width,
        "vocab_size": stack.vocabulary,
        "hidden_act": activation(stack.feed_forward.activation),
        "layer_norm_eps": stack.norm.epsilon,
        "attention_bias": stack.attention.input_bias,
        "use_parallel_residual": stack.placement == Placement::Parallel,
        "rotary_pct": part(rotary.width, stack.attention.head_width),
        "tie_word_embeddings": head.is_some_and(|head| head.tied),
    }));
    positions(stack, rotary, &mut keys);
    if let Some(theta) = keys.remove("rope_theta") {
        keys.insert("rotary_emb_base".to_owned(), theta);
    }
    ("gpt_neox", keys, Vec::new())
}

fn falcon(config: &TransformerConfig, stack: &StackConfig, rotary: &RotaryConfig) -> Candidate {
    let attention = &stack.attention;
    let head = config.head.as_ref();
    let key_heads = attention.key_value_heads;
    let two_norms = stack.placement == Placement::Parallel;
    // Grouped heads came with the new architecture, and so did a norm for each of the two parallel parts.
    let new = two_norms || (key_heads != 1 && key_heads != attention.heads);
    let mut keys = object(json!({
        "architectures": [if head.is_some() { "FalconForCausalLM" } else { "FalconModel" }],
        "hidden_size": config.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": attention.heads,
        "num_kv_heads": key_heads,
        "new_decoder_architecture": new,
        "multi_query": key_heads == 1,
        "parallel_attn": stack.placement != Placement::Pre,
        "num_ln_in_parallel_attn": if two_norms { 2 } else { 1 },
        "bias": attention.input_bias,
        "alibi": false,
        "ffn_hidden_size": stack.feed_forward.width,
        "activation": activation(stack.feed_forward.activation),
        "vocab_size": stack.vocabulary,
        "layer_norm_epsilon": stack.norm.epsilon,
        "tie_word_embeddings": head.is_some_and(|head| head.tied),
    }));
    positions(stack, rotary, &mut keys);
    ("falcon", keys, Vec::new())
}

/// Rotary positions and the context, as version 4 of `transformers` wrote them.
fn positions(stack: &StackConfig, rotary: &RotaryConfig, keys: &mut Map<String, Value>) {
    // What a stretched context was before: it is found again by stretching.
    let original = |factor: f64| stack.context.map(|context| (context as f64 / factor).round() as usize);
    let context = match rotary.scaling {
        RotaryScaling::Linear { factor } => original(factor),
        RotaryScaling::Dynamic { original, .. } => Some(original),
        _ => stack.context,
    };
    keys.insert("max_position_embeddings".to_owned(), context.into());
    keys.insert("rope_theta".to_owned(), rotary.theta.into());
    if let Some(scaling) = scaling(&rotary.scaling) {
        keys.insert("rope_scaling".to_owned(), scaling);
    }
}

fn scaling(scaling: &RotaryScaling) -> Option<Value> {
    Some(match *scaling {
        RotaryScaling::None => return None,
        RotaryScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RotaryScaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
        RotaryScaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }),
        RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } => json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
            "original_max_position_embeddings": original, "attention_factor": attention_factor, "truncate": truncate,
        }),
    })
}
