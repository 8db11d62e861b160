//! A backend that writes down what another one is asked: operation, place in the model, operand shapes, what products
//! are computed in, level, time.
//!
//! Operations are values, so there is one method per tier to forward; `clippy::missing_trait_methods` keeps the rest from
//! being inherited by oversight. Everything runs on the inner backend as it would without the trace, fall-back included:
//! a traced run counts the same operations as a plain one.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    backend::{Backend, FusedOf, Outputs, PrimitiveOf, Spec, TensorOf},
    cache::{CacheSpec, lock},
    compute::Compute,
    dtype::DType,
    error::{Error, Result},
    scope,
    shape::Shape,
    stored::StoredTensor,
    tensor::HostData,
    weight_dtype::WeightDType,
};

/// One operation that the backend was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Place in the model, `decoder.3.attention`.
    pub place: String,
    /// Snake-case name.
    pub operation: &'static str,
    /// Shapes and types of the tensor operands.
    pub inputs: Vec<(Shape, DType)>,
    /// What a projection takes its operands as.
    pub compute: Option<Compute>,
    /// Shapes and types of the outputs.
    pub outputs: Vec<(Shape, DType)>,
    /// Whether the backend had it; otherwise the records of its parts follow, or the host ran it.
    pub native: bool,
    /// Time until the backend answered: for backends that record, not until it was done.
    pub time: Duration,
}

/// Traces `B`.
pub struct Trace<B: Backend> {
    inner: B,
    records: Mutex<Vec<Record>>,
}

impl<B: Backend> Trace<B> {
    /// Traces what `inner` is asked from now on.
    pub fn new(inner: B) -> Self {
        Self { inner, records: Mutex::new(Vec::new()) }
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut lock(&self.records))
    }

    fn record<R>(
        &self,
        operation: &'static str,
        (inputs, compute): (Vec<(Shape, DType)>, Option<Compute>),
        outputs: &[Spec],
        run: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let start = Instant::now();
        let result = run();
        let time = start.elapsed();
        if matches!(&result, Ok(_) | Err(Error::Unsupported { .. })) {
            lock(&self.records).push(Record {
                place: scope::path(),
                operation,
                inputs,
                compute,
                outputs: outputs.iter().map(|spec| (spec.shape, spec.dtype)).collect(),
                native: result.is_ok(),
                time,
            });
        }
        result
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Trace<B> {
    type Buffer = B::Buffer;
    type Packed = B::Packed;
    type Store = B::Store;
    type Ticket = B::Ticket;
    type Host = B::Host;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.inner.alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.inner.upload(data)
    }

    fn parameter(&self, parts: &[StoredTensor], data: HostData) -> Result<Self::Buffer> {
        self.inner.parameter(parts, data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Self::Ticket> {
        self.inner.download(buffer)
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn float(&self) -> DType {
        self.inner.float()
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        let mut inputs = Vec::new();
        operation.for_each_tensor(&mut |tensor| inputs.push((*tensor.shape(), tensor.dtype())));
        self.record(operation.name(), (inputs, None), &[*out], || self.inner.primitive(operation, out))
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let mut inputs = Vec::new();
        operation.for_each_tensor(&mut |tensor| inputs.push((*tensor.shape(), tensor.dtype())));
        self.record(operation.name(), (inputs, operation.compute()), out, || self.inner.fused(operation, out))
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        self.inner.pack(parts, dtype)
    }

    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        self.inner.repack(packed, x)
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        self.inner.unpack(packed)
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        self.inner.cache_new(spec)
    }

    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        self.inner.cache_reserve(store, blocks)
    }

    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        self.inner.cache_copy(store, pairs)
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        self.inner.cache_read(store, layer, rows)
    }

    fn submit(&self) -> Result<()> {
        self.inner.submit()
    }
}
