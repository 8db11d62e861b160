//! `x / √(mean(x²) + ε) · w` over the last axis, `1 + w` with a unit offset.

use consort_core::{HostData, Tensor};

use super::memory::{Buffer, singles, width};

/// RMS norm of each row.
pub(crate) fn rms_norm(
    x: &Tensor<Buffer>,
    weight: &Tensor<Buffer>,
    epsilon: f64,
    unit_offset: bool,
) -> Option<HostData> {
    let weight = singles(weight)?;
    let mut y = singles(x)?.into_owned();
    for row in y.chunks_mut(width(x)) {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let root = (squares / row.len() as f32 + epsilon as f32).sqrt();
        for (x, w) in row.iter_mut().zip(weight.iter()) {
            *x = *x / root * if unit_offset { 1.0 + w } else { *w };
        }
    }
    Some(HostData::F32(y))
}
