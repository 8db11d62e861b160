//! Not native yet.

use consort_core::{Outputs, Result, Tensor, sample::SampleRow, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn sample(simd: &Simd, logits: &mut Tensor<Buffer>, rows: &[SampleRow]) -> Result<Outputs<Buffer>> {
    let _ = (logits, rows);
    Err(unsupported(simd, "sample"))
}
