//! A backend that runs every operation on two others and measures how far apart they are.
//!
//! What flows from operation to operation are the oracle's values. Before each operation they are rounded once to the
//! type of the backend under test, and both run on those: so what is measured is each operation's own error, apart
//! from what it would have inherited, and the first guilty one is named by its place in the model.
//!
//! An operation that the backend under test does not have natively is `Unsupported` here too, so that its parts are
//! measured instead; a primitive that it does not have runs on the oracle alone and measures nothing.

use std::{marker::PhantomData, sync::Mutex};

use crate::{
    backend::{Backend, CacheOf, FusedOf, Outputs, PrimitiveOf, Spec, TensorOf, WeightOf},
    cache::{CacheSpec, CacheStore, lock},
    device::Device,
    dtype::{DType, WeightDType},
    error::{Error, Result},
    operation::{MapOperands, Primitive},
    scope,
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight::WeightStore,
};

/// How far one operation was off.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// Place in the model.
    pub place: String,
    /// Snake-case name of the operation.
    pub operation: &'static str,
    /// Index of the worst element in its output, row-major.
    pub index: usize,
    /// There, what the backend under test gave.
    pub actual: f64,
    /// There, what the oracle gave.
    pub expected: f64,
    /// `|actual − expected|` over the greatest finite magnitude of the oracle's output; infinite where only one of the
    /// two is NaN, where an infinity differs, or where an element was not given.
    pub error: f64,
}

/// Runs `B` beside the oracle `O`.
pub struct Lockstep<B: Backend, O: Backend> {
    tested: Device<B>,
    oracle: Device<O>,
    /// Worst case per operation and place, in order of first appearance.
    disagreements: Mutex<Vec<Disagreement>>,
}

impl<B: Backend, O: Backend> Lockstep<B, O> {
    /// Runs `tested` beside `oracle`.
    pub fn new(tested: Device<B>, oracle: Device<O>) -> Self {
        Self { tested, oracle, disagreements: Mutex::new(Vec::new()) }
    }

    /// Worst own error of every operation at every place since the last call, in the order of the computation.
    pub fn take(&self) -> Vec<Disagreement> {
        std::mem::take(&mut lock(&self.disagreements))
    }

    /// The oracle's tensor, rounded to the tested type, on both devices.
    fn both(&self, tensor: &TensorOf<O>) -> Result<(TensorOf<B>, TensorOf<O>)> {
        let data = self.oracle.download(tensor)?;
        if data.dtype() != self.oracle.float() {
            return Ok((self.tested.upload(data, tensor.sizes())?, tensor.clone()));
        }
        let rounded = HostData::from_f64(data.to_f64().into_iter(), self.tested.float());
        let exact = HostData::from_f64(rounded.to_f64().into_iter(), self.oracle.float());
        Ok((self.tested.upload(rounded, tensor.sizes())?, self.oracle.upload(exact, tensor.sizes())?))
    }

    /// Both begin from what the tested device really holds, so that its own rounding is no error of an operation.
    fn pair(&self, tested: WeightOf<B>) -> Result<Weights<B, O>> {
        let values = self.tested.download(&self.tested.unpack(&tested)?)?.to_f64();
        let held = StoredTensor::from_values("held", &values, [tested.outputs(), tested.inputs()])?;
        Ok(Weights { tested, oracle: self.oracle.pack(&[held], WeightDType::F64)? })
    }

