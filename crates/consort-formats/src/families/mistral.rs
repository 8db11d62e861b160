//! Mistral (Jiang et al. 2023): Llama with a sliding window, in all layers unless `layer_types` says otherwise.

use super::{
    llama::{Defaults, EPSILON, decoder},
    rotary::{WHOLE, windows},
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Tensors},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 32000,
    width: 4096,
    inner: 14336,
    layers: 32,
    heads: 32,
    key_value_heads: Some(8),
    head_width: None,
    context: 4096 * 32,
    rotary: WHOLE,
    epsilon: EPSILON,
    activation: ("hidden_act", "silu"),
    tied: false,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    decoder(config, tensors, &DEFAULTS, |stack| {
        let window = config.optional_size("sliding_window", Some(4096))?;
        // With `layer_types` the reference reads the file as Ministral's, which alternates.
        stack.attention.windows = windows(config, stack.layers, window, |_| window.is_some())?;
        Ok(())
    })
}
