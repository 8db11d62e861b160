//! What attention with and without a cache share: rows of a sequence, a few at a time and a key/value head at a time.
//!
//! The query heads of a key/value head at consecutive positions are the rows of a tile ([`chunk`](super::chunk)). Where there
//! are fewer tiles than threads could use, chunks are computed apart and merged after; the sums are the same.

use std::{cell::RefCell, ops::Range};

use consort_core::{
    Result,
    decompose::visible,
    operation::{AttentionAttributes, Mask},
};

use super::{
    bias::Distances,
    chunk::{CHUNK, ChunkOf, MOST_ROWS, NONE, Partial, QUERIES, Score, TileRows, merge},
    panels::{Panels, columns},
};
use crate::{
    Simd,
    isa::{Isa, Kernel},
    math,
    scratch::with_scratch,
    storage::{Rows, filled},
    team::Parts,
};

/// Products that a task has at least: some microseconds.
const TASK: usize = 1 << 17;
/// What it takes to read a tile's keys, in rows of products.
const READING: usize = 4;

/// Where queries and keys belong.
pub(crate) trait Sequences: Sync {
    /// Position of a row of the queries in its sequence.
    fn position(&self, row: usize) -> usize;
    /// Keys of a sequence.
    fn length(&self, sequence: usize) -> usize;
    /// The panel of a key/value head that holds `position`, the column in it, and how many positions it holds from there on;
    /// no panel where zeros stand for them.
    fn piece(&self, sequence: usize, head: usize, position: usize) -> (Option<&[f32]>, usize, usize);
}

/// Consecutive rows of one sequence, at positions that go up.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) sequence: usize,
    pub(crate) rows: Range<usize>,
}

/// An attention.
pub(crate) struct Attend<'a> {
    pub(crate) sequences: &'a dyn Sequences,
    pub(crate) panels: Panels,
    /// H.
    pub(crate) heads: usize,
    /// `[T, H · C]`.
    pub(crate) query: Rows<'a>,
    pub(crate) bias: Option<Distances>,
    pub(crate) mask: Mask,
    pub(crate) score: Score,
}

/// A tile of one key/value head.
struct Tile {
    sequence: usize,
    /// Row of the queries that its run begins with.
    first: usize,
    head: usize,
    /// Of the run's rows times query heads of this key/value head.
    pairs: Range<usize>,
    /// The tile's chunks.
    chunks: Range<usize>,
}

/// Outputs, of all rows.
struct Out {
    y: Parts<f32>,
    log_sum: Option<Parts<f32>>,
}

/// What a query sees.
pub(crate) fn seen_by(mask: Mask, position: usize, length: usize) -> Range<usize> {
    visible(mask, position.min(usize::MAX - 1), length)
}

/// Distances from queries to the keys that they see, of rows at `positions` with the lengths of their sequences.
pub(crate) fn distances(mask: Mask, rows: impl Iterator<Item = (usize, usize)>) -> Range<i64> {
    let mut all: Option<(i64, i64)> = None;
    for (position, length) in rows {
        let seen = seen_by(mask, position, length);
        if !seen.is_empty() {
            let distance = |key: usize| (key as i64).saturating_sub(position as i64);
            let (start, end) = all.unwrap_or((i64::MAX, i64::MIN));
            all = Some((start.min(distance(seen.start)), end.max(distance(seen.end))));
        }
    }
    all.map_or(0..0, |(start, end)| start..end)
}

impl Score {
    pub(crate) fn new(attributes: &AttentionAttributes) -> Self {
        Self { scale: attributes.scale as f32, soft_cap: attributes.soft_cap.map(|cap| cap as f32) }
    }
}

impl<'a> Attend<'a> {
    /// Outputs `[T, H, C]`, and `[T, H]` where asked for, of the rows of `runs`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](consort_core::Error::OutOfMemory).
    pub(crate) fn run(&self, simd: &Simd, runs: &[Run], y: &mut [f32], log_sum: Option<&mut [f32]>) -> Result<()> {
        let out = Out { y: Parts::new(y), log_sum: log_sum.map(Parts::new) };
        TILES.with(|tiles| {
            // Empty where a caller up the stack has them.
            let mut tiles = tiles.take();
            let work = self.tiles(simd.level.run(TileHeight), runs, &mut tiles);
            let done = self.run_tiles(simd, &tiles, work, &out);
            TILES.set(tiles);
            done
        })
    }

    /// Query heads of a key/value head.
    fn group(&self) -> usize {
        self.heads / self.panels.heads.max(1)
    }

