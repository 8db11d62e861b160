//! `attention`, `cached_attention` and `attention_backward`: grouped heads, windows, caps and biases; packed segments of uneven
//! lengths, some empty; caches whose blocks are scattered, shared, let go; NaN in everything that nobody sees.

use consort_core::{
    Device,
    cache::{CachePlan, FREED},
    decompose::visible,
    operation::{AttentionAttributes, ScoreBias, Segments},
};
use consort_scalar::Oracle;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    cache::{blocks_of, plan, run, scattered, seeds_of_blocks},
    draw::{Draw, Range, single},
    finished, viewed,
};
use crate::{
    error::Error,
    problem::How,
    recipe::{Fill, Recipe, View},
};

pub(super) const ATTENTION: Family =
    Family { op: "attention", draw, sweep: sweep_attention, strategy: |backward| strategy("attention", backward) };
pub(super) const ATTENTION_BACKWARD: Family = Family {
    op: "attention_backward",
    draw: draw_backward,
    sweep: sweep_backward,
    strategy: |backward| if backward { None } else { strategy("attention_backward", false) },
};
pub(super) const CACHED_ATTENTION: Family =
    Family { op: "cached_attention", draw: draw_cached, sweep: sweep_cached, strategy: strategy_cached };

const FILLS: &[Fill] =
    &[Fill::Normal, Fill::Large, Fill::Small, Fill::Negative, Fill::Constant, Fill::Ties, Fill::Masked];
/// No gradient goes through scores whose probabilities are 0 and 1, or whose keys are equal.
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Small, Fill::Ties, Fill::Masked];
/// Scores of some hundreds: their exponentials overflow unless the greatest is taken off.
const RANGE: Range = Range { large: 6.0, special: 100.0, wide: 20.0 };
/// Query and key/value heads: one to eight queries a key.
const HEADS: [[usize; 2]; 8] = [[1, 1], [2, 1], [2, 2], [3, 1], [6, 2], [8, 1], [16, 2], [5, 5]];

/// How heads are sized.
#[derive(Clone, Copy, Debug)]
struct Heads {
    query: usize,
    key: usize,
    width: usize,
}

impl Heads {
    fn new([query, key]: [usize; 2], width: usize) -> Self {
        Self { query, key, width }
    }
}

fn heads(draw: &mut Draw<'_>) -> Result<Heads, Error> {
    Ok(Heads { query: draw.dim("H")?, key: draw.dim("K")?, width: draw.dim("C")? })
}

fn attributes(draw: &Draw<'_>) -> Result<AttentionAttributes, Error> {
    let attributes = Value::Object(draw.attributes.clone());
    serde_json::from_value(attributes).map_err(|error| draw.error(format!("attributes: {error}")))
}

/// Queries look away from the keys with [`Fill::Negative`], so that every score is negative.
fn queries(draw: &mut Draw<'_>, rows: usize, heads: Heads) -> Result<(), Error> {
    let sizes = [rows, heads.query, heads.width];
    let mut values = draw.values(&sizes, RANGE)?;
    if draw.recipe.fill == Fill::Negative {
        values.iter_mut().for_each(|value| *value = -*value);
    }
    draw.push("query", &sizes, values)
}

/// The bias that the kind needs: for linear biases falling slopes.
fn bias(draw: &mut Draw<'_>, kind: ScoreBias, heads: Heads) -> Result<(), Error> {
    match kind {
        ScoreBias::None => Ok(()),
        ScoreBias::Relative { buckets, .. } => draw.normal("bias", &[buckets, heads.query]),
        ScoreBias::Linear => {
            let slopes = draw.normals(&[heads.query])?.into_iter().map(|slope| single(0.25 * slope)).collect();
            draw.push("bias", &[heads.query], slopes)
        }
    }
}

