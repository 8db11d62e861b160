//! A backend with a native product of matrices; what is not native runs on its host.

#![forbid(unsafe_code)]

mod binary;
mod matmul;
mod memory;
mod unary;

use std::sync::Arc;

use consort_conformance::oracle::Single;
use consort_core::{Backend, DType, HostData, Nothing, Primitive, PrimitiveOf, Ready, Result, Spec, unsupported};

use self::memory::Buffer;

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
    type Packed = Nothing;
    type Store = Nothing;
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
}
