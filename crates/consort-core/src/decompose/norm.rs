//! Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019) over the last axis.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::{ReduceKind, UnaryKind},
};

/// `(x − mean) / √(var + ε) · w + b`, var the mean of the squared deviations. Deviations whose square is beyond the type
/// (1.8e19 in f32) give 0; a row of one value and ε = 0 gives NaN.
///
/// # Errors
/// What the primitives meet.
pub fn layer_norm<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    weight: TensorOf<B>,
    bias: Option<TensorOf<B>>,
    epsilon: f64,
) -> Result<TensorOf<B>> {
    let mean = mean(device, &x)?;
    let deviation = device.subtract(x, mean)?;
    let root = root_of_mean_square(device, deviation.clone(), epsilon)?;
    let unit = device.divide(deviation, root)?;
    let scaled = device.multiply(unit, weight)?;
    match bias {
        Some(bias) => device.add(scaled, bias),
        None => Ok(scaled),
    }
}

/// `x / √(mean(x²) + ε) · w`, or `· (1 + w)` with `unit_offset`. A row with a square beyond the type (1.8e19 in f32) gives
/// 0; a row of zeros and ε = 0 gives NaN.
///
/// # Errors
/// What the primitives meet.
pub fn rms_norm<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    weight: TensorOf<B>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<TensorOf<B>> {
    let root = root_of_mean_square(device, x.clone(), epsilon)?;
    let unit = device.divide(x, root)?;
    let weight = if unit_offset { device.add(weight, device.fill(&[1], 1.0)?)? } else { weight };
    device.multiply(unit, weight)
}

/// Mean over the last axis, which stays with size 1.
fn mean<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Result<TensorOf<B>> {
    let last = x.shape().rank() - 1;
    let sum = device.reduce(x, last, ReduceKind::Sum)?;
    let count = device.fill(&[1], x.size(last) as f64)?;
    device.divide(sum, count)
}

fn root_of_mean_square<B: Backend>(device: &Device<B>, x: TensorOf<B>, epsilon: f64) -> Result<TensorOf<B>> {
    let square = device.multiply(x.clone(), x)?;
    let mean = mean(device, &square)?;
    let padded = device.add(mean, device.fill(&[1], epsilon)?)?;
    device.unary(padded, UnaryKind::Sqrt)
}
