//! A backend that remembers what it was asked, so that cotangents can go back the same way: reverse-mode differentiation
//! (Linnainmaa 1970) over the contract.
//!
//! ```
//! # fn main() -> consort_core::Result<()> {
//! # use consort_core::{Backend, DType, Device, HostData, Nothing, Ready, autodiff::Autodiff};
//! # fn gradient<B: Backend>(device: Device<B>) -> consort_core::Result<Vec<f64>> {
//! let tape = Device::new(Autodiff::new(device.clone()));
//! let x = tape.backend().watch(&device.upload_floats(&[1.0, 2.0, 3.0], &[3])?);
//! let y = tape.multiply(x.clone(), x.clone())?; // x²
//! let d_y = device.upload_floats(&[1.0, 1.0, 1.0], &[3])?;
//! let gradients = tape.backend().backward(&[(y, d_y)])?;
//! let d_x = gradients.of(&x).map(|d_x| device.download(&d_x)).transpose()?; // 2x
//! # Ok(d_x.map(|data| data.to_f64()).unwrap_or_default())
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! - A buffer is the inner backend's buffer and, where a gradient can reach it, a node. Operations run on the inner device,
//!   fall-back included, and one whose operands have a node leaves an entry on the tape: what its rule saves, and nothing
//!   else ([`Autodiff::saved`]).
//! - A rule is written in operations of the contract: a backend makes a backward fast by having the `…Backward` operations
//!   natively, and is right without.
//! - Views (permuted, sliced, broadcast) are layouts and no operations: a gradient goes back through an operand's strides
//!   into its whole buffer.
//! - Weights, vectors and tables that are loaded are [`Parameter`]s, known by their slots. A weight's master is a tensor of
//!   the device's float type; what operations compute with is packed from it anew by [`Autodiff::set`]. All uses of a tied
//!   weight are of one parameter, so its gradient is one sum.
//! - Attention over a cache, sampling and optimizer steps have no gradient: they are an error where one would have to go
//!   through them, and run as always where none has to ([`Autodiff::paused`]).

mod accumulate;
mod fused;
mod parameter;
mod primitive;
mod rule;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use smallvec::SmallVec;

pub use self::parameter::{Packed, Parameter};
use self::rule::{Pull, Rule};
use crate::{
    backend::{Backend, CacheOf, FusedOf, Outputs, PrimitiveOf, Spec, TensorOf, WeightOf},
    cache::{CacheSpec, CacheStore, lock},
    device::Device,
    dtype::DType,
    error::{Error, Result},
    infer,
    operation::{BinaryKind, Fused, MapOperands, Primitive},
    scope,
    shape::Layout,
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight::WeightStore,
    weight_dtype::WeightDType,
};

/// Records what `B` is asked. See the [module](self).
pub struct Autodiff<B: Backend> {
    inner: Device<B>,
    /// Whether a slot is a parameter to be trained.
    trains: Box<dyn Fn(&str) -> bool + Send + Sync>,
    recording: AtomicBool,
    next: AtomicU64,
    tape: Mutex<Tape<B>>,
    parameters: Mutex<Vec<Arc<Parameter<B>>>>,
}

struct Tape<B: Backend> {
    entries: Vec<Entry<B>>,
    /// Outputs with keys below were of a tape that has been consumed.
    first: u64,
}

struct Entry<B: Backend> {
    operation: &'static str,
    /// Where in the model it was asked: its backward is of the same place.
    place: scope::Place,
    /// Key, shape and type of each output.
    outputs: SmallVec<[(u64, Spec); 2]>,
    /// Where the gradient of each operand goes.
    inputs: SmallVec<[Option<Input>; 4]>,
    saved: SmallVec<[TensorOf<B>; 4]>,
    pull: Pull<B>,
}

/// A node seen through a layout.
#[derive(Clone, Copy)]
struct Input {
    node: Node,
    layout: Layout,
}

/// Something that has a gradient.
#[derive(Clone, Copy, Debug)]
struct Node {
    key: Key,
    /// Elements of its buffer.
    elements: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Watched, or a parameter: outlives tapes.
    Leaf(u64),
    /// Output of an entry.
    Output(u64),
}

/// A buffer of the inner backend and, where a gradient can reach it, its node.
pub struct Tracked<B: Backend> {
    held: Held<B>,
    node: Option<Node>,
}

