//! A few rows of queries over a chunk of [`CHUNK`] positions: scores, their exponentials, the weighted sum of values.
//!
//! Chunks begin at fixed positions and are merged in ascending order, and within one every sum goes up by position: a row's
//! bits depend on what it sees, and on nothing else. Keys that a row does not see are bounded out of every sum.

use std::ops::Range;

use super::{attend::Sequences, panels::Panels};
use crate::{
    gemm::{PANEL, tile},
    isa::Isa,
    math,
};

/// Positions whose scores are held at once. A multiple of [`PANEL`].
pub(crate) const CHUNK: usize = 256;
/// Most rows of a tile of any instruction set.
pub(crate) const MOST_ROWS: usize = 14;
/// From one channel of the packed queries to the next.
pub(super) const QUERIES: usize = 16;

/// What turns a product into a score.
#[derive(Clone, Copy)]
pub(crate) struct Score {
    pub(crate) scale: f32,
    pub(crate) soft_cap: Option<f32>,
}

/// Rows of a tile: which keys each sees, and its biases.
pub(super) struct TileRows<'a> {
    pub(super) count: usize,
    /// Ranges of positions whose starts and ends go up.
    pub(super) seen: [Range<usize>; MOST_ROWS],
    /// A head's biases, and where in them position 0 would be.
    pub(super) bias: [(&'a [f32], i64); MOST_ROWS],
}

/// Rows `[C padded, greatest score, sum of exponentials]` of a chunk, or of some merged.
pub(super) struct Partial {
    /// Where the greatest score is; the sum follows.
    pub(super) greatest: usize,
    /// From row to row.
    pub(super) stride: usize,
}

impl Partial {
    pub(super) fn new(panels: &Panels) -> Self {
        Self { greatest: panels.padded(), stride: panels.padded() + 16 }
    }
}

/// Packs rows of C into `[C][QUERIES]`.
#[inline(always)]
pub(super) fn pack_queries<'a>(queries: &mut [f32], count: usize, row: impl Fn(usize) -> &'a [f32]) {
    for index in 0..count {
        for (to, &from) in queries.chunks_exact_mut(QUERIES).zip(row(index)) {
            to[index] = from;
        }
    }
}

/// What a chunk's computation reads and where it works.
pub(super) struct ChunkOf<'a> {
    pub(super) panels: Panels,
    pub(super) score: Score,
    pub(super) sequences: &'a dyn Sequences,
    pub(super) sequence: usize,
    /// Key/value head.
    pub(super) head: usize,
    /// `[C][QUERIES]`.
    pub(super) queries: &'a [f32],
}

