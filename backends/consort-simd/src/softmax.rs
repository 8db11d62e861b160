//! Not native yet.

use consort_core::{Outputs, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn softmax(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let _ = (x);
    Err(unsupported(simd, "softmax"))
}

pub(crate) fn softmax_backward(
    simd: &Simd,
    y: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
) -> Result<Outputs<Buffer>> {
    let _ = (y, d_y);
    Err(unsupported(simd, "softmax_backward"))
}
