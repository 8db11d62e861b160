//! `f(a, b)`, element by element, broadcast.

use std::ops::Range;

use consort_core::{Result, Tensor, backend::Spec, operation::BinaryKind};

use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, Item, filled, take},
    strided::{CHUNK, GRAIN, Walk, by_dtype, gather, run, whole},
    team::Parts,
};

/// `f(a, b)` of the shape that both broadcast to; in place where nobody else holds an operand of that shape.
pub(crate) fn binary(
    simd: &Simd,
    a: &mut Tensor<Buffer>,
    b: &mut Tensor<Buffer>,
    kind: BinaryKind,
    out: &Spec,
) -> Result<Buffer> {
    let layouts = [a.layout().broadcast_to(out.shape)?, b.layout().broadcast_to(out.shape)?];
    let walk = Walk::new([&layouts[0], &layouts[1]]);
    match kind {
        BinaryKind::Less => by_dtype!(a.dtype(), less(simd, a, b, &walk, out.shape.elements())),
        BinaryKind::Equal => by_dtype!(a.dtype(), equal(simd, a, b, &walk, out.shape.elements())),
        _ => arithmetic(simd, a, b, kind, &walk, out),
    }
}

fn arithmetic(
    simd: &Simd,
    a: &mut Tensor<Buffer>,
    b: &mut Tensor<Buffer>,
    kind: BinaryKind,
    walk: &Walk<2>,
    spec: &Spec,
) -> Result<Buffer> {
    let elements = spec.shape.elements();
    // Both are checked before either is taken.
    whole::<f32>(a)?;
    whole::<f32>(b)?;
    let taken_a = if *a.shape() == spec.shape { take::<f32>(a, &simd.none) } else { None };
    let taken_b = if taken_a.is_none() && *b.shape() == spec.shape { take::<f32>(b, &simd.none) } else { None };
    let from_a = if taken_a.is_none() { Some(whole::<f32>(a)?) } else { None };
    let from_b = if taken_b.is_none() { Some(whole::<f32>(b)?) } else { None };
    let mut out = match taken_a.or(taken_b) {
        Some(out) => out,
        None => simd.pool.take::<f32>(elements)?,
    };
    let to = Parts::new(filled::<f32>(&mut out)?);
    simd.team.ranges(elements, GRAIN, |range| {
        // SAFETY: ranges of different tasks do not meet.
        let out = unsafe { to.part(range.clone()) };
        simd.level.run(Arithmetic { walk, a: from_a, b: from_b, out, range, kind });
    });
    Ok(out)
}

/// A range of the elements.
struct Arithmetic<'a> {
    walk: &'a Walk<2>,
    /// An operand; `None` for the one that stands where the output goes.
    a: Option<&'a [f32]>,
    b: Option<&'a [f32]>,
    out: &'a mut [f32],
    range: Range<usize>,
    kind: BinaryKind,
}

impl Kernel for Arithmetic<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        match self.kind {
            BinaryKind::Add => self.each(isa, |a, b| isa.add(a, b)),
            BinaryKind::Subtract => self.each(isa, |a, b| isa.sub(a, b)),
            BinaryKind::Multiply => self.each(isa, |a, b| isa.mul(a, b)),
            BinaryKind::Divide => self.each(isa, |a, b| isa.div(a, b)),
            // The lanes' own give b where either is a NaN.
            BinaryKind::Maximum => self.each(isa, |a, b| isa.select(isa.unordered(a, a), a, isa.max(a, b))),
            BinaryKind::Minimum => self.each(isa, |a, b| isa.select(isa.unordered(a, a), a, isa.min(a, b))),
            // These have kernels of their own.
            BinaryKind::Less | BinaryKind::Equal => {}
        }
    }
}

impl Arithmetic<'_> {
    #[inline(always)]
    fn each<S: Isa>(self, isa: S, f: impl Fn(S::F, S::F) -> S::F) {
        let Self { walk, a, b, out, range, .. } = self;
        let [a_step, b_step] = walk.steps();
        let start = range.start;
        let mut together = [[0.0; CHUNK]; 2];
        walk.segments(range, |range, [a_first, b_first]| {
            let out = &mut out[range.start - start..range.end - start];
            for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                let done = chunk * CHUNK;
                let [a_together, b_together] = &mut together;
                let (a, a_moves) = lanes::<S>(a, a_first + done * a_step, a_step, out, a_together);
                let (b, b_moves) = lanes::<S>(b, b_first + done * b_step, b_step, out, b_together);
                // SAFETY: an operand has as many elements as the output, or LANES where it does not move; one that is the
                // output is read before it is written, lane by lane.
                unsafe { combine(isa, a, a_moves, b, b_moves, out.as_mut_ptr(), out.len(), &f) };
            }
        });
    }
}

