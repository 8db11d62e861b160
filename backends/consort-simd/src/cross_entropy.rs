//! Cross-entropy of a softmax with label smoothing (Szegedy et al. 2016, section 7):
//! `ln Σ eˣ − (1 − s)·x[target] − s/V · Σ x`, and its backward, a row a thread.

use std::ops::Range;

use consort_core::{Outputs, Result, Tensor};
use smallvec::smallvec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    lanes::{Fold, Greatest, Map, Output, RowsAt, Sum, fold, map},
    math::{exp, log},
    storage::{Buffer, Column},
};

/// Elements that a task has at least.
const GRAIN: usize = 4096;

/// Losses and `ln Σ eˣ` of rows; the loss is 0 where the target is none.
pub(crate) fn cross_entropy(
    simd: &Simd,
    logits: &mut Tensor<Buffer>,
    targets: &mut Tensor<Buffer>,
    smoothing: f64,
) -> Result<Outputs<Buffer>> {
    let [rows, classes] = [logits.size(0), logits.size(1)];
    let logits = RowsAt::new(&simd.rows(logits, classes)?);
    let targets = Column::<u32>::new(targets)?;
    let [losses, log_sums] = [Output::new(simd, rows)?, Output::new(simd, rows)?];
    simd.team.ranges(rows, GRAIN / classes.max(1) + 1, |rows| {
        let to = [&losses, &log_sums];
        simd.level.run(Losses { logits, targets, to, classes, smoothing, rows });
    });
    Ok(smallvec![losses.into_buffer(), log_sums.into_buffer()])
}

/// `d_loss · (softmax − (1 − s)·[v = target] − s/V)`; 0 in rows without a target, whatever these hold. In place of the logits
/// where it may be.
pub(crate) fn cross_entropy_backward(
    simd: &Simd,
    logits: &mut Tensor<Buffer>,
    targets: &mut Tensor<Buffer>,
    log_sum: &mut Tensor<Buffer>,
    d_loss: &mut Tensor<Buffer>,
    smoothing: f64,
) -> Result<Outputs<Buffer>> {
    let [rows, classes] = [logits.size(0), logits.size(1)];
    let targets = Column::<u32>::new(targets)?;
    let [log_sum, d_loss] = [Column::<f32>::new(log_sum)?, Column::<f32>::new(d_loss)?];
    let (logits, out) = Output::in_place(simd, logits, classes)?;
    simd.team.ranges(rows, GRAIN / classes.max(1) + 1, |rows| {
        simd.level.run(Backward { logits, targets, log_sum, d_loss, to: &out, classes, smoothing, rows });
    });
    Ok(smallvec![out.into_buffer()])
}

/// Some rows.
struct Losses<'a> {
    logits: RowsAt,
    targets: Column<'a, u32>,
    to: [&'a Output; 2],
    classes: usize,
    smoothing: f64,
    rows: Range<usize>,
}

impl Kernel for Losses<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { logits, targets, to: [losses, log_sums], classes, smoothing, rows } = self;
        for row in rows {
            let target = targets.at(row) as usize;
            // SAFETY: there are so many rows of as many classes, and tasks have rows of their own.
            unsafe {
                let x = logits.row(row);
                let [greatest] = fold(isa, Greatest, [x], classes, f32::NEG_INFINITY);
                let greatest = isa.greatest(greatest);
                let [sum] = fold(isa, ExpBelow(greatest), [x], classes, 0.0);
                let log_sum = greatest + one(isa, log(isa, isa.splat(isa.sum(sum))));
                let mut loss = 0.0;
                if target < classes {
                    loss = log_sum - (1.0 - smoothing) as f32 * *x.add(target);
                    if smoothing > 0.0 {
                        let [sum] = fold(isa, Sum, [x], classes, 0.0);
                        loss -= (smoothing / classes as f64) as f32 * isa.sum(sum);
                    }
                }
                *losses.at(row) = loss;
                *log_sums.at(row) = log_sum;
            }
        }
    }
}

/// `Σ e^(x − m)`.
#[derive(Clone, Copy)]
struct ExpBelow(f32);

impl Fold<1, 1> for ExpBelow {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [sum]: [S::F; 1], [x]: [S::F; 1]) -> [S::F; 1] {
        [isa.add(sum, exp(isa, isa.sub(x, isa.splat(self.0))))]
    }
}

/// The first lane.
#[inline(always)]
fn one<S: Isa>(isa: S, x: S::F) -> f32 {
    let mut one = [0.0];
    isa.write(&mut one, x);
    one[0]
}

/// Some rows.
struct Backward<'a> {
    logits: RowsAt,
    targets: Column<'a, u32>,
    log_sum: Column<'a, f32>,
    d_loss: Column<'a, f32>,
    to: &'a Output,
    classes: usize,
    smoothing: f64,
    rows: Range<usize>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { logits, targets, log_sum, d_loss, to, classes, smoothing, rows } = self;
        let share = smoothing / classes as f64;
        for row in rows {
            let target = targets.at(row) as usize;
            // SAFETY: as in the forward.
            unsafe {
                let (x, y) = (logits.row(row), to.at(row * classes));
                if target >= classes {
                    y.write_bytes(0, classes);
                    continue;
                }
                let mut f = Difference { log_sum: log_sum.at(row), wanted: share as f32, d_loss: d_loss.at(row) };
                let chosen = isa.splat(*x.add(target));
                map(isa, f, [x], [y], classes);
                f.wanted = (1.0 - smoothing + share) as f32;
                let [chosen] = f.apply(isa, [chosen]);
                *y.add(target) = one(isa, chosen);
            }
        }
    }
}

/// `(e^(x − log_sum) − wanted) · d_loss`.
#[derive(Clone, Copy)]
struct Difference {
    log_sum: f32,
    wanted: f32,
    d_loss: f32,
}

impl Map<1, 1> for Difference {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x]: [S::F; 1]) -> [S::F; 1] {
        let probability = exp(isa, isa.sub(x, isa.splat(self.log_sum)));
        [isa.mul(isa.sub(probability, isa.splat(self.wanted)), isa.splat(self.d_loss))]
    }
}
