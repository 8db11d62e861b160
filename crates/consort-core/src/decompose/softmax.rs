//! `y = exp(x − max) / Σ exp(x − max)` over the last axis.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::{ReduceKind, UnaryKind},
};

/// Softmax of `[…, n]`. The greatest element is subtracted first, so that no finite input overflows. A row with a NaN or
/// +∞, or of −∞ alone, gives NaN.
///
/// # Errors
/// What the primitives meet.
pub fn softmax<B: Backend>(device: &Device<B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
    let last = x.shape().rank() - 1;
    let greatest = device.reduce(&x, last, ReduceKind::Maximum)?;
    let exponent = device.subtract(x, greatest)?;
    let weights = device.unary(exponent, UnaryKind::Exp)?;
    let sum = device.reduce(&weights, last, ReduceKind::Sum)?;
    device.divide(weights, sum)
}

/// `y · (d_y − Σ y·d_y)` over the last axis: the cotangent of what y is the softmax of.
///
/// # Errors
/// What the primitives meet.
pub fn softmax_backward<B: Backend>(device: &Device<B>, y: TensorOf<B>, d_y: TensorOf<B>) -> Result<TensorOf<B>> {
    let last = y.shape().rank() - 1;
    let weighted = device.multiply(y.clone(), d_y.clone())?;
    let mean = device.reduce(&weighted, last, ReduceKind::Sum)?;
    let centred = device.subtract(d_y, mean)?;
    device.multiply(y, centred)
}
