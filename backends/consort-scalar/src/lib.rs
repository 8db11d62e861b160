//! The reference backend: every primitive in plain loops over strided views, written to be read.
//!
//! - [`Single`] computes in f32 and is the host that other backends fall back on; [`Oracle`] computes in f64 and is
//!   what they are compared with.
//! - Every primitive is here, one file per family, and no fused operation but sampling, on purpose: this backend *is*
//!   the decompositions of [`consort_core::decompose`], so that comparing a fused form with it compares with the
//!   specification. Sampling draws from this backend's own memory; its definition is the core's
//!   [`sample_row`](consort_core::sample::sample_row).
//! - Reductions and products add in ascending order, one chain an output, without fused multiply-adds: a result's bits
//!   are the same on every machine with the same `exp`, `ln` and `tanh`.
//! - Weights stay in the type that they are kept in ([`Packed`]), and are unpacked by each operation over them.
//! - Nothing is parallel and nothing is tuned, with two exceptions that a reader should know: an operand that nobody
//!   else holds is changed in place (caches grow by it), and matrix products go by panels of columns.
//! - The core has checked shapes and types before an operation comes here, and dropped empty ones. What does not fit
//!   all the same is an error, never a panic.

#![forbid(unsafe_code)]

#[macro_use]
mod storage;
mod binary;
mod copy;
mod element;
pub mod fault;
mod fill;
mod gather_rows;
mod matmul;
mod packed;
mod reduce;
mod sample;
mod scatter_rows;
mod select;
mod unary;
mod write;

use std::marker::PhantomData;

use consort_core::{
    Backend, DType, Error, Fused, FusedOf, Host, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result,
    Spec, StoredTensor, WeightDType, unsupported,
};
use smallvec::smallvec;

use self::storage::Storage;
pub use self::{element::Element, packed::Packed, storage::Buffer};

/// The reference backend, computing in `E`: f32 or f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar<E>(PhantomData<E>);

/// The reference in f32: what other backends fall back on.
pub type Single = Scalar<f32>;

/// The reference in f64: what other backends are compared with.
pub type Oracle = Scalar<f64>;

impl<E: Element> Scalar<E> {
    /// The backend; it has no state.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E: Element> Backend for Scalar<E> {
    type Buffer = Buffer<E>;
    type Packed = Packed;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Self;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer<E>> {
        fill::fill(elements, 0.0, dtype).map(Buffer::new)
    }

    /// Data of the other float type are refused: silently narrowing or widening them would hide a mistake.
    fn upload(&self, data: HostData) -> Result<Buffer<E>> {
        Storage::from_host(data).map(Buffer::new)
    }

    fn download(&self, buffer: &Buffer<E>) -> Result<Ready> {
        Ok(Ready::new(buffer.to_host()))
    }

    fn name(&self) -> &'static str {
        E::BACKEND
    }

    fn float(&self) -> DType {
        E::DTYPE
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer<E>> {
        self.evaluate(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _out: &[Spec]) -> Result<Outputs<Buffer<E>>> {
        match operation {
            Fused::Sample { logits, rows } => Ok(smallvec![Buffer::new(sample::sample(logits, rows)?)]),
            _ => Err(unsupported(self, operation.name())),
        }
    }

    /// Packed where that is less than a plain tensor.
    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Packed> {
        if dtype.block_bytes() >= dtype.block() * E::DTYPE.size() {
            return Err(unsupported(self, "pack"));
        }
        Packed::new(parts, dtype)
    }

    fn unpack(&self, packed: &Packed) -> Result<Buffer<E>> {
        packed.unpack().map(Buffer::new)
    }
}

impl<E: Element> Host for Scalar<E> {
    fn open() -> Self {
        Self::new()
    }

    fn evaluate(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer<E>> {
        let storage = match operation {
            Primitive::Fill { shape, value, dtype } => fill::fill(shape.elements(), *value, *dtype),
            Primitive::Copy { x, dtype } => copy::copy(x, *dtype),
            Primitive::Write { into, x, start } => write::write(into, x, start),
            Primitive::Unary { x, kind } => unary::unary(x, *kind),
            Primitive::Binary { a, b, kind } => binary::binary(a, b, *kind, &out.shape),
            Primitive::Select { mask, a, b } => select::select(mask, a, b, &out.shape),
            Primitive::Reduce { x, axis, kind } => reduce::reduce(x, *axis, *kind),
            Primitive::MatMul { a, b } => matmul::matmul(a, b, &out.shape),
            Primitive::GatherRows { x, ids } => gather_rows::gather_rows(x, ids),
            Primitive::ScatterRows { into, ids, x, add } => scatter_rows::scatter_rows(into, ids, x, *add),
        };
        storage.map(Buffer::new)
    }
}

/// For operands that the core would not have let through.
fn misfit(operation: &'static str, what: impl Into<String>) -> Error {
    Error::Shape { operation, what: what.into() }
}