/// Operands of packed attention; gives rows and heads.
fn packed(draw: &mut Draw<'_>) -> Result<(usize, Heads), Error> {
    let heads = heads(draw)?;
    let attributes = attributes(draw)?;
    let segments: Segments = draw.attribute("segments")?;
    let total = |lengths: &[usize]| lengths.iter().fold(0usize, |sum, &length| sum.saturating_add(length));
    let (rows, keys) = (total(&segments.queries), total(&segments.keys));
    draw.elements(&[rows, heads.query, heads.width])?;
    draw.elements(&[keys, heads.key, heads.width])?;
    // Which keys anyone sees.
    let mut seen = vec![false; keys];
    let mut first = 0;
    for (&queries, &keys) in segments.queries.iter().zip(&segments.keys) {
        for row in 0..queries {
            let range = visible(attributes.mask, row, keys);
            seen.iter_mut().skip(first + range.start).take(range.len()).for_each(|seen| *seen = true);
        }
        first += keys;
    }
    queries(draw, rows, heads)?;
    let sizes = [keys, heads.key, heads.width];
    for (name, poisoned) in [("key", keys * 3 / 4), ("value", keys * 7 / 8)] {
        let mut values = draw.values(&sizes, RANGE)?;
        for (row, values) in values.chunks_mut((heads.key * heads.width).max(1)).enumerate() {
            match draw.recipe.fill {
                Fill::Masked if seen.get(row) == Some(&false) => values.fill(f64::NAN),
                Fill::Nan if row == poisoned => values.fill(f64::NAN),
                _ => {}
            }
        }
        draw.push(name, &sizes, values)?;
    }
    bias(draw, attributes.bias, heads)?;
    Ok((rows, heads))
}

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (rows, heads) = packed(draw)?;
    draw.cotangent(&[rows, heads.query, heads.width])?;
    // The log-sum is saved for the backward and has no gradient of its own.
    draw.no_cotangent();
    draw.gradients(&["query", "key", "value", "bias"]);
    Ok(())
}

fn draw_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (rows, heads) = packed(draw)?;
    // What the forward gave, from the oracle, rounded.
    let outputs = draw.so_far("attention").run(&Device::new(Oracle::new()), How::AsAsked)?;
    for (name, output) in ["y", "log_sum"].into_iter().zip(outputs) {
        let values = output.data.to_f64().into_iter().map(single).collect();
        draw.push(name, &output.sizes, values)?;
    }
    draw.normal("d_y", &[rows, heads.query, heads.width])
}

fn draw_cached(draw: &mut Draw<'_>) -> Result<(), Error> {
    let heads = heads(draw)?;
    let attributes = attributes(draw)?;
    let plan: CachePlan = draw.attribute("plan")?;
    let rows = (blocks_of(&plan) + draw.dim("spare")?).saturating_mul(plan.block);
    let sizes = [rows, heads.key, heads.width];
    draw.elements(&sizes)?;
    let mut seen = vec![false; rows];
    for row in &plan.rows {
        let length = plan.sequences.get(row.sequence).map_or(0, |sequence| sequence.length);
        for position in visible(attributes.mask, row.position, length) {
            if let Some(seen) = seen.get_mut(plan.physical(row.sequence, position) as usize) {
                *seen = true;
            }
        }
    }
    queries(draw, plan.rows.len(), heads)?;
    for name in ["keys", "values"] {
        let mut values = draw.values(&sizes, RANGE)?;
        if draw.recipe.fill == Fill::Masked {
            for (values, seen) in values.chunks_mut((heads.key * heads.width).max(1)).zip(&seen) {
                if !seen {
                    values.fill(f64::NAN);
                }
            }
        }
        draw.cache(name, &sizes, values)?;
    }
    bias(draw, attributes.bias, heads)
}

/// A recipe without attributes but these.
fn with(op: &str, heads: Heads, attributes: &Value) -> Recipe {
    let recipe = Recipe::new(op).dims([("H", heads.query), ("K", heads.key), ("C", heads.width)]);
    let attributes = attributes.as_object().cloned().unwrap_or_default();
    attributes.into_iter().fold(recipe, |recipe, (name, value)| recipe.attribute(&name, value))
}

