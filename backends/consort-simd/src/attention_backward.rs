//! The backward of attention over packed sequences, by blocks of [`PANEL`] queries and keys: probabilities are computed again
//! from what the forward saved, and five products of a block are tiles (Dao et al. 2022, appendix B).
//!
//! A segment's key/value head is one task. Key blocks go up, and for each of them query blocks; every sum has that order,
//! whatever the threads.

mod block;

use std::ops::Range;

use consort_core::{
    Outputs, Result, Tensor,
    operation::{AttentionAttributes, ScoreBias, Segments},
};

use self::block::{Head, HeadTask};
use crate::{
    Simd,
    attention::{Distances, Panels, Score, bucket_of, distances},
    scratch::with_scratch,
    storage::{Buffer, filled, misfit},
    team::Parts,
};

#[allow(clippy::too_many_arguments, reason = "the operands of the operation")]
pub(crate) fn attention_backward(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    y: &mut Tensor<Buffer>,
    log_sum: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let [tokens, heads, width] = [query.size(0), query.size(1), query.size(2)];
    let [all_keys, groups] = [key.size(0), key.size(1)];
    let panels = Panels { heads: groups, width };
    let rows = segments.queries.iter().zip(&segments.keys);
    let rows = rows.flat_map(|(&queries, &keys)| (0..queries).map(move |position| (position, keys)));
    let seen = distances(attributes.mask, rows);
    let count = segments.queries.len();
    let biases = match bias {
        Some(bias) => Distances::new(simd, Some(bias), attributes.bias, heads, seen.clone())?,
        None => None,
    };
    // Of each segment and head, what its scores at each distance add up to.
    let mut d_distances = match &biases {
        Some(_) => Some(Distances::zeros(simd, count * heads, seen)?),
        None => None,
    };
    let mut d_query = simd.pool.take::<f32>(tokens * heads * width)?;
    let mut d_key = simd.pool.take::<f32>(all_keys * groups * width)?;
    let mut d_value = simd.pool.take::<f32>(all_keys * groups * width)?;
    let task = HeadTask {
        panels,
        heads,
        query: simd.rows(query, heads * width)?,
        key: simd.rows(key, groups * width)?,
        value: simd.rows(value, groups * width)?,
        y: simd.rows(y, heads * width)?,
        d_y: simd.rows(d_y, heads * width)?,
        log_sum: simd.rows(log_sum, heads)?,
        bias: biases.as_ref(),
        mask: attributes.mask,
        score: Score::new(attributes),
        d_query: Parts::new(filled(&mut d_query)?),
        d_key: Parts::new(filled(&mut d_key)?),
        d_value: Parts::new(filled(&mut d_value)?),
        d_distances: d_distances.as_mut().map(Distances::parts).transpose()?,
    };
    simd.team.each(count * groups, |index| {
        let (segment, head) = (index / groups, index % groups);
        let range = |lengths: &[usize]| -> Range<usize> {
            let first = lengths[..segment].iter().sum();
            first..first + lengths[segment]
        };
        let head = Head { segment, head, queries: range(&segments.queries), keys: range(&segments.keys) };
        with_scratch(task.scratch(&head), 0, |scratch| {
            simd.level.run(block::Run { task: &task, head: &head, scratch: scratch.sums });
        });
    });
    drop(task);
    let mut outputs: Outputs<Buffer> = [d_query, d_key, d_value].into_iter().collect();
    if let Some(bias) = bias {
        outputs.push(d_bias(simd, bias, attributes.bias, heads, d_distances.as_ref())?);
    }
    Ok(outputs)
}

/// What each distance brought, added up for each entry of the bias: segment by segment, distances going up.
fn d_bias(
    simd: &Simd,
    bias: &Tensor<Buffer>,
    kind: ScoreBias,
    heads: usize,
    d_distances: Option<&Distances>,
) -> Result<Buffer> {
    let mut out = simd.pool.zeros(bias.dtype(), bias.shape().elements())?;
    let Some(distances) = d_distances else { return Ok(out) };
    let to = filled::<f32>(&mut out)?;
    for row in 0..distances.rows()? {
        let head = row % heads;
        match kind {
            ScoreBias::Linear => {
                to[head] += distances.row(row)?.map(|(distance, x)| x * distance as f32).sum::<f32>();
            }
            ScoreBias::Relative { .. } => {
                let entries = distances.row(row)?;
                bucket_of(kind, &distances.seen(), |bucket| {
                    entries.for_each(|(distance, x)| to[bucket(distance) * heads + head] += x);
                });
            }
            ScoreBias::None => return Err(misfit("a bias of no kind")),
        }
    }
    Ok(out)
}
