//! Phi-3 (Abdin et al. 2024): Llama with query, key and value in one tensor, gate and up in another, a part of each head
//! rotated, and a sliding window.

use super::{
    fused,
    llama::{Defaults, decoder},
    query_key_value,
    rotary::{Keys, WHOLE},
};
use crate::{
    error::{Error, printable},
    json::Reader,
    weights::{Mapping, Tensors},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 32064,
    width: 3072,
    inner: 8192,
    layers: 32,
    heads: 32,
    key_value_heads: None,
    head_width: None,
    context: 4096,
    rotary: Keys { part: Some(("partial_rotary_factor", 1.0)), ..WHOLE },
    epsilon: ("rms_norm_eps", 1e-5),
    activation: ("hidden_act", "silu"),
    tied: false,
};

const QUERY_KEY_VALUE: &str = "model.layers.*.self_attn.qkv_proj.weight";
const GATE_UP: &str = "model.layers.*.mlp.gate_up_proj.weight";

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    only_plain_rotary(config)?;
    let mut mapping = decoder(config, tensors, &DEFAULTS, |stack| {
        if let Some(window) = config.optional_size("sliding_window", None)? {
            stack.attention.windows = vec![window; stack.layers];
        }
        Ok(())
    })?;
    mapping.rows.retain(|row| {
        !["query", "key", "value", "gate", "up"].iter().any(|part| row.slot.ends_with(&format!(".{part}.weight")))
    });
    if let Some(stack) = &mapping.config.decoder {
        mapping.rows.extend(query_key_value(&stack.attention, 1, [&[QUERY_KEY_VALUE], &[]]).into_iter().take(3));
        let inner = stack.feed_forward.width;
        mapping.rows.push(fused("decoder.*.feed_forward.gate.weight", &[GATE_UP], 1, 2 * inner, 0));
        mapping.rows.push(fused("decoder.*.feed_forward.up.weight", &[GATE_UP], 1, 2 * inner, inner));
    }
    Ok(mapping)
}

/// The reference has one other type, longrope (also called su, and once yarn), which changes all keys once a sequence has
/// grown beyond the context that the model was first trained with.
fn only_plain_rotary(config: &Reader<'_>) -> Result<(), Error> {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(parameters) = config.object(key)? else { continue };
        let type_key = if parameters.has("rope_type") { "rope_type" } else { "type" };
        let kind = if parameters.has(type_key) { parameters.text(type_key, "")? } else { "default" };
        if kind != "default" {
            let what = format!(
                "'{}' is not supported for phi3, only 'default' is: use a variant of the model with its first context (4k)",
                printable(kind)
            );
            return Err(parameters.error(type_key, what));
        }
    }
    Ok(())
}
