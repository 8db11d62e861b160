//! The left operand, packed: groups of rows, `[steps, rows]` each, so that a tile reads it in order.

use std::ops::Range;

use consort_core::Result;

use super::PANEL;
use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, filled},
    team::Parts,
};

/// Rows packed for tiles.
pub(crate) struct Left {
    packed: Buffer,
    /// How many rows there are.
    pub(crate) rows: usize,
    /// Steps of each: elements, or pairs of bf16.
    pub(crate) steps: usize,
    /// Rows of a group, the last may have fewer.
    group_rows: usize,
}

/// A matrix in memory: element (r, i) lies at `r · row_stride + i · column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) elements: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn transposed(self) -> Self {
        let Self { elements, rows, columns, row_stride, column_stride } = self;
        Self { elements, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    #[inline(always)]
    pub(crate) fn at(&self, row: usize, column: usize) -> f32 {
        self.elements[row * self.row_stride + column * self.column_stride]
    }
}

impl Left {
    /// Packs a matrix; as pairs of bf16 with `pairs`, an odd column beside a zero.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(simd: &Simd, matrix: Matrix<'_>, pairs: bool) -> Result<Self> {
        let rows = matrix.rows;
        let steps = if pairs { matrix.columns.div_ceil(2) } else { matrix.columns };
        let group_rows = balanced(rows, simd.level.tile_rows());
        let mut packed = simd.pool.take::<f32>(rows * steps)?;
        let parts = Parts::new(filled::<f32>(&mut packed)?);
        let groups = rows.div_ceil(group_rows.max(1));
        // Small ones are packed where they are asked for.
        let grain = (16 << 10) / (group_rows * steps).max(1) + 1;
        simd.team.ranges(groups, grain, |range| {
            for group in range {
                let first = group * group_rows;
                let count = group_rows.min(rows - first);
                // SAFETY: groups do not meet.
                let to = unsafe { parts.part(first * steps..(first + count) * steps) };
                simd.level.run(Pack { matrix, first, count, to, pairs });
            }
        });
        Ok(Self { packed, rows, steps, group_rows })
    }

    /// Groups of part `block` of `blocks` of the rows.
    pub(super) fn groups_of(&self, block: usize, blocks: usize) -> Range<usize> {
        let groups = self.rows.div_ceil(self.group_rows.max(1));
        groups * block / blocks..groups * (block + 1) / blocks
    }

    /// Rows of some groups.
    pub(super) fn rows_of(&self, groups: Range<usize>) -> Range<usize> {
        groups.start * self.group_rows..(groups.end * self.group_rows).min(self.rows)
    }

    /// First row and number of rows of a group.
    #[inline(always)]
    pub(super) fn group(&self, group: usize) -> (usize, usize) {
        let first = group * self.group_rows;
        (first, self.group_rows.min(self.rows - first))
    }

    /// Steps `range` of a group, `[steps, rows]`.
    #[inline(always)]
    pub(super) fn steps_of(&self, group: usize, range: Range<usize>) -> &[f32] {
        let (first, count) = self.group(group);
        let packed = self.packed.elements::<f32>().unwrap_or(&[]);
        &packed[first * self.steps + range.start * count..first * self.steps + range.end * count]
    }
}

/// Rows of a group such that groups of at most `most` are about equal.
pub(super) fn balanced(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1))
}

struct Pack<'a> {
    matrix: Matrix<'a>,
    first: usize,
    count: usize,
    to: &'a mut [f32],
    pairs: bool,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { matrix, first, count, to, pairs } = self;
        let columns = matrix.columns;
        match (pairs, matrix.row_stride, matrix.column_stride) {
            // Columns that lie together: those of a transposed matrix.
            (false, 1, _) => {
                for (column, to) in to.chunks_exact_mut(count).enumerate() {
                    let from = &matrix.elements[first + column * matrix.column_stride..][..count];
                    for at in (0..count).step_by(S::LANES) {
                        isa.write(&mut to[at..], isa.read(&from[at..]));
                    }
                }
            }
            (false, _, 1) => {
                for r in 0..count {
                    let from = &matrix.elements[(first + r) * matrix.row_stride..][..columns];
                    for (column, &x) in from.iter().enumerate() {
                        to[column * count + r] = x;
                    }
                }
            }
            (false, _, _) => {
                for (column, to) in to.chunks_exact_mut(count).enumerate() {
                    for (r, to) in to.iter_mut().enumerate() {
                        *to = matrix.at(first + r, column);
                    }
                }
            }
            (true, _, _) => {
                // Rounded in lanes, a row or a column at a time, then put in pairs.
                let mut row = [0f32; 2 * PANEL];
                let mut rounded = [0u16; 2 * PANEL];
                for r in 0..count {
                    for start in (0..columns).step_by(2 * PANEL) {
                        let width = (2 * PANEL).min(columns - start);
                        if matrix.column_stride == 1 {
                            let from = &matrix.elements[(first + r) * matrix.row_stride + start..][..width];
                            row[..width].copy_from_slice(from);
                        } else {
                            for (i, x) in row[..width].iter_mut().enumerate() {
                                *x = matrix.at(first + r, start + i);
                            }
                        }
                        row[width..].fill(0.0);
                        for at in (0..2 * PANEL).step_by(S::LANES) {
                            // SAFETY: both have 2·PANEL elements, a multiple of LANES.
                            unsafe { isa.store_bf16(rounded.as_mut_ptr().add(at), isa.load(row.as_ptr().add(at))) };
                        }
                        for (pair, halves) in rounded[..width.next_multiple_of(2)].chunks_exact(2).enumerate() {
                            let bits = u32::from(halves[0]) | u32::from(halves[1]) << 16;
                            to[(start / 2 + pair) * count + r] = f32::from_bits(bits);
                        }
                    }
                }
            }
        }
    }
}
