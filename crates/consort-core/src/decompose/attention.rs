//! Multi-head attention (Vaswani et al. 2017): for a query at position p, over the keys that it sees,
//!
//! `o = Σ_j softmax_j(cap(scale · q·k_j) + bias(p, j)) · v_j`, where `cap(s) = c · tanh(s / c)` or s itself.
//!
//! Query head h reads key/value head `h / (H / K)`. Keys that a query does not see take no part at all: nothing is
//! masked with a number, so that whatever lies there, NaN included, leaves no trace. A query that sees no key gives
//! zeros. Rows that see the same keys are computed together; every row's result is the same alone or in company.

use std::ops::Range;

use crate::{
    backend::{Backend, CacheOf, TensorOf},
    cache::{CachePlan, PlanRow},
    device::Device,
    error::{Error, Result},
    operation::{AttentionAttributes, Mask, ReduceKind, ScoreBias, Segments, UnaryKind},
    positions::relative_bucket,
    tensor::HostData,
};

/// Positions that a query at `position` sees among `length` keys.
pub fn visible(mask: Mask, position: usize, length: usize) -> Range<usize> {
    match mask {
        Mask::All => 0..length,
        Mask::Causal { window } => {
            let end = (position + 1).min(length);
            window.map_or(0, |window| (position + 1).saturating_sub(window)).min(end)..end
        }
    }
}

