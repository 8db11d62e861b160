//! The contract: what a backend must do, may do, and can leave to the core.
//!
//! A backend of three methods ([`alloc`](Backend::alloc), [`upload`](Backend::upload), [`download`](Backend::download))
//! runs every model, slowly: each operation that it answers with [`Error::Unsupported`] is computed from its
//! decomposition, and each primitive that it lacks on the host backend it names. It becomes fast one operation at a
//! time, and how each one ran is counted ([`Device::report`](crate::Device::report)).
//!
//! Who does what
//! - **Validation** is done once, by the [`Device`](crate::Device), before a backend sees an operation; a backend's own
//!   checks are debug assertions. Operations with an empty output never reach a backend, nor do primitives with an
//!   empty operand; a fused operation may have one (attention over no keys gives zeros).
//! - **Allocation** of outputs is the backend's; inputs may have any strides, outputs are contiguous from element 0.
//! - **Aliasing**: an output never shares memory with an operand that another handle can see. An operation comes by
//!   `&mut`, so that a backend may take a buffer out of it when that is the last handle. When it answers
//!   `Unsupported`, the operation must be as it was.
//! - **Order**: operations on one device happen in the order of their calls, or as if they did. A backend may record
//!   them and run them later ([`submit`](Backend::submit)); their errors then surface at the next download's ticket.
//! - **Threads**: all methods can be called from any thread.
//! - **Bits**: a row of an output depends on that row's inputs only: never on how many rows there are, on neighbours, or
//!   on the number of threads.
//! - **Panics** must not be reachable: errors are values.

use std::fmt::Debug;

use smallvec::SmallVec;

use crate::{
    cache::{Cache, CacheSpec},
    dtype::DType,
    error::{Error, Result},
    operation::{Fused, Primitive},
    shape::Shape,
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight::Weight,
    weight_dtype::WeightDType,
};

/// Tensors of a backend.
pub type TensorOf<B> = Tensor<<B as Backend>::Buffer>;
/// Packed weights of a backend.
pub type WeightOf<B> = Weight<<B as Backend>::Buffer, <B as Backend>::Packed>;
/// Caches of a backend.
pub type CacheOf<B> = Cache<<B as Backend>::Buffer, <B as Backend>::Store>;
/// Primitives over a backend's tensors.
pub type PrimitiveOf<B> = Primitive<TensorOf<B>>;
/// Fused operations over a backend's operands.
pub type FusedOf<B> = Fused<TensorOf<B>, WeightOf<B>, CacheOf<B>>;
/// Outputs of a fused operation, in the order that the operation documents.
pub type Outputs<Buffer> = SmallVec<[Buffer; 2]>;

/// Shape and type of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its shape.
    pub shape: Shape,
    /// Its type.
    pub dtype: DType,
}

