//! Not native yet.

use consort_core::{Outputs, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn layer_norm(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    epsilon: f64,
) -> Result<Outputs<Buffer>> {
    let _ = (x, weight, bias, epsilon);
    Err(unsupported(simd, "layer_norm"))
}

pub(crate) fn rms_norm(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<Outputs<Buffer>> {
    let _ = (x, weight, epsilon, unit_offset);
    Err(unsupported(simd, "rms_norm"))
}

pub(crate) fn layer_norm_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    epsilon: f64,
) -> Result<Outputs<Buffer>> {
    let _ = (x, weight, d_y, epsilon);
    Err(unsupported(simd, "layer_norm_backward"))
}

pub(crate) fn rms_norm_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<Outputs<Buffer>> {
    let _ = (x, weight, d_y, epsilon, unit_offset);
    Err(unsupported(simd, "rms_norm_backward"))
}