enum Held<B: Backend> {
    Buffer(B::Buffer),
    /// A vector or table that training changes under the model's handles.
    Parameter(Arc<Parameter<B>>),
}

impl<B: Backend> Clone for Tracked<B> {
    fn clone(&self) -> Self {
        let held = match &self.held {
            Held::Buffer(buffer) => Held::Buffer(buffer.clone()),
            Held::Parameter(parameter) => Held::Parameter(Arc::clone(parameter)),
        };
        Self { held, node: self.node }
    }
}

impl<B: Backend> fmt::Debug for Tracked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("buffer", &self.inner()).field("node", &self.node).finish()
    }
}

impl<B: Backend> Tracked<B> {
    fn constant(buffer: B::Buffer) -> Self {
        Self { held: Held::Buffer(buffer), node: None }
    }

    fn inner(&self) -> B::Buffer {
        match &self.held {
            Held::Buffer(buffer) => buffer.clone(),
            Held::Parameter(parameter) => parameter.value().buffer,
        }
    }
}

/// What [`Autodiff::backward`] found.
pub struct Gradients<B: Backend>(HashMap<u64, TensorOf<B>>);

impl<B: Backend> Gradients<B> {
    /// The gradient of what [`Autodiff::watch`] gave, in its shape; `None` where nothing depended on it.
    pub fn of(&self, x: &TensorOf<Autodiff<B>>) -> Option<TensorOf<B>> {
        match x.buffer.node?.key {
            Key::Leaf(leaf) => self.0.get(&leaf)?.view(x.sizes()).ok(),
            Key::Output(_) => None,
        }
    }

    /// The gradient of a parameter, in the shape of its [`value`](Parameter::value); `None` where nothing depended on it.
    pub fn parameter(&self, parameter: &Parameter<B>) -> Option<TensorOf<B>> {
        self.0.get(&parameter.leaf)?.view(parameter.shape.sizes()).ok()
    }
}

impl<B: Backend> Autodiff<B> {
    /// Records what is asked of `inner`; every parameter is trained.
    pub fn new(inner: Device<B>) -> Self {
        Self::training(inner, |_| true)
    }

