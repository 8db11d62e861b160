//! Not native yet.

use consort_core::{Result, Tensor, operation::UnaryKind, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn unary(simd: &Simd, x: &mut Tensor<Buffer>, kind: UnaryKind) -> Result<Buffer> {
    let _ = (x, kind);
    Err(unsupported(simd, "unary"))
}
