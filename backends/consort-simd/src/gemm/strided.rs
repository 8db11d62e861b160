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
    let mut rounded = [[0u16; PANEL]; 2];
    for (rounded, row) in rounded.iter_mut().zip(rows) {
        for at in (0..PANEL).step_by(S::LANES) {
            // SAFETY: both have PANEL elements, a multiple of LANES.
            unsafe { isa.store_bf16(rounded.as_mut_ptr().add(at), isa.load(row.as_ptr().add(at))) };
        }
    }
    for (lane, to) in to[..PANEL].iter_mut().enumerate() {
        *to = f32::from_bits(u32::from(rounded[0][lane]) | u32::from(rounded[1][lane]) << 16);
    }
}