/// Where lanes of an operand are read, and whether that moves on with the output.
#[inline(always)]
fn lanes<S: Isa>(
    x: Option<&[f32]>,
    first: usize,
    step: usize,
    out: &mut [f32],
    together: &mut [f32; CHUNK],
) -> (*const f32, bool) {
    match (x, step) {
        (None, _) => (out.as_ptr(), true),
        (Some(x), 1) => (x[first..first + out.len()].as_ptr(), true),
        (Some(x), 0) => {
            together[..S::LANES].fill(x[first]);
            (together.as_ptr(), false)
        }
        (Some(x), _) => {
            gather(&x[first..], step, &mut together[..out.len()]);
            (together.as_ptr(), true)
        }
    }
}

/// `out = f(a, b)`.
///
/// # Safety
/// `out` must be good for `count` elements, and so an operand that moves; one that does not, for LANES.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "two operands and an output")]
unsafe fn combine<S: Isa>(
    isa: S,
    a: *const f32,
    a_moves: bool,
    b: *const f32,
    b_moves: bool,
    out: *mut f32,
    count: usize,
    f: &impl Fn(S::F, S::F) -> S::F,
) {
    let at = |moves: bool, index: usize| if moves { index } else { 0 };
    let whole = count - count % S::LANES;
    // SAFETY: `index + LANES ≤ count`, or what is left of it.
    unsafe {
        for index in (0..whole).step_by(S::LANES) {
            let (a, b) = (isa.load(a.add(at(a_moves, index))), isa.load(b.add(at(b_moves, index))));
            isa.store(out.add(index), f(a, b));
        }
        if whole < count {
            let left = count - whole;
            let a = isa.load_first(a.add(at(a_moves, whole)), left);
            let b = isa.load_first(b.add(at(b_moves, whole)), left);
            isa.store_first(out.add(whole), left, f(a, b));
        }
    }
}

fn less<T: Item + PartialOrd>(
    simd: &Simd,
    a: &Tensor<Buffer>,
    b: &Tensor<Buffer>,
    walk: &Walk<2>,
    elements: usize,
) -> Result<Buffer> {
    compare(simd, whole::<T>(a)?, whole::<T>(b)?, walk, elements, |a, b| a < b)
}

fn equal<T: Item + PartialOrd>(
    simd: &Simd,
    a: &Tensor<Buffer>,
    b: &Tensor<Buffer>,
    walk: &Walk<2>,
    elements: usize,
) -> Result<Buffer> {
    compare(simd, whole::<T>(a)?, whole::<T>(b)?, walk, elements, |a, b| a == b)
}

fn compare<T: Item>(
    simd: &Simd,
    a: &[T],
    b: &[T],
    walk: &Walk<2>,
    elements: usize,
    f: impl Fn(T, T) -> bool + Copy + Sync,
) -> Result<Buffer> {
    let mut out = simd.pool.take::<u32>(elements)?;
    let to = Parts::new(filled::<u32>(&mut out)?);
    simd.team.ranges(elements, GRAIN, |range| {
        // SAFETY: ranges of different tasks do not meet.
        let out = unsafe { to.part(range.clone()) };
        simd.level.run(Compare { walk, a, b, out, range, f });
    });
    Ok(out)
}

struct Compare<'a, T, F> {
    walk: &'a Walk<2>,
    a: &'a [T],
    b: &'a [T],
    out: &'a mut [u32],
    range: Range<usize>,
    f: F,
}

impl<T: Item, F: Fn(T, T) -> bool> Kernel for Compare<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let Self { walk, a, b, out, range, f } = self;
        let [a_step, b_step] = walk.steps();
        let start = range.start;
        let mut together = [[T::ZERO; CHUNK]; 2];
        walk.segments(range, |range, [a_first, b_first]| {
            let out = &mut out[range.start - start..range.end - start];
            for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                let done = chunk * CHUNK;
                let [a_together, b_together] = &mut together;
                let a = run(a, a_first + done * a_step, a_step, out.len(), a_together);
                let b = run(b, b_first + done * b_step, b_step, out.len(), b_together);
                out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = u32::from(f(a, b)));
            }
        });
    }
}
