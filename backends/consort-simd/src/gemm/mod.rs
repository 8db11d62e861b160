//! Matrix products over panels: [`PANEL`] columns side by side, row after row of the reduced dimension.
//!
//! `out[r, n] = f(Σ a[r, i] · b[i, n] + bias[n]) + residual[r, n]`. Rows go in groups of at most [`Isa::TILE_ROWS`], packed
//! `[steps, rows]`; a task is a panel times a block of rows. Sums lie in a strip `[rows, PANEL]` between chunks of the
//! reduced dimension, so that every output is one chain in ascending order however it is cut.

mod int8;
mod left;
mod made;
mod strided;
pub(crate) mod tile;

use std::ops::Range;

use consort_core::{Result, config::Activation};

pub(crate) use self::{
    int8::{BLOCK as INT8_BLOCK, Blocks as Int8Blocks, CHUNK_BLOCKS, Int8Panels, Quantized, int8_product},
    left::{Left, Matrix},
    strided::{Strided, pair},
    tile::tile,
};
use self::{made::Made, tile::tile_pairs};
use crate::{
    Simd,
    activation::activate,
    isa::{Isa, Kernel},
    scratch::{Scratch, with_scratch},
    storage::Rows,
    team::Parts,
};

/// Columns of a panel: outputs of a weight, keys of a cache's block.
pub(crate) const PANEL: usize = 32;
/// Steps of the reduced dimension that are taken through all rows of a block before the next: half of a small first-level
/// cache. A multiple of every block of weights but the largest.
const CHUNK: usize = 128;
/// Rows of a block: a strip of sums stays in the second-level cache.
const BLOCK_ROWS: usize = 256;
/// Most bytes of panels that are made once for all blocks of rows, where they do not lie ready.
const MADE_BYTES: usize = 16 << 20;
/// Bytes of panels that are worth a task of their own.
const TASK_BYTES: usize = 32 << 10;

/// The right operand, a panel at a time.
pub(crate) trait Panels: Sync {
    /// Whether steps are pairs of bf16 in the bits of an f32.
    const PAIRS: bool;
    /// Whether [`chunk`](Self::chunk) gives what lies in memory, so that any number of steps costs the same.
    const DIRECT: bool;

    /// Steps `range` of a panel, `[steps, PANEL]`: as they lie, or made in `scratch`, which has as many elements and an even
    /// number of rows. A range begins at a multiple of 32 and is as long as one, or ends with the last step.
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32];
}

/// What becomes of a sum.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Of each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// f.
    pub(crate) activation: Option<Activation>,
    /// Of the output's shape.
    pub(crate) residual: Option<Rows<'a>>,
}

/// `left` times `right` into `out` `[rows, columns]`.
///
/// # Errors
/// None but out of memory.
pub(crate) fn product<P: Panels>(
    simd: &Simd,
    left: &Left,
    right: &P,
    columns: usize,
    out: &mut [f32],
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    let panels = columns.div_ceil(PANEL);
    if !P::DIRECT && left.rows > BLOCK_ROWS && panels * left.steps * PANEL * size_of::<f32>() <= MADE_BYTES {
        match P::PAIRS {
            true => of_panels(simd, left, &Made::<true>::new(simd, right, panels, left.steps)?, columns, out, epilogue),
            false => {
                of_panels(simd, left, &Made::<false>::new(simd, right, panels, left.steps)?, columns, out, epilogue)
            }
        }
    } else {
        of_panels(simd, left, right, columns, out, epilogue);
    }
    Ok(())
}

fn of_panels<P: Panels>(simd: &Simd, left: &Left, right: &P, columns: usize, out: &mut [f32], epilogue: &Epilogue<'_>) {
    let rows = left.rows;
    let panels = columns.div_ceil(PANEL);
    let blocks = rows.div_ceil(BLOCK_ROWS).max(1);
    // Few rows: several small panels make a task. Many: each panel and block is one.
    let panel_bytes = left.steps * PANEL * size_of::<f32>();
    let together = (TASK_BYTES / (panel_bytes * rows.clamp(1, BLOCK_ROWS)).max(1)).clamp(1, panels.max(1));
    let runs = panels.div_ceil(together);
    let out = Parts::new(out);
    simd.team.each(runs * blocks, |task| {
        let (run, block) = (task / blocks, task % blocks);
        let panels = run * together..((run + 1) * together).min(panels);
        let groups = left.groups_of(block, blocks);
        let rows = left.rows_of(groups.clone());
        with_scratch(rows.len() * PANEL, CHUNK * PANEL, |scratch| {
            let out = &out;
            simd.level.run(Task { left, right, columns, out, epilogue, panels, groups, rows, scratch });
        });
    });
}

