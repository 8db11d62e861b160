//! What is trained: a master tensor, known by the slots that it fills, and what operations compute with.

use std::sync::{Arc, Mutex};

use super::{Key, Node};
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    cache::lock,
    device::Device,
    dtype::DType,
    error::{Error, Result},
    shape::Shape,
    stored::StoredTensor,
    tensor::Tensor,
    weight,
    weight_dtype::WeightDType,
};

/// A weight `[outputs, inputs]`, a table of that shape or a vector `[n]` of a model.
pub struct Parameter<B: Backend> {
    pub(super) leaf: u64,
    pub(super) shape: Shape,
    slots: Vec<(String, [usize; 2])>,
    value: Mutex<TensorOf<B>>,
    /// Of weights: the value packed.
    packed: Option<Mutex<WeightOf<B>>>,
}

impl<B: Backend> Parameter<B> {
    pub(super) fn vector(
        leaf: u64,
        parts: &[StoredTensor],
        elements: usize,
        buffer: B::Buffer,
        dtype: DType,
    ) -> Result<Self> {
        let table = parts.iter().any(|part| part.shape()[0] > 1);
        let shape = if table { Shape::new(&weight::concatenated_shape(parts)?)? } else { Shape::new(&[elements])? };
        let value = Mutex::new(Tensor::new(buffer, shape, dtype));
        Ok(Self { leaf, shape, slots: slots(parts), value, packed: None })
    }

    pub(super) fn weight(leaf: u64, parts: &[StoredTensor], packed: WeightOf<B>, device: &Device<B>) -> Result<Self> {
        let sizes = [packed.outputs(), packed.inputs()];
        let value = device.upload(weight::decode(parts, WeightDType::F64, device.float())?, &sizes)?;
        let (shape, value) = (Shape::new(&sizes)?, Mutex::new(value));
        Ok(Self { leaf, shape, slots: slots(parts), value, packed: Some(Mutex::new(packed)) })
    }

    /// The slots that it fills, one after the other along the first dimension, with the shape of each (`[1, n]` of a
    /// vector).
    pub fn slots(&self) -> &[(String, [usize; 2])] {
        &self.slots
    }

    /// The master.
    pub fn value(&self) -> TensorOf<B> {
        lock(&self.value).clone()
    }

    pub(super) fn set(&self, device: &Device<B>, value: TensorOf<B>) -> Result<()> {
        if *value.shape() != self.shape || value.dtype() != device.float() {
            let found =
                format!("{} {} for a parameter of {} {}", value.dtype(), value.shape(), device.float(), self.shape);
            return Err(Error::shape("set", found));
        }
        let whole = value.layout().is_contiguous() && value.layout().offset() == 0;
        let value = if whole { value } else { device.copy(&value, value.dtype())? };
        if let Some(packed) = &self.packed {
            let mut packed = lock(packed);
            *packed = device.repack(&packed, &value)?;
        }
        *lock(&self.value) = value;
        Ok(())
    }
}

fn slots(parts: &[StoredTensor]) -> Vec<(String, [usize; 2])> {
    parts.iter().map(|part| (part.slot().to_owned(), part.shape())).collect()
}

/// A weight on [`Autodiff`](super::Autodiff): a parameter, or one that is not trained.
pub struct Packed<B: Backend>(Kind<B>);

enum Kind<B: Backend> {
    Frozen(WeightOf<B>),
    Trained(Arc<Parameter<B>>, WeightOf<B>),
}

impl<B: Backend> Packed<B> {
    pub(super) fn frozen(weight: WeightOf<B>) -> Self {
        Self(Kind::Frozen(weight))
    }

    pub(super) fn trained(parameter: Arc<Parameter<B>>, weight: WeightOf<B>) -> Self {
        Self(Kind::Trained(parameter, weight))
    }

    /// What operations compute with now.
    pub(super) fn weight(&self) -> WeightOf<B> {
        match &self.0 {
            Kind::Frozen(weight) => weight.clone(),
            Kind::Trained(parameter, first) => match &parameter.packed {
                Some(packed) => lock(packed).clone(),
                None => first.clone(),
            },
        }
    }

    pub(super) fn node(&self) -> Option<Node> {
        match &self.0 {
            Kind::Frozen(_) => None,
            Kind::Trained(parameter, _) => {
                Some(Node { key: Key::Leaf(parameter.leaf), elements: parameter.shape.elements() })
            }
        }
    }
}
