//! A box of a tensor replaced.

use consort_core::{Layout, Result, Shape, Tensor};

use crate::{
    Simd, copy,
    storage::{Buffer, Item, filled},
    strided::{GRAIN, Walk, by_dtype, whole},
    team::Parts,
};

/// `into` with the box from `start` on replaced by `x`; in place where nobody else holds `into`.
pub(crate) fn write(simd: &Simd, into: &mut Tensor<Buffer>, x: &Tensor<Buffer>, start: &Shape) -> Result<Buffer> {
    by_dtype!(into.dtype(), typed(simd, into, x, start))
}

fn typed<T: Item>(simd: &Simd, into: &mut Tensor<Buffer>, x: &Tensor<Buffer>, start: &Shape) -> Result<Buffer> {
    let mut place = Layout::contiguous(*into.shape());
    for (axis, (&first, &size)) in start.sizes().iter().zip(x.sizes()).enumerate() {
        place = place.slice(axis, first, size)?;
    }
    let walk = Walk::new([x.layout(), &place]);
    let [x_step, out_step] = walk.steps();
    let elements = x.shape().elements();
    let x = whole::<T>(x)?;
    let dtype = into.dtype();
    let mut out = copy::copy(simd, into, dtype)?;
    let to = Parts::new(filled::<T>(&mut out)?);
    simd.team.ranges(elements, GRAIN, |range| {
        for (range, [x_first, out_first]) in walk.segments(range) {
            // SAFETY: a box is visited in the order in which its elements lie in the output, and so its pieces do not meet.
            let to = unsafe { to.part(out_first..out_first + (range.len() - 1) * out_step + 1) };
            if x_step == 1 && out_step == 1 {
                to.copy_from_slice(&x[x_first..x_first + to.len()]);
            } else {
                for (index, to) in to.iter_mut().step_by(out_step).enumerate() {
                    *to = x[x_first + index * x_step];
                }
            }
        }
    });
    Ok(out)
}