/// A tensor library for one kind of hardware. See the [module](self) for the rules.
pub trait Backend: Send + Sync + Sized + 'static {
    /// A cheap handle of memory.
    type Buffer: Clone + Debug + Send + Sync;
    /// A weight in this backend's own layout; [`Nothing`] for backends that keep plain tensors.
    type Packed: Send + Sync;
    /// Keys and values in this backend's own layout; [`Nothing`] for backends that keep plain tensors.
    type Store: Send + Sync;
    /// A download under way; [`Ready`] for backends that compute at once.
    type Ticket: Ticket;
    /// Where primitives run that this backend does not have.
    type Host: Host;

    /// Memory for `elements` of `dtype`, all zero. There may be none: such a buffer is a handle that can be downloaded.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer>;

    /// Data from the host.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    fn upload(&self, data: HostData) -> Result<Self::Buffer>;

    /// A vector or a small table of the model, whose parts are named by their slots. For decorators, which may need to know
    /// it again; others upload it.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    fn parameter(&self, parts: &[StoredTensor], data: HostData) -> Result<Self::Buffer> {
        let _ = parts;
        self.upload(data)
    }

    /// The whole of a buffer to the host, after everything that was asked before.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; errors of recorded operations come from the ticket.
    fn download(&self, buffer: &Self::Buffer) -> Result<Self::Ticket>;

    /// Name for messages and reports.
    fn name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }

    /// The type that this backend computes in.
    fn float(&self) -> DType {
        DType::F32
    }

    /// Runs a primitive; `out` is what its output must be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] sends it to the host.
    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        let _ = out;
        Err(unsupported(self, operation.name()))
    }

    /// Runs a fused operation; `out` is what its outputs must be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] runs its decomposition.
    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let _ = out;
        Err(unsupported(self, operation.name()))
    }

    /// A weight `[Σ outputs, inputs]` from stored parts concatenated along the outputs, kept as `dtype`. Elements that are
    /// not finite must be refused with [`Error::Weight`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] keeps it as a plain tensor of [`float`](Self::float), rounded to `dtype`.
    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        let _ = (parts, dtype);
        Err(unsupported(self, "pack"))
    }

    /// The weight anew from a tensor `[outputs, inputs]` of [`float`](Self::float), kept as `packed` was: once a step in
    /// training.
    ///
    /// # Errors
    /// [`Error::Unsupported`] packs it by way of the host.
    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        let _ = (packed, x);
        Err(unsupported(self, "repack"))
    }

    /// The packed weight as `[outputs, inputs]` of [`float`](Self::float): what the operations over it compute with.
    ///
    /// # Errors
    /// [`Error::Unsupported`] only where [`pack`](Self::pack) is.
    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        let _ = packed;
        Err(unsupported(self, "unpack"))
    }

    /// A cache without blocks.
    ///
    /// # Errors
    /// [`Error::Unsupported`] keeps plain tensors.
    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        let _ = spec;
        Err(unsupported(self, "cache_new"))
    }

    /// Makes room for `blocks` blocks in all layers, keeping what is there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] leaves the cache as it was.
    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        let _ = (store, blocks);
        Err(unsupported(self, "cache_reserve"))
    }

    /// Copies whole blocks in all layers, `(from, to)`, as if in this order; no block is a target twice.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        let _ = (store, pairs);
        Err(unsupported(self, "cache_copy"))
    }

    /// Keys and values of a layer at physical rows (`block · rows per block + row`), each `[R, K, C]` of
    /// [`float`](Self::float).
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        let _ = (store, layer, rows);
        Err(unsupported(self, "cache_read"))
    }

    /// Starts what was recorded. Backends that compute at once do nothing.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    fn submit(&self) -> Result<()> {
        Ok(())
    }
}

/// A backend that others can fall back on: it has every primitive.
///
/// [`evaluate`](Host::evaluate) has no default, and implementations match [`Primitive`] without a wildcard: a primitive
/// that is added to the contract and missing here is a compile error, never a recursion.
pub trait Host: Backend {
    /// Opens the host.
    fn open() -> Self;

    /// Runs a primitive, whatever it is.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; never [`Error::Unsupported`].
    fn evaluate(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer>;
}

/// A download under way.
pub trait Ticket: Send {
    /// The data if they have arrived; `None` while they have not.
    ///
    /// # Errors
    /// What went wrong with the operations that the data depend on.
    fn poll(&mut self) -> Result<Option<HostData>>;

    /// Waits for the data.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    fn wait(self) -> Result<HostData>;
}

/// The ticket of a backend that computes at once.
#[derive(Debug)]
pub struct Ready(Option<HostData>);

impl Ready {
    /// A download that has already happened.
    pub fn new(data: HostData) -> Self {
        Self(Some(data))
    }
}

impl Ticket for Ready {
    fn poll(&mut self) -> Result<Option<HostData>> {
        Ok(self.0.take())
    }

    fn wait(self) -> Result<HostData> {
        self.0.ok_or_else(|| Error::Input("the download was already polled".into()))
    }
}

/// For backends without a layout of their own: has no value.
#[derive(Clone, Copy, Debug)]
pub enum Nothing {}

/// An [`Error::Unsupported`]: `backend` has no form of `operation` at all.
pub fn unsupported<B: Backend>(backend: &B, operation: &'static str) -> Error {
    Error::Unsupported { backend: backend.name(), operation, form: None, reason: "not implemented" }
}
