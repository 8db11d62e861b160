//! Rows of a tensor replaced or added to, by their indices.

use std::ops::Range;

use consort_core::{Result, Tensor};

use crate::{
    Simd, copy,
    isa::{Isa, Kernel},
    storage::{Buffer, Item, filled},
    strided::{CHUNK, GRAIN, Ids, Walk, by_dtype, run, whole},
    team::Parts,
};

/// Columns that a task has at least: a few cache lines.
const LEAST_COLUMNS: usize = 64;

/// `into` with row `ids[r]` replaced by, or increased by, row r of `x`, in ascending r; in place where nobody else holds
/// `into`. Ids beyond the rows are left out.
pub(crate) fn scatter_rows(
    simd: &Simd,
    into: &mut Tensor<Buffer>,
    ids: &Tensor<Buffer>,
    x: &Tensor<Buffer>,
    add: bool,
) -> Result<Buffer> {
    let dtype = into.dtype();
    let mut out = copy::copy(simd, into, dtype)?;
    if add {
        add_rows(simd, filled::<f32>(&mut out)?, ids, x)?;
    } else {
        by_dtype!(dtype, replace_rows(simd, &mut out, ids, x))?;
    }
    Ok(out)
}

/// Adds row r of `x` to row `ids[r]` of `out`, in ascending r.
pub(crate) fn add_rows(simd: &Simd, out: &mut [f32], ids: &Tensor<Buffer>, x: &Tensor<Buffer>) -> Result<()> {
    scatter(simd, out, ids, x, |old, new| *old += new)
}

fn replace_rows<T: Item>(simd: &Simd, out: &mut Buffer, ids: &Tensor<Buffer>, x: &Tensor<Buffer>) -> Result<()> {
    scatter(simd, filled::<T>(out)?, ids, x, |old, new| *old = new)
}

/// Tasks have columns of their own, so that each output is changed in ascending r.
fn scatter<T: Item>(
    simd: &Simd,
    out: &mut [T],
    ids: &Tensor<Buffer>,
    x: &Tensor<Buffer>,
    change: impl Fn(&mut T, T) + Copy + Sync,
) -> Result<()> {
    if x.shape().elements() == 0 {
        return Ok(());
    }
    let width = x.shape().elements() / x.size(0);
    let stride = x.layout().strides().first().copied().unwrap_or(0);
    let row = Walk::new([&x.layout().slice(0, 0, 1)?]);
    let (x, ids) = (whole::<T>(x)?, Ids::new(ids)?);
    let rows = out.len() / width;
    let out = Parts::new(out);
    simd.team.ranges(width, LEAST_COLUMNS.max(GRAIN / ids.count.max(1)), |columns| {
        simd.level.run(Scatter { row: &row, rows, width, stride, x, ids, out: &out, columns, change });
    });
    Ok(())
}

/// A range of the columns.
struct Scatter<'a, T, F> {
    row: &'a Walk<1>,
    rows: usize,
    width: usize,
    stride: usize,
    x: &'a [T],
    ids: Ids<'a>,
    out: &'a Parts<T>,
    columns: Range<usize>,
    change: F,
}

impl<T: Item, F: Fn(&mut T, T)> Kernel for Scatter<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let Self { row, rows, width, stride, x, ids, out, columns, change } = self;
        let [step] = row.steps();
        let mut together = [T::ZERO; CHUNK];
        for r in 0..ids.count {
            let id = ids.get(r);
            if id >= rows {
                continue;
            }
            for (range, [first]) in row.segments(columns.clone()) {
                // SAFETY: columns of different tasks do not meet.
                let out = unsafe { out.part(id * width + range.start..id * width + range.end) };
                for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                    let first = first + r * stride + chunk * CHUNK * step;
                    let x = run(x, first, step, out.len(), &mut together);
                    for (old, &new) in out.iter_mut().zip(x) {
                        change(old, new);
                    }
                }
            }
        }
    }
}
