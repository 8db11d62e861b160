//! A backend of three methods: memory, and nothing else.
//!
//! Every operation is asked for, answered `Unsupported` by the defaults of [`Backend`], and computed by the host: right
//! at once, and slow. `docs/adding-a-backend.md` makes operations native, one at a time.

#![forbid(unsafe_code)]

use std::sync::Arc;

use consort_core::{Backend, DType, HostData, Nothing, Ready, Result};
use consort_conformance::oracle::Single;

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
    /// A handle of memory. Here the memory is the host's own; on a device it is the device's.
    type Buffer = Arc<HostData>;
    /// No layout of its own for weights: they are plain tensors.
    type Packed = Nothing;
    /// Nor for caches.
    type Store = Nothing;
    /// Downloads have arrived when they are asked for.
    type Ticket = Ready;
    /// Where operations run that are not native.
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        Ok(Arc::new(HostData::from_f64(std::iter::repeat_n(0.0, elements), dtype)))
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        Ok(Arc::new(data))
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        Ok(Ready::new(HostData::clone(buffer)))
    }
}
