//! Not native yet.

use consort_core::{Outputs, Result, Tensor, operation::AttentionAttributes, operation::Segments, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn attention(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let _ = (query, key, value, bias, segments, attributes);
    Err(unsupported(simd, "attention"))
}
