//! A backend that runs every operation on two others and shows both results to a [`Watcher`].
//!
//! What flows from operation to operation are the oracle's values. Before each operation they are rounded once to the
//! type of the backend under test, and both run on those: so what is seen is each operation's own error, apart from what
//! it would have inherited. Operands keep their strides and offsets. Weights and caches hold what the backend under test
//! really holds: its rounding of them is no error of the operations that read them.
//!
//! An operation that the backend under test does not have natively is `Unsupported` here too, so that its parts are
//! seen instead; a primitive that it does not have runs on the oracle alone, and the watcher is told.
//!
//! Whether an error is within what rounding allows is the watcher's to say: this module has no opinion.

use std::{marker::PhantomData, sync::Arc};

use crate::{
    backend::{Backend, CacheOf, FusedOf, Outputs, PrimitiveOf, Spec, TensorOf, Ticket, WeightOf},
    cache::{CachePlan, CacheSpec, CacheStore, FREED},
    device::Device,
    dtype::DType,
    error::{Error, Result},
    operation::{Fused, MapOperands, Primitive},
    scope,
    shape::Layout,
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight::WeightStore,
    weight_dtype::WeightDType,
};

/// Is shown what both backends made of each operation, in the order of the computation.
pub trait Watcher: Send + Sync + 'static {
    /// Both ran an operation.
    ///
    /// # Errors
    /// Ends the computation that asked for the operation.
    fn seen(&self, seen: &Seen<'_>) -> Result<()>;

    /// The backend under test has no form of a primitive; the oracle ran it alone.
    fn absent(&self, place: &str, operation: &'static str) {
        let _ = (place, operation);
    }
}

/// One operation that both ran.
pub struct Seen<'a> {
    /// Place in the model, `decoder.3.attention`.
    pub place: String,
    /// Snake-case name: of a primitive, of a fused operation, or `cache_copy` or `cache_read`.
    pub operation: &'static str,
    /// What both gave. Of `cache_write` and `cache_copy`: the layer's keys and values afterwards.
    pub outputs: Vec<Both>,
    operands: &'a dyn Fn() -> Result<HostOperation>,
}

/// One output of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Both {
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// What the backend under test gave; it may have given too few elements.
    pub actual: HostData,
    /// What the oracle gave.
    pub expected: HostData,
}

impl Seen<'_> {
    /// The operation with its operands, in the type of the backend under test. Weights and caches are downloaded for it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn operation(&self) -> Result<HostOperation> {
        (self.operands)()
    }
}

/// An operation over operands on the host.
#[derive(Clone)]
pub enum HostOperation {
    /// A primitive.
    Primitive(Box<Primitive<HostTensor>>),
    /// A fused operation. A cache is as it was before.
    Fused(Box<Fused<HostTensor, HostWeight, HostCache>>),
    /// A copy of whole blocks, `(from, to)`, in one layer.
    CacheCopy {
        /// As it was before.
        cache: HostCache,
        /// Blocks.
        pairs: Vec<(u32, u32)>,
    },
    /// Physical rows of one layer.
    CacheRead {
        /// As the oracle holds it.
        cache: HostCache,
        /// Which rows.
        rows: Vec<u32>,
    },
}

/// A tensor on the host, with its layout.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Its buffer, as far as the layout reaches.
    pub data: Arc<HostData>,
    /// Where its elements are.
    pub layout: Layout,
}

/// A weight on the host, as the backend under test holds it.
#[derive(Clone, Debug)]
pub struct HostWeight {
    /// `[outputs, inputs]`.
    pub values: Vec<f64>,
    /// `[outputs, inputs]`.
    pub shape: [usize; 2],
    /// What it is kept as.
    pub dtype: WeightDType,
}

/// One layer of a cache on the host: the rows of all blocks up to the last one that matters.
#[derive(Clone, Debug)]
pub struct HostCache {
    /// What the whole cache holds.
    pub spec: CacheSpec,
    /// Rows of `keys` and `values`.
    pub rows: usize,
    /// `[rows, K, C]`.
    pub keys: Vec<f64>,
    /// `[rows, K, C]`.
    pub values: Vec<f64>,
}

