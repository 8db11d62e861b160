//! Rows of a tensor by their indices.

use consort_core::{Result, Tensor};

use crate::{
    Simd,
    storage::{Buffer, Item, filled},
    strided::{GRAIN, Ids, Walk, by_dtype, gather, whole},
};

/// `x[ids[r], …]` for every r; zeros for an id beyond the rows.
pub(crate) fn gather_rows(simd: &Simd, x: &Tensor<Buffer>, ids: &Tensor<Buffer>) -> Result<Buffer> {
    by_dtype!(x.dtype(), typed(simd, x, ids))
}

fn typed<T: Item>(simd: &Simd, x: &Tensor<Buffer>, ids: &Tensor<Buffer>) -> Result<Buffer> {
    let rows = x.size(0);
    let stride = x.layout().strides().first().copied().unwrap_or(0);
    let width = x.shape().elements() / rows.max(1);
    let row = Walk::new([&x.layout().slice(0, 0, 1)?]);
    let [step] = row.steps();
    let (x, ids) = (whole::<T>(x)?, Ids::new(ids)?);
    let mut out = simd.pool.take::<T>(ids.count * width)?;
    simd.team.rows(filled::<T>(&mut out)?, width, GRAIN / width.max(1), |first, out| {
        for (index, out) in out.chunks_exact_mut(width).enumerate() {
            let id = ids.get(first + index);
            if id >= rows {
                out.fill(T::ZERO);
                continue;
            }
            for (range, [first]) in row.segments(0..width) {
                let (from, to) = (&x[first + id * stride..], &mut out[range]);
                match step {
                    1 => to.copy_from_slice(&from[..to.len()]),
                    0 => to.fill(from[0]),
                    _ => gather(from, step, to),
                }
            }
        }
    });
    Ok(out)
}
