//! A segment's key/value head: blocks of [`PANEL`] keys by [`PANEL`] pairs of a row and one of the head's query heads.

use std::ops::Range;

use consort_core::operation::Mask;

use crate::{
    attention::{Distances, Panels, Score, Staircase, bias_at, columns, is_finite, lane_numbers, rows, seen_by},
    gemm::{PANEL, tile},
    isa::{Isa, Kernel},
    math,
    storage::Rows,
    team::Parts,
};

/// Elements of a block's scores.
const BLOCK: usize = PANEL * PANEL;

/// What all tasks share.
pub(super) struct HeadTask<'a> {
    pub(super) panels: Panels,
    /// H.
    pub(super) heads: usize,
    pub(super) query: Rows<'a>,
    pub(super) key: Rows<'a>,
    pub(super) value: Rows<'a>,
    pub(super) y: Rows<'a>,
    pub(super) d_y: Rows<'a>,
    /// `[T, H]`.
    pub(super) log_sum: Rows<'a>,
    pub(super) bias: Option<&'a Distances>,
    pub(super) mask: Mask,
    pub(super) score: Score,
    pub(super) d_query: Parts<f32>,
    pub(super) d_key: Parts<f32>,
    pub(super) d_value: Parts<f32>,
    pub(super) d_distances: Option<Parts<f32>>,
}

/// A segment's key/value head.
pub(super) struct Head {
    pub(super) segment: usize,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

/// A block of pairs: operands in both forms, and what its gradient is so far.
struct PairBlock<'a> {
    query_columns: &'a [f32],
    query_rows: &'a [f32],
    d_y_columns: &'a [f32],
    d_y_rows: &'a [f32],
    /// `Σ y·d_y` and the log-sums.
    delta: &'a [f32],
    log_sum: &'a [f32],
    d_query: &'a mut [f32],
}

/// A block of keys.
struct KeyBlock<'a> {
    key_columns: &'a [f32],
    key_rows: &'a [f32],
    value_columns: &'a [f32],
    d_key: &'a mut [f32],
    d_value: &'a mut [f32],
}

/// Scores of a block: probabilities, and the products' cotangents.
struct Scores<'a> {
    p: &'a mut [f32],
    d_z: &'a mut [f32],
}

