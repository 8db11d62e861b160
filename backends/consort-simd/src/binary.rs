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
            BinaryKind::Add => self.each::<S, Add>(isa),
            BinaryKind::Subtract => self.each::<S, Subtract>(isa),
            BinaryKind::Multiply => self.each::<S, Multiply>(isa),
            BinaryKind::Divide => self.each::<S, Divide>(isa),
            BinaryKind::Maximum => self.each::<S, Maximum>(isa),
            BinaryKind::Minimum => self.each::<S, Minimum>(isa),
            // These have a kernel of their own.
            BinaryKind::Less | BinaryKind::Equal => {}
        }
    }
}

/// f, in lanes.
trait Function {
    fn of<S: Isa>(isa: S, a: S::F, b: S::F) -> S::F;
}

macro_rules! functions {
    ($($Name:ident |$isa:ident, $a:ident, $b:ident| $f:expr;)*) => { $(
        struct $Name;

        impl Function for $Name {
            #[inline(always)]
            fn of<S: Isa>($isa: S, $a: S::F, $b: S::F) -> S::F {
                $f
            }
        }
    )* };
}

functions! {
    Add |isa, a, b| isa.add(a, b);
    Subtract |isa, a, b| isa.sub(a, b);
    Multiply |isa, a, b| isa.mul(a, b);
    Divide |isa, a, b| isa.div(a, b);
    // The lanes' own give b where either is a NaN.
    Maximum |isa, a, b| isa.select(isa.unordered(a, a), a, isa.max(a, b));
    Minimum |isa, a, b| isa.select(isa.unordered(a, a), a, isa.min(a, b));
}

impl Arithmetic<'_> {
    #[inline(always)]
    fn each<S: Isa, F: Function>(self, isa: S) {
        let Self { walk, a, b, out, range, .. } = self;
        let [a_step, b_step] = walk.steps();
        let start = range.start;
        let mut together = [[0.0; CHUNK]; 2];
        for (range, [a_first, b_first]) in walk.segments(range) {
            let out = &mut out[range.start - start..range.end - start];
            for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                let done = chunk * CHUNK;
                let [a_together, b_together] = &mut together;
                let a = lanes::<S>(a, a_first + done * a_step, a_step, out, a_together);
                let b = lanes::<S>(b, b_first + done * b_step, b_step, out, b_together);
                // SAFETY: an operand has as many elements as the output, or LANES where it does not move; one that is the
                // output is read before it is written, lane by lane.
                unsafe { combine::<S, F>(isa, a, b, out.as_mut_ptr(), out.len()) };
            }
        }
    }
}

/// Where lanes of an operand are read, and how far that moves on with each element of the output: 1 or 0.
#[inline(always)]
fn lanes<S: Isa>(
    x: Option<&[f32]>,
    first: usize,
    step: usize,
    out: &mut [f32],
    together: &mut [f32; CHUNK],
) -> (*const f32, usize) {
    match (x, step) {
        (None, _) => (out.as_ptr(), 1),
        (Some(x), 1) => (x[first..first + out.len()].as_ptr(), 1),
        (Some(x), 0) => {
            together[..S::LANES].fill(x[first]);
            (together.as_ptr(), 0)
        }
        (Some(x), _) => {
            gather(&x[first..], step, &mut together[..out.len()]);
            (together.as_ptr(), 1)
        }
    }
}

/// `out = f(a, b)`.
///
/// # Safety
/// `out` must be good for `count` elements, and so an operand that moves; one that does not, for LANES.
#[inline(always)]
unsafe fn combine<S: Isa, F: Function>(
    isa: S,
    (a, a_moves): (*const f32, usize),
    (b, b_moves): (*const f32, usize),
    out: *mut f32,
    count: usize,
) {
    let whole = count - count % S::LANES;
    // SAFETY: `index + LANES ≤ count`, or what is left of it.
    unsafe {
        for index in (0..whole).step_by(S::LANES) {
            let (a, b) = (isa.load(a.add(index * a_moves)), isa.load(b.add(index * b_moves)));
            isa.store(out.add(index), F::of(isa, a, b));
        }
        if whole < count {
            let left = count - whole;
            let a = isa.load_first(a.add(whole * a_moves), left);
            let b = isa.load_first(b.add(whole * b_moves), left);
            isa.store_first(out.add(whole), left, F::of(isa, a, b));
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
        for (range, [a_first, b_first]) in walk.segments(range) {
            let out = &mut out[range.start - start..range.end - start];
            for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
                let done = chunk * CHUNK;
                let [a_together, b_together] = &mut together;
                let a = run(a, a_first + done * a_step, a_step, out.len(), a_together);
                let b = run(b, b_first + done * b_step, b_step, out.len(), b_together);
                for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *out = u32::from(f(a, b));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use consort_core::{Backend, DType, HostData, Shape};

    use super::*;
    use crate::isa::Level;

    #[test]
    fn every_length_and_pattern_in_place_or_not() {
        let values = |from: usize| (0..200).map(|i| ((i + from) * 37 % 101) as f32 - 50.0).collect::<Vec<_>>();
        for simd in Level::available().into_iter().map(|level| Simd::new(level, 1)) {
            for length in (1..40).chain([CHUNK - 1, CHUNK + 1, 3 * CHUNK + 5]) {
                // Elements of `a`, of `b`, and the step of `b`.
                for (step, offset, held) in [1, 0, 2].into_iter().flat_map(|step| {
                    [0, 3].into_iter().flat_map(move |offset| [false, true].map(|held| (step, offset, held)))
                }) {
                    let all: Vec<f32> = values(1).into_iter().cycle().take(2 * length + 4).collect();
                    let a: Vec<f32> = values(0).into_iter().cycle().take(length).collect();
                    let shape = Shape::new(&[length]).unwrap();
                    let upload = |data: &[f32]| simd.upload(HostData::F32(data.to_vec())).unwrap();
                    let layout = consort_core::Layout::strided(shape, &[step], offset).unwrap();
                    for swap in [false, true] {
                        let mut x = Tensor::new(upload(&a), shape, DType::F32);
                        let mut y = Tensor::with_layout(upload(&all), layout, DType::F32);
                        let also = held.then(|| x.clone());
                        let spec = Spec { shape, dtype: DType::F32 };
                        let (one, other) = if swap { (&mut y, &mut x) } else { (&mut x, &mut y) };
                        let found = binary(&simd, one, other, BinaryKind::Subtract, &spec).unwrap();
                        let sign = if swap { -1.0 } else { 1.0 };
                        for (index, found) in found.elements::<f32>().unwrap().iter().enumerate() {
                            let expected = sign * (a[index] - all[offset + index * step]);
                            assert_eq!(*found, expected, "{:?} {length} {step} {offset} {index}", simd.level());
                        }
                        if let Some(also) = also {
                            assert_eq!(also.buffer.elements::<f32>().unwrap(), a);
                        }
                    }
                }
            }
        }
    }
}
