//! Not native yet.

use consort_core::{CacheOf, Outputs, Result, Tensor, cache::CachePlan, operation::AttentionAttributes, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn cached_attention(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    cache: &CacheOf<Simd>,
    bias: &mut Option<Tensor<Buffer>>,
    layer: usize,
    plan: &CachePlan,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let _ = (query, cache, bias, layer, plan, attributes);
    Err(unsupported(simd, "cached_attention"))
}
