//! A backend opened for use: checks each operation once, finds a way to run it, and counts which way that was.
//!
//! - A primitive runs on the backend (**native**), or, when the backend answers `Unsupported`, on its host backend
//!   (**host**): operands are downloaded, the result is uploaded.
//! - A fused operation runs on the backend (**native**), or through its decomposition (**composed**, or **host** when
//!   any part of it ran there).
//!
//! An operation's level is the worst of its parts. [`Policy`] says what a fall-back to the host does.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use smallvec::SmallVec;

use crate::{
    backend::{Backend, CacheOf, FusedOf, Host, PrimitiveOf, Spec, TensorOf, Ticket, WeightOf},
    cache::{Cache, CacheSpec, CacheStore, lock},
    decompose,
    dtype::DType,
    error::{Error, Result},
    infer,
    operation::{Fused, MapOperands, Primitive},
    shape::Shape,
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight::{self, Weight, WeightStore},
    weight_dtype::WeightDType,
};

/// How an operation ran; ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// By the backend's own form.
    Native,
    /// Through its decomposition into other operations of the backend.
    Composed,
    /// At least partly on the host backend.
    Host,
}

/// What happens when a primitive would run on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It runs and is counted.
    #[default]
    Allow,
    /// It runs, is counted, and the first time of each operation is kept in [`Device::warnings`].
    Warn,
    /// It is [`Error::FallbackDenied`].
    Deny,
}

/// How often an operation ran at each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times native.
    pub native: u64,
    /// Times composed.
    pub composed: u64,
    /// Times on the host.
    pub host: u64,
}

const PRIMITIVES: usize = Primitive::<()>::NAMES.len();
const OPERATIONS: usize = PRIMITIVES + Fused::<(), (), ()>::NAMES.len();

thread_local! {
    /// Worst level among the parts of the operation that this thread is in.
    static WORST: Cell<Level> = const { Cell::new(Level::Native) };
}

/// A backend opened for use; cloning it clones a handle.
pub struct Device<B: Backend>(Arc<Inner<B>>);

struct Inner<B: Backend> {
    backend: B,
    policy: Policy,
    host: OnceLock<B::Host>,
    counts: [[AtomicU64; 3]; OPERATIONS],
    warnings: Mutex<Vec<&'static str>>,
}

impl<B: Backend> Clone for Device<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> Device<B> {
    /// Opens `backend`, allowing fall-back.
    pub fn new(backend: B) -> Self {
        Self::with_policy(backend, Policy::Allow)
    }

    /// Opens `backend`.
    pub fn with_policy(backend: B, policy: Policy) -> Self {
        Self(Arc::new(Inner {
            backend,
            policy,
            host: OnceLock::new(),
            counts: [const { [const { AtomicU64::new(0) }; 3] }; OPERATIONS],
            warnings: Mutex::new(Vec::new()),
        }))
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.0.backend
    }

    /// The type that floats have here.
    pub fn float(&self) -> DType {
        self.0.backend.float()
    }

