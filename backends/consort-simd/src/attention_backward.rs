//! Not native yet.

use consort_core::{Outputs, Result, Tensor, operation::AttentionAttributes, operation::Segments, unsupported};

use crate::{Simd, storage::Buffer};

#[allow(clippy::too_many_arguments, reason = "the operands of the operation")]
pub(crate) fn attention_backward(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    y: &mut Tensor<Buffer>,
    log_sum: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let _ = (query, key, value, bias, y, log_sum, d_y, segments, attributes);
    Err(unsupported(simd, "attention_backward"))
}
