//! `f(a, b)`, element by element, broadcast.

use consort_core::{HostData, Shape, Tensor, operation::BinaryKind};

use super::memory::{Buffer, singles};

/// `f(a, b)` of the shape that both broadcast to; `None` for whole numbers and halves, which only comparisons take.
pub(crate) fn binary(a: &Tensor<Buffer>, b: &Tensor<Buffer>, kind: BinaryKind, shape: &Shape) -> Option<HostData> {
    let (a, b) = (a.broadcast_to(shape.sizes()).ok()?, b.broadcast_to(shape.sizes()).ok()?);
    let (a, b) = (singles(&a)?, singles(&b)?);
    let pairs = a.iter().zip(b.iter());
    let f: fn(f32, f32) -> f32 = match kind {
        BinaryKind::Add => |a, b| a + b,
        BinaryKind::Subtract => |a, b| a - b,
        BinaryKind::Multiply => |a, b| a * b,
        BinaryKind::Divide => |a, b| a / b,
        BinaryKind::Maximum => |a, b| if a > b || a.is_nan() { a } else { b },
        BinaryKind::Minimum => |a, b| if a < b || a.is_nan() { a } else { b },
        BinaryKind::Less => return Some(HostData::U32(pairs.map(|(a, b)| u32::from(a < b)).collect())),
        BinaryKind::Equal => return Some(HostData::U32(pairs.map(|(a, b)| u32::from(a == b)).collect())),
    };
    Some(HostData::F32(pairs.map(|(&a, &b)| f(a, b)).collect()))
}
