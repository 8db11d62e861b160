//! Projections and tables over packed weights.

use super::quantize::dequantize_activations;
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    compute::Compute,
    config::Activation,
    device::Device,
    dtype::DType,
    error::Result,
};

/// `f(x · Wᵀ + b) + residual`: `[T, inputs] → [T, outputs]`. In bf16 x and W are rounded first; in int8 `scale · code` is in
/// place of x, with the codes that this device itself gives for [`QuantizeActivations`](crate::Fused::QuantizeActivations).
///
/// # Errors
/// What the primitives meet.
pub fn linear<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    weight: &WeightOf<B>,
    bias: Option<TensorOf<B>>,
    activation: Option<Activation>,
    residual: Option<TensorOf<B>>,
    compute: Compute,
) -> Result<TensorOf<B>> {
    let x = match compute {
        Compute::Int8 => {
            let [codes, scales] = device.quantize_activations(x)?;
            dequantize_activations(device, codes, &scales)?
        }
        _ => narrowed(device, x, compute)?,
    };
    let weight = narrowed(device, device.unpack(weight)?, compute)?.permute(&[1, 0])?;
    let mut y = device.matmul(&x, &weight)?;
    if let Some(bias) = bias {
        y = device.add(y, bias)?;
    }
    if let Some(kind) = activation {
        y = device.activation(y, kind)?;
    }
    match residual {
        Some(residual) => device.add(y, residual),
        None => Ok(y),
    }
}

/// Rows `ids` of the weight: `[R] → [R, inputs]`.
///
/// # Errors
/// What the primitives meet.
pub fn embedding<B: Backend>(device: &Device<B>, weight: &WeightOf<B>, ids: &TensorOf<B>) -> Result<TensorOf<B>> {
    device.gather_rows(&device.unpack(weight)?, ids)
}

/// `d_y · W`: `[T, outputs] → [T, inputs]`; in bf16 both are rounded first.
///
/// # Errors
/// What the primitives meet.
pub fn linear_backward_input<B: Backend>(
    device: &Device<B>,
    d_y: TensorOf<B>,
    weight: &WeightOf<B>,
    compute: Compute,
) -> Result<TensorOf<B>> {
    let weight = narrowed(device, device.unpack(weight)?, compute)?;
    device.matmul(&narrowed(device, d_y, compute)?, &weight)
}

/// `d_yᵀ · x`: `[T, outputs], [T, inputs] → [outputs, inputs]`; in bf16 both are rounded first.
///
/// # Errors
/// What the primitives meet.
pub fn linear_backward_weight<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    d_y: TensorOf<B>,
    compute: Compute,
) -> Result<TensorOf<B>> {
    let d_y = narrowed(device, d_y, compute)?.permute(&[1, 0])?;
    device.matmul(&d_y, &narrowed(device, x, compute)?)
}

/// Zeros `[rows, D]` with row `ids[r]` increased by row r of `d_y`, in ascending r.
///
/// # Errors
/// What the primitives meet.
pub fn embedding_backward<B: Backend>(
    device: &Device<B>,
    ids: &TensorOf<B>,
    d_y: TensorOf<B>,
    rows: usize,
) -> Result<TensorOf<B>> {
    device.scatter_rows(device.fill(&[rows, d_y.size(1)], 0.0)?, ids, d_y, true)
}

/// `x` as a product in `compute` takes it: rounded to bf16 and back, or as it is.
fn narrowed<B: Backend>(device: &Device<B>, x: TensorOf<B>, compute: Compute) -> Result<TensorOf<B>> {
    match compute {
        Compute::BF16 => device.copy(&device.copy(&x, DType::BF16)?, device.float()),
        Compute::F32 | Compute::Int8 => Ok(x),
    }
}
