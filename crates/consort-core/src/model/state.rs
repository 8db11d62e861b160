//! What inference remembers between steps: sequences with their keys and values, and encoded sources.

use std::sync::Arc;

use super::stack::{Stack, check_length};
use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::{Error, Result},
    kv_cache::{KvCache, SlotId, StepPlan},
    operation::Fused,
};

/// An encoded source in a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(SlotId);

/// Sequences under way. One state serves many sequences; drop it to free everything.
pub struct State<B: Backend> {
    keys: KvCache<B>,
    /// Encoder-decoder models only.
    source_keys: Option<KvCache<B>>,
    sequences: Vec<Option<Sequence>>,
}

#[derive(Clone, Copy)]
struct Sequence {
    /// Tokens that were announced when it was opened; see [`State::open`].
    announced: usize,
    source: Option<SourceId>,
}

/// Token ids of a step.
pub enum Tokens<'a, B: Backend> {
    /// From the host; checked against the vocabulary.
    Host(&'a [u32]),
    /// Already on the device, u32 `[rows]`, as sampling left them.
    Device(TensorOf<B>),
}

/// A step's rows, placed.
pub(super) struct Step<B: Backend> {
    pub(super) keys: StepPlan<B>,
    pub(super) sources: Option<StepPlan<B>>,
    pub(super) positions: Vec<usize>,
    pub(super) lengths: Vec<usize>,
}

impl<B: Backend> State<B> {
    pub(super) fn new(device: &Device<B>, decoder: &Stack<B>) -> Result<Self> {
        let config = &decoder.config;
        let attention = &config.attention;
        let windows: Vec<Option<usize>> = (0..config.layers).map(|layer| config.window(layer)).collect();
        let cache =
            |windows: &[Option<usize>]| KvCache::new(device, windows, attention.key_value_heads, attention.head_width);
        let source_keys = if config.cross_attention { Some(cache(&vec![None; config.layers])?) } else { None };
        Ok(Self { keys: cache(&windows)?, source_keys, sequences: Vec::new() })
    }

    /// An empty sequence. `announced` is how many tokens its prompt will have, however it is cut into steps: dynamic
    /// rotary scaling depends on it, nothing else does. `source` is what a decoder with cross-attention reads.
    pub fn open(&mut self, announced: usize, source: Option<SourceId>) -> SlotId {
        let slot = self.keys.open();
        self.remember(slot, Sequence { announced, source });
        slot
    }

    /// A sequence that begins as a copy of `from`, sharing its blocks until one of the two goes on.
    ///
    /// # Errors
    /// [`Error::Input`] when `from` is not open.
    pub fn fork(&mut self, from: SlotId) -> Result<SlotId> {
        let sequence = self.sequence(from)?;
        let slot = self.keys.fork(from)?;
        self.remember(slot, sequence);
        Ok(slot)
    }

    /// Forgets a sequence's tokens from `length` on.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open or a window has let go what would be seen.
    pub fn truncate(&mut self, slot: SlotId, length: usize) -> Result<()> {
        self.keys.truncate(slot, length)
    }

    /// Ends a sequence and frees what it alone held; its source stays.
    pub fn close(&mut self, slot: SlotId) {
        self.keys.close(slot);
        if let Some(sequence) = self.sequences.get_mut(slot.0) {
            *sequence = None;
        }
    }

    /// Frees a source's keys and values. Close the sequences that read it first: its id may be given to another.
    pub fn remove_source(&mut self, source: SourceId) {
        if let Some(keys) = &mut self.source_keys {
            keys.close(source.0);
        }
    }

    /// Tokens held of a sequence.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not open.
    pub fn length(&self, slot: SlotId) -> Result<usize> {
        self.keys.length(slot)
    }

    pub(super) fn keep_sources(
        &mut self,
        device: &Device<B>,
        decoder: &Stack<B>,
        hidden: &TensorOf<B>,
        lengths: &[usize],
    ) -> Result<Vec<SourceId>> {
        let cache = self
            .source_keys
            .as_mut()
            .ok_or_else(|| Error::Input("this model has no encoder to take a source".into()))?;
        let sources: Vec<SlotId> = lengths.iter().map(|_| cache.open()).collect();
        match Self::write_sources(cache, device, decoder, hidden, &sources, lengths) {
            Ok(()) => Ok(sources.into_iter().map(SourceId).collect()),
            Err(error) => {
                sources.into_iter().for_each(|source| cache.close(source));
                Err(error)
            }
        }
    }