    /// As [`new`](Self::new), but only parameters of slots that `trains` says are. Others are constants: they keep no master
    /// and get no gradient, while gradients still go through what is computed with them.
    pub fn training(inner: Device<B>, trains: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            inner,
            trains: Box::new(trains),
            recording: AtomicBool::new(true),
            next: AtomicU64::new(0),
            tape: Mutex::new(Tape { entries: Vec::new(), first: 0 }),
            parameters: Mutex::new(Vec::new()),
        }
    }

    /// Where everything runs; its report says how.
    pub fn inner(&self) -> &Device<B> {
        &self.inner
    }

    /// `x` as something whose gradient is wanted, all of its buffer included, seen through its layout.
    pub fn watch(&self, x: &TensorOf<B>) -> TensorOf<Self> {
        let layout = *x.layout();
        let node = Node { key: Key::Leaf(self.key()), elements: layout.end() };
        Tensor::with_layout(Tracked { held: Held::Buffer(x.buffer.clone()), node: Some(node) }, layout, x.dtype())
    }

    /// `x` as something without a gradient.
    pub fn constant(&self, x: &TensorOf<B>) -> TensorOf<Self> {
        Tensor::with_layout(Tracked::constant(x.buffer.clone()), *x.layout(), x.dtype())
    }

    /// The inner device's tensor.
    pub fn value(&self, x: &TensorOf<Self>) -> TensorOf<B> {
        Tensor::with_layout(x.buffer.inner(), *x.layout(), x.dtype())
    }

    /// Runs `f` without recording: what comes out of it has no gradient.
    pub fn paused<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.recording.swap(false, Ordering::Relaxed);
        let result = f();
        self.recording.store(before, Ordering::Relaxed);
        result
    }

    /// The parameters that are trained, in the order of their loading.
    pub fn parameters(&self) -> Vec<Arc<Parameter<B>>> {
        lock(&self.parameters).clone()
    }

    /// Gives a parameter another value; a packed weight is packed anew.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ.
    pub fn set(&self, parameter: &Parameter<B>, value: TensorOf<B>) -> Result<()> {
        parameter.set(&self.inner, value)
    }

    /// What the tape holds on to: for each entry in order, the operation and the elements of each tensor it saved.
    pub fn saved(&self) -> Vec<(&'static str, Vec<usize>)> {
        let elements = |x: &TensorOf<B>| x.shape().elements();
        lock(&self.tape)
            .entries
            .iter()
            .map(|entry| (entry.operation, entry.saved.iter().map(elements).collect()))
            .collect()
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.take();
    }

    fn take(&self) -> Vec<Entry<B>> {
        let mut tape = lock(&self.tape);
        tape.first = self.next.load(Ordering::Relaxed);
        std::mem::take(&mut tape.entries)
    }

    /// Pulls cotangents back to everything watched and every parameter: `Σ Jᵀ·cotangent` over the seeds, each an output
    /// with its cotangent. The tape is empty afterwards, whatever happens.
    ///
    /// # Errors
    /// [`Error::Shape`] when a cotangent's sizes are not its output's; [`Error::Input`] for an output of an earlier tape, or
    /// where a gradient would have to go through an operation that has none; what the operations meet.
    pub fn backward(&self, seeds: &[(TensorOf<Self>, TensorOf<B>)]) -> Result<Gradients<B>> {
        let mut gradients = HashMap::new();
        for (output, cotangent) in seeds {
            if output.shape() != cotangent.shape() {
                return Err(Error::shape("backward", format!("{} for {}", cotangent.shape(), output.shape())));
            }
            if let Some(input) = self.input(output)? {
                self.give(&mut gradients, &input, cotangent.clone())?;
            }
        }
        let mut entries = self.take();
        while let Some(Entry { operation, place, outputs, inputs, saved, pull }) = entries.pop() {
            let cotangents: SmallVec<[Option<TensorOf<B>>; 2]> = outputs
                .iter()
                .map(|(key, spec)| gradients.remove(&Key::Output(*key)).map(|d| d.view(spec.shape.sizes())).transpose())
                .collect::<Result<_>>()?;
            if cotangents.iter().all(Option::is_none) {
                continue;
            }
            let _scope = place.enter();
            let found = pull(&self.inner, saved, cotangents)?;
            if found.len() != inputs.len() {
                return Err(Error::shape(operation, format!("{} gradients of {}", found.len(), inputs.len())));
            }
            for (input, gradient) in inputs.iter().zip(found) {
                if let (Some(input), Some(gradient)) = (input, gradient) {
                    self.give(&mut gradients, input, gradient)?;
                }
            }
        }
        let leaf = |(key, gradient)| match key {
            Key::Leaf(leaf) => Some((leaf, gradient)),
            Key::Output(_) => None,
        };
        Ok(Gradients(gradients.into_iter().filter_map(leaf).collect()))
    }

    fn give(&self, gradients: &mut HashMap<Key, TensorOf<B>>, input: &Input, gradient: TensorOf<B>) -> Result<()> {
        // Rules have constants of one dimension, which broadcast into the gradient of a scalar.
        let gradient = if input.layout.shape().rank() == 0 { self.inner.reshape(&gradient, &[])? } else { gradient };
        let so_far = gradients.remove(&input.node.key);
        let sum = accumulate::accumulate(&self.inner, so_far, input.node.elements, &input.layout, gradient)?;
        gradients.insert(input.node.key, sum);
        Ok(())
    }

    fn key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the gradient of `x` goes, if it has one.
    fn input(&self, x: &TensorOf<Self>) -> Result<Option<Input>> {
        match x.buffer.node {
            Some(Node { key: Key::Output(key), .. }) if key < lock(&self.tape).first => Err(Error::Input(
                "a gradient cannot go back into a tape that was consumed: compute the outputs anew".into(),
            )),
            node => Ok(node.map(|node| Input { node, layout: *x.layout() })),
        }
    }

    /// A buffer that begins with the elements of `x` in row-major order.
    fn owned(&self, x: &TensorOf<B>) -> Result<B::Buffer> {
        let whole = x.layout().is_contiguous() && x.layout().offset() == 0;
        Ok(if whole { x.buffer.clone() } else { self.inner.copy(x, x.dtype())?.buffer })
    }

    /// Runs an operation and, where it has a rule, puts it on the tape.
    fn run(
        &self,
        operation: &'static str,
        inputs: SmallVec<[Option<Input>; 4]>,
        rule: Option<Rule<B>>,
        specs: &[Spec],
        run: impl FnOnce() -> Result<SmallVec<[TensorOf<B>; 2]>>,
    ) -> Result<Outputs<Tracked<B>>> {
        let outputs = run()?;
        let buffers = outputs.iter().map(|output| self.owned(output)).collect::<Result<SmallVec<[_; 2]>>>()?;
        let Some(Rule { mut saved, saved_outputs, pull }) = rule else {
            return Ok(buffers.into_iter().map(Tracked::constant).collect());
        };
        let whole = |(buffer, spec): (&B::Buffer, &Spec)| Tensor::new(buffer.clone(), spec.shape, spec.dtype);
        let wholes: SmallVec<[TensorOf<B>; 2]> = buffers.iter().zip(specs).map(whole).collect();
        saved.extend(saved_outputs.iter().filter_map(|&output| wholes.get(output).cloned()));
        // The lock is held while keys are given, so that entries lie in the order of their keys.
        let mut tape = lock(&self.tape);
        let keyed: SmallVec<[(u64, Spec); 2]> = specs.iter().map(|spec| (self.key(), *spec)).collect();
        let tracked = buffers
            .into_iter()
            .zip(&keyed)
            .map(|(buffer, (key, spec))| {
                let node = Node { key: Key::Output(*key), elements: spec.shape.elements() };
                Tracked { held: Held::Buffer(buffer), node: spec.dtype.is_float().then_some(node) }
            })
            .collect();
        tape.entries.push(Entry { operation, place: scope::here(), outputs: keyed, inputs, saved, pull });
        Ok(tracked)
    }

    /// A fused operation asked by this backend of itself.
    fn again(&self, mut operation: FusedOf<Self>) -> Result<TensorOf<Self>> {
        let specs = infer::fused::<Self>(&operation, self.float())?;
        let outputs = self.fused(&mut operation, &specs)?;
        let first = outputs.into_iter().zip(&specs).next();
        first
            .map(|(buffer, spec)| Tensor::new(buffer, spec.shape, spec.dtype))
            .ok_or_else(|| Error::shape("autodiff", "an operation without an output"))
    }

    /// `f(x·Wᵀ + b) + residual` as its parts, where f is there: its slope is taken at what `x·Wᵀ + b` gave.
    fn activated_linear(&self, operation: &FusedOf<Self>) -> Result<Option<Tracked<B>>> {
        let Fused::Linear { x, weight, bias, activation: Some(kind), residual, compute } = operation else {
            return Ok(None);
        };
        let (x, weight, bias, compute) = (x.clone(), weight.clone(), bias.clone(), *compute);
        let inner = self.again(Fused::Linear { x, weight, bias, activation: None, residual: None, compute })?;
        let activated = self.again(Fused::Activation { x: inner, kind: *kind })?;
        let Some(residual) = residual else { return Ok(Some(activated.buffer)) };
        let mut sum = Primitive::Binary { a: activated, b: residual.clone(), kind: BinaryKind::Add };
        let spec = infer::primitive::<Self>(&sum)?;
        self.primitive(&mut sum, &spec).map(Some)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Autodiff<B> {
    type Buffer = Tracked<B>;
    type Packed = Packed<B>;
    type Store = CacheOf<B>;
    type Ticket = B::Ticket;
    type Host = B::Host;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.inner.backend().alloc(dtype, elements).map(Tracked::constant)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.inner.backend().upload(data).map(Tracked::constant)
    }

    fn parameter(&self, parts: &[StoredTensor], data: HostData) -> Result<Self::Buffer> {
        if !parts.iter().any(|part| (self.trains)(part.slot())) {
            return self.inner.backend().parameter(parts, data).map(Tracked::constant);
        }
        let elements = data.len();
        let (dtype, buffer) = (data.dtype(), self.inner.backend().parameter(parts, data)?);
        let parameter = Arc::new(Parameter::vector(self.key(), parts, elements, buffer, dtype)?);
        lock(&self.parameters).push(Arc::clone(&parameter));
        let node = Node { key: Key::Leaf(parameter.leaf), elements };
        Ok(Tracked { held: Held::Parameter(parameter), node: Some(node) })
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Self::Ticket> {
        self.inner.backend().download(&buffer.inner())
    }

    fn name(&self) -> &'static str {
        self.inner.backend().name()
    }

    fn float(&self) -> DType {
        self.inner.float()
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        let mut map = ToInner::new(self);
        let inner = operation.try_map(&mut map)?;
        let rule = match map.tracks() {
            true => primitive::rule(&inner, &map.needs())?,
            false => None,
        };
        let run = || Ok(SmallVec::from_iter([self.inner.primitive(inner)?]));
        let outputs = self.run(operation.name(), map.inputs, rule, std::slice::from_ref(out), run)?;
        outputs.into_iter().next().ok_or_else(|| Error::shape(operation.name(), "no output"))
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let mut map = ToInner::new(self);
        let inner = operation.try_map(&mut map)?;
        let tracks = map.tracks();
        if tracks && let Some(output) = self.activated_linear(operation)? {
            return Ok(SmallVec::from_iter([output]));
        }
        let rule = if tracks { Some(fused::rule(&inner, &map.needs())?) } else { None };
        self.run(operation.name(), map.inputs, rule, out, || self.inner.fused(inner))
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        let weight = self.inner.pack(parts, dtype)?;
        if !parts.iter().any(|part| (self.trains)(part.slot())) {
            return Ok(Packed::frozen(weight));
        }
        let parameter = Arc::new(Parameter::weight(self.key(), parts, weight.clone(), &self.inner)?);
        lock(&self.parameters).push(Arc::clone(&parameter));
        Ok(Packed::trained(parameter, weight))
    }

    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        Ok(Packed::frozen(self.inner.repack(&packed.weight(), &self.value(x))?))
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        let held = Held::Buffer(self.owned(&self.inner.unpack(&packed.weight())?)?);
        Ok(Tracked { held, node: packed.node() })
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        self.inner.cache(*spec)
    }

    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        self.inner.cache_reserve(store, blocks)
    }

    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        self.inner.cache_copy(store, pairs)
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        let [key, value] = self.inner.cache_read(store, layer, rows)?;
        Ok([Tracked::constant(self.owned(&key)?), Tracked::constant(self.owned(&value)?)])
    }

    fn submit(&self) -> Result<()> {
        self.inner.submit()
    }
}

