//! Every fused operation as primitives: what runs where a backend has no fused form, and the specification of those that
//! do. An override must agree with the function here within what rounding allows.

mod activation;
mod adamw;
mod attention;
mod cache;
mod cross_entropy;
mod linear;
mod norm;
mod rotary;
mod sample;
mod softmax;

use smallvec::{SmallVec, smallvec};

pub use self::{
    activation::{activation, gated, soft_cap},
    adamw::adamw,
    attention::{attention, attention_probabilities, cached_attention, visible},
    cache::{cache_copy, cache_read, cache_reserve, cache_write},
    cross_entropy::cross_entropy,
    linear::{embedding, linear},
    norm::{layer_norm, rms_norm},
    rotary::rotary,
    sample::sample,
    softmax::softmax,
};
use crate::{
    backend::{Backend, FusedOf, TensorOf},
    device::Device,
    error::Result,
    operation::Fused,
};

/// Runs the decomposition of `operation`.
pub(crate) fn fused<B: Backend>(device: &Device<B>, operation: FusedOf<B>) -> Result<SmallVec<[TensorOf<B>; 2]>> {
    Ok(match operation {
        Fused::Softmax { x } => smallvec![softmax(device, x)?],
        Fused::LayerNorm { x, weight, bias, epsilon } => smallvec![layer_norm(device, x, weight, bias, epsilon)?],
        Fused::RmsNorm { x, weight, epsilon, unit_offset } => {
            smallvec![rms_norm(device, x, weight, epsilon, unit_offset)?]
        }
        Fused::Rotary { x, cos, sin, ids, pairing } => smallvec![rotary(device, &x, &cos, &sin, &ids, pairing)?],
        Fused::Activation { x, kind } => smallvec![activation(device, x, kind)?],
        Fused::Gated { gate, up, kind } => smallvec![gated(device, gate, up, kind)?],
        Fused::SoftCap { x, cap } => smallvec![soft_cap(device, x, cap)?],
        Fused::Linear { x, weight, bias, activation, residual } => {
            smallvec![linear(device, &x, &weight, bias, activation, residual)?]
        }
        Fused::Embedding { weight, ids } => smallvec![embedding(device, &weight, &ids)?],
        Fused::Attention { query, key, value, bias, segments, attributes } => {
            smallvec![attention(device, &query, &key, &value, bias.as_ref(), &segments, &attributes)?]
        }
        Fused::CacheWrite { cache, key, value, layer, plan } => {
            cache_write(device, &cache, key, value, layer, &plan)?;
            smallvec![]
        }
        Fused::CachedAttention { query, cache, bias, layer, plan, attributes } => {
            smallvec![cached_attention(device, &query, &cache, bias.as_ref(), layer, &plan, &attributes)?]
        }
        Fused::CrossEntropy { logits, targets, smoothing } => {
            cross_entropy(device, logits, &targets, smoothing)?.into_iter().collect()
        }
        Fused::AdamW { parameter, gradient, first, second, settings } => {
            adamw(device, parameter, gradient, first, second, &settings)?.into_iter().collect()
        }
        Fused::Sample { logits, rows } => smallvec![sample(device, &logits, &rows)?],
    })
}