/// Some panels times some groups of rows.
struct Task<'a, P> {
    left: &'a Left,
    right: &'a P,
    columns: usize,
    out: &'a Parts<f32>,
    epilogue: &'a Epilogue<'a>,
    panels: Range<usize>,
    groups: Range<usize>,
    rows: Range<usize>,
    scratch: Scratch<'a>,
}

impl<P: Panels> Kernel for Task<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { left, right, columns, out, epilogue, panels, groups, rows, scratch } = self;
        let Scratch { sums, chunk } = scratch;
        for panel in panels {
            sums_of(isa, left, right, panel, &groups, &rows, sums, chunk);
            isa.apart(Finish { sums, panel, columns, rows: rows.clone(), out, epilogue });
        }
    }
}

/// Sums of a panel, `[rows, PANEL]`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a task's parts")]
fn sums_of<S: Isa, P: Panels>(
    isa: S,
    left: &Left,
    right: &P,
    panel: usize,
    groups: &Range<usize>,
    rows: &Range<usize>,
    sums: &mut [f32],
    chunk: &mut [f32],
) {
    let steps = left.steps;
    // What is cut by the number of rows must not be cut again by its own measure.
    let at_once = if P::DIRECT && groups.len() == 1 && S::OWN_PRODUCTS { steps.max(1) } else { CHUNK };
    if steps == 0 {
        sums.fill(0.0);
    }
    for start in (0..steps).step_by(at_once) {
        let range = start..(start + at_once).min(steps);
        let b = right.chunk(isa, panel, range.clone(), chunk);
        debug_assert_eq!(b.len(), range.len() * PANEL);
        for group in groups.clone() {
            let (first, count) = left.group(group);
            let a = left.steps_of(group, range.clone());
            let c = &mut sums[(first - rows.start) * PANEL..][..count * PANEL];
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: `a` has `count` elements a step, `b` a row of PANEL, `c` `count` rows of PANEL; `c` is ours alone.
            unsafe {
                match P::PAIRS {
                    false if !S::OWN_PRODUCTS => foreign(count, range.len(), a, b, c, start > 0),
                    true => tile_pairs(isa, count, range.len(), a, count, b, c, PANEL, start > 0),
                    false => tile::<S, 1>(isa, count, range.len(), a, count, b, c, PANEL, start > 0),
                }
            }
        }
    }
}

/// As [`tile`], by matrixmultiply: it knows kernels for machines that this crate does not, and every sum is one ascending chain
/// for each run of steps, whatever the number of rows.
///
/// # Safety
/// `a` has `rows` elements a step, `b` a row of PANEL, `c` `rows` rows of PANEL; `c` does not overlap the others.
unsafe fn foreign(rows: usize, steps: usize, a: *const f32, b: *const f32, c: *mut f32, add: bool) {
    let (panel, beta) = (PANEL as isize, if add { 1.0 } else { 0.0 });
    // SAFETY: the caller's promise; element (r, i) of `a` lies at `i · rows + r`.
    unsafe {
        matrixmultiply::sgemm(rows, steps, PANEL, 1.0, a, 1, rows as isize, b, panel, 1, beta, c, panel, 1);
    }
}

/// Sums `[rows, PANEL]` of a panel to their place in `out`, by way of the epilogue.
struct Finish<'a> {
    sums: &'a [f32],
    panel: usize,
    columns: usize,
    rows: Range<usize>,
    out: &'a Parts<f32>,
    epilogue: &'a Epilogue<'a>,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { sums, panel, columns, rows, out, epilogue } = self;
        let first = panel * PANEL;
        let width = PANEL.min(columns - first);
        for (row, sums) in rows.zip(sums.chunks_exact(PANEL)) {
            // SAFETY: tasks write to different panels or rows.
            let out = unsafe { out.part(row * columns + first..row * columns + first + width) };
            let bias = epilogue.bias.map(|bias| &bias[first..first + width]);
            let residual = epilogue.residual.as_ref().map(|residual| &residual.row(row)[first..first + width]);
            for at in (0..width).step_by(S::LANES) {
                let mut x = isa.read(&sums[at..]);
                if let Some(bias) = bias {
                    x = isa.add(x, isa.read(&bias[at..]));
                }
                if let Some(kind) = epilogue.activation {
                    x = activate(isa, kind, x);
                }
                if let Some(residual) = residual {
                    x = isa.add(x, isa.read(&residual[at..]));
                }
                isa.write(&mut out[at..], x);
            }
        }
    }
}
