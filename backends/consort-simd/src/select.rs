//! `mask ≠ 0 ? a : b`, element by element, broadcast.

use std::ops::Range;

use consort_core::{Result, Tensor, backend::Spec};

use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, Item, filled},
    strided::{CHUNK, GRAIN, Walk, by_dtype, run, whole},
    team::Parts,
};

/// Each element of `a` where the mask is set, else of `b`; what is not chosen leaves no trace.
pub(crate) fn select(
    simd: &Simd,
    mask: &Tensor<Buffer>,
    a: &Tensor<Buffer>,
    b: &Tensor<Buffer>,
    out: &Spec,
) -> Result<Buffer> {
    by_dtype!(a.dtype(), typed(simd, mask, a, b, out))
}

fn typed<T: Item>(
    simd: &Simd,
    mask: &Tensor<Buffer>,
    a: &Tensor<Buffer>,
    b: &Tensor<Buffer>,
    spec: &Spec,
) -> Result<Buffer> {
    let broadcast = |x: &Tensor<Buffer>| x.layout().broadcast_to(spec.shape);
    let walk = Walk::new([&broadcast(mask)?, &broadcast(a)?, &broadcast(b)?]);
    let (mask, a, b) = (whole::<u32>(mask)?, whole::<T>(a)?, whole::<T>(b)?);
    let elements = spec.shape.elements();
    let mut out = simd.pool.take::<T>(elements)?;
    let to = Parts::new(filled::<T>(&mut out)?);
    simd.team.ranges(elements, GRAIN, |range| {
        // SAFETY: ranges of different tasks do not meet.
        let out = unsafe { to.part(range.clone()) };
        simd.level.run(Select { walk: &walk, mask, a, b, out, range });
    });
    Ok(out)
}

/// A range of the elements.
struct Select<'a, T> {
    walk: &'a Walk<3>,
    mask: &'a [u32],
    a: &'a [T],
    b: &'a [T],
    out: &'a mut [T],
    range: Range<usize>,
}

impl<T: Item> Kernel for Select<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let Self { walk, mask, a, b, out, range } = self;
        let [mask_step, a_step, b_step] = walk.steps();
        let start = range.start;
        let mut mask_together = [0; CHUNK];
        let mut together = [[T::ZERO; CHUNK]; 2];
        for (range, [mask_first, a_first, b_first]) in walk.segments(range) {
            let out = &mut out[range.start - start..range.end - start];
            for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                let done = chunk * CHUNK;
                let [a_together, b_together] = &mut together;
                let mask = run(mask, mask_first + done * mask_step, mask_step, out.len(), &mut mask_together);
                let a = run(a, a_first + done * a_step, a_step, out.len(), a_together);
                let b = run(b, b_first + done * b_step, b_step, out.len(), b_together);
                for (((out, &mask), &a), &b) in out.iter_mut().zip(mask).zip(a).zip(b) {
                    *out = if mask != 0 { a } else { b };
                }
            }
        }
    }
}
