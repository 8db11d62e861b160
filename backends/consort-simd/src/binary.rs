//! Not native yet.

use consort_core::{Result, Tensor, backend::Spec, operation::BinaryKind, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn binary(
    simd: &Simd,
    a: &mut Tensor<Buffer>,
    b: &mut Tensor<Buffer>,
    kind: BinaryKind,
    out: &Spec,
) -> Result<Buffer> {
    let _ = (a, b, kind, out);
    Err(unsupported(simd, "binary"))
}
