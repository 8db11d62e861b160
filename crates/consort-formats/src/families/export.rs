//! The way back: a `config.json` that says exactly what a [`TransformerConfig`] says.
//!
//! Each family that could hold a configuration writes its keys; what its own mapping then reads must be the same
//! configuration again. So a choice that a family cannot express is never lost on the way: another family is tried, or
//! none fits.

use std::collections::BTreeSet;

use consort_core::config::{
    Activation, AttentionPositions, RotaryConfig, RotaryScaling, StackConfig, TransformerConfig,
};
use serde_json::{Map, Value, json};

use super::{FAMILIES, Family};
use crate::{
    json::{Reader, found},
    weights::{Mapping, Tensors},
};

/// A configuration in a family's words.
pub(crate) struct Exported {
    pub(crate) family: &'static Family,
    /// `config.json`.
    pub(crate) json: Value,
    /// How the family maps it back.
    pub(crate) mapping: Mapping,
}

/// The first family that can say `config`.
pub(crate) fn export(config: &TransformerConfig) -> Option<Exported> {
    candidates(config).into_iter().find_map(|(model_type, mut json, tensors)| {
        let family = FAMILIES.iter().find(|family| family.model_type == model_type)?;
        json.insert("model_type".to_owned(), model_type.into());
        let json = Value::Object(json);
        let reader = Reader::new("config.json", &json).ok()?;
        let mapping = (family.map)(&reader, &Tensors::named(&tensors)).ok()?;
        same(config, &mapping.config).then_some(Exported { family, json, mapping })
    })
}

fn same(one: &TransformerConfig, other: &TransformerConfig) -> bool {
    difference(one, other).is_none()
}

/// The first field in which two configurations differ, and its values, but for the last digits of numbers, which a file in
/// decimals or in f32 has rounded.
pub(crate) fn difference(one: &TransformerConfig, other: &TransformerConfig) -> Option<String> {
    let values = [serde_json::to_value(one).ok()?, serde_json::to_value(other).ok()?];
    differ("", Some(&values[0]), Some(&values[1]))
}

fn differ(field: &str, one: Option<&Value>, other: Option<&Value>) -> Option<String> {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    match (one, other) {
        (Some(Value::Number(a)), Some(Value::Number(b))) if close(a.as_f64()?, b.as_f64()?) => None,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let inner = |key: &String| if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
            keys.into_iter().find_map(|key| differ(&inner(key), a.get(key), b.get(key)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| differ(field, Some(a), Some(b)))
        }
        (one, other) if one == other => None,
        (one, other) => {
            let shown = |value: Option<&Value>| value.map_or("none".to_owned(), found);
            Some(format!("{field} ({}, read again as {})", shown(one), shown(other)))
        }
    }
}

/// `model_type`, keys, and tensors that are to be there for the mapping to see what is optional.
type Candidate = (&'static str, Map<String, Value>, Vec<&'static str>);

fn candidates(config: &TransformerConfig) -> Vec<Candidate> {
    let mut all = Vec::new();
    match (&config.encoder, &config.decoder) {
        (None, Some(stack)) => {
            if let AttentionPositions::Rotary(rotary) = stack.attention.positions {
                all.extend(rotary_decoders(config, stack, &rotary));
            } else {
                all.push(gpt2(config, stack));
            }
        }
        (Some(stack), None) => all.extend([bert(config, stack), t5(config, stack, None)]),
        (Some(encoder), Some(decoder)) => {
            all.extend([
                t5(config, encoder, Some(decoder)),
                bart(config, encoder, decoder),
                marian(config, encoder, decoder),
            ]);
        }
        (None, None) => {}
    }
    all
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::QuickGelu => "quick_gelu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

/// The families that began from Llama share the names of their keys.
fn rotary_decoders(config: &TransformerConfig, stack: &StackConfig, rotary: &RotaryConfig) -> Vec<Candidate> {
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
        "rope_theta": rotary.theta,
        "attention_bias": attention.input_bias,
        "mlp_bias": stack.feed_forward.bias,
        "hidden_act": activation(stack.feed_forward.activation),
        "hidden_activation": activation(stack.feed_forward.activation),
        "attn_logit_softcapping": attention.soft_cap,
        "final_logit_softcapping": head.and_then(|head| head.soft_cap),
        "query_pre_attn_scalar": attention.scale.powi(-2),
        "sliding_window": window,
    }));
    // What a stretched context was before: it is found again by stretching.
    let original = |factor: f64| stack.context.map(|context| (context as f64 / factor).round() as usize);
    let context = match rotary.scaling {
        RotaryScaling::Linear { factor } => original(factor),
        RotaryScaling::Dynamic { original, .. } => Some(original),
        _ => stack.context,
    };
    keys.insert("max_position_embeddings".to_owned(), context.into());
    if let Some(scaling) = scaling(&rotary.scaling) {
        keys.insert("rope_scaling".to_owned(), scaling);
    }
    if !attention.windows.is_empty() {
        let kind = |&window: &usize| if window > 0 { "sliding_attention" } else { "full_attention" };
        keys.insert("layer_types".to_owned(), attention.windows.iter().map(kind).collect());
        keys.insert("use_sliding_window".to_owned(), true.into());
    }
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]
        .into_iter()
        .zip(["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3"])
        .map(|(model_type, class)| {
            let mut keys = keys.clone();
            let end = if head.is_some() { "ForCausalLM" } else { "Model" };
            keys.insert("architectures".to_owned(), json!([format!("{class}{end}")]));
            (model_type, keys, Vec::new())
        })
        .collect()
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

