//! Weights drawn at random: what training begins from, and what speed is measured with.

use std::{collections::HashMap, sync::Arc, thread};

use super::Weights;
use crate::{
    config::{StackConfig, TransformerConfig},
    dtype::DType,
    philox::four_normals,
    stored::StoredTensor,
    weight_dtype::WeightDType,
};

/// Standard deviation of matrices and tables (GPT-2's; BERT's, Llama's and most others' since).
const DEVIATION: f64 = 0.02;

/// Weights of a configuration, drawn when they are asked for: matrices and tables normal with mean 0 and deviation 0.02, norms
/// the identity, biases 0. A slot's draws depend on the seed and its place among the slots alone.
pub struct RandomWeights {
    seed: u64,
    slots: HashMap<String, (u64, [usize; 2])>,
    /// What a norm's weight is when it changes nothing, by stack.
    identity: [f32; 2],
}

impl RandomWeights {
    /// The weights of `config`; the same for the same seed.
    pub fn new(config: &TransformerConfig, seed: u64) -> Self {
        let slots = config.slots().into_iter().zip(0..).map(|(slot, stream)| (slot.name, (stream, slot.shape)));
        let identity = |stack: &Option<StackConfig>| match stack {
            Some(stack) if stack.norm.unit_offset => 0.0,
            _ => 1.0,
        };
        Self { seed, slots: slots.collect(), identity: [identity(&config.encoder), identity(&config.decoder)] }
    }

    /// What all elements of a slot are, where they are not drawn.
    fn constant(&self, slot: &str) -> Option<f32> {
        if slot.ends_with(".bias") {
            Some(0.0)
        } else if slot.ends_with("norm.weight") {
            Some(self.identity[usize::from(!slot.starts_with("encoder"))])
        } else {
            None
        }
    }
}

impl Weights for RandomWeights {
    /// The slot's weight, in f32; none where there is no memory for it.
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        let &(stream, shape) = self.slots.get(slot)?;
        let elements = shape[0].checked_mul(shape[1])?;
        let size = elements.checked_mul(DType::F32.size())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).ok()?; // a caller without a weight says which
        bytes.resize(size, 0);
        match self.constant(slot) {
            Some(constant) => bytes.chunks_exact_mut(4).for_each(|one| one.copy_from_slice(&constant.to_le_bytes())),
            None => fill(&mut bytes, self.seed, stream),
        }
        StoredTensor::new(slot, Arc::new(bytes), 0, WeightDType::F32, shape).ok()
    }
}

/// Fills `bytes` with drawn singles; which thread draws what changes nothing.
fn fill(bytes: &mut [u8], seed: u64, stream: u64) {
    /// Bytes of four singles.
    const FOUR: usize = 16;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = bytes.len().div_ceil(FOUR).div_ceil(threads).max(1 << 14);
    thread::scope(|scope| {
        for (share_index, part) in bytes.chunks_mut(share * FOUR).enumerate() {
            let draw = move || {
                for (at, four) in part.chunks_mut(FOUR).enumerate() {
                    let drawn = four_normals(seed, stream, (share_index * share + at) as u64);
                    for (one, drawn) in four.chunks_exact_mut(4).zip(drawn) {
                        one.copy_from_slice(&((DEVIATION * drawn) as f32).to_le_bytes());
                    }
                }
            };
            scope.spawn(draw);
        }
    });
}
