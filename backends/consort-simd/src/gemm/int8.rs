//! Products of quantised activations with codes of quantised weights, in whole numbers block by block.
//!
//! With activations `s_x · x` and weights `s · (c − o) − m` in blocks of inputs that share both scales,
//!
//! `out = Σ_blocks s_x · (s · (Σ c·x − o · Σ x) − m · Σ x)`,
//!
//! the sums over codes exact in 32 bits, the sum over blocks one ascending chain in f32. Codes c are from 0 to 255 and x from
//! −127 to 127, which is what `vpdpbusd` multiplies.

use std::ops::Range;

use consort_core::Result;

use super::{Epilogue, Finish, PANEL, TASK_BYTES, left::balanced};
use crate::{
    Simd,
    isa::{Isa, Kernel},
    quantize::quantize_row,
    scratch::{Scratch, with_scratch},
    storage::{Buffer, Rows, filled},
    team::Parts,
};

/// Inputs that share an activation's scale.
pub(crate) const BLOCK: usize = 32;
/// Inputs whose sum of codes is kept: the smallest sub-block of weights.
const SUM: usize = 16;
/// Words of four codes in a block.
const WORDS: usize = BLOCK / 4;
/// Blocks that are unpacked at once.
pub(crate) const CHUNK_BLOCKS: usize = 8;
/// Elements of scratch for a chunk: codes, scales and minima of sub-blocks of 16 at most.
pub(crate) const CHUNK_SCRATCH: usize = CHUNK_BLOCKS * PANEL * (WORDS + 2 + 2);
/// Rows of a task.
const BLOCK_ROWS: usize = 256;

/// The right operand: weights in blocks.
pub(crate) trait Int8Panels: Sync {
    /// Inputs that share a scale of the weights: 16 or 32.
    const SUB: usize;
    /// What is taken off each code.
    const OFFSET: i32;
    /// Whether there are minima.
    const MINIMA: bool;

    /// Blocks `range` of a panel; at most [`CHUNK_BLOCKS`], beginning at a multiple of it.
    fn blocks<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> Blocks<'a>;
}

/// Some blocks of a panel.
pub(crate) struct Blocks<'a> {
    /// `[blocks, WORDS, PANEL]` words of four codes, blocks `code_stride` bytes apart.
    pub(crate) codes: &'a [u8],
    pub(crate) code_stride: usize,
    /// `[blocks, 32/SUB, PANEL]`.
    pub(crate) scales: &'a [f32],
    /// As scales; empty where there are none.
    pub(crate) minima: &'a [f32],
}

/// The left operand: quantised activations, in groups of rows.
pub(crate) struct Quantized {
    /// `[blocks · WORDS, rows]` a group.
    codes: Buffer,
    /// `[blocks, rows]` a group.
    scales: Buffer,
    /// `[2 · blocks, rows]` a group: sums of 16 codes, as they are.
    sums: Buffer,
    rows: usize,
    blocks: usize,
    group_rows: usize,
}

impl Quantized {
    /// Quantises rows as the contract defines.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(simd: &Simd, x: Rows<'_>) -> Result<Self> {
        let (rows, blocks) = (x.count, x.width.div_ceil(BLOCK));
        let group_rows = balanced(rows, simd.level.int8_rows());
        let mut codes = simd.pool.take::<u32>(rows * blocks * WORDS)?;
        let mut scales = simd.pool.take::<f32>(rows * blocks)?;
        let mut sums = simd.pool.take::<u32>(rows * blocks * 2)?;
        let to = [Parts::new(filled::<u32>(&mut codes)?), Parts::new(filled::<u32>(&mut sums)?)];
        let to_scales = Parts::new(filled::<f32>(&mut scales)?);
        let groups = rows.div_ceil(group_rows.max(1));
        let grain = (8 << 10) / (group_rows * x.width).max(1) + 1;
        simd.team.ranges(groups, grain, |range| {
            for group in range {
                let first = group * group_rows;
                let count = group_rows.min(rows - first);
                let part = |each: usize| first * each..(first + count) * each;
                // SAFETY: groups do not meet.
                let (codes, sums, scales) = unsafe {
                    (to[0].part(part(blocks * WORDS)), to[1].part(part(blocks * 2)), to_scales.part(part(blocks)))
                };
                simd.level.run(Pack { x, first, count, codes, sums, scales });
            }
        });
        Ok(Self { codes, scales, sums, rows, blocks, group_rows })
    }
}