    /// How every operation ran since the device was opened, parts of decompositions included; operations that never ran
    /// are left out.
    pub fn report(&self) -> BTreeMap<&'static str, Counts> {
        let names = Primitive::<()>::NAMES.iter().chain(Fused::<(), (), ()>::NAMES);
        let counts = self.0.counts.iter().map(|levels| {
            let [native, composed, host] = [0, 1, 2].map(|level: usize| levels[level].load(Ordering::Relaxed));
            Counts { native, composed, host }
        });
        names.copied().zip(counts).filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    /// Primitives that fell back to the host under [`Policy::Warn`].
    pub fn warnings(&self) -> Vec<&'static str> {
        lock(&self.0.warnings).clone()
    }

    fn count(&self, index: usize, level: Level) {
        self.0.counts[index][level as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a primitive.
    ///
    /// # Errors
    /// [`Error::Shape`] when the operands do not fit; [`Error::FallbackDenied`]; what the backend meets.
    pub fn primitive(&self, mut operation: PrimitiveOf<B>) -> Result<TensorOf<B>> {
        let spec = infer::primitive::<B>(&operation)?;
        if let Some(done) = self.without_elements(&operation, &spec)? {
            return Ok(done);
        }
        let index = operation.index();
        let outer = WORST.get();
        let buffer = match self.0.backend.primitive(&mut operation, &spec) {
            Ok(buffer) => {
                // A decorator may have run it on devices of its own: that is their account.
                WORST.set(outer);
                self.count(index, Level::Native);
                buffer
            }
            Err(Error::Unsupported { .. }) => {
                let buffer = self.on_host(&operation, &spec)?;
                self.count(index, Level::Host);
                buffer
            }
            Err(error) => return Err(error),
        };
        Ok(Tensor::new(buffer, spec.shape, spec.dtype))
    }

    /// Operations over nothing, which backends never see.
    fn without_elements(&self, operation: &PrimitiveOf<B>, spec: &Spec) -> Result<Option<TensorOf<B>>> {
        if spec.shape.elements() == 0 {
            return self.zeros(spec.shape, spec.dtype).map(Some);
        }
        let mut empty_input = false;
        operation.for_each_tensor(&mut |tensor| empty_input |= tensor.shape().elements() == 0);
        if !empty_input {
            return Ok(None);
        }
        Ok(Some(match operation {
            Primitive::Write { into, .. } | Primitive::ScatterRows { into, .. } => self.contiguous(into)?,
            // A sum over no terms, or rows gathered from none.
            _ => self.zeros(spec.shape, spec.dtype)?,
        }))
    }

    fn on_host(&self, operation: &PrimitiveOf<B>, spec: &Spec) -> Result<B::Buffer> {
        self.allow_host(operation.name())?;
        let host = self.0.host.get_or_init(B::Host::open);
        if host.float() != self.float() {
            return Err(Error::Unsupported {
                backend: self.0.backend.name(),
                operation: operation.name(),
                form: Some((spec.dtype, spec.shape)),
                reason: "its host computes in another type",
            });
        }
        let mut on_host = operation.try_map(&mut ToHost::<B> { device: self, host })?;
        let result = host.evaluate(&mut on_host, spec)?;
        self.0.backend.upload(host.download(&result)?.wait()?)
    }

    /// Counts the operation under way as the host's, and does what the policy says about it.
    pub(crate) fn allow_host(&self, name: &'static str) -> Result<()> {
        WORST.set(Level::Host);
        match self.0.policy {
            Policy::Allow => {}
            Policy::Warn => {
                let mut warnings = lock(&self.0.warnings);
                if !warnings.contains(&name) {
                    warnings.push(name);
                }
            }
            Policy::Deny => {
                return Err(Error::FallbackDenied { backend: self.0.backend.name(), operation: name });
            }
        }
        Ok(())
    }

    /// Runs a fused operation.
    ///
    /// # Errors
    /// [`Error::Shape`] when the operands do not fit; [`Error::FallbackDenied`]; what the backend meets.
    pub fn fused(&self, mut operation: FusedOf<B>) -> Result<SmallVec<[TensorOf<B>; 2]>> {
        let specs = infer::fused::<B>(&operation, self.float())?;
        if nothing::<B>(&operation, &specs) {
            return specs.iter().map(|spec| self.zeros(spec.shape, spec.dtype)).collect();
        }
        let index = PRIMITIVES + operation.index();
        let outer = WORST.replace(Level::Native);
        let result = match self.0.backend.fused(&mut operation, &specs) {
            Ok(buffers) => {
                WORST.set(Level::Native);
                Ok(buffers.into_iter().zip(&specs).map(|(buffer, s)| Tensor::new(buffer, s.shape, s.dtype)).collect())
            }
            Err(Error::Unsupported { .. }) => {
                WORST.set(Level::Composed);
                self.compose(operation, &specs)
            }
            Err(error) => Err(error),
        };
        let level = WORST.get();
        WORST.set(outer.max(level));
        if result.is_ok() {
            self.count(index, level);
        }
        result
    }

    /// Runs a fused operation through its decomposition, whether this backend has a form of its own or not; what it is made
    /// of still runs natively where it can.
    ///
    /// # Errors
    /// As [`fused`](Self::fused).
    pub fn decomposed(&self, operation: FusedOf<B>) -> Result<SmallVec<[TensorOf<B>; 2]>> {
        let specs = infer::fused::<B>(&operation, self.float())?;
        if nothing::<B>(&operation, &specs) {
            return specs.iter().map(|spec| self.zeros(spec.shape, spec.dtype)).collect();
        }
        self.compose(operation, &specs)
    }

    /// The decomposition. Its constants have one dimension, which broadcasts into a result of a scalar and is taken off here.
    fn compose(&self, operation: FusedOf<B>, specs: &[Spec]) -> Result<SmallVec<[TensorOf<B>; 2]>> {
        let outputs = decompose::fused(self, operation)?;
        let fit = |(output, spec): (TensorOf<B>, &Spec)| match spec.shape.rank() {
            0 => self.reshape(&output, &[]),
            _ => Ok(output),
        };
        outputs.into_iter().zip(specs).map(fit).collect()
    }

    /// Runs a fused operation for its first output.
    ///
    /// # Errors
    /// As [`fused`](Self::fused).
    pub fn one(&self, operation: FusedOf<B>) -> Result<TensorOf<B>> {
        let name = operation.name();
        self.fused(operation)?.into_iter().next().ok_or_else(|| Error::shape(name, "no output"))
    }
}

/// Memory and data.
impl<B: Backend> Device<B> {
    /// Zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(&self, shape: Shape, dtype: DType) -> Result<TensorOf<B>> {
        Ok(Tensor::new(self.0.backend.alloc(dtype, shape.elements())?, shape, dtype))
    }

    /// Data from the host as a tensor of these sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn upload(&self, data: HostData, sizes: &[usize]) -> Result<TensorOf<B>> {
        let shape = Shape::new(sizes)?;
        let dtype = data.dtype();
        if data.len() != shape.elements() {
            return Err(Error::shape("upload", format!("{} elements as {shape}", data.len())));
        }
        if data.is_empty() {
            return self.zeros(shape, dtype);
        }
        Ok(Tensor::new(self.0.backend.upload(data)?, shape, dtype))
    }

    /// Numbers as a tensor of this device's float type.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn upload_floats(&self, values: &[f64], sizes: &[usize]) -> Result<TensorOf<B>> {
        self.upload(HostData::from_f64(values.iter().copied(), self.float()), sizes)
    }

    /// Whole numbers as a vector.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload_ids(&self, ids: Vec<u32>) -> Result<TensorOf<B>> {
        let sizes = [ids.len()];
        self.upload(HostData::U32(ids), &sizes)
    }

    /// The elements of `x` in row-major order, when they are ready. Others may follow, where `x` is the beginning of a
    /// longer buffer: the first [`elements`](Shape::elements) count.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn download_later(&self, x: &TensorOf<B>) -> Result<B::Ticket> {
        let x =
            if x.layout().is_contiguous() && x.layout().offset() == 0 { x.clone() } else { self.copy(x, x.dtype())? };
        self.0.backend.download(&x.buffer)
    }

    /// The elements of `x` in row-major order, now.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn download(&self, x: &TensorOf<B>) -> Result<HostData> {
        let elements = x.shape().elements();
        let mut data = self.download_later(x)?.wait()?;
        // A contiguous view may be the beginning of a longer buffer.
        data.truncate(elements);
        Ok(data)
    }

    /// Starts what was recorded.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn submit(&self) -> Result<()> {
        self.0.backend.submit()
    }

    /// `x` itself when it is row-major without gaps, else a copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn contiguous(&self, x: &TensorOf<B>) -> Result<TensorOf<B>> {
        if x.layout().is_contiguous() { Ok(x.clone()) } else { self.copy(x, x.dtype()) }
    }

    /// The same elements under another shape, copied only where strides forbid a view.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn reshape(&self, x: &TensorOf<B>, sizes: &[usize]) -> Result<TensorOf<B>> {
        match x.layout().reshape(Shape::new(sizes)?)? {
            Some(layout) => Ok(Tensor::with_layout(x.buffer.clone(), layout, x.dtype())),
            None => self.copy(x, x.dtype())?.view(sizes),
        }
    }

    /// A weight from stored parts concatenated along the outputs, kept as `dtype`.
    ///
    /// # Errors
    /// [`Error::Weight`] names a part that does not fit or has an element that is not finite.
    pub fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<WeightOf<B>> {
        let shape = weight::concatenated_shape(parts)?;
        let store = match self.0.backend.pack(parts, dtype) {
            Ok(packed) => WeightStore::Packed(packed),
            Err(Error::Unsupported { .. }) => {
                WeightStore::Plain(self.upload(weight::decode(parts, dtype, self.float())?, &shape)?)
            }
            Err(error) => return Err(error),
        };
        Ok(Weight::new(shape, dtype, store))
    }

    /// A weight as a tensor `[outputs, inputs]`: what operations over it compute with.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn unpack(&self, weight: &WeightOf<B>) -> Result<TensorOf<B>> {
        match weight.store() {
            WeightStore::Plain(tensor) => Ok(tensor.clone()),
            WeightStore::Packed(packed) => {
                let shape = Shape::new(&[weight.outputs(), weight.inputs()])?;
                Ok(Tensor::new(self.0.backend.unpack(packed)?, shape, self.float()))
            }
        }
    }

    /// A weight of the shape and kind of `like` from a tensor `[outputs, inputs]`: what training does once a step.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ; [`Error::Weight`] for an element that is not finite, where the host packs.
    pub fn repack(&self, like: &WeightOf<B>, x: &TensorOf<B>) -> Result<WeightOf<B>> {
        let shape = [like.outputs(), like.inputs()];
        if x.sizes() != shape {
            return Err(Error::shape("repack", format!("{} as a weight {shape:?}", x.shape())));
        }
        let exact = match self.float() {
            DType::F64 => WeightDType::F64,
            _ => WeightDType::F32,
        };
        let from_host = || {
            let values = self.download(x)?.to_f64();
            self.pack(&[StoredTensor::from_values("repack", &values, shape)?], like.dtype())
        };
        match like.store() {
            WeightStore::Packed(packed) => match self.0.backend.repack(packed, x) {
                Ok(packed) => Ok(Weight::new(shape, like.dtype(), WeightStore::Packed(packed))),
                Err(Error::Unsupported { .. }) => from_host(),
                Err(error) => Err(error),
            },
            WeightStore::Plain(_) if like.dtype().common(exact) == exact && like.dtype().block() == 1 => {
                let x = match like.dtype() {
                    WeightDType::F16 => self.copy(&self.copy(x, DType::F16)?, self.float())?,
                    WeightDType::BF16 => self.copy(&self.copy(x, DType::BF16)?, self.float())?,
                    WeightDType::F32 if self.float() == DType::F64 => return from_host(),
                    _ => self.contiguous(x)?,
                };
                Ok(Weight::new(shape, like.dtype(), WeightStore::Plain(x)))
            }
            WeightStore::Plain(_) => from_host(),
        }
    }

    /// A vector of stored elements as a tensor `[n]` of this device's float type.
    ///
    /// # Errors
    /// [`Error::Weight`] names an element that is not finite.
    pub fn vector(&self, parts: &[StoredTensor]) -> Result<TensorOf<B>> {
        let mut data = Vec::new();
        for part in parts {
            let decoded = weight::decode(std::slice::from_ref(part), WeightDType::F64, self.float())?;
            data.extend(decoded.to_f64());
        }
        let shape = Shape::new(&[data.len()])?;
        self.parameter(parts, HostData::from_f64(data.into_iter(), self.float()), shape)
    }

    /// A small table of stored elements as a tensor `[Σ outputs, inputs]` of this device's float type.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn table(&self, parts: &[StoredTensor]) -> Result<TensorOf<B>> {
        let shape = Shape::new(&weight::concatenated_shape(parts)?)?;
        self.parameter(parts, weight::decode(parts, WeightDType::F64, self.float())?, shape)
    }

    fn parameter(&self, parts: &[StoredTensor], data: HostData, shape: Shape) -> Result<TensorOf<B>> {
        if data.is_empty() {
            return self.zeros(shape, data.dtype());
        }
        let dtype = data.dtype();
        Ok(Tensor::new(self.0.backend.parameter(parts, data)?, shape, dtype))
    }

    /// A cache without blocks.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn cache(&self, spec: CacheSpec) -> Result<CacheOf<B>> {
        let store = match self.0.backend.cache_new(&spec) {
            Ok(store) => CacheStore::Native(store),
            Err(Error::Unsupported { .. }) => {
                let shape = Shape::new(&[0, spec.key_value_heads, spec.head_width])?;
                let layers = (0..spec.layers)
                    .map(|_| Ok(Some([self.zeros(shape, self.float())?, self.zeros(shape, self.float())?])))
                    .collect::<Result<_>>()?;
                CacheStore::Plain(Mutex::new(layers))
            }
            Err(error) => return Err(error),
        };
        Ok(Cache::new(spec, store))
    }

    /// Makes room for `blocks` blocks in all layers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] leaves the cache as it was.
    pub fn cache_reserve(&self, cache: &CacheOf<B>, blocks: usize) -> Result<()> {
        match cache.store() {
            CacheStore::Native(store) => self.0.backend.cache_reserve(store, blocks),
            CacheStore::Plain(layers) => decompose::cache_reserve(self, cache.spec(), &mut lock(layers), blocks),
        }
    }

    /// Copies whole blocks in all layers: `(from, to)`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn cache_copy(&self, cache: &CacheOf<B>, pairs: &[(u32, u32)]) -> Result<()> {
        match cache.store() {
            CacheStore::Native(store) => self.0.backend.cache_copy(store, pairs),
            CacheStore::Plain(layers) => decompose::cache_copy(self, cache.spec(), &mut lock(layers), pairs),
        }
    }

    /// Keys and values of a layer at physical rows, each `[R, K, C]`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn cache_read(&self, cache: &CacheOf<B>, layer: usize, rows: &[u32]) -> Result<[TensorOf<B>; 2]> {
        match cache.store() {
            CacheStore::Native(_) if rows.is_empty() => {
                let shape = Shape::new(&[0, cache.spec().key_value_heads, cache.spec().head_width])?;
                Ok([self.zeros(shape, self.float())?, self.zeros(shape, self.float())?])
            }
            CacheStore::Native(store) => {
                let shape = Shape::new(&[rows.len(), cache.spec().key_value_heads, cache.spec().head_width])?;
                let [key, value] = self.0.backend.cache_read(store, layer, rows)?;
                Ok([Tensor::new(key, shape, self.float()), Tensor::new(value, shape, self.float())])
            }
            CacheStore::Plain(layers) => decompose::cache_read(self, &lock(layers), layer, rows),
        }
    }
}

/// Whether a fused operation has nothing to do.
fn nothing<B: Backend>(operation: &FusedOf<B>, specs: &[Spec]) -> bool {
    match operation {
        Fused::CacheWrite { plan, .. } => plan.rows.is_empty(),
        _ => specs.iter().all(|spec| spec.shape.elements() == 0),
    }
}

/// Takes operands to the host backend.
struct ToHost<'a, B: Backend> {
    device: &'a Device<B>,
    host: &'a B::Host,
}

impl<B: Backend> MapOperands<TensorOf<B>, (), ()> for ToHost<'_, B> {
    type Tensor = TensorOf<B::Host>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, tensor: &TensorOf<B>) -> Result<Self::Tensor> {
        // The whole buffer crosses, so that no layout needs work on a device that may be unable to do it.
        let buffer = self.host.upload(self.device.0.backend.download(&tensor.buffer)?.wait()?)?;
        Ok(Tensor::with_layout(buffer, *tensor.layout(), tensor.dtype()))
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}
