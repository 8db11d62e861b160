//! Not native yet.

use consort_core::{Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn gather_rows(simd: &Simd, x: &mut Tensor<Buffer>, ids: &mut Tensor<Buffer>) -> Result<Buffer> {
    let _ = (x, ids);
    Err(unsupported(simd, "gather_rows"))
}
