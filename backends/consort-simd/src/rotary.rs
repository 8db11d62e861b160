//! Not native yet.

use consort_core::{Outputs, Result, Tensor, config::RotaryPairing, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn rotary(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    cos: &mut Tensor<Buffer>,
    sin: &mut Tensor<Buffer>,
    ids: &mut Tensor<Buffer>,
    pairing: RotaryPairing,
) -> Result<Outputs<Buffer>> {
    let _ = (x, cos, sin, ids, pairing);
    Err(unsupported(simd, "rotary"))
}