impl HeadTask<'_> {
    fn group(&self) -> usize {
        self.heads / self.panels.heads.max(1)
    }

    /// Floats of rows as columns of a block, and as rows.
    fn forms(&self) -> [usize; 2] {
        [PANEL * self.panels.width, PANEL * self.panels.padded()]
    }

    fn pair_block(&self) -> usize {
        let [columns, rows] = self.forms();
        2 * columns + 3 * rows + 2 * PANEL
    }

    fn key_block(&self) -> usize {
        let [columns, rows] = self.forms();
        2 * columns + 3 * rows
    }

    /// Floats that a task works in.
    pub(super) fn scratch(&self, head: &Head) -> usize {
        let blocks = (head.queries.len() * self.group()).div_ceil(PANEL);
        blocks * self.pair_block() + self.key_block() + 2 * BLOCK
    }

    /// Row and query head of a pair.
    #[inline(always)]
    fn place(&self, head: &Head, pair: usize) -> (usize, usize) {
        (head.queries.start + pair / self.group(), head.head * self.group() + pair % self.group())
    }

    /// What pairs of a block see, from the segment's first key on.
    #[inline(always)]
    fn seen(&self, head: &Head, first: usize, pairs: usize) -> [Range<usize>; PANEL] {
        let mut seen: [Range<usize>; PANEL] = std::array::from_fn(|_| 0..0);
        for (index, seen) in seen.iter_mut().enumerate().take(pairs) {
            *seen = seen_by(self.mask, (first + index) / self.group(), head.keys.len());
        }
        seen
    }

    /// Packs a block of pairs and finds their δ.
    #[inline(always)]
    fn pack_pairs<S: Isa>(&self, isa: S, head: &Head, first: usize, pairs: usize, block: &mut [f32]) {
        let [size_columns, size_rows] = self.forms();
        let width = self.panels.width;
        block.fill(0.0);
        let (query_columns, block) = block.split_at_mut(size_columns);
        let (query_rows, block) = block.split_at_mut(size_rows);
        let (d_y_columns, block) = block.split_at_mut(size_columns);
        let (d_y_rows, block) = block.split_at_mut(size_rows);
        let (delta, block) = block.split_at_mut(PANEL);
        for index in 0..pairs {
            let (row, query_head) = self.place(head, first + index);
            let [y, d_y] = [&self.y, &self.d_y].map(|x| part(x, row, query_head, width));
            let mut sum = isa.zero();
            for (y, d_y) in y.chunks(S::LANES).zip(d_y.chunks(S::LANES)) {
                sum = isa.mul_add(isa.read(y), isa.read(d_y), sum);
            }
            delta[index] = isa.sum(sum);
            block[index] = self.log_sum.row(row)[query_head];
        }
        let query = |index: usize| {
            let (row, query_head) = self.place(head, first + index);
            part(&self.query, row, query_head, width)
        };
        let d_y = |index: usize| {
            let (row, query_head) = self.place(head, first + index);
            part(&self.d_y, row, query_head, width)
        };
        columns(query_columns, 0, pairs, query);
        rows(query_rows, 0, pairs, query);
        columns(d_y_columns, 0, pairs, d_y);
        rows(d_y_rows, 0, pairs, d_y);
    }

    /// What lies where [`pack_pairs`](Self::pack_pairs) put it.
    #[inline(always)]
    fn pair_parts<'a>(&self, block: &'a mut [f32]) -> PairBlock<'a> {
        let [size_columns, size_rows] = self.forms();
        let (query_columns, block) = block.split_at_mut(size_columns);
        let (query_rows, block) = block.split_at_mut(size_rows);
        let (d_y_columns, block) = block.split_at_mut(size_columns);
        let (d_y_rows, block) = block.split_at_mut(size_rows);
        let (delta, block) = block.split_at_mut(PANEL);
        let (log_sum, d_query) = block.split_at_mut(PANEL);
        PairBlock { query_columns, query_rows, d_y_columns, d_y_rows, delta, log_sum, d_query }
    }

    #[inline(always)]
    fn pack_keys<'a>(&self, head: &Head, first: usize, count: usize, block: &'a mut [f32]) -> KeyBlock<'a> {
        let [size_columns, size_rows] = self.forms();
        let width = self.panels.width;
        block.fill(0.0);
        let (key_columns, block) = block.split_at_mut(size_columns);
        let (key_rows, block) = block.split_at_mut(size_rows);
        let (value_columns, block) = block.split_at_mut(size_columns);
        let (d_key, d_value) = block.split_at_mut(size_rows);
        let key = |index: usize| part(&self.key, head.keys.start + first + index, head.head, width);
        columns(key_columns, 0, count, key);
        rows(key_rows, 0, count, key);
        columns(value_columns, 0, count, |index| part(&self.value, head.keys.start + first + index, head.head, width));
        KeyBlock { key_columns, key_rows, value_columns, d_key, d_value }
    }

    /// All that a pair of blocks adds. `seen` is of the pairs, in the block of keys.
    #[inline(always)]
    fn block<S: Isa>(
        &self,
        isa: S,
        head: &Head,
        seen: &[Range<usize>],
        [first_pair, first_key]: [usize; 2],
        count: usize,
        pairs: &mut PairBlock<'_>,
        keys: &mut KeyBlock<'_>,
        scores: &mut Scores<'_>,
    ) {
        let padded = self.panels.padded();
        products(isa, seen.len(), pairs.query_columns, keys.key_columns, scores.p);
        products(isa, seen.len(), pairs.d_y_columns, keys.value_columns, scores.d_z);
        self.probabilities(isa, head, seen, [first_pair, first_key], pairs, scores);

        let whole = seen.iter().all(|seen| *seen == (0..count));
        let mut seen_by: [Range<usize>; PANEL] = std::array::from_fn(|_| 0..0);
        let (mut of_keys, mut of_pairs) = (None, None);
        // What is not seen has weights of 0, which do away with all but what is not finite.
        let operands = [&*pairs.query_rows, pairs.d_y_rows, keys.key_rows];
        if !whole && !operands.into_iter().all(|x| is_finite(isa, x)) {
            for (key, range) in seen_by.iter_mut().enumerate().take(count) {
                let from = seen.iter().take_while(|seen| seen.end <= key).count();
                let to = seen.iter().take_while(|seen| seen.start <= key).count();
                *range = from.min(to)..to;
            }
            (of_keys, of_pairs) = (Some(&seen_by[..count]), Some(seen));
        }
        add_products::<S, 1>(isa, count, seen.len(), of_keys, scores.p, pairs.d_y_rows, keys.d_value, padded);
        add_products::<S, 1>(isa, count, seen.len(), of_keys, scores.d_z, pairs.query_rows, keys.d_key, padded);
        add_products::<S, PANEL>(isa, seen.len(), count, of_pairs, scores.d_z, keys.key_rows, pairs.d_query, padded);
    }

    /// Products to probabilities and cotangents of products; 0 where nothing is seen.
    #[inline(always)]
    fn probabilities<S: Isa>(
        &self,
        isa: S,
        head: &Head,
        seen: &[Range<usize>],
        [first_pair, first_key]: [usize; 2],
        pairs: &PairBlock<'_>,
        scores: &mut Scores<'_>,
    ) {
        let (scale, one, lanes) = (isa.splat(self.score.scale), isa.splat(1.0), lane_numbers(isa));
        for (index, seen) in seen.iter().enumerate() {
            let (row, query_head) = self.place(head, first_pair + index);
            let [p_row, d_row] = [&mut *scores.p, &mut *scores.d_z].map(|x| &mut x[index * PANEL..][..PANEL]);
            let (delta, log_sum) = (isa.splat(pairs.delta[index]), isa.splat(pairs.log_sum[index]));
            // Where a distance of this row is in a head's biases, and so in their gradients.
            let before = first_key as i64 - (row - head.queries.start) as i64;
            let bias = self.bias.and_then(|bias| Some((bias.of_head(query_head).ok()?, bias.stride())));
            for at in (0..PANEL).step_by(S::LANES) {
                let (p_lanes, d_lanes) = (&mut p_row[at..at + S::LANES], &mut d_row[at..at + S::LANES]);
                if at >= seen.end || at + S::LANES <= seen.start || seen.is_empty() {
                    isa.write(p_lanes, isa.zero());
                    isa.write(d_lanes, isa.zero());
                    continue;
                }
                let mut score = isa.mul(isa.read(p_lanes), scale);
                let mut slope = one;
                if let Some(cap) = self.score.soft_cap {
                    let cap = isa.splat(cap);
                    let tanh = math::tanh(isa, isa.div(score, cap));
                    (score, slope) = (isa.mul(tanh, cap), isa.sub(one, isa.mul(tanh, tanh)));
                }
                if let Some(((bias, zero), _)) = bias {
                    score = isa.add(score, isa.read(bias_at::<S>(bias, zero + before + at as i64)));
                }
                let mut p = math::exp(isa, isa.sub(score, log_sum));
                let mut d_score = isa.mul(p, isa.sub(isa.read(d_lanes), delta));
                let mut d_z = isa.mul(isa.mul(slope, d_score), scale);
                if at < seen.start || at + S::LANES > seen.end {
                    let start = isa.splat_i(seen.start as i32 - at as i32);
                    let end = isa.splat_i((seen.end - at).min(S::LANES) as i32);
                    for x in [&mut p, &mut d_score, &mut d_z] {
                        let from = isa.select(isa.less_i(lanes, start), isa.zero(), *x);
                        *x = isa.select(isa.less_i(lanes, end), from, isa.zero());
                    }
                }
                if let (Some(((_, zero), stride)), Some(sums)) = (bias, &self.d_distances) {
                    let first = (head.segment * self.heads + query_head) * stride;
                    let place = first + usize::try_from(zero + before + at as i64).unwrap_or(0);
                    // SAFETY: distances of a segment's head are one task's.
                    let sums = unsafe { sums.part(place..place + S::LANES) };
                    isa.write(sums, isa.add(isa.read(sums), d_score));
                }
                isa.write(p_lanes, p);
                isa.write(d_lanes, d_z);
            }
        }
    }
}

