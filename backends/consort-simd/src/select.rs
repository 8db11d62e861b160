//! Not native yet.

use consort_core::{Result, Tensor, backend::Spec, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn select(
    simd: &Simd,
    mask: &mut Tensor<Buffer>,
    a: &mut Tensor<Buffer>,
    b: &mut Tensor<Buffer>,
    out: &Spec,
) -> Result<Buffer> {
    let _ = (mask, a, b, out);
    Err(unsupported(simd, "select"))
}
