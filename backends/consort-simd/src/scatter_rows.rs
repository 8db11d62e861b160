//! Not native yet.

use consort_core::{Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn scatter_rows(
    simd: &Simd,
    into: &mut Tensor<Buffer>,
    ids: &mut Tensor<Buffer>,
    x: &mut Tensor<Buffer>,
    add: bool,
) -> Result<Buffer> {
    let _ = (into, ids, x, add);
    Err(unsupported(simd, "scatter_rows"))
}