    /// Cuts runs into tiles, head by head; gives how many products that is worth.
    fn tiles(&self, height: usize, runs: &[Run], tiles: &mut Vec<Tile>) -> usize {
        tiles.clear();
        let mut work = 0;
        for run in runs {
            let pairs = run.rows.len() * self.group();
            let each = pairs.div_ceil(pairs.div_ceil(height).max(1)).max(1);
            for head in 0..self.panels.heads {
                for from in (0..pairs).step_by(each) {
                    let pairs = from..(from + each).min(pairs);
                    let seen = |pair: usize| {
                        let position = self.sequences.position(run.rows.start + pair / self.group());
                        seen_by(self.mask, position, self.sequences.length(run.sequence))
                    };
                    let (start, end) = (seen(pairs.start).start, seen(pairs.end - 1).end.max(seen(pairs.start).end));
                    work += 2 * (pairs.len() + READING) * end.saturating_sub(start) * self.panels.width;
                    let chunks = start / CHUNK..end.div_ceil(CHUNK);
                    tiles.push(Tile { sequence: run.sequence, first: run.rows.start, head, pairs, chunks });
                }
            }
        }
        work
    }

    fn run_tiles(&self, simd: &Simd, tiles: &[Tile], work: usize, out: &Out) -> Result<()> {
        let tasks = (work / TASK).clamp(1, tiles.len().max(1));
        let most = tiles.iter().map(|tile| tile.chunks.len()).max().unwrap_or(0);
        let (threads, wanted) = (simd.team.threads(), work / TASK);
        if most > 1 && threads > 1 && tiles.len() < 4 * threads && wanted > tiles.len() {
            return self.run_chunks(simd, tiles, most, out);
        }
        let cut = |task: usize| task * tiles.len() / tasks;
        simd.team.each(tasks, |task| {
            with_scratch(self.scratch(), 0, |memory| {
                let scratch = memory.sums;
                simd.level.run(Whole { attend: self, tiles: &tiles[cut(task)..cut(task + 1)], out, scratch });
            });
        });
        Ok(())
    }

    /// Every chunk by itself, at most `most` of a tile; then they are merged.
    fn run_chunks(&self, simd: &Simd, tiles: &[Tile], most: usize, out: &Out) -> Result<()> {
        let size = MOST_ROWS * Partial::new(&self.panels).stride;
        let mut partials = simd.pool.take::<f32>(tiles.len() * most * size)?;
        let partials = filled::<f32>(&mut partials)?;
        let parts = Parts::new(partials);
        simd.team.each(tiles.len() * most, |task| {
            let tile = &tiles[task / most];
            let chunk = tile.chunks.start + task % most;
            if chunk < tile.chunks.end {
                // SAFETY: each task has its own part.
                let partial = unsafe { parts.part(task * size..(task + 1) * size) };
                with_scratch(self.scratch(), 0, |memory| {
                    let scratch = memory.sums;
                    simd.level.run(One { attend: self, tile, chunk, partial, scratch });
                });
            }
        });
        for (tile, partials) in tiles.iter().zip(partials.chunks_exact_mut(most * size)) {
            simd.level.run(Merge { attend: self, tile, partials, size, out });
        }
        Ok(())
    }

    /// Floats that a task works in: queries, scores, two partial results.
    fn scratch(&self) -> usize {
        self.queries() + MOST_ROWS * CHUNK + 2 * MOST_ROWS * Partial::new(&self.panels).stride
    }

    /// Floats of a tile's queries, at least those of a row.
    fn queries(&self) -> usize {
        self.panels.width.max(1) * QUERIES
    }

