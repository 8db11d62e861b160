//! Attention of packed sequences without a cache: keys and values go into panels first, then it is that of a cache.

mod attend;
mod bias;
mod chunk;
mod panels;

use consort_core::{
    Outputs, Result, Tensor,
    operation::{AttentionAttributes, Segments},
};
use smallvec::{SmallVec, smallvec};

pub(crate) use self::{
    attend::{Attend, Run, Sequences, distances, seen_by},
    bias::{Distances, bucket_of},
    chunk::{Score, Staircase, bias_at, is_finite, lane_numbers},
    panels::{Panels, columns, rows},
};
use crate::{
    Simd,
    gemm::PANEL,
    storage::{Buffer, filled},
};

/// Panels that a task packs at least.
const GRAIN: usize = 4;

/// Sequences one after the other.
struct Packed<'a> {
    panels: Panels,
    segments: SmallVec<[Segment; 16]>,
    data: &'a [f32],
}

/// Of a segment: where queries, keys and panels begin, and how many keys there are.
#[derive(Clone, Copy)]
struct Segment {
    first_query: usize,
    first_key: usize,
    first_panel: usize,
    keys: usize,
}

pub(crate) fn attention(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let [tokens, heads, width] = [query.size(0), query.size(1), query.size(2)];
    let panels = Panels { heads: key.size(1), width };
    let mut places: SmallVec<[Segment; 16]> = SmallVec::new();
    let mut runs: SmallVec<[Run; 16]> = SmallVec::new();
    let mut next = Segment { first_query: 0, first_key: 0, first_panel: 0, keys: 0 };
    for (sequence, (&queries, &keys)) in segments.queries.iter().zip(&segments.keys).enumerate() {
        places.push(Segment { keys, ..next });
        runs.push(Run { sequence, rows: next.first_query..next.first_query + queries });
        next.first_query += queries;
        next.first_key += keys;
        next.first_panel += keys.div_ceil(PANEL);
    }

    let rows = segments.queries.iter().zip(&segments.keys);
    let rows = rows.flat_map(|(&queries, &keys)| (0..queries).map(move |position| (position, keys)));
    let bias = match bias {
        Some(bias) => Distances::new(simd, Some(bias), attributes.bias, heads, distances(attributes.mask, rows))?,
        None => None,
    };

    let mut packed = simd.pool.take::<f32>(next.first_panel * panels.heads * panels.size())?;
    let (key, value) = (simd.rows(key, panels.heads * width)?, simd.rows(value, panels.heads * width)?);
    simd.team.rows(filled::<f32>(&mut packed)?, panels.size(), GRAIN, |first, parts| {
        for (index, part) in parts.chunks_exact_mut(panels.size().max(1)).enumerate() {
            let (panel, head) = ((first + index) / panels.heads, (first + index) % panels.heads);
            let Some(segment) = places.iter().rev().find(|segment| segment.first_panel <= panel && segment.keys > 0)
            else {
                continue;
            };
            let from = (panel - segment.first_panel) * PANEL;
            let row = segment.first_key + from;
            panels.write(
                part,
                0,
                PANEL.min(segment.keys - from),
                |index| &key.row(row + index)[head * width..][..width],
                |index| &value.row(row + index)[head * width..][..width],
            );
        }
    });

    let mut y = simd.pool.take::<f32>(tokens * heads * width)?;
    let mut log_sum = simd.pool.take::<f32>(tokens * heads)?;
    let sequences = Packed { panels, segments: places, data: packed.elements()? };
    let attend = Attend {
        sequences: &sequences,
        panels,
        heads,
        query: simd.rows(query, heads * width)?,
        bias,
        mask: attributes.mask,
        score: Score::new(attributes),
    };
    attend.run(simd, &runs, filled(&mut y)?, Some(filled(&mut log_sum)?))?;
    Ok(smallvec![y, log_sum])
}

impl Sequences for Packed<'_> {
    fn position(&self, row: usize) -> usize {
        let after = self.segments.partition_point(|segment| segment.first_query <= row);
        row - after.checked_sub(1).map_or(0, |segment| self.segments[segment].first_query)
    }

    fn length(&self, sequence: usize) -> usize {
        self.segments[sequence].keys
    }

    fn piece(&self, sequence: usize, head: usize, position: usize) -> (Option<&[f32]>, usize, usize) {
        let panel = self.segments[sequence].first_panel + position / PANEL;
        let first = (panel * self.panels.heads + head) * self.panels.size();
        (Some(&self.data[first..first + self.panels.size()]), position % PANEL, PANEL - position % PANEL)
    }
}
