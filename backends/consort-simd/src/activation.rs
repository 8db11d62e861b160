//! Not native yet.

use consort_core::{Outputs, Result, Tensor, config::Activation, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn activation(simd: &Simd, x: &mut Tensor<Buffer>, kind: Activation) -> Result<Outputs<Buffer>> {
    let _ = (x, kind);
    Err(unsupported(simd, "activation"))
}

pub(crate) fn gated(
    simd: &Simd,
    gate: &mut Tensor<Buffer>,
    up: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    let _ = (gate, up, kind);
    Err(unsupported(simd, "gated"))
}

pub(crate) fn soft_cap(simd: &Simd, x: &mut Tensor<Buffer>, cap: f64) -> Result<Outputs<Buffer>> {
    let _ = (x, cap);
    Err(unsupported(simd, "soft_cap"))
}

pub(crate) fn activation_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    let _ = (x, d_y, kind);
    Err(unsupported(simd, "activation_backward"))
}

pub(crate) fn gated_backward(
    simd: &Simd,
    gate: &mut Tensor<Buffer>,
    up: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    let _ = (gate, up, d_y, kind);
    Err(unsupported(simd, "gated_backward"))
}

pub(crate) fn soft_cap_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    cap: f64,
) -> Result<Outputs<Buffer>> {
    let _ = (x, d_y, cap);
    Err(unsupported(simd, "soft_cap_backward"))
}

#[inline(always)]
pub(crate) fn activate<S: crate::isa::Isa>(isa: S, _kind: Activation, x: S::F) -> S::F {
    isa.max(x, isa.zero())
}
