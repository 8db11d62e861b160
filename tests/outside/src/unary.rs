//! `f(x)`, element by element.

use consort_core::{HostData, Tensor, operation::UnaryKind};

use super::memory::{Buffer, singles};

/// `f(x)`; `None` for the error function, which Rust's standard library does not have.
pub(crate) fn unary(x: &Tensor<Buffer>, kind: UnaryKind) -> Option<HostData> {
    let f: fn(f32) -> f32 = match kind {
        UnaryKind::Negate => |x| -x,
        UnaryKind::Exp => f32::exp,
        UnaryKind::Log => f32::ln,
        UnaryKind::Sqrt => f32::sqrt,
        UnaryKind::Tanh => f32::tanh,
        UnaryKind::Reciprocal => |x| 1.0 / x,
        UnaryKind::Round => f32::round_ties_even,
        UnaryKind::Single => |x| x,
        UnaryKind::Erf => return None,
    };
    Some(HostData::F32(singles(x)?.iter().map(|&x| f(x)).collect()))
}
