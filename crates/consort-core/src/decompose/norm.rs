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

/// Cotangents of x, weight `[n]` and bias `[n]` of a [`layer_norm`]. With x̂ the normed row and g = d_y·w:
/// `(g − mean(g) − x̂ · mean(g·x̂)) / √(var + ε)`, `Σ d_y·x̂` and `Σ d_y` over the rows.
///
/// # Errors
/// What the primitives meet.
pub fn layer_norm_backward<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    weight: TensorOf<B>,
    d_y: TensorOf<B>,
    epsilon: f64,
) -> Result<[TensorOf<B>; 3]> {
    let mean_x = mean(device, &x)?;
    let deviation = device.subtract(x, mean_x)?;
    let root = root_of_mean_square(device, deviation.clone(), epsilon)?;
    let unit = device.divide(deviation, root.clone())?;
    let d_weight = sum_over_rows(device, &device.multiply(d_y.clone(), unit.clone())?)?;
    let d_bias = sum_over_rows(device, &d_y)?;
    let d_unit = device.multiply(d_y, weight)?;
    let mean_d = mean(device, &d_unit)?;
    let centred = device.subtract(d_unit.clone(), mean_d)?;
    let d_x = without_scale(device, centred, d_unit, unit, root)?;
    Ok([d_x, d_weight, d_bias])
}

/// Cotangents of x and weight `[n]` of an [`rms_norm`]. With x̂ the normed row and g = d_y·w (or `1 + w`):
/// `(g − x̂ · mean(g·x̂)) / √(mean(x²) + ε)` and `Σ d_y·x̂` over the rows.
///
/// # Errors
/// What the primitives meet.
pub fn rms_norm_backward<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    weight: TensorOf<B>,
    d_y: TensorOf<B>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<[TensorOf<B>; 2]> {
    let root = root_of_mean_square(device, x.clone(), epsilon)?;
    let unit = device.divide(x, root.clone())?;
    let d_weight = sum_over_rows(device, &device.multiply(d_y.clone(), unit.clone())?)?;
    let weight = if unit_offset { device.add(weight, device.fill(&[1], 1.0)?)? } else { weight };
    let d_unit = device.multiply(d_y, weight)?;
    let d_x = without_scale(device, d_unit.clone(), d_unit, unit, root)?;
    Ok([d_x, d_weight])
}

/// `(from − unit · mean(d_unit·unit)) / root`: a norm does not see its input's scale, so neither does the cotangent.
fn without_scale<B: Backend>(
    device: &Device<B>,
    from: TensorOf<B>,
    d_unit: TensorOf<B>,
    unit: TensorOf<B>,
    root: TensorOf<B>,
) -> Result<TensorOf<B>> {
    let along = mean(device, &device.multiply(d_unit, unit.clone())?)?;
    let rest = device.subtract(from, device.multiply(unit, along)?)?;
    device.divide(rest, root)
}

/// `Σ` over all axes but the last: `[…, n] → [n]`.
fn sum_over_rows<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Result<TensorOf<B>> {
    let n = x.size(x.shape().rank() - 1);
    let rows = x.shape().elements() / n.max(1);
    let x = device.reshape(x, &[rows, n])?;
    device.reduce(&x, 0, ReduceKind::Sum)?.view(&[n])
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