    /// What each row of a tile sees, and its biases.
    #[inline(always)]
    fn rows(&self, tile: &Tile) -> TileRows<'_> {
        let mut rows = TileRows { count: tile.pairs.len(), seen: [NONE; MOST_ROWS], bias: [(&[], 0); MOST_ROWS] };
        let length = self.sequences.length(tile.sequence);
        for (index, pair) in tile.pairs.clone().enumerate() {
            let position = self.sequences.position(tile.first + pair / self.group());
            rows.seen[index] = seen_by(self.mask, position, length);
            // A bias that cannot be read is none; it is the operation's own buffer.
            if let Some(Ok((bias, zero))) = self.bias.as_ref().map(|bias| bias.of_head(self.query_head(tile, pair))) {
                rows.bias[index] = (bias, zero - position as i64);
            }
        }
        rows
    }

    #[inline(always)]
    fn query_head(&self, tile: &Tile, pair: usize) -> usize {
        tile.head * self.group() + pair % self.group()
    }

    /// Computes chunks of a tile one after the other and merges them: rows of [`Partial`] at the beginning of `partials`.
    #[inline(always)]
    fn chunks<S: Isa>(&self, isa: S, tile: &Tile, rows: &TileRows<'_>, scratch: &mut [f32], merged: &mut [f32]) {
        let partial = Partial::new(&self.panels);
        let (queries, scratch) = scratch.split_at_mut(self.queries());
        let (scores, next) = scratch.split_at_mut(MOST_ROWS * CHUNK);
        let width = self.panels.width;
        columns::<QUERIES>(queries, 0, rows.count, |index| {
            let pair = tile.pairs.start + index;
            let head = self.query_head(tile, pair);
            // Heads without width have no rows.
            if width == 0 { &[] } else { &self.query.row(tile.first + pair / self.group())[head * width..][..width] }
        });
        let (panels, score, sequences) = (self.panels, self.score, self.sequences);
        let chunk = ChunkOf { panels, score, sequences, sequence: tile.sequence, head: tile.head, queries };
        for index in tile.chunks.clone() {
            let is_first = index == tile.chunks.start;
            let to = if is_first { &mut *merged } else { &mut *next };
            chunk.run(isa, rows, index * CHUNK, scores, to);
            if !is_first {
                self.merge_chunk(isa, tile, rows, index, merged, next, &partial);
            }
        }
    }

    /// Rows of chunk `index`, not the tile's first, into what was merged before.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "two sets of rows")]
    fn merge_chunk<S: Isa>(
        &self,
        isa: S,
        tile: &Tile,
        rows: &TileRows<'_>,
        index: usize,
        merged: &mut [f32],
        next: &[f32],
        partial: &Partial,
    ) {
        let first = index * CHUNK;
        let merged = merged.chunks_exact_mut(partial.stride).zip(next.chunks_exact(partial.stride));
        for ((merged, next), seen) in merged.zip(&rows.seen).take(rows.count) {
            if seen.start >= first + CHUNK || seen.end <= first || seen.is_empty() {
                continue;
            }
            if seen.start >= first || index == tile.chunks.start {
                merged.copy_from_slice(next);
            } else {
                merge(isa, merged, next, partial.greatest);
            }
        }
    }

    /// Outputs of a tile from its merged rows.
    #[inline(always)]
    fn finish<S: Isa>(&self, isa: S, tile: &Tile, rows: &TileRows<'_>, merged: &[f32], out: &Out) {
        let (width, partial) = (self.panels.width, Partial::new(&self.panels));
        for (index, merged) in merged.chunks_exact(partial.stride).enumerate().take(rows.count) {
            let pair = tile.pairs.start + index;
            let at = (tile.first + pair / self.group()) * self.heads + self.query_head(tile, pair);
            // SAFETY: pairs of rows and heads belong to one tile each.
            let y = unsafe { out.y.part(at * width..(at + 1) * width) };
            let [greatest, sum] = [merged[partial.greatest], merged[partial.greatest + 1]];
            let is_seen = !rows.seen[index].is_empty();
            if is_seen {
                let sum = isa.splat(sum);
                for (y, x) in y.chunks_mut(S::LANES).zip(merged.chunks_exact(S::LANES)) {
                    // −0 becomes 0: whether terms of 0 were added or left out shows in that alone.
                    isa.write(y, isa.add(isa.div(isa.read(x), sum), isa.zero()));
                }
            } else {
                y.fill(0.0);
            }
            if let Some(log_sum) = &out.log_sum {
                // SAFETY: as above.
                let log_sum = unsafe { log_sum.part(at..at + 1) };
                let log = isa.greatest(math::log(isa, isa.splat(sum)));
                // Scores that are all −∞ have none: their exponentials are 0 / 0.
                let all = if greatest == f32::NEG_INFINITY { f32::NAN } else { greatest + log };
                log_sum[0] = if is_seen { all } else { 0.0 };
            }
        }
    }
}

/// The greatest height of a tile.
pub(crate) struct TileHeight;

impl Kernel for TileHeight {
    type Output = usize;

    #[inline(always)]
    fn run<S: Isa>(self, _: S) -> usize {
        S::TILE_ROWS
    }
}

/// Tiles, whole.
struct Whole<'a> {
    attend: &'a Attend<'a>,
    tiles: &'a [Tile],
    out: &'a Out,
    scratch: &'a mut [f32],
}

impl Kernel for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let size = MOST_ROWS * Partial::new(&self.attend.panels).stride;
        let (merged, scratch) = self.scratch.split_at_mut(size);
        for tile in self.tiles {
            let rows = self.attend.rows(tile);
            self.attend.chunks(isa, tile, &rows, scratch, merged);
            self.attend.finish(isa, tile, &rows, merged, self.out);
        }
    }
}

/// One chunk of a tile.
struct One<'a> {
    attend: &'a Attend<'a>,
    tile: &'a Tile,
    chunk: usize,
    partial: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Kernel for One<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Tile { sequence, first, head, ref pairs, .. } = *self.tile;
        let tile = Tile { sequence, first, head, pairs: pairs.clone(), chunks: self.chunk..self.chunk + 1 };
        let rows = self.attend.rows(&tile);
        self.attend.chunks(isa, &tile, &rows, self.scratch, self.partial);
    }
}

/// Chunks of a tile that were computed apart, each with `size` floats.
struct Merge<'a> {
    attend: &'a Attend<'a>,
    tile: &'a Tile,
    partials: &'a mut [f32],
    size: usize,
    out: &'a Out,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let (attend, tile) = (self.attend, self.tile);
        let (rows, partial) = (attend.rows(tile), Partial::new(&attend.panels));
        let (merged, others) = self.partials.split_at_mut(self.size);
        for (index, next) in (tile.chunks.start + 1..tile.chunks.end).zip(others.chunks_exact(self.size)) {
            attend.merge_chunk(isa, tile, &rows, index, merged, next, &partial);
        }
        attend.finish(isa, tile, &rows, merged, self.out);
    }
}

thread_local! {
    /// Room for tiles, kept between calls.
    static TILES: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
}
