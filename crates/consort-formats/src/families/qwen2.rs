//! Qwen 2 and 2.5: Llama with biases on query, key and value, and a sliding window in the last layers if switched on.

use consort_core::config::StackConfig;

use super::{
    llama::{Defaults, EPSILON, decoder},
    rotary::{WHOLE, windows},
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Tensors},
};

pub(super) const DEFAULTS: Defaults = Defaults {
    vocabulary: 151_936,
    width: 4096,
    inner: 22016,
    layers: 32,
    heads: 32,
    key_value_heads: Some(32),
    head_width: None,
    context: 32768,
    rotary: WHOLE,
    epsilon: EPSILON,
    activation: ("hidden_act", "silu"),
    tied: false,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    decoder(config, tensors, &DEFAULTS, |stack| {
        stack.attention.input_bias = true;
        last_layers_slide(config, stack)
    })
}

/// `use_sliding_window` (off by default) lets layers from `max_window_layers` on slide.
pub(super) fn last_layers_slide(config: &Reader<'_>, stack: &mut StackConfig) -> Result<(), Error> {
    let window = config.optional_size("sliding_window", Some(4096))?;
    let in_use = config.flag("use_sliding_window", false)?;
    let window = if in_use { window } else { None };
    let first = config.count("max_window_layers", 28)?;
    stack.attention.windows = windows(config, stack.layers, window, |layer| window.is_some() && layer >= first)?;
    Ok(())
}
