//! Running a problem on a device: forward, or backward on a tape around it.

use std::sync::Arc;

use consort_core::{
    Backend, CacheOf, CacheSpec, DType, Device, Fused, HostData, Layout, Shape, Spec, StoredTensor, Tensor, TensorOf,
    Ticket, WeightOf,
    autodiff::Autodiff,
    cache::{CachePlan, FREED, PlanRow, PlanSequence},
    infer,
};

use super::{Backward, Elements, Operand, Problem, plain::Plain};
use crate::{
    codec::{self, Assembled, LAYER, Operands},
    error::Error,
    ops::{Kind, Operation, nearest},
};

/// Most elements that an operand or an output may have: 2 GiB of doubles. What asks for more is a slip in a file.
pub const MOST_ELEMENTS: usize = 1 << 28;
/// Layers of the cache that a problem is run on.
const LAYERS: usize = LAYER + 1;

/// Which way an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The backend's own form where it has one.
    AsAsked,
    /// By primitives alone: every fused operation through its decomposition, on the way back too; weights and caches as
    /// tensors.
    Decomposed,
}

/// What a device gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name of the output, or `d_` and the operand's name for a gradient.
    pub name: String,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// Its type on the device.
    pub dtype: DType,
    /// Its elements, row-major.
    pub data: HostData,
}

/// Operands on a device.
type Uploaded<B> = Operands<TensorOf<B>, WeightOf<B>, CacheOf<B>>;
/// Tensors with their names.
type Named<B> = Vec<(String, TensorOf<B>)>;

impl Problem {
    /// Its outputs, or its gradients, as `device` computes them. No operand has a second handle meanwhile, so that what can
    /// be done in place is.
    ///
    /// # Errors
    /// [`Error::Problem`] where its parts do not fit together; what the device meets.
    pub fn run<B: Backend>(&self, device: &Device<B>, how: How) -> Result<Vec<Output>, Error> {
        match how {
            How::AsAsked => download(device, self.outputs(device)?),
            How::Decomposed => {
                let device = Device::new(Plain(device.clone()));
                download(&device, self.outputs(&device)?)
            }
        }
    }

