//! The keys and values of many sequences: slots, forks, windows, and the plans that operations follow.
//!
//! Layers with the same window share a pool of blocks, so that a windowed layer frees what no later token can see while
//! a full one keeps all. Blocks are taken as sequences grow: memory follows what was asked, not the longest context.

use std::sync::Arc;

use crate::{
    backend::{Backend, CacheOf},
    blocks::{BlockTables, Extension},
    cache::{CachePlan, CacheSpec, FREED, PlanRow},
    device::Device,
    error::{Error, Result},
    operation::Fused,
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
    layers: Arc<[(usize, usize)]>,
    /// Tokens held of each open sequence. A stack without layers counts them too.
    lengths: Vec<Option<usize>>,
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
    ///
    /// # Panics
    /// When the stack has no such layer.
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
        Ok(Self { device: device.clone(), pools, layers: layers.into(), lengths: Vec::new() })
    }

    /// An empty sequence.
    pub fn open(&mut self) -> SlotId {
        let slot = self.vacant(0);
        self.pools.iter_mut().for_each(|pool| pool.tables.open(slot));
        SlotId(slot)
    }

    /// A sequence that begins with all that `from` has; blocks are shared until one of the two writes.
    ///
    /// # Errors
    /// [`Error::Input`] when `from` is not open.
    pub fn fork(&mut self, from: SlotId) -> Result<SlotId> {
        let length = self.length(from)?;
        let slot = self.vacant(length);
        for pool in &mut self.pools {
            pool.tables.fork(from.0, slot)?;
        }
        Ok(SlotId(slot))
    }

    /// Lets a sequence's blocks go. Its id may be given to a sequence that is opened later.
    pub fn close(&mut self, slot: SlotId) {
        self.pools.iter_mut().for_each(|pool| pool.tables.close(slot.0));
        if let Some(length) = self.lengths.get_mut(slot.0) {
            *length = None;
        }
    }

    /// Tokens held of a sequence.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open.
    pub fn length(&self, slot: SlotId) -> Result<usize> {
        let length = self.lengths.get(slot.0).copied().flatten();
        length.ok_or_else(|| Error::Input(format!("sequence {} is not open", slot.0)))
    }

    /// Forgets a sequence's tokens from `length` on; a sequence of fewer stays as it is.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open, or when a window has already let go what would be seen: nothing is forgotten
    /// then.
    pub fn truncate(&mut self, slot: SlotId, length: usize) -> Result<()> {
        let held = self.length(slot)?;
        // All pools or none.
        self.pools.iter().try_for_each(|pool| pool.tables.can_truncate(slot.0, length))?;
        self.pools.iter_mut().try_for_each(|pool| pool.tables.truncate(slot.0, length))?;
        self.lengths[slot.0] = Some(held.min(length));
        Ok(())
    }

    /// Makes room for one more row per entry of `slots`, in order: row r is the next position of `slots[r]`. Returns the
    /// plan and each row's position.
    ///
    /// # Errors
    /// [`Error::Input`] when a sequence is not open; [`Error::OutOfMemory`]. No sequence is longer then.
    pub fn append(&mut self, slots: &[SlotId]) -> Result<(StepPlan<B>, Vec<usize>)> {
        let (sequences, of_rows) = self.distinct(slots)?;
        let mut lengths = sequences.iter().map(|&slot| self.length(slot)).collect::<Result<Vec<_>>>()?;
        let next = |sequence: usize| {
            let position = lengths[sequence];
            lengths[sequence] += 1;
            PlanRow { sequence, position }
        };
        let rows: Vec<PlanRow> = of_rows.into_iter().map(next).collect();
        let mut extended = Vec::with_capacity(self.pools.len());
        if let Err(error) = self.extend(&sequences, &lengths, &mut extended) {
            for (pool, (extensions, capacity)) in self.pools.iter_mut().zip(extended) {
                pool.tables.undo(&extensions, capacity);
            }
            return Err(error);
        }
        for (slot, length) in sequences.iter().zip(lengths) {
            self.lengths[slot.0] = Some(length);
        }
        let positions = rows.iter().map(|row| row.position).collect();
        Ok((self.plan(&sequences, rows)?, positions))
    }

    /// Takes blocks in all pools for sequences to have these lengths. What was done, and the capacity before, is put in
    /// `extended` pool by pool, so that it can be undone.
    fn extend(
        &mut self,
        sequences: &[SlotId],
        lengths: &[usize],
        extended: &mut Vec<(Vec<Extension>, usize)>,
    ) -> Result<()> {
        for pool in &mut self.pools {
            sequences.iter().try_for_each(|slot| pool.tables.release_passed(slot.0))?;
            extended.push((Vec::with_capacity(sequences.len()), pool.tables.capacity()));
            let Some((extensions, _)) = extended.last_mut() else { continue };
            for (slot, length) in sequences.iter().zip(lengths) {
                let rows = length - self.lengths[slot.0].unwrap_or(0);
                extensions.push(pool.tables.extend(slot.0, rows)?);
            }
            pool.reserve(&self.device)?;
            let copies: Vec<(u32, u32)> = extensions.iter().filter_map(Extension::copy).collect();
            if !copies.is_empty() {
                self.device.cache_copy(&pool.cache, &copies)?;
            }
        }
        Ok(())
    }

    /// A plan for rows that read sequences without adding to them: row r reads `slots[r]`.
    ///
    /// # Errors
    /// [`Error::Input`] when a sequence is not open.
    pub fn read(&self, slots: &[SlotId]) -> Result<StepPlan<B>> {
        let (sequences, of_rows) = self.distinct(slots)?;
        self.plan(&sequences, of_rows.into_iter().map(|sequence| PlanRow { sequence, position: 0 }).collect())
    }

    /// The sequences among `slots`, each once, in order of first appearance; and for every row which of them it is.
    fn distinct(&self, slots: &[SlotId]) -> Result<(Vec<SlotId>, Vec<usize>)> {
        let mut sequences = Vec::new();
        let mut seen_as = vec![usize::MAX; self.lengths.len()];
        let of_rows = slots.iter().map(|&slot| {
            self.length(slot)?;
            if seen_as[slot.0] == usize::MAX {
                seen_as[slot.0] = sequences.len();
                sequences.push(slot);
            }
            Ok(seen_as[slot.0])
        });
        let of_rows = of_rows.collect::<Result<_>>()?;
        Ok((sequences, of_rows))
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
                if plan.sequences.iter().any(|sequence| sequence.blocks.contains(&FREED)) {
                    return Err(Error::Input(format!("sequence {} has left a window: it cannot be exported", slot.0)));
                }
                let rows: Vec<u32> = (0..length).map(|position| plan.physical(0, position)).collect();
                let [keys, values] = self.device.cache_read(cache, layer, &rows)?;
                Ok([self.device.download(&keys)?, self.device.download(&values)?])
            })
            .collect::<Result<_>>()?;
        Ok(ExportedSequence { length, layers })
    }

    /// A new sequence with what another cache of the same shape held, rounded to this device's float type.
    ///
    /// # Errors
    /// [`Error::Input`] when the number of layers differs; [`Error::Shape`] when heads do; [`Error::OutOfMemory`]. No
    /// sequence is opened then.
    pub fn import(&mut self, sequence: ExportedSequence) -> Result<SlotId> {
        if sequence.layers.len() != self.layers.len() {
            return Err(Error::Input(format!(
                "{} layers were exported, this cache has {}",
                sequence.layers.len(),
                self.layers.len()
            )));
        }
        let slot = self.open();
        match self.fill(slot, sequence) {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.close(slot);
                Err(error)
            }
        }
    }

    fn fill(&mut self, slot: SlotId, sequence: ExportedSequence) -> Result<()> {
        let float = self.device.float();
        let (plan, _) = self.append(&vec![slot; sequence.length])?;
        for (layer, data) in sequence.layers.into_iter().enumerate() {
            let (cache, layer, plan) = plan.layer(layer);
            let sizes = [sequence.length, cache.spec().key_value_heads, cache.spec().head_width];
            let [key, value] = data.map(|data| {
                let data =
                    if data.dtype() == float { data } else { HostData::from_f64(data.to_f64().into_iter(), float) };
                self.device.upload(data, &sizes)
            });
            let (cache, plan, key, value) = (cache.clone(), Arc::clone(plan), key?, value?);
            self.device.fused(Fused::CacheWrite { cache, key, value, layer, plan })?;
        }
        Ok(())
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
        Ok(StepPlan { pools, layers: Arc::clone(&self.layers) })
    }

    fn vacant(&mut self, length: usize) -> usize {
        let slot = self.lengths.iter().position(Option::is_none).unwrap_or_else(|| {
            self.lengths.push(None);
            self.lengths.len() - 1
        });
        self.lengths[slot] = Some(length);
        slot
    }
}

impl<B: Backend> Pool<B> {
    fn reserve(&mut self, device: &Device<B>) -> Result<()> {
        let needed = self.tables.capacity();
        if needed <= self.reserved {
            return Ok(());
        }
        let spec = self.cache.spec();
        // Physical rows are u32, and the greatest stands for none.
        if needed.saturating_mul(spec.block) >= u32::MAX as usize {
            let row = 2 * spec.layers * spec.key_value_heads * spec.head_width * device.float().size();
            return Err(Error::OutOfMemory {
                asked: (needed as u64).saturating_mul((spec.block * row) as u64),
                limit: 0,
            });
        }
        // Doubling keeps the cost of growing a plain store linear in the end; where that is too much, what is needed.
        let doubled = needed.max(2 * self.reserved);
        self.reserved = match device.cache_reserve(&self.cache, doubled) {
            Ok(()) => doubled,
            Err(Error::OutOfMemory { .. }) if doubled > needed => {
                device.cache_reserve(&self.cache, needed)?;
                needed
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }
}
