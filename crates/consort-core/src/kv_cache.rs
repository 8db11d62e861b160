//! The keys and values of many sequences: slots, forks, windows, and the plans that operations follow.
//!
//! Layers with the same window share a pool of blocks, so that a windowed layer frees what no later token can see while
//! a full one keeps all. Blocks are taken as sequences grow: memory follows what was asked, not the longest context.

use std::sync::Arc;

use crate::{
    backend::{Backend, CacheOf},
    blocks::BlockTables,
    cache::{CachePlan, CacheSpec, PlanRow},
    device::Device,
    error::{Error, Result},
    tensor::HostData,
};

/// Rows per block.
pub const BLOCK: usize = 32;

/// A sequence in a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(pub usize);

/// Caches of a stack's layers.
pub struct KvCache<B: Backend> {
    device: Device<B>,
    pools: Vec<Pool<B>>,
    /// Per layer of the stack: which pool, and which layer in it.
    layers: Vec<(usize, usize)>,
    open: Vec<bool>,
}

struct Pool<B: Backend> {
    cache: CacheOf<B>,
    tables: BlockTables,
    reserved: usize,
}

/// What a stack's layers need to know of one step.
#[derive(Clone)]
pub struct StepPlan<B: Backend> {
    pools: Vec<(CacheOf<B>, Arc<CachePlan>)>,
    layers: Arc<[(usize, usize)]>,
}

impl<B: Backend> StepPlan<B> {
    /// Cache, layer within it, and plan of a layer of the stack.
    pub fn layer(&self, layer: usize) -> (&CacheOf<B>, usize, &Arc<CachePlan>) {
        let (pool, layer) = self.layers[layer];
        let (cache, plan) = &self.pools[pool];
        (cache, layer, plan)
    }
}