    /// As [`run`](Self::run) the way it is asked, and the names of operands that are not as they were: the whole buffer of
    /// each, beyond what is seen of it too, while another handle of it was held. For a cache also whether a layer changed
    /// that had no part in it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_checked<B: Backend>(&self, device: &Device<B>) -> Result<(Vec<Output>, Vec<String>), Error> {
        let operation = self.operation()?;
        let mut changed = Vec::new();
        if let Some(backward) = &self.backward {
            let tensors = self.tensors(device)?;
            let outputs = self.pull_back(operation, device, tensors.clone(), backward)?;
            let outputs = download(device, outputs)?;
            self.compare_buffers(device, &tensors, &mut changed)?;
            return Ok((outputs, changed));
        }
        let operands = self.upload(operation, device)?;
        let unpacked = |operands: &Uploaded<B>| -> Result<Vec<HostData>, Error> {
            operands.weights.iter().map(|(_, weight)| Ok(device.download(&device.unpack(weight)?)?)).collect()
        };
        let weights = unpacked(&operands)?;
        let outputs = download(device, self.evaluate(operation, device, operands.clone())?)?;
        self.compare_buffers(device, &operands.tensors, &mut changed)?;
        for ((name, _), (before, after)) in operands.weights.iter().zip(weights.iter().zip(unpacked(&operands)?)) {
            if !starts_with(&after, before) {
                changed.push(name.clone());
            }
        }
        if let Some(cache) = &operands.cache {
            self.compare_cache(operation, device, cache, &mut changed)?;
        }
        Ok((outputs, changed))
    }

    /// The outputs on the device.
    pub(crate) fn outputs<B: Backend>(&self, device: &Device<B>) -> Result<Named<B>, Error> {
        let operation = self.operation()?;
        match &self.backward {
            None => {
                let operands = self.upload(operation, device)?;
                self.evaluate(operation, device, operands)
            }
            Some(backward) => {
                let tensors = self.tensors(device)?;
                self.pull_back(operation, device, tensors, backward)
            }
        }
    }

    /// The operation it is of, once all that can be said without a device has been checked.
    ///
    /// # Errors
    /// [`Error::Problem`] names what does not fit.
    pub fn operation(&self) -> Result<&'static Operation, Error> {
        let Some(operation) = Operation::find(&self.op) else {
            let names = crate::ops::OPERATIONS.iter().map(|operation| operation.name);
            let meant = nearest(&self.op, names).unwrap_or_default();
            return Err(Error::problem(&self.op, format!("no operation is called so, did you mean {meant:?}?")));
        };
        for (at, (name, operand)) in self.operands.iter().enumerate() {
            let Some(slot) = operation.operand(name) else {
                let meant = nearest(name, operation.operands.iter().map(|slot| slot.name)).unwrap_or("nothing");
                return Err(self.problem(format!("it has no operand {name:?}, did you mean {meant:?}?")));
            };
            if self.operands.iter().skip(at + 1).any(|(other, _)| other == name) {
                return Err(self.problem(format!("operand {name:?} is there twice")));
            }
            self.check(&format!("operand {name:?}"), operand, slot.kind)?;
        }
        let has = |name: &str| self.operands.iter().any(|(of, _)| of == name);
        if let Some(slot) = operation.operands.iter().find(|slot| !slot.optional && !has(slot.name)) {
            return Err(self.problem(format!("operand {:?} is missing", slot.name)));
        }
        if let Some(backward) = &self.backward {
            if backward.cotangents.len() > operation.outputs.len() {
                let (found, expected) = (backward.cotangents.len(), operation.outputs.len());
                return Err(self.problem(format!("{found} cotangents, expected at most {expected}")));
            }
            for (cotangent, name) in backward.cotangents.iter().zip(operation.outputs) {
                if let Some(cotangent) = cotangent {
                    self.check(&format!("the cotangent of {name:?}"), cotangent, Kind::Float)?;
                }
            }
            for name in &backward.gradients {
                let operand = self.operand(name);
                if !operand.is_some_and(|operand| !matches!(operand.elements, Elements::Exact(_))) {
                    return Err(self.problem(format!("a gradient of {name:?}, which is no operand of floats")));
                }
            }
        }
        Ok(operation)
    }

    /// Why a device that computes in `float` cannot be asked, if it cannot: floats of another type are in it.
    pub fn unfit(&self, float: DType) -> Option<String> {
        let other = |dtype: DType| matches!(dtype, DType::F32 | DType::F64) && dtype != float;
        let named = self.attributes.get("dtype").and_then(serde_json::Value::as_str);
        if let Some(dtype) = [DType::F32, DType::F64].into_iter().find(|dtype| named == Some(&dtype.to_string())) {
            return other(dtype).then(|| format!("it asks for {dtype}, the device computes in {float}"));
        }
        self.operands.iter().find_map(|(name, operand)| match &operand.elements {
            Elements::Exact(data) if other(data.dtype()) => {
                Some(format!("operand {name:?} is {}, the device computes in {float}", data.dtype()))
            }
            _ => None,
        })
    }

    /// The operand of this name, if it is there.
    pub fn operand(&self, name: &str) -> Option<&Operand> {
        self.operands.iter().find(|(of, _)| of == name).map(|(_, operand)| operand)
    }

    pub(super) fn problem(&self, what: impl Into<String>) -> Error {
        Error::problem(&self.op, what)
    }

    fn check(&self, what: &str, operand: &Operand, kind: Kind) -> Result<(), Error> {
        let shape = operand.layout.shape();
        let fits = match (&operand.elements, kind) {
            (Elements::Float(_), Kind::Float | Kind::Any | Kind::Cache) => true,
            (Elements::Float(_) | Elements::Blocks(..), Kind::Weight) => {
                if shape.rank() != 2 {
                    return Err(self.problem(format!("{what} is {shape}, expected two dimensions")));
                }
                true
            }
            (Elements::Exact(_), Kind::Any) => true,
            (Elements::Exact(data), Kind::Ids | Kind::Mask) => data.dtype() == DType::U32,
            _ => false,
        };
        if !fits {
            let found = match &operand.elements {
                Elements::Float(_) => "floats".to_owned(),
                Elements::Exact(data) => data.dtype().to_string(),
                Elements::Blocks(dtype, _) => format!("blocks of {dtype}"),
            };
            let expected = match kind {
                Kind::Float | Kind::Cache => "floats",
                Kind::Any => "floats or another tensor",
                Kind::Ids | Kind::Mask => "u32",
                Kind::Weight => "a weight",
            };
            return Err(self.problem(format!("{what} is {found}, expected {expected}")));
        }
        if shape.elements() > MOST_ELEMENTS {
            return Err(self.problem(format!("{what} is {shape}, expected at most {MOST_ELEMENTS} elements")));
        }
        match &operand.elements {
            Elements::Blocks(dtype, bytes) => {
                let [outputs, inputs] = [0, 1].map(|axis| shape.sizes().get(axis).copied().unwrap_or(0));
                let expected = (inputs / dtype.block()).checked_mul(dtype.block_bytes() * outputs);
                let whole = operand.layout == Layout::contiguous(*shape) && inputs.is_multiple_of(dtype.block());
                if !whole || expected != Some(bytes.len()) {
                    let found = bytes.len();
                    return Err(self.problem(format!("{what} is {shape} in {found} bytes, not rows of {dtype} blocks")));
                }
            }
            elements => {
                let (end, length) = (operand.layout.end(), elements.len());
                if end > length {
                    return Err(self.problem(format!("{what} is a view of {end} elements, its buffer has {length}")));
                }
            }
        }
        Ok(())
    }

    /// The operands that are tensors and no rows of a cache.
    fn tensors<B: Backend>(&self, device: &Device<B>) -> Result<Named<B>, Error> {
        let operation = self.operation()?;
        let kind = |name: &str| operation.operand(name).map(|slot| slot.kind);
        let tensors = self.operands.iter().filter(|(name, _)| !matches!(kind(name), Some(Kind::Weight | Kind::Cache)));
        tensors.map(|(name, operand)| Ok((name.clone(), operand.upload(device)?))).collect()
    }

    fn upload<B: Backend>(&self, operation: &'static Operation, device: &Device<B>) -> Result<Uploaded<B>, Error> {
        Ok(Operands {
            tensors: self.tensors(device)?,
            weights: self.weights(operation, device)?,
            cache: self.cache(operation, device)?,
        })
    }

    fn weights<B: Backend>(
        &self,
        operation: &'static Operation,
        device: &Device<B>,
    ) -> Result<Vec<(String, WeightOf<B>)>, Error> {
        let of_weights = |name: &str| operation.operand(name).is_some_and(|slot| slot.kind == Kind::Weight);
        let weights = self.operands.iter().filter(|(name, _)| of_weights(name));
        weights
            .map(|(name, operand)| Ok((name.clone(), device.pack(&[operand.stored(name)?], self.weight_dtype)?)))
            .collect()
    }

    /// Runs the operation.
    fn evaluate<B: Backend>(
        &self,
        operation: &'static Operation,
        device: &Device<B>,
        operands: Uploaded<B>,
    ) -> Result<Named<B>, Error> {
        if let Some(unfit) = self.unfit(device.float()) {
            return Err(self.problem(unfit));
        }
        let name = |tensors: Vec<TensorOf<B>>| -> Named<B> {
            operation.outputs.iter().map(|name| (*name).to_owned()).zip(tensors).collect()
        };
        if operation.name == "cache_copy" {
            let pairs: Vec<(u32, u32)> = codec::attribute(operation, &self.attributes, "pairs")?;
            let cache = operands.cache.ok_or_else(|| self.problem("no cache"))?;
            device.cache_copy(&cache, &pairs)?;
            return Ok(name(self.contents(device, &cache, LAYER)?.into()));
        }
        let kept = operands.cache.clone();
        let outputs = match codec::assemble(operation, &self.attributes, device.float(), operands)? {
            Assembled::Primitive(primitive) => {
                self.check_outputs(&[infer::primitive::<B>(&primitive)?])?;
                vec![device.primitive(primitive)?]
            }
            Assembled::Fused(fused) => {
                self.check_outputs(&infer::fused::<B>(&fused, device.float())?)?;
                device.fused(fused)?.into_vec()
            }
        };
        match kept {
            Some(cache) if operation.name == "cache_write" => Ok(name(self.contents(device, &cache, LAYER)?.into())),
            _ => Ok(name(outputs)),
        }
    }

    fn check_outputs(&self, specs: &[Spec]) -> Result<(), Error> {
        match specs.iter().find(|spec| spec.shape.elements() > MOST_ELEMENTS) {
            None => Ok(()),
            Some(spec) => {
                let shape = spec.shape;
                Err(self.problem(format!("an output of {shape}, expected at most {MOST_ELEMENTS} elements")))
            }
        }
    }

    /// Runs the operation on a tape and pulls the cotangents back.
    fn pull_back<B: Backend>(
        &self,
        operation: &'static Operation,
        device: &Device<B>,
        tensors: Named<B>,
        backward: &Backward,
    ) -> Result<Named<B>, Error> {
        let tape = Device::new(Autodiff::new(device.clone()));
        let wanted = |name: &str| backward.gradients.iter().any(|wanted| wanted == name);
        let mut operands = Operands { weights: self.weights(operation, &tape)?, ..Operands::default() };
        // Of a view the whole buffer is watched: what is seen twice has one gradient, their sum.
        let mut watched = Vec::new();
        for (name, tensor) in tensors {
            if !wanted(&name) {
                operands.tensors.push((name, tape.backend().constant(&tensor)));
                continue;
            }
            let whole = Layout::contiguous(Shape::new(&[tensor.layout().end()])?);
            let leaf = tape.backend().watch(&Tensor::with_layout(tensor.buffer.clone(), whole, tensor.dtype()));
            let view = Tensor::with_layout(leaf.buffer.clone(), *tensor.layout(), tensor.dtype());
            watched.push((name.clone(), leaf, *tensor.layout()));
            operands.tensors.push((name, view));
        }
        let parameters = tape.backend().parameters();
        let weights: Vec<String> = operands.weights.iter().map(|(name, _)| name.clone()).collect();

        let outputs = self.evaluate(operation, &tape, operands)?;
        let mut seeds = Vec::new();
        for ((name, output), cotangent) in outputs.into_iter().zip(&backward.cotangents) {
            let Some(cotangent) = cotangent else { continue };
            if cotangent.layout.shape() != output.shape() {
                let (found, expected) = (cotangent.layout.shape(), output.shape());
                return Err(self.problem(format!("the cotangent of {name:?} is {found}, expected {expected}")));
            }
            seeds.push((output, cotangent.upload(device)?));
        }
        let gradients = tape.backend().backward(&seeds)?;
        let gradient = |name: &String| -> Result<TensorOf<B>, Error> {
            if let Some((_, leaf, layout)) = watched.iter().find(|(of, ..)| of == name) {
                return match gradients.of(leaf) {
                    Some(whole) => {
                        let whole = device.contiguous(&whole)?;
                        let layout = shifted(layout, whole.layout().offset())?;
                        Ok(Tensor::with_layout(whole.buffer, layout, device.float()))
                    }
                    None => Ok(device.zeros(*layout.shape(), device.float())?),
                };
            }
            let at = weights.iter().position(|of| of == name);
            let parameter = at.and_then(|at| parameters.get(at));
            let parameter = parameter.ok_or_else(|| self.problem(format!("no gradient of {name:?} can be asked")))?;
            match gradients.parameter(parameter) {
                Some(gradient) => Ok(gradient),
                None => Ok(device.zeros(*parameter.value().shape(), device.float())?),
            }
        };
        backward.gradients.iter().map(|name| Ok((format!("d_{name}"), gradient(name)?))).collect()
    }

    /// Names of tensors whose buffers are not what was uploaded.
    fn compare_buffers<B: Backend>(
        &self,
        device: &Device<B>,
        tensors: &Named<B>,
        changed: &mut Vec<String>,
    ) -> Result<(), Error> {
        for (name, tensor) in tensors {
            let Some(operand) = self.operand(name) else { continue };
            let after = device.backend().download(&tensor.buffer)?.wait()?;
            if !starts_with(&after, &operand.elements.as_host(device.float())) {
                changed.push(name.clone());
            }
        }
        Ok(())
    }
}

