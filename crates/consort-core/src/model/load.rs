//! Stored weights into packed ones, each checked against its slot.

use std::collections::{BTreeMap, HashMap};

use super::projection::Projection;
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    compute::Compute,
    config::TransformerConfig,
    device::Device,
    error::{Error, Result},
    stored::StoredTensor,
    weight_dtype::WeightDType,
};

/// Where a model's stored weights come from.
pub trait Weights {
    /// The tensor of a slot of [`TransformerConfig::slots`].
    fn stored(&self, slot: &str) -> Option<StoredTensor>;
}

/// Weights held in memory, by slot.
pub type WeightMap = BTreeMap<String, StoredTensor>;

impl Weights for WeightMap {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        self.get(slot).cloned()
    }
}

/// How weights are loaded.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Type that projections and tables are kept in, as far as they can be ([`WeightDType::mixed`]); as stored by default.
    pub dtype: Option<WeightDType>,
    /// What every projection takes its operands as, the head's among them.
    pub compute: Compute,
    /// Called with (slots loaded, slots in all).
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
}

pub(super) struct Loader<'a, B: Backend> {
    pub(super) device: &'a Device<B>,
    weights: &'a dyn Weights,
    dtype: Option<WeightDType>,
    compute: Compute,
    progress: Option<&'a mut dyn FnMut(usize, usize)>,
    shapes: HashMap<String, [usize; 2]>,
    /// The slot of the matrix that makes logits.
    head: Option<&'static str>,
    loaded: usize,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub(super) fn new(
        device: &'a Device<B>,
        config: &TransformerConfig,
        weights: &'a dyn Weights,
        options: &'a mut LoadOptions<'_>,
    ) -> Self {
        let shapes = config.slots().into_iter().map(|slot| (slot.name, slot.shape)).collect();
        let progress = options.progress.as_mut().map(|progress| &mut **progress as &mut dyn FnMut(usize, usize));
        let head = config.head.as_ref().map(|_| config.head_slot());
        Self { device, weights, dtype: options.dtype, compute: options.compute, progress, shapes, head, loaded: 0 }
    }

    /// A projection of matrices `NAME.weight`, one under the other, and if asked of biases `NAME.bias`.
    pub(super) fn projection(&mut self, names: &[String], biased: bool) -> Result<Projection<B>> {
        let slots = |leaf: &str| names.iter().map(|name| format!("{name}.{leaf}")).collect::<Vec<_>>();
        let (weights, biases) = (slots("weight"), slots("bias"));
        let weight = self.weight(&weights.iter().map(String::as_str).collect::<Vec<_>>())?;
        let bias =
            if biased { Some(self.vector(&biases.iter().map(String::as_str).collect::<Vec<_>>())?) } else { None };
        Ok(self.projection_of(weight, bias))
    }

    /// A projection by a weight that is there already.
    pub(super) fn projection_of(&self, weight: WeightOf<B>, bias: Option<TensorOf<B>>) -> Projection<B> {
        Projection { weight, bias, compute: self.compute }
    }

    /// The slots' matrices, one under the other, packed.
    pub(super) fn weight(&mut self, slots: &[&str]) -> Result<WeightOf<B>> {
        let parts = self.parts(slots)?;
        let inputs = parts.first().map_or(0, |part| part.shape()[1]);
        let makes_logits = slots.iter().any(|slot| self.head == Some(slot));
        let dtype = match self.dtype {
            Some(asked) => asked.mixed(makes_logits, inputs),
            None => parts.iter().map(StoredTensor::dtype).reduce(WeightDType::common).unwrap_or(WeightDType::F32),
        };
        self.device.pack(&parts, dtype)
    }

    /// The slots' vectors, one after the other.
    pub(super) fn vector(&mut self, slots: &[&str]) -> Result<TensorOf<B>> {
        let parts = self.parts(slots)?;
        self.device.vector(&parts)
    }

    /// A small table as a tensor.
    pub(super) fn table(&mut self, slot: &str) -> Result<TensorOf<B>> {
        let parts = self.parts(&[slot])?;
        self.device.table(&parts)
    }

    /// The first row of a table.
    pub(super) fn first_row(&mut self, slot: &str) -> Result<TensorOf<B>> {
        let part = self.parts(&[slot])?.remove(0);
        self.device.vector(&[part.outputs(0..1)?])
    }

    fn parts(&mut self, slots: &[&str]) -> Result<Vec<StoredTensor>> {
        let parts: Vec<StoredTensor> = slots
            .iter()
            .map(|&slot| {
                let expected = self.shapes.get(slot).ok_or_else(|| Error::weight(slot, "no such slot"))?;
                let part = self
                    .weights
                    .stored(slot)
                    .ok_or_else(|| Error::weight(slot, format!("missing; expected {expected:?}")))?;
                if part.shape() != *expected {
                    return Err(Error::weight(
                        slot,
                        format!("'{}' is {:?}, expected {expected:?}", part.name(), part.shape()),
                    ));
                }
                Ok(part.for_slot(slot))
            })
            .collect::<Result<_>>()?;
        self.loaded += slots.len();
        if let Some(progress) = &mut self.progress {
            progress(self.loaded, self.shapes.len());
        }
        Ok(parts)
    }
}