/// A sequence's keys and values on the host, per layer: what [`KvCache::export`] gives and [`KvCache::import`] takes.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedSequence {
    length: usize,
    layers: Vec<[HostData; 2]>,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache for layers with these windows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device<B>,
        windows: &[Option<usize>],
        key_value_heads: usize,
        head_width: usize,
    ) -> Result<Self> {
        let mut kinds: Vec<(Option<usize>, usize)> = Vec::new();
        let mut layers = Vec::with_capacity(windows.len());
        for &window in windows {
            let pool = kinds.iter().position(|kind| kind.0 == window).unwrap_or_else(|| {
                kinds.push((window, 0));
                kinds.len() - 1
            });
            layers.push((pool, kinds[pool].1));
            kinds[pool].1 += 1;
        }
        let pools = kinds
            .into_iter()
            .map(|(window, layers)| {
                let spec = CacheSpec { layers, key_value_heads, head_width, block: BLOCK };
                Ok(Pool { cache: device.cache(spec)?, tables: BlockTables::new(BLOCK, window), reserved: 0 })
            })
            .collect::<Result<_>>()?;
        Ok(Self { device: device.clone(), pools, layers, open: Vec::new() })
    }

    /// An empty sequence.
    pub fn open(&mut self) -> SlotId {
        let slot = self.vacant();
        self.pools.iter_mut().for_each(|pool| pool.tables.open(slot));
        SlotId(slot)
    }

    /// A sequence that begins with all that `from` has; blocks are shared until one of the two writes.
    ///
    /// # Errors
    /// [`Error::Input`] when `from` is not open.
    pub fn fork(&mut self, from: SlotId) -> Result<SlotId> {
        self.length(from)?;
        let slot = self.vacant();
        for pool in &mut self.pools {
            pool.tables.fork(from.0, slot)?;
        }
        Ok(SlotId(slot))
    }

    /// Lets a sequence's blocks go.
    pub fn close(&mut self, slot: SlotId) {
        self.pools.iter_mut().for_each(|pool| pool.tables.close(slot.0));
        if let Some(open) = self.open.get_mut(slot.0) {
            *open = false;
        }
    }

    /// Tokens held of a sequence.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open.
    pub fn length(&self, slot: SlotId) -> Result<usize> {
        if self.open.get(slot.0) != Some(&true) {
            return Err(Error::Input(format!("sequence {} is not open", slot.0)));
        }
        // A stack without layers holds nothing.
        self.pools.first().map_or(Ok(0), |pool| Ok(pool.tables.sequence(slot.0)?.length))
    }

    /// Forgets a sequence's tokens from `length` on.
    ///
    /// # Errors
    /// [`Error::Input`] when a window has already let go what would be seen.
    pub fn truncate(&mut self, slot: SlotId, length: usize) -> Result<()> {
        self.length(slot)?;
        self.pools.iter_mut().try_for_each(|pool| pool.tables.truncate(slot.0, length))
    }

    /// Makes room for one more row per entry of `slots`, in order: row r is the next position of `slots[r]`. Returns the
    /// plan and each row's position.
    ///
    /// # Errors
    /// [`Error::Input`] when a sequence is not open; [`Error::OutOfMemory`].
    pub fn append(&mut self, slots: &[SlotId]) -> Result<(StepPlan<B>, Vec<usize>)> {
        let mut sequences: Vec<(SlotId, usize, usize)> = Vec::new(); // slot, length before, new rows
        let mut rows = Vec::with_capacity(slots.len());
        for &slot in slots {
            let index = match sequences.iter().position(|sequence| sequence.0 == slot) {
                Some(index) => index,
                None => {
                    sequences.push((slot, self.length(slot)?, 0));
                    sequences.len() - 1
                }
            };
            let (_, before, new) = &mut sequences[index];
            rows.push(PlanRow { sequence: index, position: *before + *new });
            *new += 1;
        }
        let positions = rows.iter().map(|row| row.position).collect();
        for pool in &mut self.pools {
            let mut copies = Vec::new();
            for &(slot, _, new) in &sequences {
                copies.extend(pool.tables.extend(slot.0, new)?);
            }
            pool.reserve(&self.device)?;
            if !copies.is_empty() {
                self.device.cache_copy(&pool.cache, &copies)?;
            }
        }
        let slots: Vec<SlotId> = sequences.iter().map(|sequence| sequence.0).collect();
        Ok((self.plan(&slots, rows)?, positions))
    }

    /// A plan for rows that read sequences without adding to them: row r reads `slots[r]`.
    ///
    /// # Errors
    /// [`Error::Input`] when a sequence is not open.
    pub fn read(&self, slots: &[SlotId]) -> Result<StepPlan<B>> {
        let mut sequences: Vec<SlotId> = Vec::new();
        let mut rows = Vec::with_capacity(slots.len());
        for &slot in slots {
            let sequence = match sequences.iter().position(|&other| other == slot) {
                Some(sequence) => sequence,
                None => {
                    sequences.push(slot);
                    sequences.len() - 1
                }
            };
            rows.push(PlanRow { sequence, position: 0 });
        }
        self.plan(&sequences, rows)
    }

    /// Everything held of a sequence, on the host.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open or a window has let go its beginning.
    pub fn export(&self, slot: SlotId) -> Result<ExportedSequence> {
        let length = self.length(slot)?;
        let plan = self.plan(&[slot], Vec::new())?;
        let layers = (0..self.layers.len())
            .map(|layer| {
                let (cache, layer, plan) = plan.layer(layer);
                if plan.sequences[0].blocks.contains(&crate::cache::FREED) {
                    return Err(Error::Input(format!("sequence {} has left a window: it cannot be exported", slot.0)));
                }
                let rows: Vec<u32> = (0..length).map(|position| plan.physical(0, position)).collect();
                let [keys, values] = self.device.cache_read(cache, layer, &rows)?;
                Ok([self.device.download(&keys)?, self.device.download(&values)?])
            })
            .collect::<Result<_>>()?;
        Ok(ExportedSequence { length, layers })
    }

    /// A new sequence with what another cache of the same shape held.
    ///
    /// # Errors
    /// [`Error::Input`] when the number of layers differs; [`Error::Shape`] when heads do.
    pub fn import(&mut self, sequence: ExportedSequence) -> Result<SlotId> {
        if sequence.layers.len() != self.layers.len() {
            return Err(Error::Input(format!(
                "{} layers were exported, this cache has {}",
                sequence.layers.len(),
                self.layers.len()
            )));
        }
        let slot = self.open();
        let (plan, _) = self.append(&vec![slot; sequence.length])?;
        for (layer, [keys, values]) in sequence.layers.into_iter().enumerate() {
            let (cache, layer, plan) = plan.layer(layer);
            let sizes = [sequence.length, cache.spec().key_value_heads, cache.spec().head_width];
            let key = self.device.upload(keys, &sizes)?;
            let value = self.device.upload(values, &sizes)?;
            let (cache, plan) = (cache.clone(), plan.clone());
            self.device.fused(crate::operation::Fused::CacheWrite { cache, key, value, layer, plan })?;
        }
        Ok(slot)
    }

    fn plan(&self, slots: &[SlotId], rows: Vec<PlanRow>) -> Result<StepPlan<B>> {
        let pools = self
            .pools
            .iter()
            .map(|pool| {
                let sequences =
                    slots.iter().map(|slot| pool.tables.sequence(slot.0).cloned()).collect::<Result<_>>()?;
                Ok((pool.cache.clone(), Arc::new(CachePlan { block: BLOCK, rows: rows.clone(), sequences })))
            })
            .collect::<Result<_>>()?;
        Ok(StepPlan { pools, layers: self.layers.clone().into() })
    }

    fn vacant(&mut self) -> usize {
        let slot = self.open.iter().position(|open| !open).unwrap_or_else(|| {
            self.open.push(false);
            self.open.len() - 1
        });
        self.open[slot] = true;
        slot
    }
}

impl<B: Backend> Pool<B> {
    fn reserve(&mut self, device: &Device<B>) -> Result<()> {
        let needed = self.tables.capacity();
        if needed > self.reserved {
            // Doubling keeps the cost of growing a plain store linear in the end.
            let blocks = needed.max(2 * self.reserved);
            device.cache_reserve(&self.cache, blocks)?;
            self.reserved = blocks;
        }
        Ok(())
    }
}
