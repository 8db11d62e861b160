//! Not native yet.

use consort_core::{Result, Tensor, operation::ReduceKind, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn reduce(simd: &Simd, x: &mut Tensor<Buffer>, axis: usize, kind: ReduceKind) -> Result<Buffer> {
    let _ = (x, axis, kind);
    Err(unsupported(simd, "reduce"))
}
