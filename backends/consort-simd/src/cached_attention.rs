//! Attention of rows over what a cache holds of their sequences.

use std::cell::RefCell;

use consort_core::{
    CacheOf, Outputs, Result, Tensor,
    cache::{CachePlan, CacheStore},
    operation::AttentionAttributes,
    unsupported,
};
use smallvec::smallvec;

use crate::{
    Simd,
    attention::{Attend, Distances, Run, Score, Sequences, distances},
    cache::Layer,
    storage::{Buffer, filled},
};

thread_local! {
    /// Room for runs, kept between calls.
    static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn cached_attention(
    simd: &Simd,
    query: &mut Tensor<Buffer>,
    cache: &CacheOf<Simd>,
    bias: &mut Option<Tensor<Buffer>>,
    layer: usize,
    plan: &CachePlan,
    attributes: &AttentionAttributes,
) -> Result<Outputs<Buffer>> {
    let CacheStore::Native(store) = cache.store() else { return Err(unsupported(simd, "cached_attention")) };
    let [tokens, heads, width] = [query.size(0), query.size(1), query.size(2)];
    let rows = plan.rows.iter().map(|row| (row.position, plan.sequences[row.sequence].length));
    let bias = match bias {
        Some(bias) => Distances::new(simd, Some(bias), attributes.bias, heads, distances(attributes.mask, rows))?,
        None => None,
    };
    let mut y = simd.pool.take::<f32>(tokens * heads * width)?;
    let layer = store.layer(layer)?;
    let sequences = Cached { plan, layer: &layer };
    let attend = Attend {
        sequences: &sequences,
        panels: store.panels(),
        heads,
        query: simd.rows(query, heads * width)?,
        bias,
        mask: attributes.mask,
        score: Score::new(attributes),
    };
    let mut runs = RUNS.take();
    runs_of(plan, &mut runs);
    let done = attend.run(simd, &runs, filled(&mut y)?, None);
    RUNS.set(runs);
    done?;
    Ok(smallvec![y])
}

/// Rows of one sequence that follow each other, at positions that do not go down.
fn runs_of(plan: &CachePlan, runs: &mut Vec<Run>) {
    runs.clear();
    for (index, row) in plan.rows.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.sequence == row.sequence && plan.rows[index - 1].position <= row.position => {
                run.rows.end = index + 1;
            }
            _ => runs.push(Run { sequence: row.sequence, rows: index..index + 1 }),
        }
    }
}

/// Sequences of a plan in a layer of the cache.
struct Cached<'a> {
    plan: &'a CachePlan,
    layer: &'a Layer,
}

impl Sequences for Cached<'_> {
    fn position(&self, row: usize) -> usize {
        self.plan.rows[row].position
    }

    fn length(&self, sequence: usize) -> usize {
        self.plan.sequences[sequence].length
    }

    fn piece(&self, sequence: usize, head: usize, position: usize) -> (Option<&[f32]>, usize, usize) {
        let block = self.plan.sequences[sequence].blocks.get(position / self.plan.block).copied();
        self.layer.piece(block, head, position % self.plan.block)
    }
}