/// A head of a row.
#[inline(always)]
fn part<'a>(all: &Rows<'a>, row: usize, head: usize, width: usize) -> &'a [f32] {
    if width == 0 { &[] } else { &all.row(row)[head * width..][..width] }
}

/// `c = a · b` of a block: `[C][PANEL]` of so many rows, and `[C][PANEL]`, to `[rows][PANEL]`.
#[inline(always)]
fn products<S: Isa>(isa: S, rows: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(rows <= PANEL && a.len() == b.len() && c.len() >= rows * PANEL, "a block");
    let steps = a.len() / PANEL;
    let each = group::<S>(rows);
    for first in (0..rows).step_by(each) {
        let count = each.min(rows - first);
        let (a, b) = (a[first.min(a.len())..].as_ptr(), b.as_ptr());
        // SAFETY: every step has PANEL elements of `a` and of `b`; as many rows of `c` are there.
        unsafe { tile::<S, 1>(isa, count, steps, a, PANEL, b, c[first * PANEL..].as_mut_ptr(), PANEL, false) };
    }
}

/// `c += a · b` of a block: rows of `a` times `[⌈C/PANEL⌉][PANEL][PANEL]`, to rows of `padded`. Rows of `a`, of `[PANEL][PANEL]`,
/// lie along its columns with an A_ROW of 1, and along its rows with PANEL; where `seen` is given, each takes part in those steps only.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices")]
fn add_products<S: Isa, const A_ROW: usize>(
    isa: S,
    rows: usize,
    steps: usize,
    seen: Option<&[Range<usize>]>,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    padded: usize,
) {
    const { assert!(A_ROW == 1 || A_ROW == PANEL) };
    let a_step = if A_ROW == 1 { PANEL } else { 1 };
    assert!(rows <= PANEL && steps <= PANEL && a.len() >= BLOCK && c.len() >= rows * padded, "a block");
    let each = group::<S>(rows);
    for first in (0..rows).step_by(each) {
        let count = each.min(rows - first);
        let mut stairs = Staircase::new(0..steps);
        let mut whole = (0..count, 0..steps);
        while let Some((in_group, part)) = match seen {
            Some(seen) => stairs.next(&seen[first..first + count]),
            None => (!whole.1.is_empty()).then(|| std::mem::replace(&mut whole, (0..0, 0..0))),
        } {
            let row = first + in_group.start;
            for (b, column) in b.chunks_exact(BLOCK).zip((0..padded).step_by(PANEL)) {
                let a = a[row * A_ROW + part.start * a_step..].as_ptr();
                let b = b[part.start * PANEL..].as_ptr();
                let c = c[row * padded + column..].as_mut_ptr();
                // SAFETY: rows and steps are within PANEL, and so within `a` and `b`; rows of `c` are there, and
                // columns `column..column + PANEL` of each.
                unsafe { tile::<S, A_ROW>(isa, in_group.len(), part.len(), a, a_step, b, c, padded, true) };
            }
        }
    }
}