fn segments(queries: &[usize], keys: &[usize]) -> Value {
    json!({"queries": queries, "keys": keys})
}

/// Sequences that see themselves.
fn own(op: &str, heads: Heads, lengths: &[usize], attributes: &Value) -> Recipe {
    with(op, heads, attributes).attribute("segments", segments(lengths, lengths))
}

fn all() -> Value {
    json!({"scale": 0.5, "mask": "all"})
}

fn causal() -> Value {
    json!({"scale": 0.5, "mask": "causal"})
}

/// The same with the scale that heads of this width have, to a power of two.
fn scaled(mut attributes: Value, width: usize) -> Value {
    if let Some(scale) = attributes.get_mut("scale") {
        *scale = json!((-0.5 * (width.max(1) as f64).log2()).round().exp2());
    }
    attributes
}

/// Every choice of mask, cap and bias, by itself and together.
fn choices() -> Vec<Value> {
    let relative = |bidirectional: bool, buckets: usize, max_distance: usize| json!({"kind": "relative", "bidirectional": bidirectional, "buckets": buckets, "max_distance": max_distance});
    let linear = json!({"kind": "linear"});
    vec![
        all(),
        causal(),
        json!({"scale": 1.0, "mask": "all"}),
        json!({"scale": 0.125, "mask": "causal", "window": 3}),
        json!({"scale": 0.5, "mask": "all", "soft_cap": 2.0}),
        json!({"scale": 0.5, "mask": "causal", "soft_cap": 30.0}),
        json!({"scale": 0.5, "mask": "all", "score_bias": relative(true, 8, 16)}),
        json!({"scale": 1.0, "mask": "all", "score_bias": relative(true, 32, 128)}),
        json!({"scale": 0.5, "mask": "all", "score_bias": relative(false, 5, 9)}),
        json!({"scale": 0.5, "mask": "causal", "score_bias": relative(false, 8, 12)}),
        json!({"scale": 0.5, "mask": "causal", "score_bias": relative(true, 6, 9)}),
        json!({"scale": 0.5, "mask": "causal", "score_bias": linear}),
        json!({"scale": 0.5, "mask": "all", "score_bias": linear}),
        json!({"scale": 0.5, "mask": "causal", "window": 5, "soft_cap": 3.0, "score_bias": linear}),
        json!({"scale": 0.25, "mask": "causal", "window": 4, "soft_cap": 1.0, "score_bias": relative(false, 8, 12)}),
    ]
}

