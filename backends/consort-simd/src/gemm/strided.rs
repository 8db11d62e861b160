//! Matrices in memory as right operands: a chunk of a panel is copied, in f32 or as pairs of bf16.

use std::ops::Range;

use super::{PANEL, Panels, left::Matrix};
use crate::isa::Isa;

/// A matrix `[reduced, columns]` with any strides.
pub(crate) struct Strided<'a, const PAIRS: bool>(pub(crate) Matrix<'a>);

impl<const PAIRS: bool> Panels for Strided<'_, PAIRS> {
    const PAIRS: bool = PAIRS;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        let matrix = &self.0;
        let first = panel * PANEL;
        let width = PANEL.min(matrix.columns - first);
        let scratch = &mut scratch[..range.len() * PANEL];
        if PAIRS {
            let mut rows = [[0f32; PANEL]; 2];
            for (step, to) in range.zip(scratch.chunks_exact_mut(PANEL)) {
                for (half, row) in rows.iter_mut().enumerate() {
                    let reduced = 2 * step + half;
                    match reduced < matrix.rows {
                        true => read(matrix, reduced, first, &mut row[..width]),
                        false => row.fill(0.0),
                    }
                }
                pair(isa, &rows, to);
            }
        } else {
            for (reduced, to) in range.zip(scratch.chunks_exact_mut(PANEL)) {
                read(matrix, reduced, first, &mut to[..width]);
                to[width..].fill(0.0);
            }
        }
        scratch
    }
}

/// Part of a row.
#[inline(always)]
fn read(matrix: &Matrix<'_>, row: usize, first: usize, to: &mut [f32]) {
    if matrix.column_stride == 1 {
        to.copy_from_slice(&matrix.elements[row * matrix.row_stride + first..][..to.len()]);
    } else {
        for (column, to) in to.iter_mut().enumerate() {
            *to = matrix.at(row, first + column);
        }
    }
}

/// Two rows of a panel as one of pairs of bf16.
#[inline(always)]
pub(crate) fn pair<S: Isa>(isa: S, rows: &[[f32; PANEL]; 2], to: &mut [f32]) {
    let high = isa.splat_i(0xffff_0000_u32.cast_signed());
    for at in (0..PANEL).step_by(S::LANES) {
        let first = isa.shift_right::<16>(rounded(isa, isa.read(&rows[0][at..])));
        let second = isa.and(rounded(isa, isa.read(&rows[1][at..])), high);
        isa.write(&mut to[at..], isa.from_bits(isa.or(first, second)));
    }
}

/// bf16 in the upper half of each lane, to nearest even, NaN quiet; the lower half is of no meaning.
#[inline(always)]
fn rounded<S: Isa>(isa: S, x: S::F) -> S::I {
    let bits = isa.bits(x);
    let odd = isa.and(isa.shift_right::<16>(bits), isa.splat_i(1));
    let nearest = isa.add_i(bits, isa.add_i(odd, isa.splat_i(0x7fff)));
    let quiet = isa.or(bits, isa.splat_i(0x0040_0000));
    isa.bits(isa.select(isa.unordered(x, x), isa.from_bits(quiet), isa.from_bits(nearest)))
}
