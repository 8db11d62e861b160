//! Multi-head attention: `Σ_j softmax_j(cap(scale · q·k_j) + bias) · v_j` over the keys j that a query sees.

use consort_core::{
    HostData, Tensor,
    decompose::visible,
    operation::{AttentionAttributes, ScoreBias, Segments},
    positions::relative_bucket,
};

use super::{
    memory::{Buffer, singles, width},
    softmax::softmax_row,
};

/// Keys and values, `[rows, K, C]` each.
pub(crate) struct Keys<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    /// K: query head h reads head `h / (H / K)`.
    pub(crate) heads: usize,
}

/// Where the keys are that a query sees: the position of each in its sequence, and its row.
pub(crate) type Seen = Vec<(usize, usize)>;

/// Packed sequences, segment by segment: `[T, H, C]`, and `ln Σ exp(score)` `[T, H]`.
pub(crate) fn attention(
    [query, key, value]: [&Tensor<Buffer>; 3],
    bias: Option<&Tensor<Buffer>>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Option<Vec<HostData>> {
    let mut seen = Vec::new();
    let mut first = 0;
    for (&queries, &keys) in segments.queries.iter().zip(&segments.keys) {
        seen.extend((0..queries).map(|position| {
            let keys = visible(attributes.mask, position, keys);
            (position, keys.map(|key| (key, first + key)).collect())
        }));
        first += keys;
    }
    attend(query, &Keys { keys: &singles(key)?, values: &singles(value)?, heads: key.size(1) }, bias, &seen, attributes)
}

/// The same for any rows: `seen` has each query's position and what it sees. A query that sees nothing gives zeros.
pub(crate) fn attend(
    query: &Tensor<Buffer>,
    all: &Keys<'_>,
    bias: Option<&Tensor<Buffer>>,
    seen: &[(usize, Seen)],
    attributes: &AttentionAttributes,
) -> Option<Vec<HostData>> {
    let (queries, bias) = (singles(query)?, bias.map_or(Some(Default::default()), singles)?);
    let [heads, width] = [query.size(1), width(query)];
    let mut y = vec![0.0; queries.len()];
    let mut log_sums = vec![0.0; seen.len() * heads];
    for (index, log_sum) in log_sums.iter_mut().enumerate() {
        let (row, head) = (index / heads, index % heads);
        let (position, seen) = &seen[row];
        if seen.is_empty() {
            continue;
        }
        let key_head = head / (heads / all.heads);
        let q = &queries[index * width..][..width];
        let score = |&(key, key_row): &(usize, usize)| {
            let k = part(all.keys, key_row * all.heads + key_head, width);
            let product: f32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
            let score = product * attributes.scale as f32;
            let capped = attributes.soft_cap.map_or(score, |cap| cap as f32 * (score / cap as f32).tanh());
            capped + score_bias(attributes.bias, &bias, key as i64 - *position as i64, head, heads)
        };
        let mut weights: Vec<f32> = seen.iter().map(score).collect();
        *log_sum = softmax_row(&mut weights);
        let y = &mut y[index * width..][..width];
        for (weight, &(_, key_row)) in weights.iter().zip(seen) {
            let v = part(all.values, key_row * all.heads + key_head, width);
            y.iter_mut().zip(v).for_each(|(y, v)| *y += weight * v);
        }
    }
    Some(vec![HostData::F32(y), HostData::F32(log_sums)])
}

/// Part `index` of parts of `width`; nothing, which counts as zeros, where there is no such part.
fn part(of: &[f32], index: usize, width: usize) -> &[f32] {
    of.get(index * width..).and_then(|rest| rest.get(..width)).unwrap_or(&[])
}

/// What a key at a distance from its query adds to the score.
fn score_bias(kind: ScoreBias, bias: &[f32], distance: i64, head: usize, heads: usize) -> f32 {
    match kind {
        ScoreBias::None => 0.0,
        ScoreBias::Relative { bidirectional, buckets, max_distance } => {
            bias[relative_bucket(distance, bidirectional, buckets, max_distance) * heads + head]
        }
        ScoreBias::Linear => bias[head] * distance as f32,
    }
}
