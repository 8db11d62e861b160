//! A backend with caches of its own, and attention over them.

#![forbid(unsafe_code)]

mod activation;
mod attention;
mod binary;
mod cache;
mod matmul;
mod memory;
mod rms_norm;
mod softmax;
mod unary;
mod weight;

use std::sync::Arc;

use consort_conformance::oracle::Single;
use consort_core::{
    Backend, CacheSpec, Compute, DType, Fused, FusedOf, HostData, Outputs, Primitive, PrimitiveOf, Ready, Result, Spec,
    StoredTensor, WeightDType, unsupported,
};

use self::memory::Buffer;
pub use self::{cache::Store, weight::Packed};

/// The backend; it has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vector;

impl Vector {
    /// Opens it.
    pub fn new() -> Self {
        Self
    }
}

impl Backend for Vector {
    type Buffer = Buffer;
    type Packed = Packed;
    type Store = Store;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        Ok(Arc::new(HostData::from_f64(std::iter::repeat_n(0.0, elements), dtype)))
    }

    fn upload(&self, data: HostData) -> Result<Buffer> {
        Ok(Arc::new(data))
    }

    fn download(&self, buffer: &Buffer) -> Result<Ready> {
        Ok(Ready::new(HostData::clone(buffer)))
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer> {
        let done = match operation {
            Primitive::Unary { x, kind } => unary::unary(x, *kind),
            Primitive::Binary { a, b, kind } => binary::binary(a, b, *kind, &out.shape),
            Primitive::MatMul { a, b } => matmul::matmul(a, b, &out.shape),
            _ => None,
        };
        done.map(Arc::new).ok_or_else(|| unsupported(self, operation.name()))
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _out: &[Spec]) -> Result<Outputs<Buffer>> {
        let one = |y: Option<HostData>| y.map(|y| vec![y]);
        let done = match operation {
            Fused::Softmax { x } => one(softmax::softmax(x)),
            Fused::RmsNorm { x, weight, epsilon, unit_offset } => {
                one(rms_norm::rms_norm(x, weight, *epsilon, *unit_offset))
            }
            Fused::Attention { query, key, value, bias, segments, attributes } => {
                attention::attention([query, key, value], bias.as_ref(), segments, attributes)
            }
            Fused::Activation { x, kind } => one(activation::activation(x, *kind)),
            Fused::Gated { gate, up, kind } => one(activation::gated(gate, up, *kind)),
            Fused::Linear { x, weight, bias, activation, residual, compute: Compute::F32 } => {
                one(weight::linear(x, weight, bias.as_ref(), *activation, residual.as_ref()))
            }
            Fused::Embedding { weight, ids } => one(weight::embedding(weight, ids)),
            Fused::CacheWrite { cache, key, value, layer, plan } => cache::write(cache, [key, value], *layer, plan),
            Fused::CachedAttention { query, cache, bias, layer, plan, attributes } => {
                cache::attention(query, cache, bias.as_ref(), *layer, plan, attributes)
            }
            _ => None,
        };
        let outputs = done.ok_or_else(|| unsupported(self, operation.name()))?;
        Ok(outputs.into_iter().map(Arc::new).collect())
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Packed> {
        weight::pack(parts, dtype)
    }

    fn unpack(&self, packed: &Packed) -> Result<Buffer> {
        Ok(Arc::new(weight::unpack(packed)))
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Store> {
        Ok(Store::new(spec))
    }

    fn cache_reserve(&self, store: &Store, blocks: usize) -> Result<()> {
        store.reserve(blocks)
    }

    fn cache_copy(&self, store: &Store, pairs: &[(u32, u32)]) -> Result<()> {
        store.copy(pairs);
        Ok(())
    }

    fn cache_read(&self, store: &Store, layer: usize, rows: &[u32]) -> Result<[Buffer; 2]> {
        Ok(store.read(layer, rows).map(Arc::new))
    }
}
