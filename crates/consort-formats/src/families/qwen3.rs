//! Qwen 3: Qwen 2 with norms over each head's query and key instead of biases, and a head width of its own.

use super::{
    llama::{Defaults, decoder},
    qwen2,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Tensors},
};

const DEFAULTS: Defaults = Defaults { head_width: Some(128), ..qwen2::DEFAULTS };

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    decoder(config, tensors, &DEFAULTS, |stack| {
        stack.attention.query_key_norm = true;
        stack.attention.input_bias = config.flag("attention_bias", false)?;
        stack.attention.output_bias = stack.attention.input_bias;
        qwen2::last_layers_slide(config, stack)
    })
}
