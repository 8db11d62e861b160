//! Not native yet.

use consort_core::{Result, Tensor, backend::Spec, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn matmul(simd: &Simd, a: &mut Tensor<Buffer>, b: &mut Tensor<Buffer>, out: &Spec) -> Result<Buffer> {
    let _ = (a, b, out);
    Err(unsupported(simd, "matmul"))
}