/// Caches.
impl Problem {
    /// The cache that the operands `keys` and `values` describe: they are its second layer, its first is zeros.
    fn cache<B: Backend>(
        &self,
        operation: &'static Operation,
        device: &Device<B>,
    ) -> Result<Option<CacheOf<B>>, Error> {
        let (Some(keys), Some(values)) = (self.operand("keys"), self.operand("values")) else { return Ok(None) };
        let block = self.check_cache(operation, keys, values)?;
        let &[rows, key_value_heads, head_width] = keys.layout.shape().sizes() else { return Ok(None) };
        let spec = CacheSpec { layers: LAYERS, key_value_heads, head_width, block };
        let (key, value) = (keys.upload(device)?, values.upload(device)?);
        let cache = device.cache(spec)?;
        if rows > 0 {
            let blocks = rows / block;
            device.cache_reserve(&cache, blocks)?;
            let plan = CachePlan {
                block,
                rows: (0..rows).map(|position| PlanRow { sequence: 0, position }).collect(),
                sequences: vec![PlanSequence { blocks: (0..blocks as u32).collect(), length: rows }],
            };
            let (cache, plan) = (cache.clone(), Arc::new(plan));
            device.fused(Fused::CacheWrite { cache, key, value, layer: LAYER, plan })?;
        }
        Ok(Some(cache))
    }