/// Runs `B` beside the oracle `O`.
pub struct Lockstep<B: Backend, O: Backend> {
    tested: Device<B>,
    oracle: Device<O>,
    watcher: Arc<dyn Watcher>,
}

impl<B: Backend, O: Backend> Lockstep<B, O> {
    /// Runs `tested` beside `oracle` and shows `watcher` what they do.
    pub fn new(tested: Device<B>, oracle: Device<O>, watcher: Arc<dyn Watcher>) -> Self {
        Self { tested, oracle, watcher }
    }

    /// The oracle's tensor, rounded to the tested type, on both devices and on the host. Its layout stays as it is.
    fn both(&self, tensor: &TensorOf<O>) -> Result<(TensorOf<B>, TensorOf<O>, HostTensor)> {
        let layout = *tensor.layout();
        if layout.shape().elements() == 0 {
            let dtype = self.tested_dtype(tensor.dtype());
            let data = Arc::new(HostData::from_f64(std::iter::empty(), dtype));
            return Ok((self.tested.zeros(*layout.shape(), dtype)?, tensor.clone(), HostTensor { data, layout }));
        }
        let mut data = self.oracle.backend().download(&tensor.buffer)?.wait()?;
        data.truncate(layout.end());
        let (rounded, oracle) = if data.dtype() == self.oracle.float() {
            let rounded = HostData::from_f64(data.to_f64().into_iter(), self.tested.float());
            let exact = HostData::from_f64(rounded.to_f64().into_iter(), self.oracle.float());
            let buffer = self.oracle.backend().upload(exact)?;
            (rounded, Tensor::with_layout(buffer, layout, tensor.dtype()))
        } else {
            (data, tensor.clone())
        };
        let dtype = rounded.dtype();
        let tested = Tensor::with_layout(self.tested.backend().upload(rounded.clone())?, layout, dtype);
        Ok((tested, oracle, HostTensor { data: Arc::new(rounded), layout }))
    }

    /// Both begin from what the tested device really holds, so that its own rounding is no error of an operation.
    fn pair(&self, tested: WeightOf<B>) -> Result<Weights<B, O>> {
        let values = self.tested.download(&self.tested.unpack(&tested)?)?.to_f64();
        let held = StoredTensor::from_values("held", &values, [tested.outputs(), tested.inputs()])?;
        Ok(Weights { tested, oracle: self.oracle.pack(&[held], WeightDType::F64)? })
    }

    fn show(
        &self,
        operation: &'static str,
        outputs: Vec<Both>,
        operands: &dyn Fn() -> Result<HostOperation>,
    ) -> Result<()> {
        self.watcher.seen(&Seen { place: scope::path(), operation, outputs, operands })
    }

    /// What both gave for one output.
    fn output(&self, tested: &TensorOf<B>, oracle: &TensorOf<O>) -> Result<Both> {
        Ok(Both {
            sizes: oracle.sizes().to_vec(),
            actual: self.tested.download(tested)?,
            expected: self.oracle.download(oracle)?,
        })
    }

    /// Physical rows of a layer, as both hold them.
    fn cache_rows(&self, caches: &Caches<B, O>, layer: usize, rows: &[u32]) -> Result<Vec<Both>> {
        let tested = self.tested.cache_read(&caches.tested, layer, rows)?;
        let oracle = self.oracle.cache_read(&caches.oracle, layer, rows)?;
        tested.iter().zip(&oracle).map(|(tested, oracle)| self.output(tested, oracle)).collect()
    }

    /// The first `rows` rows of a layer as the tested device holds them.
    fn held(&self, caches: &Caches<B, O>, layer: usize, rows: u32) -> Result<HostCache> {
        let all: Vec<u32> = (0..rows).collect();
        let [keys, values] = self.tested.cache_read(&caches.tested, layer, &all)?;
        let [keys, values] = [self.tested.download(&keys)?.to_f64(), self.tested.download(&values)?.to_f64()];
        Ok(HostCache { spec: *caches.tested.spec(), rows: all.len(), keys, values })
    }
}

/// Rows of all blocks up to the last one that a plan names.
fn rows_of(plan: &CachePlan) -> u32 {
    let blocks = plan.sequences.iter().flat_map(|sequence| &sequence.blocks).filter(|&&block| block != FREED);
    blocks.max().map_or(0, |&last| (last + 1) * plan.block as u32)
}

