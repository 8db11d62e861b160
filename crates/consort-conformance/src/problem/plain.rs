//! A backend with its primitives alone: every fused operation is its decomposition, weights and caches are tensors.

use consort_core::{
    Backend, DType, Device, FusedOf, HostData, Nothing, Outputs, PrimitiveOf, Result, Spec, StoredTensor, TensorOf,
    WeightDType, cache::CacheSpec, unsupported,
};

/// `B` without what it has natively beyond primitives. Tensors are those of `B`.
pub(super) struct Plain<B: Backend>(pub(super) Device<B>);

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Plain<B> {
    type Buffer = B::Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = B::Ticket;
    type Host = B::Host;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<B::Buffer> {
        self.0.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<B::Buffer> {
        self.0.backend().upload(data)
    }

    fn parameter(&self, parts: &[StoredTensor], data: HostData) -> Result<B::Buffer> {
        self.0.backend().parameter(parts, data)
    }

    fn download(&self, buffer: &B::Buffer) -> Result<B::Ticket> {
        self.0.backend().download(buffer)
    }

    fn name(&self) -> &'static str {
        self.0.backend().name()
    }

    fn float(&self) -> DType {
        self.0.float()
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<B::Buffer> {
        self.0.backend().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<B::Buffer>> {
        Err(unsupported(self, operation.name()))
    }

    fn pack(&self, _: &[StoredTensor], _: WeightDType) -> Result<Nothing> {
        Err(unsupported(self, "pack"))
    }

    fn repack(&self, packed: &Nothing, _: &TensorOf<Self>) -> Result<Nothing> {
        match *packed {}
    }

    fn unpack(&self, packed: &Nothing) -> Result<B::Buffer> {
        match *packed {}
    }

    fn cache_new(&self, _: &CacheSpec) -> Result<Nothing> {
        Err(unsupported(self, "cache_new"))
    }

    fn cache_reserve(&self, store: &Nothing, _: usize) -> Result<()> {
        match *store {}
    }

    fn cache_copy(&self, store: &Nothing, _: &[(u32, u32)]) -> Result<()> {
        match *store {}
    }

    fn cache_read(&self, store: &Nothing, _: usize, _: &[u32]) -> Result<[B::Buffer; 2]> {
        match *store {}
    }

    fn submit(&self) -> Result<()> {
        self.0.submit()
    }
}