    fn compare(&self, operation: &'static str, tested: &HostData, oracle: &HostData) {
        let (actual, expected) = (tested.to_f64(), oracle.to_f64());
        let finite = expected.iter().map(|value| value.abs()).filter(|value| value.is_finite());
        let greatest = finite.fold(f64::MIN_POSITIVE, f64::max);
        let mut worst: Option<(usize, f64)> = None;
        for (index, e) in expected.iter().enumerate() {
            // What was not given at all counts as NaN.
            let a = actual.get(index).unwrap_or(&f64::NAN);
            let error = (a - e).abs() / greatest;
            let error = match error.is_nan() {
                true if a == e || a.is_nan() && e.is_nan() => 0.0,
                true => f64::INFINITY,
                false => error,
            };
            if worst.is_none_or(|worst| error > worst.1) {
                worst = Some((index, error));
            }
        }
        let Some((index, error)) = worst else { return };
        let place = scope::path();
        let actual = actual.get(index).copied().unwrap_or(f64::NAN);
        let new = Disagreement { place, operation, index, actual, expected: expected[index], error };
        let mut all = lock(&self.disagreements);
        match all.iter_mut().find(|old| old.operation == operation && old.place == new.place) {
            Some(old) if old.error >= new.error => {}
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
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
        let mut split = Split { lockstep: self, oracle: Vec::new() };
        let mut tested = operation.try_map(&mut split)?;
        let expected = self.oracle.primitive(operation.try_map(&mut split.oracle_operands())?)?;
        let tested_spec = Spec { dtype: self.tested_dtype(out.dtype), ..*out };
        retype(&mut tested, self.oracle.float(), self.tested.float());
        match self.tested.backend().primitive(&mut tested, &tested_spec) {
            Ok(buffer) => {
                let actual = self.tested.download(&Tensor::new(buffer, out.shape, tested_spec.dtype))?;
                self.compare(operation.name(), &actual, &self.oracle.download(&expected)?);
            }
            Err(Error::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(expected.buffer)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let mut split = Split { lockstep: self, oracle: Vec::new() };
        let mut tested = operation.try_map(&mut split)?;
        let specs: Vec<Spec> = out.iter().map(|spec| Spec { dtype: self.tested_dtype(spec.dtype), ..*spec }).collect();
        // A write goes to both caches whichever way the tested one keeps it.
        let writes = out.is_empty();
        let actual = match self.tested.backend().fused(&mut tested, &specs) {
            Err(Error::Unsupported { .. }) if writes => {
                self.tested.fused(tested)?;
                Outputs::new()
            }
            result => result?,
        };
        let expected = self.oracle.fused(operation.try_map(&mut split.oracle_operands())?)?;
        for ((buffer, spec), expected) in actual.into_iter().zip(&specs).zip(&expected) {
            let actual = self.tested.download(&Tensor::new(buffer, spec.shape, spec.dtype))?;
            self.compare(operation.name(), &actual, &self.oracle.download(expected)?);
        }
        expected.iter().map(|tensor| Ok(self.oracle.contiguous(tensor)?.buffer)).collect()
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        self.pair(self.tested.pack(parts, dtype)?)
    }

    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        let (tested, _) = self.both(x)?;
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
        self.tested.cache_copy(&store.tested, pairs)?;
        self.oracle.cache_copy(&store.oracle, pairs)
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        let tested = self.tested.cache_read(&store.tested, layer, rows)?;
        let expected = self.oracle.cache_read(&store.oracle, layer, rows)?;
        for (tested, expected) in tested.iter().zip(&expected) {
            self.compare("cache_read", &self.tested.download(tested)?, &self.oracle.download(expected)?);
        }
        Ok(expected.map(|tensor| tensor.buffer))
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

/// Takes operands to the tested device; remembers their rounded values for the oracle.
struct Split<'a, B: Backend, O: Backend> {
    lockstep: &'a Lockstep<B, O>,
    oracle: Vec<TensorOf<O>>,
}

impl<B: Backend, O: Backend> Split<'_, B, O> {
    fn split(&mut self, tensor: &TensorOf<O>) -> Result<TensorOf<B>> {
        let (tested, oracle) = self.lockstep.both(tensor)?;
        self.oracle.push(oracle);
        Ok(tested)
    }

    fn oracle_operands(self) -> Rounded<B, O> {
        Rounded(self.oracle.into_iter(), PhantomData)
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
struct Rounded<B: Backend, O: Backend>(std::vec::IntoIter<TensorOf<O>>, PhantomData<B>);

impl<B: Backend, O: Backend> Rounded<B, O> {
    fn next(&mut self, tensor: &TensorOf<O>) -> TensorOf<O> {
        self.0.next().unwrap_or_else(|| tensor.clone())
    }
}

impl<B: Backend, O: Backend> MapOperands<TensorOf<O>, (), ()> for Rounded<B, O> {
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
    for Rounded<B, O>
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
