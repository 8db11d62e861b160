//! Not native yet.

use consort_core::{Outputs, Result, Tensor, WeightOf, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn embedding(simd: &Simd, weight: &WeightOf<Simd>, ids: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let _ = (weight, ids);
    Err(unsupported(simd, "embedding"))
}

pub(crate) fn embedding_backward(
    simd: &Simd,
    ids: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    rows: usize,
) -> Result<Outputs<Buffer>> {
    let _ = (ids, d_y, rows);
    Err(unsupported(simd, "embedding_backward"))
}
