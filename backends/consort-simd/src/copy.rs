//! Not native yet.

use consort_core::{DType, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn copy(simd: &Simd, x: &mut Tensor<Buffer>, dtype: DType) -> Result<Buffer> {
    let _ = (x, dtype);
    Err(unsupported(simd, "copy"))
}