fn packed_recipes(sweep: &mut Sweep, op: &str, backward: bool) {
    let own =
        |heads: Heads, lengths: &[usize], attributes: &Value| own(op, heads, lengths, attributes).direction(backward);
    let of_gradients = backward || op == "attention_backward";
    let lengths: &[usize] = if backward { &SOME_LENGTHS } else { &LENGTHS };
    for (at, &length) in lengths.iter().enumerate() {
        let heads = HEADS.get(at % HEADS.len()).copied().unwrap_or([1, 1]);
        let attributes = if at % 2 == 0 { causal() } else { all() };
        sweep.quick(own(Heads::new([2, 1], length), &[3, 2], &scaled(attributes.clone(), length)));
        // Where one key is all that is seen, its probability is 1 whatever the score.
        if length != 1 || !of_gradients {
            sweep.quick(own(Heads::new(heads, 4), &[length], &attributes));
            let cross = segments(&[2], &[length]);
            sweep.quick(with(op, Heads::new(heads, 5), &all()).attribute("segments", cross).direction(backward));
        }
    }
    for heads in HEADS {
        sweep.quick(own(Heads::new(heads, 8), &[5, 1, 3], &causal()));
        sweep.quick(own(Heads::new(heads, 7), &[4, 2], &all()).view(View::Sliced));
        sweep.full(own(Heads::new(heads, 64), &[33], &scaled(causal(), 64)));
    }
    for choice in choices() {
        for lengths in [&[9][..], &[1, 6, 2], &[1, 1, 1]].into_iter().take(if of_gradients { 2 } else { 3 }) {
            sweep.quick(own(Heads::new([4, 2], 6), lengths, &choice));
        }
        sweep.quick(own(Heads::new([3, 3], 5), &[12, 0, 1], &choice).fill(Fill::Masked));
        for view in [View::Offset, View::Permuted, View::Sliced] {
            sweep.full(own(Heads::new([4, 2], 6), &[7, 3], &choice).view(view));
        }
        sweep.full(own(Heads::new([6, 2], 32), &[40, 23], &scaled(choice.clone(), 32)));
    }
    // Windows from one position to more than there are; none at all gives zeros.
    for window in (0..=8usize).filter(|&window| window != 1 || !of_gradients) {
        let attributes = json!({"scale": 0.5, "mask": "causal", "window": window});
        sweep.quick(own(Heads::new([2, 1], 4), &[7], &attributes));
        sweep.quick(own(Heads::new([2, 2], 3), &[5, 2, 1], &attributes).fill(Fill::Masked));
    }
    // Queries over other keys; some have none, some keys have no queries.
    let crosses: [(&[usize], &[usize]); 9] = [
        (&[1], &[1]),
        (&[3], &[5]),
        (&[3, 2], &[5, 1]),
        (&[2, 2, 2], &[3, 0, 4]),
        (&[4], &[0]),
        (&[2, 0, 3], &[3, 4, 2]),
        (&[0, 1], &[2, 3]),
        (&[1, 1, 1, 1], &[7, 1, 2, 5]),
        (&[0, 0], &[1, 2]),
    ];
    for (queries, keys) in crosses.into_iter().skip(usize::from(of_gradients)) {
        for (&fill, heads) in [Fill::Normal, Fill::Masked].iter().zip([[2, 2], [6, 2]]) {
            let recipe = with(op, Heads::new(heads, 6), &all()).attribute("segments", segments(queries, keys));
            sweep.quick(recipe.fill(fill).direction(backward));
        }
        let attributes = json!({"scale": 0.5, "mask": "all", "soft_cap": 2.0, "score_bias":
            {"kind": "relative", "bidirectional": true, "buckets": 8, "max_distance": 16}});
        let recipe = with(op, Heads::new([2, 1], 5), &attributes).attribute("segments", segments(queries, keys));
        sweep.quick(recipe.direction(backward));
    }
    for &fill in if of_gradients { BACKWARD_FILLS } else { FILLS } {
        sweep.quick(own(Heads::new([4, 2], 16), &[9, 4], &causal()).fill(fill));
        sweep.quick(own(Heads::new([4, 4], 9), &[6, 2], &all()).fill(fill).view(View::Sliced));
    }
    for view in if of_gradients { &View::DISTINCT[..] } else { &View::ALL } {
        sweep.quick(own(Heads::new([4, 2], 10), &[6, 3], &causal()).view(*view));
    }
    sweep.quick(own(Heads::new([2, 1], 64), &[65], &scaled(causal(), 64)));
    sweep.full(own(Heads::new([4, 1], 128), &[129], &scaled(causal(), 128)));
    sweep.full(own(Heads::new([12, 12], 64), &[128], &scaled(all(), 64)));
}

fn sweep_attention(sweep: &mut Sweep) {
    packed_recipes(sweep, "attention", false);
    packed_recipes(sweep, "attention", true);
    // NaN in one sequence, at one position: the others, and the positions before, are as they were.
    for attributes in [causal(), all(), json!({"scale": 0.5, "mask": "causal", "window": 3})] {
        for lengths in [&[5, 7, 4][..], &[9, 5], &[4, 3, 1, 2]] {
            sweep.quick(own("attention", Heads::new([4, 2], 6), lengths, &attributes).fill(Fill::Nan));
        }
    }
}

