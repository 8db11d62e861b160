//! The cache: for each layer and block of rows, panels of keys and values of each head.
//!
//! Memory is taken as blocks are asked for and stays where it is: growing copies nothing, and a block that was never written
//! takes no room where the system gives memory page by page.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use consort_core::{
    CacheOf, Error, Outputs, Result, Tensor,
    cache::{CachePlan, CacheSpec, CacheStore, FREED},
    unsupported,
};
use smallvec::SmallVec;

use crate::{
    Simd,
    attention::Panels,
    gemm::PANEL,
    storage::{Buffer, Memory, filled, misfit},
    team::Parts,
};

/// Elements that a task writes at least.
const TASK: usize = 1 << 14;

/// Keys and values of all layers.
pub struct Store {
    panels: Panels,
    /// Rows of a block.
    block: usize,
    layers: Vec<RwLock<Layer>>,
}

/// Keys and values of a layer.
pub(crate) struct Layer {
    panels: Panels,
    block: usize,
    slabs: Vec<Slab>,
}

/// Blocks that were asked for together.
struct Slab {
    first: usize,
    blocks: usize,
    memory: Memory,
}

impl Store {
    pub(crate) fn new(spec: &CacheSpec) -> Self {
        let panels = Panels { heads: spec.key_value_heads, width: spec.head_width };
        let layer = |_| RwLock::new(Layer { panels, block: spec.block, slabs: Vec::new() });
        Self { panels, block: spec.block, layers: (0..spec.layers).map(layer).collect() }
    }

    pub(crate) fn panels(&self) -> Panels {
        self.panels
    }