    /// Rows in a block, once it is sure that nothing names a row that is not there.
    fn check_cache(&self, operation: &'static Operation, keys: &Operand, values: &Operand) -> Result<usize, Error> {
        let shape = keys.layout.shape();
        if shape.rank() != 3 || shape != values.layout.shape() {
            let values = values.layout.shape();
            return Err(self.problem(format!("keys are {shape} and values {values}, expected both [rows, K, C]")));
        }
        let rows = shape.sizes().first().copied().unwrap_or(0);
        let plan: Option<CachePlan> = match operation.attributes.iter().any(|key| key.name == "plan") {
            true => Some(codec::attribute(operation, &self.attributes, "plan")?),
            false => None,
        };
        let block = match &plan {
            Some(plan) => plan.block,
            None => codec::attribute(operation, &self.attributes, "block")?,
        };
        if block == 0 || !rows.is_multiple_of(block) {
            return Err(self.problem(format!("{rows} rows are no whole number of blocks of {block}")));
        }
        let blocks = rows / block;
        let inside = |&number: &u32| (number as usize) < blocks;
        let mut used: Vec<u32> = Vec::new();
        if let Some(plan) = plan {
            // A query may stand beyond what is held, but not where positions end.
            if let Some(row) = plan.rows.iter().find(|row| row.position > MOST_ELEMENTS) {
                return Err(self.problem(format!("position {} is beyond {MOST_ELEMENTS}", row.position)));
            }
            if let Some(sequence) = plan.sequences.iter().find(|sequence| sequence.length > MOST_ELEMENTS) {
                return Err(self.problem(format!("length {} is beyond {MOST_ELEMENTS}", sequence.length)));
            }
            used.extend(plan.sequences.iter().flat_map(|sequence| &sequence.blocks).filter(|block| **block != FREED));
        } else {
            let pairs: Vec<(u32, u32)> = codec::attribute(operation, &self.attributes, "pairs")?;
            used.extend(pairs.iter().flat_map(|pair| [pair.0, pair.1]));
            let mut targets: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
            targets.sort_unstable();
            if let Some(twice) = targets.windows(2).find_map(|two| (two.first() == two.last()).then(|| two.first())) {
                return Err(self.problem(format!("block {} is a target twice", twice.copied().unwrap_or(0))));
            }
        }
        match used.iter().find(|block| !inside(block)) {
            Some(wrong) => Err(self.problem(format!("block {wrong} of a cache of {blocks}"))),
            None => Ok(block),
        }
    }