/// A weight on both devices.
pub struct Weights<B: Backend, O: Backend> {
    tested: WeightOf<B>,
    oracle: WeightOf<O>,
}

/// A cache on both devices.
pub struct Caches<B: Backend, O: Backend> {
    tested: CacheOf<B>,
    oracle: CacheOf<O>,
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend, O: Backend> Backend for Lockstep<B, O> {
    type Buffer = O::Buffer;
    type Packed = Weights<B, O>;
    type Store = Caches<B, O>;
    type Ticket = O::Ticket;
    type Host = O::Host;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.oracle.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.oracle.backend().upload(data)
    }

    fn parameter(&self, parts: &[StoredTensor], data: HostData) -> Result<Self::Buffer> {
        self.oracle.backend().parameter(parts, data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Self::Ticket> {
        self.oracle.backend().download(buffer)
    }

    fn name(&self) -> &'static str {
        self.tested.backend().name()
    }

    fn float(&self) -> DType {
        self.oracle.float()
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        let mut split = Split { lockstep: self, oracle: Vec::new(), host: Vec::new() };
        let mut tested = operation.try_map(&mut split)?;
        let (oracle, host) = split.halves();
        let expected = self.oracle.primitive(operation.try_map(&mut Again::<B, O>::new(oracle))?)?;
        let tested_spec = Spec { dtype: self.tested_dtype(out.dtype), ..*out };
        retype(&mut tested, self.oracle.float(), self.tested.float());
        match self.tested.backend().primitive(&mut tested, &tested_spec) {
            Ok(buffer) => {
                let actual = Tensor::new(buffer, out.shape, tested_spec.dtype);
                let outputs = vec![self.output(&actual, &expected)?];
                let operation = &*operation;
                self.show(operation.name(), outputs, &|| {
                    let mut operation = operation.try_map(&mut Shown::new(self, host.clone(), None))?;
                    retype(&mut operation, self.oracle.float(), self.tested.float());
                    Ok(HostOperation::Primitive(Box::new(operation)))
                })?;
            }
            Err(Error::Unsupported { .. }) => self.watcher.absent(&scope::path(), operation.name()),
            Err(error) => return Err(error),
        }
        Ok(expected.buffer)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let operation = &*operation;
        let mut split = Split { lockstep: self, oracle: Vec::new(), host: Vec::new() };
        let mut tested = operation.try_map(&mut split)?;
        let (oracle, host) = split.halves();
        let specs: Vec<Spec> = out.iter().map(|spec| Spec { dtype: self.tested_dtype(spec.dtype), ..*spec }).collect();
        let written = match operation {
            Fused::CacheWrite { cache, layer, plan, .. } => {
                let cache = caches(cache)?;
                let rows = rows_of(plan);
                Some((cache, *layer, rows, self.held(cache, *layer, rows)?))
            }
            _ => None,
        };
        let actual = match self.tested.backend().fused(&mut tested, &specs) {
            // A write goes to both caches whichever way the tested one keeps it.
            Err(Error::Unsupported { .. }) if written.is_some() => {
                self.tested.fused(tested)?;
                Outputs::new()
            }
            result => result?,
        };
        let expected = self.oracle.fused(operation.try_map(&mut Again::<B, O>::new(oracle))?)?;
        let (outputs, before) = match written {
            Some((cache, layer, rows, before)) => {
                let rows: Vec<u32> = (0..rows).collect();
                (self.cache_rows(cache, layer, &rows)?, Some(before))
            }
            None => {
                let actual = actual.into_iter().zip(&specs).zip(&expected);
                let outputs = actual.map(|((buffer, spec), expected)| {
                    self.output(&Tensor::new(buffer, spec.shape, spec.dtype), expected)
                });
                (outputs.collect::<Result<_>>()?, None)
            }
        };
        self.show(operation.name(), outputs, &|| {
            let cache = match operation {
                Fused::CachedAttention { cache, layer, plan, .. } => {
                    Some(self.held(caches(cache)?, *layer, rows_of(plan))?)
                }
                _ => before.clone(),
            };
            Ok(HostOperation::Fused(Box::new(operation.try_map(&mut Shown::new(self, host.clone(), cache))?)))
        })?;
        expected.iter().map(|tensor| Ok(self.oracle.contiguous(tensor)?.buffer)).collect()
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        self.pair(self.tested.pack(parts, dtype)?)
    }

    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        let (tested, ..) = self.both(x)?;
        self.pair(self.tested.repack(&packed.tested, &tested)?)
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        Ok(self.oracle.contiguous(&self.oracle.unpack(&packed.oracle)?)?.buffer)
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        Ok(Caches { tested: self.tested.cache(*spec)?, oracle: self.oracle.cache(*spec)? })
    }

    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        self.tested.cache_reserve(&store.tested, blocks)?;
        self.oracle.cache_reserve(&store.oracle, blocks)
    }

    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        let last = pairs.iter().map(|&(from, to)| from.max(to)).max();
        let rows = last.map_or(0, |last| (last + 1) * store.tested.spec().block as u32);
        let layers = 0..store.tested.spec().layers;
        let before = layers.map(|layer| self.held(store, layer, rows)).collect::<Result<Vec<_>>>()?;
        self.tested.cache_copy(&store.tested, pairs)?;
        self.oracle.cache_copy(&store.oracle, pairs)?;
        let rows: Vec<u32> = (0..rows).collect();
        for (layer, cache) in before.into_iter().enumerate() {
            self.show("cache_copy", self.cache_rows(store, layer, &rows)?, &|| {
                Ok(HostOperation::CacheCopy { cache: cache.clone(), pairs: pairs.to_vec() })
            })?;
        }
        Ok(())
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        let outputs = self.cache_rows(store, layer, rows)?;
        self.show("cache_read", outputs, &|| {
            let last = rows.iter().copied().filter(|&row| row != FREED).max().map_or(0, |last| last + 1);
            let all: Vec<u32> = (0..last).collect();
            let [keys, values] = self.oracle.cache_read(&store.oracle, layer, &all)?;
            let [keys, values] = [self.oracle.download(&keys)?.to_f64(), self.oracle.download(&values)?.to_f64()];
            let cache = HostCache { spec: *store.oracle.spec(), rows: all.len(), keys, values };
            Ok(HostOperation::CacheRead { cache, rows: rows.to_vec() })
        })?;
        Ok(self.oracle.cache_read(&store.oracle, layer, rows)?.map(|tensor| tensor.buffer))
    }

    fn submit(&self) -> Result<()> {
        self.tested.submit()?;
        self.oracle.submit()
    }
}

