//! Weights drawn at random: what training begins from, and what speed is measured with.

use std::{collections::HashMap, sync::Arc};

use super::Weights;
use crate::{
    config::{StackConfig, TransformerConfig},
    dtype::DType,
    philox::normal,
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
    identity: [f64; 2],
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

    fn value(&self, slot: &str, stream: u64) -> impl Fn(u64) -> f64 + use<'_> {
        let constant = if slot.ends_with(".bias") {
            Some(0.0)
        } else if slot.ends_with("norm.weight") {
            Some(self.identity[usize::from(!slot.starts_with("encoder"))])
        } else {
            None
        };
        move |index| constant.unwrap_or_else(|| DEVIATION * normal(self.seed, stream, index))
    }
}

impl Weights for RandomWeights {
    /// The slot's weight, in f32.
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        let &(stream, shape) = self.slots.get(slot)?;
        let elements = shape[0].checked_mul(shape[1])?;
        let value = self.value(slot, stream);
        let mut bytes = Vec::with_capacity(elements * DType::F32.size());
        for index in 0..elements as u64 {
            bytes.extend((value(index) as f32).to_le_bytes());
        }
        StoredTensor::new(slot, Arc::new(bytes), 0, WeightDType::F32, shape).ok()
    }
}