struct Pack<'a> {
    x: Rows<'a>,
    first: usize,
    count: usize,
    codes: &'a mut [u32],
    sums: &'a mut [u32],
    scales: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { x, first, count, codes, sums, scales } = self;
        // Some blocks at a time.
        let mut row_codes = [0i8; 16 * BLOCK];
        let mut row_scales = [0f32; 16];
        for r in 0..count {
            let row = x.row(first + r);
            for (piece, row) in row.chunks(16 * BLOCK).enumerate() {
                let blocks = row.len().div_ceil(BLOCK);
                row_codes[row.len()..blocks * BLOCK].fill(0);
                quantize_row(isa, row, &mut row_codes[..row.len()], &mut row_scales[..blocks]);
                let at = piece * 16;
                for block in 0..blocks {
                    scales[(at + block) * count + r] = row_scales[block];
                    let block_codes = &row_codes[block * BLOCK..][..BLOCK];
                    for (word, four) in block_codes.chunks_exact(4).enumerate() {
                        let four = [four[0], four[1], four[2], four[3]].map(i8::cast_unsigned);
                        codes[((at + block) * WORDS + word) * count + r] = u32::from_ne_bytes(four);
                    }
                    for (half, some) in block_codes.chunks_exact(SUM).enumerate() {
                        let sum: i32 = some.iter().map(|&code| i32::from(code)).sum();
                        sums[((at + block) * 2 + half) * count + r] = sum.cast_unsigned();
                    }
                }
            }
        }
    }
}

/// `left` times `right` into `out` `[rows, columns]`.
pub(crate) fn int8_product<P: Int8Panels>(
    simd: &Simd,
    left: &Quantized,
    right: &P,
    columns: usize,
    out: &mut [f32],
    epilogue: &Epilogue<'_>,
) {
    let panels = columns.div_ceil(PANEL);
    let blocks = left.rows.div_ceil(BLOCK_ROWS).max(1);
    let panel_bytes = left.blocks * BLOCK * PANEL;
    let together = (TASK_BYTES / (panel_bytes * left.rows.clamp(1, BLOCK_ROWS)).max(1)).clamp(1, panels.max(1));
    let runs = panels.div_ceil(together);
    let groups = left.rows.div_ceil(left.group_rows.max(1));
    let out = Parts::new(out);
    simd.team.each(runs * blocks, |task| {
        let (run, block) = (task / blocks, task % blocks);
        let panels = run * together..((run + 1) * together).min(panels);
        let groups = groups * block / blocks..groups * (block + 1) / blocks;
        let rows = groups.start * left.group_rows..(groups.end * left.group_rows).min(left.rows);
        with_scratch(rows.len() * PANEL, CHUNK_SCRATCH, |scratch| {
            let out = &out;
            simd.level.run(Task { left, right, columns, out, epilogue, panels, groups, rows, scratch });
        });
    });
}

struct Task<'a, P> {
    left: &'a Quantized,
    right: &'a P,
    columns: usize,
    out: &'a Parts<f32>,
    epilogue: &'a Epilogue<'a>,
    panels: Range<usize>,
    groups: Range<usize>,
    rows: Range<usize>,
    scratch: Scratch<'a>,
}

impl<P: Int8Panels> Kernel for Task<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { left, right, columns, out, epilogue, panels, groups, rows, scratch } = self;
        let Scratch { sums, chunk } = scratch;
        let words = left.codes.elements::<u32>().unwrap_or(&[]);
        let scales = left.scales.elements::<f32>().unwrap_or(&[]);
        let code_sums = left.sums.elements::<u32>().unwrap_or(&[]);
        {
            for panel in panels {
                sums.fill(0.0);
                for start in (0..left.blocks).step_by(CHUNK_BLOCKS) {
                    let range = start..(start + CHUNK_BLOCKS).min(left.blocks);
                    let some = right.blocks(isa, panel, range.clone(), chunk);
                    for group in groups.clone() {
                        let first = group * left.group_rows;
                        let count = left.group_rows.min(left.rows - first);
                        let part = |each: usize, from: usize| first * each + from * count;
                        let activations = Activations {
                            codes: &words[part(left.blocks * WORDS, start * WORDS)..][..range.len() * WORDS * count],
                            scales: &scales[part(left.blocks, start)..][..range.len() * count],
                            sums: &code_sums[part(left.blocks * 2, start * 2)..][..range.len() * 2 * count],
                        };
                        let c = &mut sums[(first - rows.start) * PANEL..][..count * PANEL];
                        let (rows, blocks, a, b, offset) = (count, range.len(), &activations, &some, P::OFFSET);
                        match (P::SUB, P::MINIMA) {
                            (16, false) => isa.apart(Tile::<16, false> { rows, blocks, a, b, offset, c }),
                            (16, true) => isa.apart(Tile::<16, true> { rows, blocks, a, b, offset, c }),
                            (_, false) => isa.apart(Tile::<32, false> { rows, blocks, a, b, offset, c }),
                            (_, true) => isa.apart(Tile::<32, true> { rows, blocks, a, b, offset, c }),
                        }
                    }
                }
                isa.apart(Finish { sums, panel, columns, rows: rows.clone(), out, epilogue });
            }
        }
    }
}

