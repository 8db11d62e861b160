//! Keys and values of past tokens, in blocks.
//!
//! The core does the bookkeeping (which sequence owns which blocks: [`KvCache`](crate::KvCache)); a backend keeps the
//! blocks' contents, in a layout of its own or as plain tensors `[blocks · rows, K, C]`. A step's [`CachePlan`] tells
//! where the new rows go and where each sequence's rows lie.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::tensor::Tensor;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Layers that share the block tables.
    pub layers: usize,
    /// K, key/value heads.
    pub key_value_heads: usize,
    /// C, width of a head.
    pub head_width: usize,
    /// Rows (tokens) per block. Fixed blocks from position 0 are what attention's partial sums may be split by.
    pub block: usize,
}

/// A cache on a device, shared by handle.
pub struct Cache<Buffer, Store>(Arc<Inner<Buffer, Store>>);

struct Inner<Buffer, Store> {
    spec: CacheSpec,
    store: CacheStore<Buffer, Store>,
}

/// How a cache is kept.
pub enum CacheStore<Buffer, Store> {
    /// Per layer, keys and values as tensors `[blocks · rows, K, C]` of the backend's float type; `None` after an
    /// operation on them failed.
    Plain(Mutex<Vec<Option<[Tensor<Buffer>; 2]>>>),
    /// As the backend keeps it.
    Native(Store),
}

impl<Buffer, Store> Clone for Cache<Buffer, Store> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Buffer, Store> Cache<Buffer, Store> {
    /// A handle of `store`.
    pub fn new(spec: CacheSpec, store: CacheStore<Buffer, Store>) -> Self {
        Self(Arc::new(Inner { spec, store }))
    }

    /// What it holds.
    pub fn spec(&self) -> &CacheSpec {
        &self.0.spec
    }

    /// How it is kept.
    pub fn store(&self) -> &CacheStore<Buffer, Store> {
        &self.0.store
    }
}

/// Locks a plain store; a panic elsewhere while it was held leaves `None` entries at worst, which are seen.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the rows of one step belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachePlan {
    /// Rows per block.
    pub block: usize,
    /// The step's rows, in the order of the activations.
    pub rows: Vec<PlanRow>,
    /// The sequences that they belong to.
    pub sequences: Vec<PlanSequence>,
}

/// One row of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 2]", into = "[usize; 2]")]
pub struct PlanRow {
    /// Index into [`CachePlan::sequences`].
    pub sequence: usize,
    /// Position in its sequence.
    pub position: usize,
}

impl From<[usize; 2]> for PlanRow {
    fn from([sequence, position]: [usize; 2]) -> Self {
        Self { sequence, position }
    }
}

impl From<PlanRow> for [usize; 2] {
    fn from(PlanRow { sequence, position }: PlanRow) -> Self {
        [sequence, position]
    }
}

/// Where one sequence's keys and values lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSequence {
    /// Block `i` holds positions `i · block ..`; [`FREED`] where the window has passed.
    pub blocks: Vec<u32>,
    /// Positions held after the step.
    pub length: usize,
}

/// A block that has left every window and was let go.
pub const FREED: u32 = u32::MAX;

impl CachePlan {
    /// Physical row of `position` of `sequence`: `block · rows per block + row`. A position that was let go or never was
    /// has none: `u32::MAX` is beyond every cache, so that it gathers zeros and is left out of a scatter.
    pub fn physical(&self, sequence: usize, position: usize) -> u32 {
        let block = self.sequences.get(sequence).and_then(|sequence| sequence.blocks.get(position / self.block.max(1)));
        match block {
            Some(&block) if block != FREED => {
                block.saturating_mul(self.block as u32).saturating_add((position % self.block) as u32)
            }
            _ => u32::MAX,
        }
    }

    /// Whether every row belongs to a sequence, every sequence has blocks for its length, and, where rows are `written`,
    /// every row lies within its sequence.
    pub(crate) fn is_consistent(&self, block: usize, written: bool) -> bool {
        let of_row = |row: &PlanRow| self.sequences.get(row.sequence);
        self.block == block
            && block > 0
            && self.sequences.iter().all(|sequence| sequence.blocks.len() >= sequence.length.div_ceil(block))
            && self.rows.iter().all(|row| of_row(row).is_some_and(|of| !written || row.position < of.length))
    }

    /// As [`physical`](Self::physical), of every row of the step: where a write puts it.
    pub fn targets(&self) -> Vec<u32> {
        self.rows.iter().map(|row| self.physical(row.sequence, row.position)).collect()
    }
}
