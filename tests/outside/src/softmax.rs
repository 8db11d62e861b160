//! `exp(x − max) / Σ exp(x − max)` over the last axis.

use consort_core::{HostData, Tensor};

use super::memory::{Buffer, singles, width};

/// Softmax of each row.
pub(crate) fn softmax(x: &Tensor<Buffer>) -> Option<HostData> {
    let mut y = singles(x)?.into_owned();
    for row in y.chunks_mut(width(x)) {
        softmax_row(row);
    }
    Some(HostData::F32(y))
}

/// Softmax of one row, in place; gives `ln Σ exp(x)`. The greatest is subtracted first, so that nothing overflows.
pub(crate) fn softmax_row(row: &mut [f32]) -> f32 {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - greatest).exp();
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
    greatest + sum.ln()
}