/// Rows of a tile, so that so many are shared out evenly.
#[inline(always)]
fn group<S: Isa>(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(S::TILE_ROWS).max(1)).max(1)
}

/// A task.
pub(super) struct Run<'a> {
    pub(super) task: &'a HeadTask<'a>,
    pub(super) head: &'a Head,
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { task, head, scratch } = self;
        let (width, padded) = (task.panels.width, task.panels.padded());
        let all_pairs = head.queries.len() * task.group();
        let (pair_blocks, rest) = scratch.split_at_mut(all_pairs.div_ceil(PANEL) * task.pair_block());
        let (key_block, rest) = rest.split_at_mut(task.key_block());
        let (p, d_z) = rest.split_at_mut(BLOCK);
        let mut scores = Scores { p, d_z };
        let pairs_of = |block: usize| block * PANEL..((block + 1) * PANEL).min(all_pairs);
        for (index, block) in pair_blocks.chunks_exact_mut(task.pair_block()).enumerate() {
            task.pack_pairs(isa, head, index * PANEL, pairs_of(index).len(), block);
        }
        for first_key in (0..head.keys.len()).step_by(PANEL) {
            let count = PANEL.min(head.keys.len() - first_key);
            let mut keys = task.pack_keys(head, first_key, count, key_block);
            for (index, block) in pair_blocks.chunks_exact_mut(task.pair_block()).enumerate() {
                let pairs = pairs_of(index);
                let mut seen = task.seen(head, pairs.start, pairs.len());
                for seen in &mut seen {
                    let local = |key: usize| key.saturating_sub(first_key).min(count);
                    *seen = local(seen.start)..local(seen.end);
                }
                let seen = &seen[..pairs.len()];
                if seen.iter().all(Range::is_empty) {
                    continue;
                }
                let at = [pairs.start, first_key];
                task.block(isa, head, seen, at, count, &mut task.pair_parts(block), &mut keys, &mut scores);
            }
            for index in 0..count {
                let at = (head.keys.start + first_key + index) * task.panels.heads + head.head;
                for (to, from) in [(&task.d_key, &*keys.d_key), (&task.d_value, keys.d_value)] {
                    // SAFETY: a key's head is one task's.
                    finish(unsafe { to.part(at * width..(at + 1) * width) }, &from[index * padded..]);
                }
            }
        }
        for (index, block) in pair_blocks.chunks_exact_mut(task.pair_block()).enumerate() {
            let d_query = task.pair_parts(block).d_query;
            for (place, pair) in pairs_of(index).enumerate() {
                let (row, query_head) = task.place(head, pair);
                let at = (row * task.heads + query_head) * width;
                // SAFETY: a row's head is one task's.
                finish(unsafe { task.d_query.part(at..at + width) }, &d_query[place * padded..]);
            }
        }
    }
}

/// Sums to where they belong. A sum that is −0 becomes 0: whether terms of 0 were added or left out shows in that alone.
#[inline(always)]
fn finish(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from + 0.0);
}
