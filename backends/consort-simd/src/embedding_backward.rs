//! The gradient of a table from that of its rows.

use consort_core::{Outputs, Result, Tensor};
use smallvec::smallvec;

use crate::{
    Simd,
    scatter_rows::add_rows,
    storage::{Buffer, filled},
    strided::GRAIN,
};

/// Rows of zeros increased by those of `d_y`, in ascending r.
pub(crate) fn embedding_backward(
    simd: &Simd,
    ids: &Tensor<Buffer>,
    d_y: &Tensor<Buffer>,
    rows: usize,
) -> Result<Outputs<Buffer>> {
    let mut out = simd.pool.take::<f32>(rows * d_y.size(1))?;
    let table = filled::<f32>(&mut out)?;
    simd.team.rows(table, 1, GRAIN, |_, out| out.fill(0.0));
    add_rows(simd, table, ids, d_y)?;
    Ok(smallvec![out])
}