/// Attention of packed sequences without a cache: `[T, H, C], [S, K, C], [S, K, C] → [T, H, C]`, and the logarithm of the
/// sum of the exponentials of the scores `[T, H]`.
///
/// # Errors
/// What the primitives meet.
pub fn attention<B: Backend>(
    device: &Device<B>,
    query: &TensorOf<B>,
    key: &TensorOf<B>,
    value: &TensorOf<B>,
    bias: Option<&TensorOf<B>>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<[TensorOf<B>; 2]> {
    let heads = query.size(1);
    let mut out = device.fill(query.sizes(), 0.0)?;
    let mut log_sums = device.fill(&[query.size(0), heads], 0.0)?;
    for (queries, keys) in segment_ranges(segments) {
        for rows in alike(queries.len(), |row| visible(attributes.mask, row, keys.len())) {
            let seen = visible(attributes.mask, rows.start, keys.len());
            if seen.is_empty() {
                continue;
            }
            let q = query.slice(0, queries.start + rows.start, rows.len())?;
            let k = key.slice(0, keys.start + seen.start, seen.len())?;
            let v = value.slice(0, keys.start + seen.start, seen.len())?;
            let scores = scores(device, &q, &k, bias, rows.clone(), seen, attributes)?;
            let log_sum = device.reshape(&log_sum_exp(device, scores.clone())?, &[heads, rows.len()])?;
            let weights = device.softmax(scores)?;
            let first = queries.start + rows.start;
            out = device.write(out, weighted_sum(device, weights, &v)?, &[first, 0, 0])?;
            log_sums = device.write(log_sums, log_sum.permute(&[1, 0])?, &[first, 0])?;
        }
    }
    Ok([out, log_sums])
}

/// Attention of rows over what the cache holds of their sequences: `[T, H, C] → [T, H, C]`.
///
/// # Errors
/// What the primitives meet.
pub fn cached_attention<B: Backend>(
    device: &Device<B>,
    query: &TensorOf<B>,
    cache: &CacheOf<B>,
    bias: Option<&TensorOf<B>>,
    layer: usize,
    plan: &CachePlan,
    attributes: &AttentionAttributes,
) -> Result<TensorOf<B>> {
    let mut out = device.fill(query.sizes(), 0.0)?;
    let seen_by = |row: &PlanRow| visible(attributes.mask, row.position, plan.sequences[row.sequence].length);
    // A bias depends on positions: only rows that follow on each other go together then.
    let first = |row: usize| bias.map(|_| plan.rows[row].position.wrapping_sub(row));
    for rows in alike(plan.rows.len(), |row| (plan.rows[row].sequence, seen_by(&plan.rows[row]), first(row))) {
        let PlanRow { sequence, position } = plan.rows[rows.start];
        let seen = seen_by(&plan.rows[rows.start]);
        if seen.is_empty() {
            continue;
        }
        let physical: Vec<u32> = seen.clone().map(|key| plan.physical(sequence, key)).collect();
        let [k, v] = device.cache_read(cache, layer, &physical)?;
        let q = query.slice(0, rows.start, rows.len())?;
        let weights = weights(device, &q, &k, bias, position..position + rows.len(), seen, attributes)?;
        out = device.write(out, weighted_sum(device, weights, &v)?, &[rows.start, 0, 0])?;
    }
    Ok(out)
}

/// The weights that [`attention`] gives to each key, for one segment: `[T, H, C], [S, K, C] → [H, T, S]`, zero where
/// nothing is seen. For looking inside; no model needs them.
///
/// # Errors
/// What the primitives meet.
pub fn attention_probabilities<B: Backend>(
    device: &Device<B>,
    query: &TensorOf<B>,
    key: &TensorOf<B>,
    bias: Option<&TensorOf<B>>,
    attributes: &AttentionAttributes,
) -> Result<TensorOf<B>> {
    let [tokens, heads, keys] = [query.size(0), query.size(1), key.size(0)];
    let mut out = device.fill(&[heads, tokens, keys], 0.0)?;
    for rows in alike(tokens, |row| visible(attributes.mask, row, keys)) {
        let seen = visible(attributes.mask, rows.start, keys);
        if seen.is_empty() {
            continue;
        }
        let q = query.slice(0, rows.start, rows.len())?;
        let k = key.slice(0, seen.start, seen.len())?;
        let weights = weights(device, &q, &k, bias, rows.clone(), seen.clone(), attributes)?;
        let flat = weights.view(&[heads, rows.len(), seen.len()])?;
        out = device.write(out, flat, &[0, rows.start, seen.start])?;
    }
    Ok(out)
}

/// `softmax` of the [`scores`].
fn weights<B: Backend>(
    device: &Device<B>,
    query: &TensorOf<B>,
    key: &TensorOf<B>,
    bias: Option<&TensorOf<B>>,
    positions: Range<usize>,
    seen: Range<usize>,
    attributes: &AttentionAttributes,
) -> Result<TensorOf<B>> {
    device.softmax(scores(device, query, key, bias, positions, seen, attributes)?)
}

/// `ln Σ exp x` over the last axis, which stays with size 1.
fn log_sum_exp<B: Backend>(device: &Device<B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
    let last = x.shape().rank() - 1;
    let greatest = device.reduce(&x, last, ReduceKind::Maximum)?;
    let exponentials = device.unary(device.subtract(x, greatest.clone())?, UnaryKind::Exp)?;
    let sum = device.reduce(&exponentials, last, ReduceKind::Sum)?;
    device.add(greatest, device.unary(sum, UnaryKind::Log)?)
}

/// `cap(scale · q kᵀ) + bias`: `[n, H, C], [S, K, C] → [K, H/K, n, S]`.
pub(super) fn scores<B: Backend>(
    device: &Device<B>,
    query: &TensorOf<B>,
    key: &TensorOf<B>,
    bias: Option<&TensorOf<B>>,
    positions: Range<usize>,
    seen: Range<usize>,
    attributes: &AttentionAttributes,
) -> Result<TensorOf<B>> {
    let [rows, heads, width] = [query.size(0), query.size(1), query.size(2)];
    let [keys, groups] = [key.size(0), key.size(1)];
    let query = device.reshape(query, &[rows, groups, heads / groups, width])?.permute(&[1, 2, 0, 3])?;
    let key = device.reshape(&key.permute(&[1, 2, 0])?, &[groups, 1, width, keys])?; // [K, 1, C, S]
    let mut scores = device.scale(device.matmul(&query, &key)?, attributes.scale)?;
    if let Some(cap) = attributes.soft_cap {
        scores = device.soft_cap(scores, cap)?;
    }
    if let Some(bias) = bias {
        let bias = score_bias(device, bias, attributes.bias, positions, seen, heads)?; // [H, n, S]
        scores = device.add(scores, bias.view(&[groups, heads / groups, rows, keys])?)?;
    }
    Ok(scores)
}

/// `Σ_j w_j v_j`: `[K, H/K, n, S], [S, K, C] → [n, H, C]`.
fn weighted_sum<B: Backend>(device: &Device<B>, weights: TensorOf<B>, value: &TensorOf<B>) -> Result<TensorOf<B>> {
    let [groups, per_group, rows] = [weights.size(0), weights.size(1), weights.size(2)];
    let [keys, width] = [value.size(0), value.size(2)];
    let value = device.reshape(&value.permute(&[1, 0, 2])?, &[groups, 1, keys, width])?; // [K, 1, S, C]
    let out = device.matmul(&weights, &value)?.permute(&[2, 0, 1, 3])?; // [n, K, H/K, C]
    device.reshape(&out, &[rows, groups * per_group, width])
}

/// What positions add to the scores: `[H, n, S]`, contiguous.
fn score_bias<B: Backend>(
    device: &Device<B>,
    bias: &TensorOf<B>,
    kind: ScoreBias,
    positions: Range<usize>,
    seen: Range<usize>,
    heads: usize,
) -> Result<TensorOf<B>> {
    let [rows, keys] = [positions.len(), seen.len()];
    match kind {
        ScoreBias::Relative { .. } => {
            let rows_of_table = device.gather_rows(bias, &bucket_ids(device, kind, positions, seen)?)?; // [n·S, H]
            device.reshape(&rows_of_table.permute(&[1, 0])?, &[heads, rows, keys])
        }
        ScoreBias::Linear => {
            device.multiply(device.reshape(bias, &[heads, 1, 1])?, key_distances(device, positions, seen)?)
        }
        ScoreBias::None => Err(Error::shape("attention", "a bias of no kind")),
    }
}

/// The table row of each pair of query and key: u32 `[n·S]`.
pub(super) fn bucket_ids<B: Backend>(
    device: &Device<B>,
    kind: ScoreBias,
    positions: Range<usize>,
    seen: Range<usize>,
) -> Result<TensorOf<B>> {
    let ScoreBias::Relative { bidirectional, buckets, max_distance } = kind else {
        return Err(Error::shape("attention", "a bias without buckets"));
    };
    let bucket = |distance| relative_bucket(distance, bidirectional, buckets, max_distance) as u32;
    device.upload_ids(pairs(positions, seen).map(bucket).collect())
}

/// `key − query` of each pair: `[1, n, S]`.
pub(super) fn key_distances<B: Backend>(
    device: &Device<B>,
    positions: Range<usize>,
    seen: Range<usize>,
) -> Result<TensorOf<B>> {
    let sizes = [1, positions.len(), seen.len()];
    let distances = HostData::from_f64(pairs(positions, seen).map(|distance| distance as f64), device.float());
    device.upload(distances, &sizes)
}

/// `key − query` of each pair, keys innermost.
fn pairs(positions: Range<usize>, seen: Range<usize>) -> impl Iterator<Item = i64> {
    positions.flat_map(move |position| seen.clone().map(move |key| key as i64 - position as i64))
}

/// Row ranges of each segment's queries and keys.
pub(super) fn segment_ranges(segments: &Segments) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
    let (mut first_query, mut first_key) = (0, 0);
    segments.queries.iter().zip(&segments.keys).map(move |(&queries, &keys)| {
        let ranges = (first_query..first_query + queries, first_key..first_key + keys);
        (first_query, first_key) = (ranges.0.end, ranges.1.end);
        ranges
    })
}

/// Runs of consecutive rows for which `key` is the same.
pub(super) fn alike<K: PartialEq>(rows: usize, key: impl Fn(usize) -> K) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for row in 0..rows {
        match runs.last_mut() {
            Some(run) if key(run.start) == key(row) => run.end = row + 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}