fn sweep_backward(sweep: &mut Sweep) {
    packed_recipes(sweep, "attention_backward", false);
}

fn strategy(op: &'static str, backward: bool) -> Option<BoxedStrategy<Recipe>> {
    // Of one key alone no gradient goes through its score.
    let length = || prop_oneof![1 => Just(0usize), 9 => 2..=9usize];
    let segments_of = prop::collection::vec((length(), length()), 1..=3);
    let heads = ((1..=3usize, 1..=8usize), 1..=20usize);
    let recipes = (segments_of, heads, prop::sample::select(choices())).prop_map(
        move |(lengths, ((key, group), width), choice)| {
            let causal = choice.get("mask") == Some(&json!("causal"));
            let queries: Vec<usize> = lengths.iter().map(|(queries, _)| *queries).collect();
            let keys: Vec<usize> =
                lengths.iter().map(|(queries, keys)| if causal { *queries } else { *keys }).collect();
            let recipe = with(op, Heads { query: key * group, key, width }, &scaled(choice, width));
            recipe.attribute("segments", segments(&queries, &keys)).direction(backward)
        },
    );
    let of_gradients = backward || op == "attention_backward";
    viewed(recipes, if of_gradients { BACKWARD_FILLS } else { FILLS }, &View::DISTINCT)
}

fn cached(heads: Heads, attributes: &Value, plan: Value) -> Recipe {
    with("cached_attention", heads, attributes).dim("spare", 1).attribute("plan", plan)
}

fn sweep_cached(sweep: &mut Sweep) {
    for block in [4, 32] {
        for (at, length) in LENGTHS.into_iter().filter(|&length| length > 0).enumerate() {
            // One token after a prompt; the prompt itself, up to some rows.
            let heads = Heads::new(HEADS.get(at % HEADS.len()).copied().unwrap_or([1, 1]), 6);
            let held = [(scattered(0, block, length, at as u64), length)];
            sweep.quick(cached(heads, &causal(), plan(block, &run(0, length - 1..length), &held)).fill(Fill::Masked));
            let rows = run(0, length.saturating_sub(9)..length);
            sweep.quick(cached(heads, &causal(), plan(block, &rows, &held)).fill(Fill::Masked));
        }
        for width in LENGTHS.into_iter().filter(|&width| width > 0) {
            let held = [(scattered(1, block, 11, 3), 11)];
            sweep.quick(cached(
                Heads::new([4, 2], width),
                &scaled(causal(), width),
                plan(block, &run(0, 9..11), &held),
            ));
        }
        for choice in choices() {
            for recipe in plans(block, &choice) {
                sweep.quick(recipe);
            }
        }
        for heads in HEADS {
            let held = [(scattered(0, block, 37, 5), 37), (scattered(10, block, 6, 6), 6)];
            let rows = [run(1, 5..6), run(0, 34..37)].concat();
            sweep.quick(cached(Heads::new(heads, 8), &causal(), plan(block, &rows, &held)).fill(Fill::Masked));
            sweep.full(
                cached(Heads::new(heads, 64), &scaled(causal(), 64), plan(block, &rows, &held)).fill(Fill::Masked),
            );
        }
        // Windows; what is before them has been let go, block by block.
        for window in 0..=8usize {
            let attributes = json!({"scale": 0.5, "mask": "causal", "window": window});
            let length = 2 * block + 3;
            let mut blocks = scattered(0, block, length, window as u64);
            let passed = length.saturating_sub(window) / block;
            blocks.iter_mut().take(passed).for_each(|block| *block = FREED);
            let held = [(blocks, length)];
            sweep.quick(
                cached(Heads::new([2, 1], 5), &attributes, plan(block, &run(0, length - 1..length), &held))
                    .fill(Fill::Masked),
            );
            // Rows before it, whose windows begin in blocks that are still there.
            let first = passed * block + window.saturating_sub(1);
            if first < length {
                sweep.quick(cached(Heads::new([2, 2], 5), &attributes, plan(block, &run(0, first..length), &held)));
            }
        }
        for (&fill, view) in FILLS.iter().zip(View::ALL.into_iter().cycle()) {
            let held = [(scattered(0, block, 13, 8), 13), (scattered(6, block, 2, 9), 2)];
            let rows = [run(0, 10..13), run(1, 1..2)].concat();
            sweep.quick(cached(Heads::new([4, 2], 16), &causal(), plan(block, &rows, &held)).fill(fill).view(view));
        }
        // Nothing is held yet; no rows.
        sweep.quick(cached(Heads::new([2, 1], 4), &all(), plan(block, &[[0, 0], [0, 3]], &[(Vec::new(), 0)])));
        sweep.quick(cached(Heads::new([2, 1], 4), &causal(), plan(block, &[], &[(Vec::new(), 0)])));
        let held = [(scattered(0, block, 513, 4), 513)];
        sweep.full(
            cached(Heads::new([8, 2], 64), &scaled(causal(), 64), plan(block, &run(0, 512..513), &held))
                .fill(Fill::Masked),
        );
        sweep.full(
            cached(Heads::new([8, 2], 32), &scaled(causal(), 32), plan(block, &run(0, 480..513), &held))
                .fill(Fill::Masked),
        );
    }
}

