//! Phi-3 (Abdin et al. 2024): Llama with query, key and value in one tensor, gate and up in another, a part of each head
//! rotated, and a sliding window.

use consort_core::config::{AttentionPositions, RotaryConfig, RotaryScaling};

use super::{
    fused,
    llama::{Defaults, decoder},
    query_key_value,
    rotary::{Keys, WHOLE},
};
use crate::{
    error::Error,
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
    let mut mapping = decoder(config, tensors, &DEFAULTS, |stack| {
        if !matches!(
            stack.attention.positions,
            AttentionPositions::Rotary(RotaryConfig { scaling: RotaryScaling::None, .. })
        ) {
            let key = if config.has("rope_scaling") { "rope_scaling" } else { "rope_parameters" };
            return Err(config.error(key, "of the rotary scalings of phi3 Consort has none: only rope type 'default'"));
        }
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