impl ChunkOf<'_> {
    /// Rows of [`Partial`] into `out` for the chunk that begins at `first`. `scores` has room for `[MOST_ROWS][CHUNK]`.
    #[inline(always)]
    pub(super) fn run<S: Isa>(&self, isa: S, rows: &TileRows<'_>, first: usize, scores: &mut [f32], out: &mut [f32]) {
        let local = |position: usize| position.saturating_sub(first).min(CHUNK);
        let mut seen: [Range<usize>; MOST_ROWS] = std::array::from_fn(|_| 0..0);
        for (local_seen, range) in seen.iter_mut().zip(&rows.seen).take(rows.count) {
            *local_seen = local(range.start)..local(range.end);
        }
        let seen = &seen[..rows.count];
        let partial = Partial::new(&self.panels);
        assert!(scores.len() >= MOST_ROWS * CHUNK && out.len() >= rows.count * partial.stride, "room for a chunk");
        self.scores(isa, seen, first, scores);
        for (row, range) in seen.iter().enumerate() {
            let (bias, zero) = rows.bias[row];
            let [greatest, sum] =
                softmax(isa, self.score, &mut scores[row * CHUNK..][..CHUNK], range, bias, zero + first as i64);
            let out = &mut out[row * partial.stride..][..partial.stride];
            out[..partial.greatest].fill(0.0);
            out[partial.greatest..][..2].copy_from_slice(&[greatest, sum]);
        }
        self.weighted_sum(isa, seen, first, scores, out, partial.stride);
    }

    /// `q·k` of all pairs that are seen.
    #[inline(always)]
    fn scores<S: Isa>(&self, isa: S, seen: &[Range<usize>], first: usize, scores: &mut [f32]) {
        let mut other = [0f32; MOST_ROWS * PANEL];
        let mut pieces = self.pieces(seen, first);
        while let Some(Piece { at, count, panel }) = pieces.next() {
            // Rows that see anything of it.
            let from = seen.iter().take_while(|range| range.end <= at).count();
            let to = seen.iter().take_while(|range| range.start < at + count).count();
            if from >= to {
                continue;
            }
            let Some((panel, column)) = panel else {
                (from..to).for_each(|row| scores[row * CHUNK + at..][..count].fill(0.0));
                continue;
            };
            // Where the panel fits in, it goes where it belongs.
            let fits = at >= column && at - column + PANEL <= CHUNK && (at - column) % PANEL == 0;
            let (to_scores, stride) =
                if fits { (&mut scores[from * CHUNK + at - column..], CHUNK) } else { (&mut other[..], PANEL) };
            let queries = &self.queries[from..];
            assert!(
                panel.len() >= self.panels.keys()
                    && queries.len() + from >= self.panels.width * QUERIES
                    && to <= QUERIES
                    && to_scores.len() >= (to - from - 1) * stride + PANEL,
                "room for scores"
            );
            // SAFETY: as large as was just asserted; a borrow that changes meets no other.
            unsafe {
                let (a, b, c) = (queries.as_ptr(), panel.as_ptr(), to_scores.as_mut_ptr());
                tile::<S, 1>(isa, to - from, self.panels.width, a, QUERIES, b, c, stride, false);
            }
            if !fits {
                for (row, other) in (from..to).zip(other.chunks_exact(PANEL)) {
                    scores[row * CHUNK + at..][..count].copy_from_slice(&other[column..][..count]);
                }
            }
        }
    }

    /// Adds the values, each times its weight, to the rows of `out`.
    #[inline(always)]
    fn weighted_sum<S: Isa>(
        &self,
        isa: S,
        seen: &[Range<usize>],
        first: usize,
        weights: &[f32],
        out: &mut [f32],
        stride: usize,
    ) {
        let mut pieces = self.pieces(seen, first);
        while let Some(Piece { at, count, panel }) = pieces.next() {
            // Zeros add nothing.
            let Some((panel, column)) = panel else { continue };
            let values = &panel[self.panels.keys()..];
            let mut steps = Staircase::new(at..at + count);
            while let Some((rows, keys)) = steps.next(seen) {
                for (values, out_column) in values.chunks_exact(PANEL * PANEL).zip((0..).step_by(PANEL)) {
                    let values = &values[(column + keys.start - at) * PANEL..];
                    let out = &mut out[rows.start * stride + out_column..];
                    let weights = &weights[rows.start * CHUNK + keys.start..];
                    assert!(
                        values.len() >= keys.len() * PANEL
                            && out.len() >= (rows.len() - 1) * stride + PANEL
                            && weights.len() >= (rows.len() - 1) * CHUNK + keys.len(),
                        "panels and rows"
                    );
                    // SAFETY: as large as was just asserted; a borrow that changes meets no other.
                    unsafe {
                        let (a, b, c) = (weights.as_ptr(), values.as_ptr(), out.as_mut_ptr());
                        tile::<S, CHUNK>(isa, rows.len(), keys.len(), a, 1, b, c, stride, true);
                    }
                }
            }
        }
    }

    /// The positions that any row sees, panel by panel.
    #[inline(always)]
    fn pieces(&self, seen: &[Range<usize>], first: usize) -> Pieces<'_> {
        let at = seen.iter().map(|range| range.start).min().unwrap_or(0);
        let end = seen.iter().map(|range| range.end).max().unwrap_or(0);
        Pieces { of: self, first, at, end }
    }
}

/// What lies together of a chunk.
struct Piece<'a> {
    /// Place in the chunk.
    at: usize,
    count: usize,
    /// The panel, and in which column it begins; `None` where a block is missing, which stands for zeros.
    panel: Option<(&'a [f32], usize)>,
}

struct Pieces<'a> {
    of: &'a ChunkOf<'a>,
    first: usize,
    at: usize,
    end: usize,
}

impl<'a> Pieces<'a> {
    #[inline(always)]
    fn next(&mut self) -> Option<Piece<'a>> {
        if self.at >= self.end {
            return None;
        }
        let at = self.at;
        let (panel, column, held) = self.of.sequences.piece(self.of.sequence, self.of.head, self.first + at);
        let count = held.clamp(1, self.end - at);
        self.at += count;
        Some(Piece { at, count, panel: panel.map(|panel| (panel, column)) })
    }
}

/// Runs of keys that the same rows see: starts and ends of what rows see go up, so that these rows follow each other.
pub(crate) struct Staircase {
    keys: Range<usize>,
    rows: Range<usize>,
}

impl Staircase {
    #[inline(always)]
    pub(crate) fn new(keys: Range<usize>) -> Self {
        Self { keys, rows: 0..0 }
    }

    /// Rows, and the keys that all of them see; `seen` is the same in every call.
    #[inline(always)]
    pub(crate) fn next(&mut self, seen: &[Range<usize>]) -> Option<(Range<usize>, Range<usize>)> {
        while self.keys.start < self.keys.end {
            let key = self.keys.start;
            while self.rows.start < seen.len() && seen[self.rows.start].end <= key {
                self.rows.start += 1;
            }
            while self.rows.end < seen.len() && seen[self.rows.end].start <= key {
                self.rows.end += 1;
            }
            let mut next = self.keys.end;
            if let Some(range) = seen.get(self.rows.start) {
                next = next.min(range.end);
            }
            if let Some(range) = seen.get(self.rows.end) {
                next = next.min(range.start);
            }
            self.keys.start = next;
            if self.rows.start < self.rows.end {
                return Some((self.rows.clone(), key..next));
            }
        }
        None
    }
}

