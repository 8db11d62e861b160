//! Not native yet.

use consort_core::{Compute, Outputs, Result, Tensor, WeightOf, config::Activation, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn linear(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &WeightOf<Simd>,
    bias: &mut Option<Tensor<Buffer>>,
    activation: Option<Activation>,
    residual: &mut Option<Tensor<Buffer>>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let _ = (x, weight, bias, activation, residual, compute);
    Err(unsupported(simd, "linear"))
}

pub(crate) fn linear_backward_input(
    simd: &Simd,
    d_y: &mut Tensor<Buffer>,
    weight: &WeightOf<Simd>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let _ = (d_y, weight, compute);
    Err(unsupported(simd, "linear_backward_input"))
}

pub(crate) fn linear_backward_weight(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let _ = (x, d_y, compute);
    Err(unsupported(simd, "linear_backward_weight"))
}
