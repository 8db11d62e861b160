//! Not native yet.

use consort_core::{Outputs, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn cross_entropy(
    simd: &Simd,
    logits: &mut Tensor<Buffer>,
    targets: &mut Tensor<Buffer>,
    smoothing: f64,
) -> Result<Outputs<Buffer>> {
    let _ = (logits, targets, smoothing);
    Err(unsupported(simd, "cross_entropy"))
}

pub(crate) fn cross_entropy_backward(
    simd: &Simd,
    logits: &mut Tensor<Buffer>,
    targets: &mut Tensor<Buffer>,
    log_sum: &mut Tensor<Buffer>,
    d_loss: &mut Tensor<Buffer>,
    smoothing: f64,
) -> Result<Outputs<Buffer>> {
    let _ = (logits, targets, log_sum, d_loss, smoothing);
    Err(unsupported(simd, "cross_entropy_backward"))
}
