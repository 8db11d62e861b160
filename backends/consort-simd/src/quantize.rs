//! Not native yet.

use consort_core::{Outputs, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn quantize_activations(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let _ = (x);
    Err(unsupported(simd, "quantize_activations"))
}