    /// All rows of a layer.
    fn contents<B: Backend>(
        &self,
        device: &Device<B>,
        cache: &CacheOf<B>,
        layer: usize,
    ) -> Result<[TensorOf<B>; 2], Error> {
        let shape = self.operand("keys").map(|keys| *keys.layout.shape());
        let rows = shape.and_then(|shape| shape.sizes().first().copied()).unwrap_or(0);
        let rows: Vec<u32> = (0..rows as u32).collect();
        Ok(device.cache_read(cache, layer, &rows)?)
    }

    fn compare_cache<B: Backend>(
        &self,
        operation: &'static Operation,
        device: &Device<B>,
        cache: &CacheOf<B>,
        changed: &mut Vec<String>,
    ) -> Result<(), Error> {
        let writes = operation.outputs.contains(&"keys");
        for layer in 0..LAYERS {
            if layer == LAYER && writes {
                continue;
            }
            for (name, found) in ["keys", "values"].into_iter().zip(self.contents(device, cache, layer)?) {
                let found = device.download(&found)?;
                let Some(operand) = self.operand(name) else { continue };
                let expected = match layer == LAYER {
                    true => HostData::from_f64(operand.values().into_iter(), device.float()),
                    false => HostData::from_f64(std::iter::repeat_n(0.0, found.len()), device.float()),
                };
                if !starts_with(&found, &expected) {
                    changed.push(if layer == LAYER { name.to_owned() } else { format!("{name} of layer {layer}") });
                }
            }
        }
        Ok(())
    }
}

