//! Not native yet.

use consort_core::{CacheOf, Outputs, Result, Tensor, cache::CachePlan, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn cache_write(
    simd: &Simd,
    cache: &CacheOf<Simd>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    layer: usize,
    plan: &CachePlan,
) -> Result<Outputs<Buffer>> {
    let _ = (cache, key, value, layer, plan);
    Err(unsupported(simd, "cache_write"))
}