/// Sequences side by side, in turns, forked; with a window the blocks before it are kept.
fn plans(block: usize, choice: &Value) -> Vec<Recipe> {
    let heads = Heads::new([4, 2], 6);
    let masked = |plan: Value| cached(heads, choice, plan).fill(Fill::Masked);
    // Uneven positions: a prompt, a chunk, a token.
    let uneven = [
        (scattered(0, block, 5, 1), 5),
        (scattered(5, block, 2 * block + 1, 2), 2 * block + 1),
        (scattered(9, block, 7, 3), 7),
    ];
    let rows = [run(0, 0..5), run(1, 2 * block - 1..2 * block + 1), run(2, 6..7)].concat();
    let turns: Vec<[usize; 2]> = rows.iter().rev().step_by(2).chain(rows.iter().step_by(2)).copied().collect();
    // Two beams share what is before the fork; each has its own last block.
    let shared = scattered(0, block, 2 * block, 4);
    let beam = |last: u32| [&shared[..], &[last]].concat();
    let beams = [(beam(7), 2 * block + 2), (beam(5), 2 * block + 3)];
    let forked = [run(0, 2 * block..2 * block + 2), run(1, 2 * block + 2..2 * block + 3)].concat();
    vec![
        masked(plan(block, &rows, &uneven)),
        masked(plan(block, &turns, &uneven)),
        masked(plan(block, &forked, &beams)),
        // Rows of other positions than the keys': a decoder over its source.
        masked(plan(block, &[[0, 0], [0, 1], [1, 30], [1, 31], [0, 2]], &uneven)),
    ]
}

fn strategy_cached(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let sequences = prop::collection::vec((1..=20usize, 0..=4usize), 1..=3);
    let heads = ((1..=3usize, 1..=8usize), 1..=20usize);
    let (blocks, choices) = (prop::sample::select(vec![1usize, 3, 4, 32]), prop::sample::select(choices()));
    let recipes = (sequences, blocks, heads, choices, seeds_of_blocks()).prop_map(
        |(sequences, block, ((key, group), width), choice, seed)| {
            let (mut rows, mut held, mut first) = (Vec::new(), Vec::new(), 0);
            for (at, (length, asked)) in sequences.into_iter().enumerate() {
                let blocks = scattered(first, block, length, seed + at as u64);
                first += blocks.len();
                held.push((blocks, length));
                rows.extend(run(at, length - asked.min(length)..length));
            }
            cached(Heads { query: key * group, key, width }, &scaled(choice, width), plan(block, &rows, &held))
        },
    );
    if backward { None } else { finished(recipes, FILLS) }
}
