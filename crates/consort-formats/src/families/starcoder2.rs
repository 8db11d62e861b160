//! StarCoder 2 (Lozhkov et al. 2024): Llama's attention with layer norms, biases, a feed-forward network without a gate,
//! and a sliding window.

use consort_core::config::NormKind;

use super::{
    llama::{Defaults, decoder},
    rotary::WHOLE,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 49152,
    width: 3072,
    inner: 12288,
    layers: 30,
    heads: 24,
    key_value_heads: Some(2),
    head_width: None,
    context: 4096,
    rotary: WHOLE,
    epsilon: ("norm_epsilon", 1e-5),
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    tied: true,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let mut mapping = decoder(config, tensors, &DEFAULTS, |stack| {
        let bias = config.flag("use_bias", true)?;
        stack.attention.input_bias = bias;
        stack.attention.output_bias = bias;
        stack.feed_forward.bias = bias;
        stack.feed_forward.gated = false;
        stack.norm.kind = NormKind::Layer;
        stack.norm.bias = true;
        if let Some(window) = config.optional_size("sliding_window", None)? {
            stack.attention.windows = vec![window; stack.layers];
        }
        Ok(())
    })?;
    mapping.rows.retain(|row| !row.slot.contains(".feed_forward.") || row.slot.ends_with(".norm.weight"));
    mapping.rows.extend_from_slice(TABLE);
    Ok(mapping)
}

const TABLE: &[Row] = &[
    row("decoder.*.attention.norm.bias", &["model.layers.*.input_layernorm.bias"]),
    row("decoder.*.feed_forward.norm.bias", &["model.layers.*.post_attention_layernorm.bias"]),
    row("decoder.*.feed_forward.up.weight", &["model.layers.*.mlp.c_fc.weight"]),
    row("decoder.*.feed_forward.up.bias", &["model.layers.*.mlp.c_fc.bias"]),
    row("decoder.*.feed_forward.down.weight", &["model.layers.*.mlp.c_proj.weight"]),
    row("decoder.*.feed_forward.down.bias", &["model.layers.*.mlp.c_proj.bias"]),
    row("decoder.norm.bias", &["model.norm.bias"]),
];
