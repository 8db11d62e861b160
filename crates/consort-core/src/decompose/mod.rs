//! Every fused operation as primitives: what runs where a backend has no fused form, and the specification of those that
//! do. An override must agree with the function here within what rounding allows.

mod activation;
mod adamw;
mod attention;
mod attention_backward;
mod cache;
mod cross_entropy;
mod linear;
mod norm;
mod quantize;
mod rotary;
mod sample;
mod softmax;

use smallvec::{SmallVec, smallvec};

pub use self::{
    activation::{activation, activation_backward, gated, gated_backward, soft_cap, soft_cap_backward},
    adamw::adamw,
    attention::{attention, attention_probabilities, cached_attention, visible},
    attention_backward::{SavedAttention, attention_backward},
    cache::{cache_copy, cache_read, cache_reserve, cache_write},
    cross_entropy::{cross_entropy, cross_entropy_backward},
    linear::{embedding, embedding_backward, linear, linear_backward_input, linear_backward_weight},
    norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward},
    quantize::{ACTIVATION_BLOCK, LEAST_ACTIVATION, dequantize_activations, quantize_activations},
    rotary::rotary,
    sample::sample,
    softmax::{softmax, softmax_backward},
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
        Fused::QuantizeActivations { x } => quantize_activations(device, &x)?.into_iter().collect(),
        Fused::Linear { x, weight, bias, activation, residual, compute } => {
            smallvec![linear(device, x, &weight, bias, activation, residual, compute)?]
        }
        Fused::Embedding { weight, ids } => smallvec![embedding(device, &weight, &ids)?],
        Fused::Attention { query, key, value, bias, segments, attributes } => {
            attention(device, &query, &key, &value, bias.as_ref(), &segments, &attributes)?.into_iter().collect()
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
        Fused::SoftmaxBackward { y, d_y } => smallvec![softmax_backward(device, y, d_y)?],
        Fused::LayerNormBackward { x, weight, d_y, epsilon } => {
            layer_norm_backward(device, x, weight, d_y, epsilon)?.into_iter().collect()
        }
        Fused::RmsNormBackward { x, weight, d_y, epsilon, unit_offset } => {
            rms_norm_backward(device, x, weight, d_y, epsilon, unit_offset)?.into_iter().collect()
        }
        Fused::ActivationBackward { x, d_y, kind } => smallvec![activation_backward(device, x, d_y, kind)?],
        Fused::GatedBackward { gate, up, d_y, kind } => {
            gated_backward(device, gate, up, d_y, kind)?.into_iter().collect()
        }
        Fused::SoftCapBackward { x, d_y, cap } => smallvec![soft_cap_backward(device, x, d_y, cap)?],
        Fused::LinearBackwardInput { d_y, weight, compute } => {
            smallvec![linear_backward_input(device, d_y, &weight, compute)?]
        }
        Fused::LinearBackwardWeight { x, d_y, compute } => {
            smallvec![linear_backward_weight(device, x, d_y, compute)?]
        }
        Fused::EmbeddingBackward { ids, d_y, rows } => smallvec![embedding_backward(device, &ids, d_y, rows)?],
        Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes } => {
            let saved = SavedAttention { query, key, value, bias, y, log_sum };
            attention_backward(device, &saved, &d_y, &segments, &attributes)?
        }
        Fused::CrossEntropyBackward { logits, targets, log_sum, d_loss, smoothing } => {
            smallvec![cross_entropy_backward(device, logits, &targets, &log_sum, &d_loss, smoothing)?]
        }
    })
}