impl<B: Backend, O: Backend> Lockstep<B, O> {
    fn tested_dtype(&self, dtype: DType) -> DType {
        if dtype == self.oracle.float() { self.tested.float() } else { dtype }
    }
}

/// Operations that name the oracle's float type mean the tested backend's there.
fn retype<T>(operation: &mut Primitive<T>, oracle: DType, tested: DType) {
    if let Primitive::Fill { dtype, .. } | Primitive::Copy { dtype, .. } = operation
        && *dtype == oracle
    {
        *dtype = tested;
    }
}

/// Takes operands to the tested device; remembers their rounded values for the oracle and for the watcher.
struct Split<'a, B: Backend, O: Backend> {
    lockstep: &'a Lockstep<B, O>,
    oracle: Vec<TensorOf<O>>,
    host: Vec<HostTensor>,
}

impl<B: Backend, O: Backend> Split<'_, B, O> {
    fn split(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<B>> {
        let (tested, oracle, host) = self.lockstep.both(tensor)?;
        self.oracle.push(oracle);
        self.host.push(host);
        Ok(tested)
    }

    fn halves(self) -> (Vec<TensorOf<O>>, Vec<HostTensor>) {
        (self.oracle, self.host)
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, (), ()> for Split<'_, B, O> {
    type Tensor = TensorOf<B>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<B>> {
        self.split(tensor)
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, WeightOf<Lockstep<B, O>>, CacheOf<Lockstep<B, O>>>
    for Split<'_, B, O>
{
    type Tensor = TensorOf<B>;
    type Weight = WeightOf<B>;
    type Cache = CacheOf<B>;

    fn tensor(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<B>> {
        self.split(tensor)
    }

    fn weight(&mut self, weight: &WeightOf<Lockstep<B, O>>) -> Result<WeightOf<B>> {
        Ok(weights(weight)?.tested.clone())
    }

    fn cache(&mut self, cache: &CacheOf<Lockstep<B, O>>) -> Result<CacheOf<B>> {
        Ok(caches(cache)?.tested.clone())
    }
}

/// Gives the oracle the operands that [`Split`] rounded, in the same order.
struct Again<B: Backend, O: Backend>(std::vec::IntoIter<TensorOf<O>>, PhantomData<B>);

impl<B: Backend, O: Backend> Again<B, O> {
    fn new(tensors: Vec<TensorOf<O>>) -> Self {
        Self(tensors.into_iter(), PhantomData)
    }

    fn next(&mut self, tensor: &TensorOf<O>) -> TensorOf<O> {
        self.0.next().unwrap_or_else(|| tensor.clone())
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, (), ()> for Again<B, O> {
    type Tensor = TensorOf<O>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<O>> {
        Ok(self.next(tensor))
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, WeightOf<Lockstep<B, O>>, CacheOf<Lockstep<B, O>>>
    for Again<B, O>
{
    type Tensor = TensorOf<O>;
    type Weight = WeightOf<O>;
    type Cache = CacheOf<O>;

    fn tensor(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<O>> {
        Ok(self.next(tensor))
    }

    fn weight(&mut self, weight: &WeightOf<Lockstep<B, O>>) -> Result<WeightOf<O>> {
        Ok(weights(weight)?.oracle.clone())
    }

    fn cache(&mut self, cache: &CacheOf<Lockstep<B, O>>) -> Result<CacheOf<O>> {
        Ok(caches(cache)?.oracle.clone())
    }
}

/// Gives the watcher the operands that [`Split`] rounded, in the same order.
struct Shown<'a, B: Backend, O: Backend> {
    lockstep: &'a Lockstep<B, O>,
    tensors: std::vec::IntoIter<HostTensor>,
    /// The layer of the cache that the operation is about, where there is one.
    cache: Option<HostCache>,
}

impl<'a, B: Backend, O: Backend> Shown<'a, B, O> {
    fn new(lockstep: &'a Lockstep<B, O>, tensors: Vec<HostTensor>, cache: Option<HostCache>) -> Self {
        Self { lockstep, tensors: tensors.into_iter(), cache }
    }

    fn next(&mut self) -> Result<HostTensor> {
        self.tensors.next().ok_or_else(|| Error::Input("lockstep: an operand too many".into()))
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, (), ()> for Shown<'_, B, O> {
    type Tensor = HostTensor;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, _: &TensorOf<O>) -> Result<HostTensor> {
        self.next()
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, WeightOf<Lockstep<B, O>>, CacheOf<Lockstep<B, O>>>
    for Shown<'_, B, O>
{
    type Tensor = HostTensor;
    type Weight = HostWeight;
    type Cache = HostCache;

    fn tensor(&mut self, _: &TensorOf<O>) -> Result<HostTensor> {
        self.next()
    }

    fn weight(&mut self, weight: &WeightOf<Lockstep<B, O>>) -> Result<HostWeight> {
        let Weights { tested, oracle } = weights(weight)?;
        let device = &self.lockstep.oracle;
        let values = device.download(&device.unpack(oracle)?)?.to_f64();
        Ok(HostWeight { values, shape: [tested.outputs(), tested.inputs()], dtype: tested.dtype() })
    }

    fn cache(&mut self, _: &CacheOf<Lockstep<B, O>>) -> Result<HostCache> {
        self.cache.take().ok_or_else(|| Error::Input("lockstep: a cache that was not read".into()))
    }
}

fn weights<B: Backend, O: Backend>(weight: &WeightOf<Lockstep<B, O>>) -> Result<&Weights<B, O>> {
    match weight.store() {
        WeightStore::Packed(weights) => Ok(weights),
        WeightStore::Plain(_) => Err(Error::weight("lockstep", "was not packed on both devices")),
    }
}

fn caches<B: Backend, O: Backend>(cache: &CacheOf<Lockstep<B, O>>) -> Result<&Caches<B, O>> {
    match cache.store() {
        CacheStore::Native(caches) => Ok(caches),
        CacheStore::Plain(_) => Err(Error::Input("lockstep: a cache that is not on both devices".into())),
    }
}
