//! A linear map of rows, as every part of the graph asks for it.

use crate::{
    backend::{Backend, TensorOf, WeightOf},
    compute::Compute,
    config::Activation,
    device::Device,
    error::Result,
};

/// A weight, its bias, and what products with it are computed in.
pub(super) struct Projection<B: Backend> {
    /// `[outputs, inputs]`.
    pub(super) weight: WeightOf<B>,
    /// `[outputs]`.
    pub(super) bias: Option<TensorOf<B>>,
    pub(super) compute: Compute,
}

impl<B: Backend> Projection<B> {
    /// `f(x · Wᵀ + b) + residual`: `[T, inputs] → [T, outputs]`.
    pub(super) fn run(
        &self,
        device: &Device<B>,
        x: TensorOf<B>,
        activation: Option<Activation>,
        residual: Option<TensorOf<B>>,
    ) -> Result<TensorOf<B>> {
        device.linear(x, &self.weight, self.bias.as_ref(), activation, residual, self.compute)
    }
}
