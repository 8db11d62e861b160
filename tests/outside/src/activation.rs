//! Element-wise non-linearities, and `f(gate) · up`.

use consort_core::{HostData, Tensor, config::Activation};

use super::memory::{Buffer, singles};

/// f; `None` for the one with an error function.
pub(crate) fn function(kind: Activation) -> Option<fn(f32) -> f32> {
    Some(match kind {
        Activation::Relu => |x| if x > 0.0 || x.is_nan() { x } else { 0.0 },
        Activation::Tanh => f32::tanh,
        Activation::Silu => |x| x / (1.0 + (-x).exp()),
        Activation::QuickGelu => |x| x / (1.0 + (-1.702 * x).exp()),
        Activation::GeluTanh => |x| {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * (x * x * x));
            0.5 * x * (1.0 + inner.tanh())
        },
        Activation::Gelu => return None,
    })
}

/// `f(x)`.
pub(crate) fn activation(x: &Tensor<Buffer>, kind: Activation) -> Option<HostData> {
    let f = function(kind)?;
    Some(HostData::F32(singles(x)?.iter().map(|&x| f(x)).collect()))
}

/// `f(gate) · up`.
pub(crate) fn gated(gate: &Tensor<Buffer>, up: &Tensor<Buffer>, kind: Activation) -> Option<HostData> {
    let f = function(kind)?;
    Some(HostData::F32(singles(gate)?.iter().zip(singles(up)?.iter()).map(|(&gate, up)| f(gate) * up).collect()))
}
