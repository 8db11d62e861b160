//! Not native yet.

use consort_core::{Outputs, Result, Tensor, operation::AdamWSettings, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn adamw(
    simd: &Simd,
    parameter: &mut Tensor<Buffer>,
    gradient: &mut Tensor<Buffer>,
    first: &mut Tensor<Buffer>,
    second: &mut Tensor<Buffer>,
    settings: &AdamWSettings,
) -> Result<Outputs<Buffer>> {
    let _ = (parameter, gradient, first, second, settings);
    Err(unsupported(simd, "adamw"))
}
