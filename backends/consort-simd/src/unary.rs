//! `f(x)`, element by element.

use consort_core::{DType, Result, Tensor, operation::UnaryKind};

use crate::{
    Simd, copy,
    isa::{Isa, Kernel},
    math,
    storage::{Buffer, contiguous, filled, misfit, take},
    team::Parts,
};

/// Elements that a task has at least, those of a function that costs tens of operations, and those of one that costs one.
const GRAIN: [usize; 2] = [2048, crate::strided::GRAIN];

/// `f(x)`; in place where nobody else holds `x`.
pub(crate) fn unary(simd: &Simd, x: &mut Tensor<Buffer>, kind: UnaryKind) -> Result<Buffer> {
    if kind == UnaryKind::Single {
        return copy::copy(simd, x, DType::F32);
    }
    if contiguous::<f32>(x)?.is_none() {
        *x = Tensor::new(copy::copy(simd, x, DType::F32)?, *x.shape(), DType::F32);
    }
    let elements = x.shape().elements();
    let taken = take::<f32>(x, &simd.none);
    let from = match taken {
        Some(_) => None,
        None => Some(contiguous::<f32>(x)?.ok_or_else(|| misfit("a copy with gaps"))?),
    };
    let mut out = match taken {
        Some(taken) => taken,
        None => simd.pool.take::<f32>(elements)?,
    };
    let dear = matches!(kind, UnaryKind::Exp | UnaryKind::Log | UnaryKind::Tanh | UnaryKind::Erf);
    let to = Parts::new(filled::<f32>(&mut out)?);
    simd.team.ranges(elements, GRAIN[usize::from(!dear)], |range| {
        // SAFETY: ranges of different tasks do not meet.
        let out = unsafe { to.part(range.clone()) };
        simd.level.run(Unary { x: from.map(|x| &x[range]), out, kind });
    });
    Ok(out)
}

/// A range of the elements.
struct Unary<'a> {
    /// `None` where they stand where the output goes.
    x: Option<&'a [f32]>,
    out: &'a mut [f32],
    kind: UnaryKind,
}

impl Kernel for Unary<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { x, out, kind } = self;
        macro_rules! each {
            (|$x:ident| $f:expr) => {
                for start in (0..out.len()).step_by(S::LANES) {
                    let $x = isa.read(&x.unwrap_or(out)[start..]);
                    isa.write(&mut out[start..], $f);
                }
            };
        }
        match kind {
            UnaryKind::Negate => each!(|x| isa.negate(x)),
            UnaryKind::Exp => each!(|x| math::exp(isa, x)),
            UnaryKind::Log => each!(|x| math::log(isa, x)),
            UnaryKind::Sqrt => each!(|x| isa.sqrt(x)),
            UnaryKind::Tanh => each!(|x| math::tanh(isa, x)),
            UnaryKind::Erf => each!(|x| math::erf(isa, x)),
            UnaryKind::Reciprocal => each!(|x| isa.div(isa.splat(1.0), x)),
            UnaryKind::Round => each!(|x| isa.round(x)),
            UnaryKind::Single => each!(|x| x),
        }
    }
}
