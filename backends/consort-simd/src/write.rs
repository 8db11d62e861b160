//! Not native yet.

use consort_core::{Result, Shape, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn write(simd: &Simd, into: &mut Tensor<Buffer>, x: &mut Tensor<Buffer>, start: &Shape) -> Result<Buffer> {
    let _ = (into, x, start);
    Err(unsupported(simd, "write"))
}
