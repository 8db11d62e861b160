//! Gemma 2 (Gemma Team 2024): Llama with norms on both sides of each sub-layer, weights of norms kept as their
//! difference from one, a scaled embedding, soft caps, and a sliding window in every other layer.

use consort_core::config::Placement;

use super::{
    llama::{Defaults, EPSILON, decoder},
    refuse,
    rotary::{WHOLE, windows},
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 256_000,
    width: 2304,
    inner: 9216,
    layers: 26,
    heads: 8,
    key_value_heads: Some(4),
    head_width: Some(256),
    context: 8192,
    rotary: WHOLE,
    epsilon: EPSILON,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    tied: true,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    refuse(config, "use_bidirectional_attention")?;
    let mut mapping = decoder(config, tensors, &DEFAULTS, |stack| {
        stack.attention.input_bias = config.flag("attention_bias", false)?;
        stack.attention.output_bias = stack.attention.input_bias;
        stack.attention.scale = config.positive("query_pre_attn_scalar", 256.0)?.powf(-0.5);
        stack.attention.soft_cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
        let window = config.optional_size("sliding_window", Some(4096))?;
        stack.attention.windows = windows(config, stack.layers, window, |layer| layer % 2 == 0)?;
        stack.norm.unit_offset = true;
        stack.placement = Placement::Sandwich;
        Ok(())
    })?;
    let width = mapping.config.width as f64;
    if let Some(stack) = &mut mapping.config.decoder {
        stack.embedding.scale = width.sqrt();
    }
    if let Some(head) = &mut mapping.config.head {
        head.soft_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
    }
    // Llama's name for the norm before the feed-forward network is here the one after the attention.
    mapping.rows.retain(|row| row.slot != "decoder.*.feed_forward.norm.weight");
    mapping.rows.extend_from_slice(NORMS);
    Ok(mapping)
}

/// A cap; null switches it off.
pub(super) fn cap(config: &Reader<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>, Error> {
    match config.get(key) {
        None => Ok(default),
        Some(serde_json::Value::Null) => Ok(None),
        Some(_) => config.positive(key, 1.0).map(Some),
    }
}

const NORMS: &[Row] = &[
    row("decoder.*.attention.post_norm.weight", &["model.layers.*.post_attention_layernorm.weight"]),
    row("decoder.*.feed_forward.norm.weight", &["model.layers.*.pre_feedforward_layernorm.weight"]),
    row("decoder.*.feed_forward.post_norm.weight", &["model.layers.*.post_feedforward_layernorm.weight"]),
];
