//! Loops over rows, a register at a time, and where rows lie.

use consort_core::{Result, Tensor};

use crate::{
    Simd,
    isa::Isa,
    storage::{Buffer, Rows, filled, take},
};

/// A function of N numbers that gives M.
pub(crate) trait Map<const N: usize, const M: usize>: Copy + Send + Sync {
    /// Of a register of each; implementations are `#[inline(always)]`.
    fn apply<S: Isa>(self, isa: S, x: [S::F; N]) -> [S::F; M];
}

/// K sums, or the like, over elements of N numbers.
pub(crate) trait Fold<const N: usize, const K: usize>: Copy {
    /// With a register more of each; implementations are `#[inline(always)]`.
    fn step<S: Isa>(self, isa: S, sums: [S::F; K], x: [S::F; N]) -> [S::F; K];

    /// Of two.
    #[inline(always)]
    fn join<S: Isa>(isa: S, a: S::F, b: S::F) -> S::F {
        isa.add(a, b)
    }
}

/// `f` of `n` elements, each after the other; an output may be where an operand is.
///
/// # Safety
/// All must be good for `n` elements, and not overlap otherwise.
#[inline(always)]
pub(crate) unsafe fn map<S: Isa, const N: usize, const M: usize>(
    isa: S,
    f: impl Map<N, M>,
    from: [*const f32; N],
    to: [*mut f32; M],
    n: usize,
) {
    let mut at = 0;
    let mut x = [isa.zero(); N];
    while at + S::LANES <= n {
        for (x, from) in x.iter_mut().zip(from) {
            // SAFETY: the caller's promise; there are LANES elements from here on.
            *x = unsafe { isa.load(from.add(at)) };
        }
        for (y, to) in f.apply(isa, x).into_iter().zip(to) {
            // SAFETY: as above.
            unsafe { isa.store(to.add(at), y) };
        }
        at += S::LANES;
    }
    if at < n {
        for (x, from) in x.iter_mut().zip(from) {
            // SAFETY: as above, for those that are left.
            *x = unsafe { isa.load_first(from.add(at), n - at) };
        }
        for (y, to) in f.apply(isa, x).into_iter().zip(to) {
            // SAFETY: as above.
            unsafe { isa.store_first(to.add(at), n - at, y) };
        }
    }
}

/// `f` over `n` elements in an order that depends on `n` alone: register i goes to the i mod 4th of four sums, which are
/// joined as (0, 1), (2, 3); what is left is lanes to be joined.
///
/// # Safety
/// All must be good for `n` elements.
#[inline(always)]
pub(crate) unsafe fn fold<S: Isa, const N: usize, const K: usize, F: Fold<N, K>>(
    isa: S,
    f: F,
    from: [*const f32; N],
    n: usize,
    start: f32,
) -> [S::F; K] {
    let mut sums = [[isa.splat(start); K]; 4];
    let mut at = 0;
    while at + 4 * S::LANES <= n {
        for (register, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; there are four registers from here on.
            let x = unsafe { load(isa, from, at + register * S::LANES) };
            *sums = f.step(isa, *sums, x);
        }
        at += 4 * S::LANES;
    }
    for sums in &mut sums {
        if at + S::LANES <= n {
            // SAFETY: as above, of one register.
            let x = unsafe { load(isa, from, at) };
            *sums = f.step(isa, *sums, x);
            at += S::LANES;
        } else if at < n {
            let mut x = [isa.zero(); N];
            for (x, from) in x.iter_mut().zip(from) {
                // SAFETY: as above, for those that are left.
                *x = unsafe { isa.load_first(from.add(at), n - at) };
            }
            let there = first(isa, n - at);
            let with = f.step(isa, *sums, x);
            for (sum, with) in sums.iter_mut().zip(with) {
                *sum = isa.select(there, with, *sum);
            }
            at = n;
        }
    }
    let [mut a, b, c, d] = sums;
    for k in 0..K {
        a[k] = F::join(isa, F::join(isa, a[k], b[k]), F::join(isa, c[k], d[k]));
    }
    a
}

/// A register of each.
///
/// # Safety
/// All must be good for LANES elements from `at` on.
#[inline(always)]
unsafe fn load<S: Isa, const N: usize>(isa: S, from: [*const f32; N], at: usize) -> [S::F; N] {
    let mut x = [isa.zero(); N];
    for (x, from) in x.iter_mut().zip(from) {
        // SAFETY: the caller's promise.
        *x = unsafe { isa.load(from.add(at)) };
    }
    x
}

/// The first `count` lanes.
#[inline(always)]
fn first<S: Isa>(isa: S, count: usize) -> S::M {
    static NUMBERS: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    isa.less(isa.read(&NUMBERS), isa.splat(count as f32))
}

/// The sum of the elements.
#[derive(Clone, Copy)]
pub(crate) struct Sum;

impl Fold<1, 1> for Sum {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [sum]: [S::F; 1], [x]: [S::F; 1]) -> [S::F; 1] {
        [isa.add(sum, x)]
    }
}

/// The greatest element; a NaN may or may not be.
#[derive(Clone, Copy)]
pub(crate) struct Greatest;

