//! Not native yet.

use consort_core::{DType, Result, Shape, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn fill(simd: &Simd, shape: &Shape, value: f64, dtype: DType) -> Result<Buffer> {
    let _ = (shape, value, dtype);
    Err(unsupported(simd, "fill"))
}