    /// A layer, to be read. What panics while it writes leaves numbers, if not the right ones.
    pub(crate) fn layer(&self, layer: usize) -> Result<RwLockReadGuard<'_, Layer>> {
        let layer = self.layers.get(layer).ok_or_else(|| misfit("a layer that the cache does not have"))?;
        Ok(layer.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn layer_mut(&self, layer: usize) -> Result<RwLockWriteGuard<'_, Layer>> {
        let layer = self.layers.get(layer).ok_or_else(|| misfit("a layer that the cache does not have"))?;
        Ok(layer.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Room for `blocks` blocks in all layers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; all is as it was then.
    pub(crate) fn reserve(&self, blocks: usize) -> Result<()> {
        let mut slabs: SmallVec<[(usize, Slab); 64]> = SmallVec::new();
        for index in 0..self.layers.len() {
            let layer = self.layer(index)?;
            let first = layer.blocks();
            if first < blocks {
                let elements = layer.size().checked_mul(blocks - first);
                let bytes = elements.and_then(|elements| elements.checked_mul(size_of::<f32>()));
                let memory = Memory::new(bytes.ok_or(Error::OutOfMemory { asked: u64::MAX, limit: 0 })?)?;
                slabs.push((index, Slab { first, blocks: blocks - first, memory }));
            }
        }
        for (index, slab) in slabs {
            let mut layer = self.layer_mut(index)?;
            // Unless it has grown meanwhile.
            if layer.blocks() == slab.first {
                layer.slabs.push(slab);
            }
        }
        Ok(())
    }

    /// Copies whole blocks in all layers, in this order.
    pub(crate) fn copy(&self, pairs: &[(u32, u32)]) -> Result<()> {
        for index in 0..self.layers.len() {
            let mut layer = self.layer_mut(index)?;
            pairs.iter().for_each(|&(from, to)| layer.copy(from, to));
        }
        Ok(())
    }

    /// Keys and values at physical rows, each `[R, K, C]`; zeros where there are none.
    pub(crate) fn read(&self, simd: &Simd, layer: usize, rows: &[u32]) -> Result<[Buffer; 2]> {
        let layer = self.layer(layer)?;
        let Panels { heads, width } = self.panels;
        let mut keys = simd.pool.take::<f32>(rows.len() * heads * width)?;
        let mut values = simd.pool.take::<f32>(rows.len() * heads * width)?;
        let block = self.block.max(1) as u32;
        let keys_of_rows = filled::<f32>(&mut keys)?.chunks_mut(width.max(1));
        let to = keys_of_rows.zip(filled::<f32>(&mut values)?.chunks_mut(width.max(1)));
        for ((key, value), (&row, head)) in to.zip(rows.iter().flat_map(|row| (0..heads).map(move |head| (row, head))))
        {
            match layer.piece(Some(row / block), head, (row % block) as usize) {
                (Some(panel), column, _) => self.panels.read(panel, column, key, value),
                _ => {
                    key.fill(0.0);
                    value.fill(0.0);
                }
            }
        }
        Ok([keys, values])
    }
}

impl Layer {
    fn blocks(&self) -> usize {
        self.slabs.last().map_or(0, |slab| slab.first + slab.blocks)
    }

    /// Floats of a block.
    fn size(&self) -> usize {
        self.block.div_ceil(PANEL) * self.panels.heads * self.panels.size()
    }

    /// Slab of a block and number in it.
    fn find(&self, block: u32) -> Option<(usize, usize)> {
        let block = block as usize;
        let slab = self.slabs.partition_point(|slab| slab.first <= block).checked_sub(1)?;
        let number = block - self.slabs[slab].first;
        (number < self.slabs[slab].blocks).then_some((slab, number))
    }

    /// Floats of a head's panel for `row` of a block, from the block's beginning on.
    fn place(&self, head: usize, row: usize) -> usize {
        (row / PANEL * self.panels.heads + head) * self.panels.size()
    }

    /// As [`Sequences::piece`](crate::attention::Sequences::piece), for a row of a block.
    pub(crate) fn piece(&self, block: Option<u32>, head: usize, row: usize) -> (Option<&[f32]>, usize, usize) {
        let held = (PANEL - row % PANEL).min(self.block - row);
        let panel = block.filter(|&block| block != FREED).and_then(|block| self.find(block)).map(|(slab, number)| {
            let Slab { blocks, memory, .. } = &self.slabs[slab];
            let all: &[f32] = memory.items(blocks * self.size());
            &all[number * self.size() + self.place(head, row)..][..self.panels.size()]
        });
        (panel, row % PANEL, held)
    }

    /// A block onto another; zeros where there is none, nothing where there is no other.
    fn copy(&mut self, from: u32, to: u32) {
        let size = self.size();
        let Some((to_slab, to)) = self.find(to) else { return };
        let from = self.find(from);
        match from {
            None => self.slabs[to_slab].block_mut(to, size).fill(0.0),
            Some((slab, from)) if slab == to_slab => {
                let Slab { blocks, memory, .. } = &mut self.slabs[slab];
                memory.items_mut::<f32>(*blocks * size).copy_within(from * size..(from + 1) * size, to * size);
            }
            Some((slab, from)) => {
                let (low, high) = self.slabs.split_at_mut(slab.max(to_slab));
                let (low, high) = (&mut low[slab.min(to_slab)], &mut high[0]);
                let (from_slab, to_slab) = if slab < to_slab { (low, high) } else { (high, low) };
                to_slab.block_mut(to, size).copy_from_slice(from_slab.block_mut(from, size));
            }
        }
    }
}

impl Slab {
    fn block_mut(&mut self, number: usize, size: usize) -> &mut [f32] {
        &mut self.memory.items_mut::<f32>(self.blocks * size)[number * size..][..size]
    }
}

pub(crate) fn cache_write(
    simd: &Simd,
    cache: &CacheOf<Simd>,
    key: &mut Tensor<Buffer>,
    value: &mut Tensor<Buffer>,
    layer: usize,
    plan: &CachePlan,
) -> Result<Outputs<Buffer>> {
    let CacheStore::Native(store) = cache.store() else { return Err(unsupported(simd, "cache_write")) };
    let Panels { heads, width } = store.panels;
    let (key, value) = (simd.rows(key, heads * width)?, simd.rows(value, heads * width)?);
    let mut layer = store.layer_mut(layer)?;
    let (size, block) = (layer.size(), layer.block);
    let slabs = layer.slabs.iter_mut().map(|slab| Parts::new(slab.memory.items_mut::<f32>(slab.blocks * size)));
    let slabs: SmallVec<[Parts<f32>; 32]> = slabs.collect();
    let layer = &*layer;
    // A head's panels are one task's.
    simd.team.ranges(heads, TASK / (plan.rows.len() * width).max(1), |range| {
        let mut row = 0;
        while row < plan.rows.len() {
            let of = |row: usize| plan.rows.get(row).map(|row| (row.sequence, row.position));
            let (sequence, position) = (plan.rows[row].sequence, plan.rows[row].position);
            let place = position % block;
            // Rows that follow each other in a panel.
            let most = (PANEL - place % PANEL).min(block - place);
            let count = (1..most).find(|&next| of(row + next) != Some((sequence, position + next))).unwrap_or(most);
            let number = plan.sequences[sequence].blocks.get(position / block).copied();
            if let Some((slab, number)) = number.filter(|&block| block != FREED).and_then(|block| layer.find(block)) {
                for head in range.clone() {
                    let first = number * size + layer.place(head, place);
                    // SAFETY: panels of a head belong to the one task that has the head.
                    let panel = unsafe { slabs[slab].part(first..first + store.panels.size()) };
                    store.panels.write(
                        panel,
                        place % PANEL,
                        count,
                        |index| &key.row(row + index)[head * width..][..width],
                        |index| &value.row(row + index)[head * width..][..width],
                    );
                }
            }
            row += count;
        }
    });
    Ok(Outputs::new())
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use consort_core::HostData;

    use super::*;

    /// A cache of blocks of three rows that has grown twice, all rows of it their own numbers.
    #[test]
    fn a_cache_that_grows_keeps_what_it_has() {
        let simd = Simd::new(crate::Level::best(), 1);
        let spec = CacheSpec { layers: 2, key_value_heads: 2, head_width: 5, block: 3 };
        let store = Store::new(&spec);
        store.reserve(2).unwrap();
        fn numbers(panel: &mut [f32], layer: &Layer, block: usize, head: usize) {
            let row = |row: usize, kind: usize| -> Vec<f32> {
                (0..5).map(|channel| (channel + 10 * head + 100 * (3 * block + row) + 1000 * kind) as f32).collect()
            };
            for place in 0..3 {
                let (key, value) = (row(place, 0), row(place, 1));
                layer.panels.write(panel, place, 1, |_| &key, |_| &value);
            }
        }
        let fill = |blocks: Range<usize>| {
            for block in blocks {
                let mut layer = store.layer_mut(1).unwrap();
                let (slab, number) = layer.find(block as u32).unwrap();
                let size = layer.size();
                let mut of_block = layer.slabs[slab].block_mut(number, size).to_vec();
                for head in 0..2 {
                    let first = layer.place(head, 0);
                    numbers(&mut of_block[first..first + layer.panels.size()], &layer, block, head);
                }
                layer.slabs[slab].block_mut(number, size).copy_from_slice(&of_block);
            }
        };
        fill(0..2);
        store.reserve(1).unwrap();
        store.reserve(5).unwrap();
        fill(2..5);
        let read = |layer: usize, rows: &[u32]| -> [Vec<f32>; 2] {
            store.read(&simd, layer, rows).unwrap().map(|buffer| match buffer.to_host() {
                HostData::F32(data) => data,
                other => panic!("{other:?}"),
            })
        };
        let expected = |rows: &[u32], kind: u32| -> Vec<f32> {
            let of = |row: u32| (0..10).map(move |at| (at % 5 + 10 * (at / 5) + 100 * row + 1000 * kind) as f32);
            rows.iter().flat_map(|&row| of(row)).collect()
        };
        let all: Vec<u32> = (0..15).collect();
        assert_eq!(read(1, &all), [expected(&all, 0), expected(&all, 1)]);
        assert!(read(0, &all).iter().flatten().all(|&x| x == 0.0));
        // Between what was asked for at different times, within it, from where there is nothing, and to where.
        store.copy(&[(0, 4), (3, 2), (9, 1), (0, 9)]).unwrap();
        assert_eq!(read(1, &[12, 13, 14, 6, 7, 8])[1], expected(&[0, 1, 2, 9, 10, 11], 1));
        assert!(read(1, &[3, 4, 5, 15, u32::MAX]).iter().flatten().all(|&x| x == 0.0));
        assert!(matches!(store.reserve(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
        assert_eq!(read(1, &[0])[0], expected(&[0], 0));
    }
}
