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

use super::{BLOCK_ROWS, Epilogue, Finish, PANEL, TASK_BYTES, left::balanced};
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
/// Words of four codes in a block.
const WORDS: usize = BLOCK / 4;
/// Blocks that are unpacked at once.
pub(crate) const CHUNK_BLOCKS: usize = 8;
/// Elements of scratch for a chunk: codes, scales and minima of sub-blocks of 16 at most.
pub(crate) const CHUNK_SCRATCH: usize = CHUNK_BLOCKS * PANEL * (WORDS + 2 + 2);

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
    /// `[32/SUB · blocks, rows]` a group: what a sub-block's sum starts from, `−o · Σ x`; with minima, `Σ x` in f32.
    starts: Buffer,
    rows: usize,
    blocks: usize,
    group_rows: usize,
}

impl Quantized {
    /// Quantises rows as the contract defines, to be multiplied with weights of P.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new<P: Int8Panels>(simd: &Simd, x: Rows<'_>, _: &P) -> Result<Self> {
        let subs = BLOCK / P::SUB;
        let (rows, blocks) = (x.count, x.width.div_ceil(BLOCK));
        let group_rows = balanced(rows, simd.level.int8_rows());
        let mut codes = simd.pool.take::<u32>(rows * blocks * WORDS)?;
        let mut scales = simd.pool.take::<f32>(rows * blocks)?;
        let mut starts = simd.pool.take::<u32>(rows * blocks * subs)?;
        let to = [Parts::new(filled::<u32>(&mut codes)?), Parts::new(filled::<u32>(&mut starts)?)];
        let to_scales = Parts::new(filled::<f32>(&mut scales)?);
        let groups = rows.div_ceil(group_rows.max(1));
        let grain = (8 << 10) / (group_rows * x.width).max(1) + 1;
        simd.team.ranges(groups, grain, |range| {
            for group in range {
                let first = group * group_rows;
                let count = group_rows.min(rows - first);
                let part = |each: usize| first * each..(first + count) * each;
                // SAFETY: groups do not meet.
                let (codes, starts, scales) = unsafe {
                    (to[0].part(part(blocks * WORDS)), to[1].part(part(blocks * subs)), to_scales.part(part(blocks)))
                };
                let of = Starts { sub: P::SUB, offset: P::OFFSET, minima: P::MINIMA };
                simd.level.run(Pack { x, first, count, codes, starts, scales, of });
            }
        });
        Ok(Self { codes, scales, starts, rows, blocks, group_rows })
    }
}

struct Pack<'a> {
    x: Rows<'a>,
    first: usize,
    count: usize,
    codes: &'a mut [u32],
    starts: &'a mut [u32],
    scales: &'a mut [f32],
    of: Starts,
}

/// What [`Quantized::starts`] are of.
struct Starts {
    sub: usize,
    offset: i32,
    minima: bool,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { x, first, count, codes, starts, scales, of } = self;
        let subs = BLOCK / of.sub;
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
                    for (sub, some) in block_codes.chunks_exact(of.sub).enumerate() {
                        let mut sum = 0;
                        for &code in some {
                            sum += i32::from(code);
                        }
                        starts[((at + block) * subs + sub) * count + r] = match of.minima {
                            true => (sum as f32).to_bits(),
                            false => (-of.offset * sum).cast_unsigned(),
                        };
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
        let starts = left.starts.elements::<u32>().unwrap_or(&[]);
        let subs = BLOCK / P::SUB;
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
                            starts: &starts[part(left.blocks * subs, start * subs)..][..range.len() * subs * count],
                        };
                        let c = &mut sums[(first - rows.start) * PANEL..][..count * PANEL];
                        let (rows, blocks, a, b) = (count, range.len(), &activations, &some);
                        match (P::SUB, P::MINIMA) {
                            (16, false) => isa.apart(Tile::<16, false> { rows, blocks, a, b, c }),
                            (16, true) => isa.apart(Tile::<16, true> { rows, blocks, a, b, c }),
                            (_, false) => isa.apart(Tile::<32, false> { rows, blocks, a, b, c }),
                            (_, true) => isa.apart(Tile::<32, true> { rows, blocks, a, b, c }),
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
    starts: &'a [u32],
}

/// Sums of some blocks, added to `c` `[rows, PANEL]`.
struct Tile<'a, const SUB: usize, const MINIMA: bool> {
    rows: usize,
    blocks: usize,
    a: &'a Activations<'a>,
    b: &'a Blocks<'a>,
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
        let Self { blocks, a, b, c, .. } = self;
        let subs = BLOCK / SUB;
        let words = WORDS / subs;
        assert!(
            a.codes.len() >= blocks * WORDS * R && a.scales.len() >= blocks * R && a.starts.len() >= blocks * subs * R
        );
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
                    let starts = a.starts.as_ptr().add(sub * R).cast::<i32>();
                    let mut dots = [[isa.splat_i(0); 2]; R];
                    if !MINIMA {
                        for (r, dots) in dots.iter_mut().enumerate() {
                            *dots = [isa.splat_i(*starts.add(r)); 2];
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
                                let off = isa.mul(minimum, isa.splat(*starts.add(r).cast::<f32>()));
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