fn gpt2(config: &TransformerConfig, stack: &StackConfig) -> Candidate {
    let attention = &stack.attention;
    let keys = json!({
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": config.width,
        "n_layer": stack.layers,
        "n_head": attention.heads,
        "n_positions": stack.context,
        "n_inner": stack.feed_forward.width,
        "vocab_size": stack.vocabulary,
        "activation_function": activation(stack.feed_forward.activation),
        "layer_norm_epsilon": stack.norm.epsilon,
        "scale_attn_weights": attention.scale != 1.0 || attention.head_width == 1,
        "scale_attn_by_inverse_layer_idx": attention.inverse_layer_scale,
        "tie_word_embeddings": config.head.as_ref().is_some_and(|head| head.tied),
    });
    ("gpt2", object(keys), Vec::new())
}

fn bert(config: &TransformerConfig, stack: &StackConfig) -> Candidate {
    let head = config.head.as_ref();
    let keys = json!({
        "architectures": [if head.is_some() { "BertForMaskedLM" } else { "BertModel" }],
        "hidden_size": config.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.attention.heads,
        "intermediate_size": stack.feed_forward.width,
        "max_position_embeddings": stack.context,
        "vocab_size": stack.vocabulary,
        "type_vocab_size": stack.embedding.token_types,
        "hidden_act": activation(stack.feed_forward.activation),
        "layer_norm_eps": stack.norm.epsilon,
        "tie_word_embeddings": head.is_some_and(|head| head.tied),
    });
    let mut tensors = Vec::new();
    if let Some(head) = head {
        tensors.push("cls.predictions.transform.dense.weight");
        tensors.extend(head.bias.then_some("cls.predictions.bias"));
    }
    ("bert", object(keys), tensors)
}

fn t5(config: &TransformerConfig, encoder: &StackConfig, decoder: Option<&StackConfig>) -> Candidate {
    let (buckets, distance) = match encoder.attention.positions {
        AttentionPositions::Relative { buckets, max_distance } => (buckets, max_distance),
        _ => (0, 0),
    };
    let inner = encoder.feed_forward;
    let head = config.head.as_ref();
    let projection = match (inner.gated, inner.activation) {
        (true, Activation::GeluTanh) => "gated-gelu".to_owned(),
        (gated, kind) => format!("{}{}", if gated { "gated-" } else { "" }, activation(kind)),
    };
    let tied = head.is_some_and(|head| head.tied);
    let keys = json!({
        "architectures": [if decoder.is_some() { "T5ForConditionalGeneration" } else { "T5EncoderModel" }],
        "d_model": config.width,
        "num_layers": encoder.layers,
        "num_decoder_layers": decoder.map_or(encoder.layers, |decoder| decoder.layers),
        "num_heads": encoder.attention.heads,
        "d_kv": encoder.attention.head_width,
        "d_ff": inner.width,
        "vocab_size": encoder.vocabulary,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": distance,
        "layer_norm_epsilon": encoder.norm.epsilon,
        "feed_forward_proj": projection,
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": head.is_some_and(|head| head.scale != 1.0),
    });
    ("t5", object(keys), if tied { Vec::new() } else { vec!["shared.weight", "lm_head.weight"] })
}

/// BART's keys, which Marian shares.
fn encoder_decoder(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Map<String, Value> {
    object(json!({
        "d_model": config.width,
        "encoder_layers": encoder.layers,
        "decoder_layers": decoder.layers,
        "encoder_attention_heads": encoder.attention.heads,
        "decoder_attention_heads": decoder.attention.heads,
        "encoder_ffn_dim": encoder.feed_forward.width,
        "decoder_ffn_dim": decoder.feed_forward.width,
        "max_position_embeddings": encoder.context,
        "vocab_size": encoder.vocabulary,
        "activation_function": activation(encoder.feed_forward.activation),
        "scale_embedding": encoder.embedding.scale != 1.0,
        "tie_word_embeddings": config.head.as_ref().is_some_and(|head| head.tied),
    }))
}

fn bart(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Candidate {
    let mut keys = encoder_decoder(config, encoder, decoder);
    keys.insert("architectures".to_owned(), json!(["BartForConditionalGeneration"]));
    ("bart", keys, logits_bias(config))
}

fn marian(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Candidate {
    let mut keys = encoder_decoder(config, encoder, decoder);
    keys.insert("architectures".to_owned(), json!(["MarianMTModel"]));
    keys.insert("decoder_vocab_size".to_owned(), decoder.vocabulary.into());
    keys.insert("share_encoder_decoder_embeddings".to_owned(), config.shared_embedding.into());
    ("marian", keys, logits_bias(config))
}

fn logits_bias(config: &TransformerConfig) -> Vec<&'static str> {
    config.head.as_ref().filter(|head| head.bias).map(|_| "final_logits_bias").into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use consort_core::config::Placement;

    use super::*;

    #[test]
    fn every_golden_is_said_again() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let mut families = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(goldens).unwrap() {
            let directory = entry.unwrap().path();
            let model = crate::open(&directory).unwrap();
            let Some(exported) = export(&model.config) else {
                // The paper's own form is no family's.
                assert_eq!(model.family, "consort", "{}", directory.display());
                continue;
            };
            assert!(same(&exported.mapping.config, &model.config), "{}", directory.display());
            families.insert(exported.family.model_type);
        }
        for needed in ["llama", "qwen3", "gemma2", "gpt2", "bert", "t5", "bart", "marian"] {
            assert!(families.contains(needed), "{needed} was never the first that fits: {families:?}");
        }
    }

    #[test]
    fn what_no_family_has_is_not_said() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let mut config = crate::open(&goldens.join("llama")).unwrap().config;
        config.head.as_mut().unwrap().scale = 0.5;
        assert!(export(&config).is_none());
        let mut config = crate::open(&goldens.join("gpt2")).unwrap().config;
        config.decoder.as_mut().unwrap().placement = Placement::Post;
        assert!(export(&config).is_none());
    }
}
