//! `y = exp(x − max) / Σ exp(x − max)` over the last axis, and its backward.
//!
//! A row goes through four times, out of the nearest cache: greatest, exponentials, their sum, quotients. What is not a number
//! in a row, or +∞, makes all of the row's exponents or their sum NaN.

use std::ops::Range;

use consort_core::{Outputs, Result, Tensor};
use smallvec::smallvec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    lanes::{Fold, Greatest, Map, Output, RowsAt, Sum, fold, map},
    math::exp,
    storage::Buffer,
};

/// Elements that a task has at least.
const GRAIN: usize = 4096;

/// Softmax of rows; in place where it may be.
pub(crate) fn softmax(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let (rows, n) = rows(x);
    let (from, out) = Output::in_place(simd, x, n)?;
    simd.team.ranges(rows, GRAIN / n + 1, |rows| simd.level.run(Softmax { from, to: &out, n, rows }));
    Ok(smallvec![out.into_buffer()])
}

/// `y · (d_y − Σ y·d_y)`; in place of d_y where it may be.
pub(crate) fn softmax_backward(
    simd: &Simd,
    y: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
) -> Result<Outputs<Buffer>> {
    let (rows, n) = rows(y);
    let y = RowsAt::new(&simd.rows(y, n)?);
    let (d_y, out) = Output::in_place(simd, d_y, n)?;
    simd.team.ranges(rows, GRAIN / n + 1, |rows| simd.level.run(Backward { y, d_y, to: &out, n, rows }));
    Ok(smallvec![out.into_buffer()])
}

/// How many rows there are, and how long they are.
fn rows(x: &Tensor<Buffer>) -> (usize, usize) {
    let n = x.shape().sizes().last().map_or(1, |&n| n.max(1));
    (x.shape().elements() / n, n)
}

/// Some rows.
struct Softmax<'a> {
    from: RowsAt,
    to: &'a Output,
    n: usize,
    rows: Range<usize>,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { from, to, n, rows } = self;
        for row in rows {
            // SAFETY: there are so many rows of n elements, and tasks have rows of their own.
            unsafe {
                let (x, y) = (from.row(row), to.at(row * n));
                let [greatest] = fold(isa, Greatest, [x], n, f32::NEG_INFINITY);
                map(isa, ExpBelow(isa.greatest(greatest)), [x], [y], n);
                let [sum] = fold(isa, Sum, [y.cast_const()], n, 0.0);
                map(isa, Over(isa.sum(sum)), [y.cast_const()], [y], n);
            }
        }
    }
}

/// `e^(x − m)`.
#[derive(Clone, Copy)]
struct ExpBelow(f32);

impl Map<1, 1> for ExpBelow {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x]: [S::F; 1]) -> [S::F; 1] {
        [exp(isa, isa.sub(x, isa.splat(self.0)))]
    }
}

/// `x / s`: a product with the inverse would not be as near.
#[derive(Clone, Copy)]
struct Over(f32);

impl Map<1, 1> for Over {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x]: [S::F; 1]) -> [S::F; 1] {
        [isa.div(x, isa.splat(self.0))]
    }
}

/// Some rows.
struct Backward<'a> {
    y: RowsAt,
    d_y: RowsAt,
    to: &'a Output,
    n: usize,
    rows: Range<usize>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { y, d_y, to, n, rows } = self;
        for row in rows {
            // SAFETY: as in the forward.
            unsafe {
                let from = [y.row(row), d_y.row(row)];
                let [sum] = fold(isa, Products, from, n, 0.0);
                map(isa, Centred(isa.sum(sum)), from, [to.at(row * n)], n);
            }
        }
    }
}

/// `Σ a·b`.
#[derive(Clone, Copy)]
struct Products;

impl Fold<2, 1> for Products {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [sum]: [S::F; 1], [a, b]: [S::F; 2]) -> [S::F; 1] {
        [isa.mul_add(a, b, sum)]
    }
}

/// `y · (d_y − m)`.
#[derive(Clone, Copy)]
struct Centred(f32);

impl Map<2, 1> for Centred {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [y, d_y]: [S::F; 2]) -> [S::F; 1] {
        [isa.mul(y, isa.sub(d_y, isa.splat(self.0)))]
    }
}
