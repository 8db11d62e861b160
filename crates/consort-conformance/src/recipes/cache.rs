//! `cache_write` and `cache_copy`: blocks in any order, several sequences, positions that were let go; NaN in what is
//! replaced.

use consort_core::cache::{CachePlan, FREED};
use proptest::prelude::*;
use serde_json::json;

use super::{
    Family, LENGTHS, Sweep,
    draw::{Draw, TAME, shuffled},
    finished,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const CACHE_WRITE: Family = Family { op: "cache_write", draw, sweep, strategy };
pub(super) const CACHE_COPY: Family =
    Family { op: "cache_copy", draw: draw_copy, sweep: sweep_copy, strategy: strategy_copy };

const FILLS: &[Fill] = &[Fill::Normal, Fill::Masked, Fill::Special];

/// A plan as an attribute: rows are (sequence, position), sequences (blocks, length).
pub(super) fn plan(block: usize, rows: &[[usize; 2]], sequences: &[(Vec<u32>, usize)]) -> serde_json::Value {
    let sequences: Vec<_> =
        sequences.iter().map(|(blocks, length)| json!({"blocks": blocks, "length": length})).collect();
    json!({"block": block, "rows": rows, "sequences": sequences})
}

/// How many blocks a plan's cache must have.
pub(super) fn blocks_of(plan: &CachePlan) -> usize {
    let blocks = plan.sequences.iter().flat_map(|sequence| &sequence.blocks);
    blocks.filter(|block| **block != FREED).map(|&block| block as usize + 1).max().unwrap_or(0)
}

/// Blocks for a sequence of `length` rows, the first of them `first`, in an order that is none.
pub(super) fn scattered(first: usize, block: usize, length: usize, seed: u64) -> Vec<u32> {
    let order = shuffled(seed, 0, length.div_ceil(block.max(1)));
    order.into_iter().map(|place| (first + place) as u32).collect()
}

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [heads, width, spare] = [draw.dim("K")?, draw.dim("C")?, draw.dim("spare")?];
    let plan: CachePlan = draw.attribute("plan")?;
    let rows = (blocks_of(&plan) + spare).saturating_mul(plan.block);
    let targets = plan.targets();
    for name in ["keys", "values"] {
        let mut values = draw.values(&[rows, heads, width], TAME)?;
        if draw.recipe.fill == Fill::Masked {
            for (row, values) in values.chunks_mut((heads * width).max(1)).enumerate() {
                if targets.contains(&(row as u32)) {
                    values.fill(f64::NAN);
                }
            }
        }
        draw.cache(name, &[rows, heads, width], values)?;
    }
    draw.float("key", &[targets.len(), heads, width], TAME)?;
    draw.float("value", &[targets.len(), heads, width], TAME)
}

fn recipe([heads, width, spare]: [usize; 3], plan: serde_json::Value) -> Recipe {
    Recipe::new("cache_write").dims([("K", heads), ("C", width), ("spare", spare)]).attribute("plan", plan)
}

/// Rows `from .. to` of one sequence.
pub(super) fn run(sequence: usize, positions: std::ops::Range<usize>) -> Vec<[usize; 2]> {
    positions.map(|position| [sequence, position]).collect()
}

fn sweep(sweep: &mut Sweep) {
    for (at, width) in LENGTHS.into_iter().filter(|&width| width > 0).enumerate() {
        let block = [1, 3, 4, 32].get(at % 4).copied().unwrap_or(4);
        let plan = plan(block, &run(0, 2..7), &[(scattered(1, block, 7, at as u64), 7)]);
        sweep.quick(recipe([at % 3 + 1, width, 1], plan));
    }
    for block in [4, 32] {
        for length in LENGTHS.into_iter().filter(|&length| length > 0) {
            // All of a prompt, and one token after it.
            let blocks = scattered(0, block, length, length as u64);
            sweep.quick(recipe([2, 5, 1], plan(block, &run(0, 0..length), &[(blocks.clone(), length)])));
            sweep.quick(recipe([2, 5, 1], plan(block, &run(0, length - 1..length), &[(blocks, length)])));
        }
        for (&fill, view) in FILLS.iter().zip([View::Contiguous, View::Sliced, View::Permuted]) {
            // Three sequences side by side: a prompt, a chunk, a token.
            let sequences =
                [(scattered(0, block, 5, 1), 5), (scattered(5, block, 9, 2), 9), (scattered(20, block, 70, 3), 70)];
            let rows = [run(0, 0..5), run(1, 6..9), run(2, 69..70)].concat();
            sweep.quick(recipe([2, 8, 2], plan(block, &rows, &sequences)).fill(fill).view(view));
            // The same rows in another order; sequences that take turns.
            let order = shuffled(7, 0, rows.len());
            let turns: Vec<[usize; 2]> = order.into_iter().filter_map(|at| rows.get(at).copied()).collect();
            sweep.quick(recipe([3, 7, 0], plan(block, &turns, &sequences)).fill(fill).view(view));
            // A window has let the first blocks go; rows of them are left out.
            let mut blocks = scattered(0, block, 3 * block + 2, 4);
            blocks.iter_mut().take(2).for_each(|block| *block = FREED);
            let last = run(0, 3 * block - 1..3 * block + 2);
            let early = run(0, block - 1..block + 1);
            sweep.quick(recipe([2, 6, 1], plan(block, &last, &[(blocks.clone(), 3 * block + 2)])).fill(fill));
            sweep.quick(recipe([2, 6, 1], plan(block, &[early, last].concat(), &[(blocks, 3 * block + 2)])).fill(fill));
        }
    }
    for view in View::ALL {
        let plan = plan(4, &run(0, 0..9), &[(scattered(0, 4, 9, 5), 9)]);
        sweep.quick(recipe([2, 6, 1], plan).view(view));
    }
    sweep.quick(recipe([2, 4, 2], plan(4, &[], &[])));
    sweep.full(recipe([8, 128, 3], plan(32, &run(0, 0..129), &[(scattered(0, 32, 129, 6), 129)])));
    sweep.full(recipe([32, 64, 3], plan(32, &run(0, 500..513), &[(scattered(0, 32, 513, 6), 513)])));
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    // Per sequence: positions held, and how many of the last are written.
    let sequences = prop::collection::vec((1..=20usize, 0..=6usize), 0..=4);
    let recipes =
        (sequences, prop::sample::select(vec![1usize, 3, 4, 32]), [1..=3usize, 1..=20, 0..=2], seeds_of_blocks())
            .prop_map(|(sequences, block, sizes, seed)| {
                let (mut rows, mut held, mut first) = (Vec::new(), Vec::new(), 0);
                for (at, (length, written)) in sequences.into_iter().enumerate() {
                    let blocks = scattered(first, block, length, seed + at as u64);
                    first += blocks.len();
                    held.push((blocks, length));
                    rows.extend(run(at, length - written.min(length)..length));
                }
                recipe(sizes, plan(block, &rows, &held))
            });
    if backward { None } else { finished(recipes, FILLS) }
}

