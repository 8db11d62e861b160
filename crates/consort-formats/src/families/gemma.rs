//! Gemma (Gemma Team 2024): Llama with weights of norms kept as their difference from one, a scaled embedding, and a gate
//! of gelu.

use consort_core::config::Activation;

use super::{
    llama::{Defaults, EPSILON, decoder},
    refuse,
    rotary::WHOLE,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Tensors},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 256_000,
    width: 3072,
    inner: 24576,
    layers: 28,
    heads: 16,
    key_value_heads: Some(16),
    head_width: Some(256),
    context: 8192,
    rotary: WHOLE,
    epsilon: EPSILON,
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    tied: true,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    refuse(config, "use_bidirectional_attention")?;
    let mut mapping = decoder(config, tensors, &DEFAULTS, |stack| {
        stack.attention.input_bias = config.flag("attention_bias", false)?;
        stack.attention.output_bias = stack.attention.input_bias;
        // The first files say gelu and mean its tanh form: the reference reads them so.
        if stack.feed_forward.activation == Activation::Gelu {
            stack.feed_forward.activation = Activation::GeluTanh;
        }
        stack.norm.unit_offset = true;
        Ok(())
    })?;
    let width = mapping.config.width as f64;
    if let Some(stack) = &mut mapping.config.decoder {
        stack.embedding.scale = width.sqrt();
    }
    Ok(mapping)
}