impl Fold<1, 1> for Greatest {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [greatest]: [S::F; 1], [x]: [S::F; 1]) -> [S::F; 1] {
        [isa.max(greatest, x)]
    }

    #[inline(always)]
    fn join<S: Isa>(isa: S, a: S::F, b: S::F) -> S::F {
        isa.max(a, b)
    }
}

/// Where rows of an operand begin.
#[derive(Clone, Copy)]
pub(crate) struct RowsAt {
    start: *const f32,
    stride: usize,
}

// SAFETY: it is read where tasks may: see `row`.
unsafe impl Send for RowsAt {}
// SAFETY: as above.
unsafe impl Sync for RowsAt {}

impl RowsAt {
    pub(crate) fn new(rows: &Rows<'_>) -> Self {
        Self { start: rows.elements().as_ptr(), stride: rows.stride() }
    }

    /// The address of a row.
    ///
    /// # Safety
    /// There must be such a row, and its tensor must live as long as the address is used.
    #[inline(always)]
    pub(crate) unsafe fn row(self, index: usize) -> *const f32 {
        // SAFETY: inside the tensor by the caller's promise.
        unsafe { self.start.add(index * self.stride) }
    }
}

/// An output under way: tasks write to rows of their own.
pub(crate) struct Output {
    buffer: Buffer,
    start: *mut f32,
}

// SAFETY: tasks write to rows of their own: see `at`.
unsafe impl Sync for Output {}

impl Output {
    /// From the pool.
    pub(crate) fn new(simd: &Simd, elements: usize) -> Result<Self> {
        Self::over(simd.pool.take::<f32>(elements)?)
    }

    fn over(mut buffer: Buffer) -> Result<Self> {
        let start = filled::<f32>(&mut buffer)?.as_mut_ptr();
        Ok(Self { buffer, start })
    }

    /// The rows of `x` and an output of its shape, which is `x` itself where nobody else holds it: each element must be read
    /// before it is written then.
    pub(crate) fn in_place(simd: &Simd, x: &mut Tensor<Buffer>, width: usize) -> Result<(RowsAt, Self)> {
        let elements = x.shape().elements();
        // A copy of what has no rows can be overwritten.
        simd.rows(x, width)?;
        match Self::taken(simd, x)? {
            Some(out) => Ok((out.rows(width), out)),
            None => Ok((RowsAt::new(&simd.rows(x, width)?), Self::new(simd, elements)?)),
        }
    }

    /// `x` itself, where nobody else holds it.
    pub(crate) fn taken(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Option<Self>> {
        take::<f32>(x, &simd.none).map(Self::over).transpose()
    }

    /// What is there already, as rows.
    pub(crate) fn rows(&self, width: usize) -> RowsAt {
        RowsAt { start: self.start, stride: width }
    }

    /// The address of an element.
    ///
    /// # Safety
    /// There must be such an element, and the output must live as long as the address is used.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, index: usize) -> *mut f32 {
        // SAFETY: inside the buffer by the caller's promise.
        unsafe { self.start.add(index) }
    }

    /// Done.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Kernel, Level};

    /// Sum and greatest of a row, and a copy of it beside another row.
    struct All<'a>(&'a [f32], &'a mut [f32]);

    #[derive(Clone, Copy)]
    struct Sums;

    impl Map<2, 2> for Sums {
        #[inline(always)]
        fn apply<S: Isa>(self, isa: S, [a, b]: [S::F; 2]) -> [S::F; 2] {
            [isa.add(a, b), isa.sub(a, b)]
        }
    }

    impl Kernel for All<'_> {
        type Output = [f32; 2];

        #[inline(always)]
        fn run<S: Isa>(self, isa: S) -> [f32; 2] {
            let Self(x, y) = self;
            let (from, to, n) = (x.as_ptr(), y.as_mut_ptr(), y.len() / 2);
            // SAFETY: x has n elements, y twice as many.
            unsafe {
                let [sum] = fold(isa, Sum, [from], n, 0.0);
                let [greatest] = fold(isa, Greatest, [from], n, f32::NEG_INFINITY);
                map(isa, Sums, [from, to.cast_const()], [to, to.add(n)], n);
                [isa.sum(sum), isa.greatest(greatest)]
            }
        }
    }

    #[test]
    fn every_element_counts_once_and_no_other() {
        for level in Level::available() {
            for n in 0..140 {
                for misaligned in 0..3 {
                    let mut x = vec![f32::NAN; misaligned];
                    x.extend((0..n).map(|i| -1.0 - i as f32));
                    x.push(f32::NAN);
                    let mut y = vec![1.0; 2 * n + 1];
                    let [sum, greatest] = level.run(All(&x[misaligned..], &mut y[..2 * n]));
                    assert_eq!(sum, -((n * (n + 1)) as f32) / 2.0, "{level:?} {n}");
                    assert_eq!(greatest, if n == 0 { f32::NEG_INFINITY } else { -1.0 }, "{level:?} {n}");
                    let x = &x[misaligned..][..n];
                    assert!(x.iter().zip(&y).all(|(x, y)| *y == x + 1.0), "{level:?} {n}");
                    assert!(x.iter().zip(&y[n..]).all(|(x, y)| *y == x - 1.0), "{level:?} {n}");
                    assert_eq!(y[2 * n], 1.0, "{level:?} {n}");
                }
            }
        }
    }
}
