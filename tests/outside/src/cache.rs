//! Keys and values of past tokens as this backend keeps them: per layer, `[rows, K, C]`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use consort_core::{
    Cache, CacheSpec, CacheStore, Error, HostData, Result, Tensor,
    cache::{CachePlan, PlanRow},
    decompose::visible,
    operation::AttentionAttributes,
};

use super::{
    attention::{Keys, attend},
    memory::{Buffer, singles},
};

/// The cache. The core says which rows are whose; what is in them is kept here.
pub struct Store {
    spec: CacheSpec,
    layers: Vec<Mutex<[Vec<f32>; 2]>>,
}

impl Store {
    /// A cache without rows.
    pub(crate) fn new(spec: &CacheSpec) -> Self {
        Self { spec: *spec, layers: (0..spec.layers).map(|_| Mutex::default()).collect() }
    }

    /// Elements of a row.
    fn width(&self) -> usize {
        self.spec.key_value_heads * self.spec.head_width
    }

    fn layer(&self, layer: usize) -> MutexGuard<'_, [Vec<f32>; 2]> {
        self.layers[layer].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `blocks` blocks; what is there stays.
    pub(crate) fn reserve(&self, blocks: usize) -> Result<()> {
        let elements = blocks * self.spec.block * self.width();
        for layer in 0..self.layers.len() {
            for all in self.layer(layer).iter_mut() {
                let more = elements.saturating_sub(all.len());
                all.try_reserve(more).map_err(|_| Error::OutOfMemory { asked: 4 * more as u64, limit: 0 })?;
            }
        }
        for layer in 0..self.layers.len() {
            self.layer(layer).iter_mut().for_each(|all| all.resize(elements.max(all.len()), 0.0));
        }
        Ok(())
    }

    /// Copies blocks, `(from, to)`.
    pub(crate) fn copy(&self, pairs: &[(u32, u32)]) {
        let size = self.spec.block * self.width();
        for layer in 0..self.layers.len() {
            for all in self.layer(layer).iter_mut() {
                for &(from, to) in pairs {
                    let from = from as usize * size;
                    all.copy_within(from..from + size, to as usize * size);
                }
            }
        }
    }

    /// Keys and values at rows, `[R, K, C]` each; zeros for rows that there are not.
    pub(crate) fn read(&self, layer: usize, rows: &[u32]) -> [HostData; 2] {
        let width = self.width();
        self.layer(layer).each_ref().map(|all| {
            let mut out = vec![0.0; rows.len() * width];
            for (out, &row) in out.chunks_mut(width).zip(rows) {
                if let Some(row) = all.get(row as usize * width..).and_then(|rest| rest.get(..width)) {
                    out.copy_from_slice(row);
                }
            }
            HostData::F32(out)
        })
    }
}

/// Puts new rows where the plan says.
pub(crate) fn write(
    cache: &Cache<Buffer, Store>,
    new: [&Tensor<Buffer>; 2],
    layer: usize,
    plan: &CachePlan,
) -> Option<Vec<HostData>> {
    let CacheStore::Native(store) = cache.store() else { return None };
    let width = store.width();
    for (all, new) in store.layer(layer).iter_mut().zip(new) {
        for (new, row) in singles(new)?.chunks(width).zip(plan.targets()) {
            if let Some(row) = all.get_mut(row as usize * width..).and_then(|rest| rest.get_mut(..width)) {
                row.copy_from_slice(new);
            }
        }
    }
    Some(Vec::new())
}

/// Attention of a step's rows over what the cache holds of their sequences.
pub(crate) fn attention(
    query: &Tensor<Buffer>,
    cache: &Cache<Buffer, Store>,
    bias: Option<&Tensor<Buffer>>,
    layer: usize,
    plan: &CachePlan,
    attributes: &AttentionAttributes,
) -> Option<Vec<HostData>> {
    let CacheStore::Native(store) = cache.store() else { return None };
    let seen_by = |&PlanRow { sequence, position }: &PlanRow| {
        let keys = visible(attributes.mask, position, plan.sequences[sequence].length);
        (position, keys.map(|key| (key, plan.physical(sequence, key) as usize)).collect())
    };
    let seen: Vec<_> = plan.rows.iter().map(seen_by).collect();
    let [keys, values] = &*store.layer(layer);
    let mut outputs =
        attend(query, &Keys { keys, values, heads: store.spec.key_value_heads }, bias, &seen, attributes)?;
    outputs.truncate(1);
    Some(outputs)
}
