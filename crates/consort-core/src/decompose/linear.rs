//! Projections and tables over packed weights.

use crate::{
    backend::{Backend, TensorOf, WeightOf},
    config::Activation,
    device::Device,
    error::Result,
};

/// `f(x · Wᵀ + b) + residual`: `[T, inputs] → [T, outputs]`.
///
/// # Errors
/// What the primitives meet.
pub fn linear<B: Backend>(
    device: &Device<B>,
    x: &TensorOf<B>,
    weight: &WeightOf<B>,
    bias: Option<TensorOf<B>>,
    activation: Option<Activation>,
    residual: Option<TensorOf<B>>,
) -> Result<TensorOf<B>> {
    let weight = device.unpack(weight)?.permute(&[1, 0])?;
    let mut y = device.matmul(x, &weight)?;
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

/// `d_y · W`: `[T, outputs] → [T, inputs]`.
///
/// # Errors
/// What the primitives meet.
pub fn linear_backward_input<B: Backend>(
    device: &Device<B>,
    d_y: &TensorOf<B>,
    weight: &WeightOf<B>,
) -> Result<TensorOf<B>> {
    device.matmul(d_y, &device.unpack(weight)?)
}

/// `d_yᵀ · x`: `[T, outputs], [T, inputs] → [outputs, inputs]`.
///
/// # Errors
/// What the primitives meet.
pub fn linear_backward_weight<B: Backend>(
    device: &Device<B>,
    x: &TensorOf<B>,
    d_y: &TensorOf<B>,
) -> Result<TensorOf<B>> {
    device.matmul(&d_y.permute(&[1, 0])?, x)
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
