//! The micro-kernel: a few rows times one panel, all sums in registers.
//!
//! `c[r, n] = ((c₀ + a[r, 0]·b[0, n]) + a[r, 1]·b[1, n]) + …`, c₀ what is there or 0: one ascending chain an output. A step
//! is one f32 of each operand, or a pair of bf16 with [`tile_pairs`].

use super::PANEL;
use crate::isa::{Isa, Kernel};

/// `rows ≤ S::TILE_ROWS` rows of `a` times a panel `b` `[steps, PANEL]`, into `c` at rows `c_stride` apart.
///
/// Element (r, i) of `a` lies at `r · A_ROW + i · a_step`. With `add` the sums go on from what `c` holds.
///
/// # Safety
/// `a`, `b` and `c` must be good for what is said above; `c` must not overlap the others.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices")]
pub(crate) unsafe fn tile<S: Isa, const A_ROW: usize>(
    isa: S,
    rows: usize,
    steps: usize,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    isa.apart(Tile::<A_ROW, false> { rows, steps, a, a_step, b, c, c_stride, add });
}

/// As [`tile`], where each element of `a` and `b` is a pair of bf16 in the bits of an f32, the first in the lower half; rows of
/// `a` lie side by side.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices")]
pub(crate) unsafe fn tile_pairs<S: Isa>(
    isa: S,
    rows: usize,
    steps: usize,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    isa.apart(Tile::<1, true> { rows, steps, a, a_step, b, c, c_stride, add });
}

/// The arguments of a tile, whose promises were given.
struct Tile<const A_ROW: usize, const PAIRS: bool> {
    rows: usize,
    steps: usize,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
}

impl<const A_ROW: usize, const PAIRS: bool> Kernel for Tile<A_ROW, PAIRS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { rows, steps, a, a_step, b, c, c_stride, add } = self;
        macro_rules! by_rows {
            ($($R:literal)*) => {
                match rows {
                    // SAFETY: the promises of whoever made this.
                    $( $R if $R <= S::TILE_ROWS => unsafe {
                        columns::<S, $R, A_ROW, PAIRS>(isa, steps, a, a_step, b, c, c_stride, add);
                    }, )*
                    _ => debug_assert!(rows == 0, "{rows} rows in a tile"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// Two registers of columns at a time.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices")]
unsafe fn columns<S: Isa, const R: usize, const A_ROW: usize, const PAIRS: bool>(
    isa: S,
    steps: usize,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    for first in (0..PANEL).step_by(2 * S::LANES) {
        // SAFETY: the caller's promise; PANEL is a multiple of twice the lanes.
        unsafe {
            let (mut b, mut a, c) = (b.add(first), a, c.add(first));
            let mut sums = [[isa.zero(); 2]; R];
            if add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = [isa.load(c.add(r * c_stride)), isa.load(c.add(r * c_stride + S::LANES))];
                }
            }
            for _ in 0..steps {
                let columns = [isa.load(b), isa.load(b.add(S::LANES))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = *a.add(r * A_ROW);
                    sums[0] = step::<S, PAIRS>(isa, x, columns[0], sums[0]);
                    sums[1] = step::<S, PAIRS>(isa, x, columns[1], sums[1]);
                }
                a = a.wrapping_add(a_step);
                b = b.wrapping_add(PANEL);
            }
            for (r, sums) in sums.iter().enumerate() {
                isa.store(c.add(r * c_stride), sums[0]);
                isa.store(c.add(r * c_stride + S::LANES), sums[1]);
            }
        }
    }
}

#[inline(always)]
fn step<S: Isa, const PAIRS: bool>(isa: S, x: f32, b: S::F, sum: S::F) -> S::F {
    match PAIRS {
        true => isa.dot_bf16(sum, isa.splat_i(x.to_bits().cast_signed()), isa.bits(b)),
        false => isa.mul_add(isa.splat(x), b, sum),
    }
}
