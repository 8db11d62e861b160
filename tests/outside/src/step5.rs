//! A backend with fused attention over packed sequences.

#![forbid(unsafe_code)]

mod attention;
mod binary;
mod matmul;
mod memory;
mod rms_norm;
mod softmax;
mod unary;

use std::sync::Arc;

use consort_conformance::oracle::Single;
use consort_core::{
    Backend, DType, Fused, FusedOf, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result, Spec,
    unsupported,
};

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
            _ => None,
        };
        let outputs = done.ok_or_else(|| unsupported(self, operation.name()))?;
        Ok(outputs.into_iter().map(Arc::new).collect())
    }
}