/// Products of a row to exponentials of scores, less the greatest: gives that and their sum. What is not seen becomes 0, where
/// a register reaches over it.
#[inline(always)]
fn softmax<S: Isa>(isa: S, score: Score, row: &mut [f32], seen: &Range<usize>, bias: &[f32], zero: i64) -> [f32; 2] {
    if seen.is_empty() {
        return [f32::NEG_INFINITY, 0.0];
    }
    let first = seen.start / S::LANES * S::LANES;
    let last = seen.end.next_multiple_of(S::LANES);
    let row = &mut row[first..last];
    let scale = isa.splat(score.scale);
    let least = isa.splat(f32::NEG_INFINITY);
    let lanes = lane_numbers(isa);
    let mut greatest = least;
    for (index, row) in row.chunks_exact_mut(S::LANES).enumerate() {
        let at = first + index * S::LANES;
        let mut x = isa.mul(isa.read(row), scale);
        if let Some(cap) = score.soft_cap {
            let cap = isa.splat(cap);
            x = isa.mul(math::tanh(isa, isa.div(x, cap)), cap);
        }
        if !bias.is_empty() {
            x = isa.add(x, isa.read(bias_at::<S>(bias, zero + at as i64)));
        }
        if at < seen.start || at + S::LANES > seen.end {
            let before = isa.less_i(lanes, isa.splat_i(seen.start as i32 - at as i32));
            let within = isa.less_i(lanes, isa.splat_i((seen.end - at).min(S::LANES) as i32));
            x = isa.select(within, isa.select(before, least, x), least);
        }
        isa.write(row, x);
        // A NaN is passed over here and comes back by its exponential.
        greatest = isa.max(x, greatest);
    }
    let greatest = isa.greatest(greatest);
    // Where all are −∞ their exponentials are 0.
    let shift = isa.splat(if greatest == f32::NEG_INFINITY { 0.0 } else { greatest });
    let mut sum = isa.zero();
    for row in row.chunks_exact_mut(S::LANES) {
        let x = math::exp(isa, isa.sub(isa.read(row), shift));
        sum = isa.add(sum, x);
        isa.write(row, x);
    }
    [greatest, isa.sum(sum)]
}

/// Whether no element is NaN or infinite.
#[inline(always)]
pub(crate) fn is_finite<S: Isa>(isa: S, x: &[f32]) -> bool {
    // x · 0 is 0, or else NaN.
    let mut sums = [isa.zero(); 4];
    for x in x.chunks(4 * S::LANES) {
        for (x, sum) in x.chunks(S::LANES).zip(&mut sums) {
            *sum = isa.mul_add(isa.read(x), isa.zero(), *sum);
        }
    }
    let [a, b, c, d] = sums;
    !isa.any(isa.unordered(isa.add(a, b), isa.add(c, d)))
}

/// LANES biases from `place` on.
#[inline(always)]
pub(crate) fn bias_at<S: Isa>(bias: &[f32], place: i64) -> &[f32] {
    &bias[usize::try_from(place).unwrap_or(0)..][..S::LANES]
}

/// 0, 1, 2, …
#[inline(always)]
pub(crate) fn lane_numbers<S: Isa>(isa: S) -> S::I {
    const NUMBERS: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const { assert!(S::LANES <= 16) };
    // SAFETY: there are no more lanes.
    unsafe { isa.load_i(NUMBERS.as_ptr()) }
}

/// Merges a later chunk's row into what is there.
#[inline(always)]
pub(super) fn merge<S: Isa>(isa: S, into: &mut [f32], part: &[f32], greatest: usize) {
    let [a, b] = [into[greatest], part[greatest]];
    let both = if a > b { a } else { b };
    let shift = if both == f32::NEG_INFINITY { 0.0 } else { both };
    // Of −∞ it is 0, and so is what it multiplies.
    let of_into = math::exp(isa, isa.splat(a - shift));
    let of_part = math::exp(isa, isa.splat(b - shift));
    let sums =
        isa.add(isa.mul(isa.splat(into[greatest + 1]), of_into), isa.mul(isa.splat(part[greatest + 1]), of_part));
    into[greatest] = both;
    into[greatest + 1] = isa.greatest(sums);
    for (into, part) in into[..greatest].chunks_exact_mut(S::LANES).zip(part[..greatest].chunks_exact(S::LANES)) {
        let x = isa.mul_add(isa.read(part), of_part, isa.mul(isa.read(into), of_into));
        isa.write(into, x);
    }
}