/// Some blocks of a group.
struct Activations<'a> {
    codes: &'a [u32],
    scales: &'a [f32],
    sums: &'a [u32],
}

/// Sums of some blocks, added to `c` `[rows, PANEL]`.
struct Tile<'a, const SUB: usize, const MINIMA: bool> {
    rows: usize,
    blocks: usize,
    a: &'a Activations<'a>,
    b: &'a Blocks<'a>,
    offset: i32,
    c: &'a mut [f32],
}

impl<const SUB: usize, const MINIMA: bool> Kernel for Tile<'_, SUB, MINIMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        macro_rules! by_rows {
            ($($R:literal)*) => {
                match self.rows {
                    $( $R if $R <= S::INT8_ROWS => self.of::<S, $R>(isa), )*
                    _ => debug_assert!(self.rows == 0, "{} rows in a tile", self.rows),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

impl<const SUB: usize, const MINIMA: bool> Tile<'_, SUB, MINIMA> {
    #[inline(always)]
    fn of<S: Isa, const R: usize>(self, isa: S) {
        let Self { blocks, a, b, offset, c, .. } = self;
        let subs = BLOCK / SUB;
        let (words, sums) = (WORDS / subs, 2 / subs);
        assert!(a.codes.len() >= blocks * WORDS * R && a.scales.len() >= blocks * R && a.sums.len() >= blocks * 2 * R);
        assert!(c.len() >= R * PANEL && b.scales.len() >= blocks * subs * PANEL);
        assert!(blocks == 0 || b.codes.len() >= (blocks - 1) * b.code_stride + WORDS * PANEL * 4);
        assert!(!MINIMA || b.minima.len() >= blocks * subs * PANEL);
        for first in (0..PANEL).step_by(2 * S::LANES) {
            for sub in 0..blocks * subs {
                let block = sub / subs;
                // SAFETY: what is read and written lies inside the slices, whose lengths were checked; PANEL is a multiple of
                // twice the lanes.
                unsafe {
                    let codes = b.codes.as_ptr().add(block * b.code_stride).cast::<i32>();
                    let codes = codes.add(sub % subs * words * PANEL + first);
                    let x = a.codes.as_ptr().add((block * subs + sub % subs) * words * R).cast::<i32>();
                    let sum_at = a.sums.as_ptr().add((block * 2 + sub % subs * sums) * R).cast::<i32>();
                    let mut dots = [[isa.splat_i(0); 2]; R];
                    if !MINIMA {
                        for (r, dots) in dots.iter_mut().enumerate() {
                            *dots = [isa.splat_i(-offset * sum_of::<SUB>(sum_at, r, R)); 2];
                        }
                    }
                    for word in 0..words {
                        let at = codes.add(word * PANEL);
                        let columns = [isa.load_i(at), isa.load_i(at.add(S::LANES))];
                        for (r, dots) in dots.iter_mut().enumerate() {
                            let x = isa.splat_i(*x.add(word * R + r));
                            dots[0] = isa.dot_u8_i8(dots[0], columns[0], x);
                            dots[1] = isa.dot_u8_i8(dots[1], columns[1], x);
                        }
                    }
                    for half in 0..2 {
                        let column = first + half * S::LANES;
                        let scale = isa.load(b.scales.as_ptr().add(sub * PANEL + column));
                        for (r, dots) in dots.iter().enumerate() {
                            let x_scale = isa.splat(*a.scales.as_ptr().add(block * R + r));
                            let at = c.as_mut_ptr().add(r * PANEL + column);
                            let dot = isa.to_f(dots[half]);
                            let sum = isa.load(at);
                            let sum = if MINIMA {
                                let minimum = isa.load(b.minima.as_ptr().add(sub * PANEL + column));
                                let off = isa.mul(minimum, isa.splat(sum_of::<SUB>(sum_at, r, R) as f32));
                                let dot = isa.sub(isa.mul(scale, dot), off);
                                isa.mul_add(dot, x_scale, sum)
                            } else {
                                isa.mul_add(isa.mul(scale, dot), x_scale, sum)
                            };
                            isa.store(at, sum);
                        }
                    }
                }
            }
        }
    }
}

/// The sum of a sub-block's codes of row r: of 16, or of twice 16, `rows` apart.
///
/// # Safety
/// There must be as many.
#[inline(always)]
unsafe fn sum_of<const SUB: usize>(sums: *const i32, r: usize, rows: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { if SUB == 16 { *sums.add(r) } else { *sums.add(r) + *sums.add(rows + r) } }
}