    fn write_sources(
        cache: &mut KvCache<B>,
        device: &Device<B>,
        decoder: &Stack<B>,
        hidden: &TensorOf<B>,
        sources: &[SlotId],
        lengths: &[usize],
    ) -> Result<()> {
        let rows: Vec<SlotId> =
            sources.iter().zip(lengths).flat_map(|(&slot, &length)| std::iter::repeat_n(slot, length)).collect();
        let (plan, _) = cache.append(&rows)?;
        for (index, block) in decoder.blocks.iter().enumerate() {
            let Some((attention, _)) = &block.cross_attention else { continue };
            let [key, value] = attention.source_keys(device, hidden)?;
            let (cache, layer, plan) = plan.layer(index);
            let (cache, plan) = (cache.clone(), Arc::clone(plan));
            device.fused(Fused::CacheWrite { cache, key, value, layer, plan })?;
        }
        Ok(())
    }

    pub(super) fn append(&mut self, slots: &[SlotId], context: Option<usize>) -> Result<Step<B>> {
        // Everything that can be refused is refused before anything changes.
        let mut sources = Vec::with_capacity(slots.len());
        let mut rows_of = vec![0; self.sequences.len()];
        for &slot in slots {
            sources.push(self.sequence(slot)?.source);
            let held = self.keys.length(slot)?; // an id that was never given ends here
            rows_of[slot.0] += 1;
            check_length(held + rows_of[slot.0], context)?;
        }
        let sources = match &self.source_keys {
            Some(keys) => {
                let sources: Option<Vec<SlotId>> = sources.iter().map(|source| source.map(|source| source.0)).collect();
                let sources = sources.ok_or_else(|| Error::Input("a sequence was opened without its source".into()))?;
                Some(keys.read(&sources)?)
            }
            None => None,
        };
        let (keys, positions) = self.keys.append(slots)?;
        let lengths = slots
            .iter()
            .zip(&positions)
            .map(|(&slot, &position)| Ok(self.sequence(slot)?.announced.max(position + 1)))
            .collect::<Result<_>>()?;
        Ok(Step { keys, sources, positions, lengths })
    }

    /// Forgets the rows of a step that failed, so that the sequences are as they were before it.
    pub(super) fn take_back(&mut self, slots: &[SlotId], positions: &[usize]) {
        for (&slot, &position) in slots.iter().zip(positions).rev() {
            // Blocks that the step needed were there, and what its first row saw still is.
            let _ = self.keys.truncate(slot, position);
        }
    }

    fn sequence(&self, slot: SlotId) -> Result<Sequence> {
        self.sequences
            .get(slot.0)
            .copied()
            .flatten()
            .ok_or_else(|| Error::Input(format!("sequence {} is not open", slot.0)))
    }

    fn remember(&mut self, slot: SlotId, sequence: Sequence) {
        if self.sequences.len() <= slot.0 {
            self.sequences.resize(slot.0 + 1, None);
        }
        self.sequences[slot.0] = Some(sequence);
    }
}

impl<B: Backend> Tokens<'_, B> {
    pub(super) fn upload(self, device: &Device<B>, rows: usize, vocabulary: usize) -> Result<TensorOf<B>> {
        match self {
            Self::Host(ids) => {
                if ids.len() != rows {
                    return Err(Error::Input(format!("{} tokens for {rows} rows", ids.len())));
                }
                check_tokens(ids, vocabulary)?;
                device.upload_ids(ids.to_vec())
            }
            Self::Device(ids) if ids.sizes() == [rows] => Ok(ids),
            Self::Device(ids) => Err(Error::Input(format!("token ids {} for {rows} rows", ids.shape()))),
        }
    }
}

/// Ids must be rows of the embedding.
pub(super) fn check_tokens(ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(Error::Input(format!(
            "token id {id} is beyond the model's vocabulary of {vocabulary} (ids 0 to {})",
            vocabulary - 1
        ))),
        None => Ok(()),
    }
}