/// Takes operands to the inner device; remembers where their gradients go.
struct ToInner<'a, B: Backend> {
    autodiff: &'a Autodiff<B>,
    recording: bool,
    inputs: SmallVec<[Option<Input>; 4]>,
}

impl<'a, B: Backend> ToInner<'a, B> {
    fn new(autodiff: &'a Autodiff<B>) -> Self {
        Self { autodiff, recording: autodiff.recording.load(Ordering::Relaxed), inputs: SmallVec::new() }
    }

    fn take(&mut self, tensor: &TensorOf<Autodiff<B>>) -> Result<TensorOf<B>> {
        let input = if self.recording { self.autodiff.input(tensor)? } else { None };
        self.inputs.push(input);
        Ok(self.autodiff.value(tensor))
    }

    fn tracks(&self) -> bool {
        self.inputs.iter().any(Option::is_some)
    }

    /// Whether each operand has a gradient.
    fn needs(&self) -> SmallVec<[bool; 4]> {
        self.inputs.iter().map(Option::is_some).collect()
    }
}

impl<B: Backend> MapOperands<TensorOf<Autodiff<B>>, (), ()> for ToInner<'_, B> {
    type Tensor = TensorOf<B>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, tensor: &TensorOf<Autodiff<B>>) -> Result<TensorOf<B>> {
        self.take(tensor)
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend> MapOperands<TensorOf<Autodiff<B>>, WeightOf<Autodiff<B>>, CacheOf<Autodiff<B>>> for ToInner<'_, B> {
    type Tensor = TensorOf<B>;
    type Weight = WeightOf<B>;
    type Cache = CacheOf<B>;

    fn tensor(&mut self, tensor: &TensorOf<Autodiff<B>>) -> Result<TensorOf<B>> {
        self.take(tensor)
    }

    fn weight(&mut self, weight: &WeightOf<Autodiff<B>>) -> Result<WeightOf<B>> {
        match weight.store() {
            WeightStore::Packed(packed) => {
                let node = packed.node().filter(|_| self.recording);
                let layout = Layout::contiguous(crate::shape::Shape::new(&[weight.outputs(), weight.inputs()])?);
                self.inputs.push(node.map(|node| Input { node, layout }));
                Ok(packed.weight())
            }
            WeightStore::Plain(_) => Err(Error::weight("autodiff", "was not packed on this device")),
        }
    }

    fn cache(&mut self, cache: &CacheOf<Autodiff<B>>) -> Result<CacheOf<B>> {
        match cache.store() {
            CacheStore::Native(cache) => Ok(cache.clone()),
            CacheStore::Plain(_) => Err(Error::Input("autodiff: a cache that is not of this device".into())),
        }
    }
}