impl Operand {
    /// Contiguous floats of these sizes.
    ///
    /// # Errors
    /// [`Error::Core`] when there are not as many as the sizes say.
    pub fn floats(values: Vec<f64>, sizes: &[usize]) -> Result<Self, Error> {
        Self::contiguous(Elements::Float(values), sizes)
    }

    /// Contiguous ids or a mask of these sizes.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn ids(ids: Vec<u32>, sizes: &[usize]) -> Result<Self, Error> {
        Self::contiguous(Elements::Exact(HostData::U32(ids)), sizes)
    }

    /// Elements of these sizes, row-major.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn contiguous(elements: Elements, sizes: &[usize]) -> Result<Self, Error> {
        let shape = Shape::new(sizes)?;
        if !matches!(elements, Elements::Blocks(..)) && elements.len() != shape.elements() {
            let (actual, expected) = (elements.len(), shape.elements());
            return Err(Error::Elements { what: format!("an operand of {shape}"), actual, expected });
        }
        Ok(Self { elements, layout: Layout::contiguous(shape) })
    }

    /// What is seen of the buffer, row-major; exact. Of blocks, nothing.
    pub fn values(&self) -> Vec<f64> {
        let all = match &self.elements {
            Elements::Float(values) => std::borrow::Cow::Borrowed(values),
            Elements::Exact(data) => std::borrow::Cow::Owned(data.to_f64()),
            Elements::Blocks(..) => return Vec::new(),
        };
        offsets(&self.layout).into_iter().map(|at| all.get(at).copied().unwrap_or(f64::NAN)).collect()
    }

    /// The whole buffer on a device, seen through the layout.
    fn upload<B: Backend>(&self, device: &Device<B>) -> Result<TensorOf<B>, Error> {
        let data = self.elements.as_host(device.float());
        let (dtype, elements) = (data.dtype(), data.len());
        let flat = device.upload(data, &[elements])?;
        Ok(Tensor::with_layout(flat.buffer, self.layout, dtype))
    }

    /// As a weight that lies in memory.
    pub(crate) fn stored(&self, name: &str) -> Result<StoredTensor, Error> {
        let sizes = self.layout.shape().sizes();
        let shape = [0, 1].map(|axis| sizes.get(axis).copied().unwrap_or(0));
        Ok(match &self.elements {
            Elements::Blocks(dtype, bytes) => StoredTensor::new(name, Arc::new(bytes.clone()), 0, *dtype, shape)?,
            _ => StoredTensor::from_values(name, &self.values(), shape)?,
        })
    }
}

impl Elements {
    /// How many there are; of blocks, bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Exact(data) => data.len(),
            Self::Blocks(_, bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a device that computes in `float` is given.
    fn as_host(&self, float: DType) -> HostData {
        match self {
            Self::Float(values) => HostData::from_f64(values.iter().copied(), float),
            Self::Exact(data) => data.clone(),
            Self::Blocks(..) => HostData::U32(Vec::new()),
        }
    }
}

/// Where the elements of a layout lie, row-major.
pub(crate) fn offsets(layout: &Layout) -> Vec<usize> {
    let mut out = vec![layout.offset()];
    for (&size, &stride) in layout.shape().sizes().iter().zip(layout.strides()) {
        let mut next = Vec::with_capacity(out.len() * size);
        for first in out {
            next.extend((0..size).map(|index| first + index * stride));
        }
        out = next;
    }
    out
}

fn shifted(layout: &Layout, by: usize) -> Result<Layout, Error> {
    Ok(Layout::strided(*layout.shape(), layout.strides(), layout.offset() + by)?)
}

fn download<B: Backend>(device: &Device<B>, outputs: Named<B>) -> Result<Vec<Output>, Error> {
    let download = |(name, tensor): (String, TensorOf<B>)| -> Result<Output, Error> {
        let (sizes, dtype) = (tensor.sizes().to_vec(), tensor.dtype());
        Ok(Output { name, sizes, dtype, data: device.download(&tensor)? })
    };
    outputs.into_iter().map(download).collect()
}

/// Whether `all` begins with the bits of `start`; one NaN is as good as another.
fn starts_with(all: &HostData, start: &HostData) -> bool {
    // Exact, and what has the same bits in f64 has the same in its own type.
    let (wide, expected) = (all.to_f64(), start.to_f64());
    let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    all.dtype() == start.dtype() && wide.len() >= expected.len() && wide.iter().zip(&expected).all(same)
}