/// Keys of block orders.
pub(super) fn seeds_of_blocks() -> impl Strategy<Value = u64> {
    0..1000u64
}

fn draw_copy(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [heads, width, blocks] = [draw.dim("K")?, draw.dim("C")?, draw.dim("blocks")?];
    let block: usize = draw.attribute("block")?;
    let pairs: Vec<(u32, u32)> = draw.attribute("pairs")?;
    let rows = blocks.saturating_mul(block);
    for name in ["keys", "values"] {
        let mut values = draw.values(&[rows, heads, width], TAME)?;
        if draw.recipe.fill == Fill::Masked {
            // What is replaced, unless it is copied from too.
            for &(_, to) in pairs.iter().filter(|(_, to)| !pairs.iter().any(|(from, _)| from == to)) {
                let size = block * heads * width;
                let replaced = values.iter_mut().skip((to as usize).saturating_mul(size)).take(size);
                replaced.for_each(|value| *value = f64::NAN);
            }
        }
        draw.cache(name, &[rows, heads, width], values)?;
    }
    Ok(())
}

fn copy([heads, width, blocks]: [usize; 3], block: usize, pairs: &[[u32; 2]]) -> Recipe {
    Recipe::new("cache_copy")
        .dims([("K", heads), ("C", width), ("blocks", blocks)])
        .attribute("block", block)
        .attribute("pairs", json!(pairs))
}

fn sweep_copy(sweep: &mut Sweep) {
    let lists: [&[[u32; 2]]; 10] = [
        &[],
        &[[0, 1]],
        &[[5, 0]],
        // One block to several: beams that fork.
        &[[2, 0], [2, 1], [2, 5]],
        &[[0, 3], [1, 4], [2, 5]],
        // A source that is replaced after it was copied: what was freed by one sequence and taken by another.
        &[[1, 4], [0, 1]],
        &[[3, 5], [1, 3], [0, 1]],
        &[[4, 0], [5, 4], [3, 2]],
        // Chains: a copy reads what an earlier one wrote.
        &[[0, 1], [1, 2]],
        &[[5, 3], [3, 0], [2, 4], [0, 1]],
    ];
    for pairs in lists {
        for block in [1, 4, 32] {
            for (&fill, sizes) in FILLS.iter().zip([[2, 5, 6], [1, 16, 7], [3, 1, 6]]) {
                sweep.quick(copy(sizes, block, pairs).fill(fill));
            }
        }
    }
    for width in LENGTHS.into_iter().filter(|&width| width > 0) {
        sweep.quick(copy([2, width, 4], 4, &[[0, 2], [1, 3]]));
    }
    sweep.full(copy([8, 128, 40], 32, &[[0, 39], [7, 20], [20, 1]]));
}

fn strategy_copy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes =
        (1..=8usize, 0..=4usize, prop::sample::select(vec![1usize, 3, 4, 32]), [1..=3usize, 1..=20], seeds_of_blocks())
            .prop_map(|(blocks, count, block, [heads, width], seed)| {
                // Targets are different blocks; sources may be among them.
                let (sources, targets) = (shuffled(seed, 1, blocks), shuffled(seed, 2, blocks));
                let pairs = sources.into_iter().zip(targets).filter(|(from, to)| from != to).take(count);
                let pairs: Vec<[u32; 2]> = pairs.map(|(from, to)| [from as u32, to as u32]).collect();
                copy([heads, width, blocks], block, &pairs)
            });
    if backward { None } else { finished(recipes, FILLS) }
}
