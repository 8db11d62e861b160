//! `f(x)`, element by element.

use consort_core::{Result, Tensor, operation::UnaryKind};

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, reserve, take, view},
};

/// `f(x)`; in place where nobody else holds `x`.
pub(crate) fn unary<E: Element>(x: &mut Tensor<Buffer<E>>, kind: UnaryKind) -> Result<Storage<E>> {
    match kind {
        UnaryKind::Negate => map(x, |x| -x),
        UnaryKind::Exp if planted(Fault::RoughExponential) => map(x, |x| E::from_f64(x.exp().to_f64() * 1.000_001)),
        UnaryKind::Exp => map(x, E::exp),
        UnaryKind::Log => map(x, E::ln),
        UnaryKind::Sqrt => map(x, E::sqrt),
        UnaryKind::Tanh => map(x, E::tanh),
        UnaryKind::Erf if planted(Fault::ErfAsTanh) => map(x, |x| {
            let x = x.to_f64();
            E::from_f64((std::f64::consts::FRAC_2_SQRT_PI * (x + 0.08943 * x * x * x)).tanh())
        }),
        UnaryKind::Erf => map(x, E::erf),
        UnaryKind::Reciprocal if planted(Fault::DoubledReciprocal) => map(x, |x| (E::ONE + E::ONE) / x),
        UnaryKind::Reciprocal => map(x, |x| E::ONE / x),
        UnaryKind::Round if planted(Fault::TiesAwayFromZero) => map(x, |x| E::from_f64(x.to_f64().round())),
        UnaryKind::Round => map(x, E::round),
        UnaryKind::Single if planted(Fault::SingleForgotten) => map(x, |x| x),
        UnaryKind::Single => map(x, E::single),
    }
}

fn map<E: Element>(x: &mut Tensor<Buffer<E>>, f: impl Fn(E) -> E) -> Result<Storage<E>> {
    if let Some(mut out) = take::<E, E>(x) {
        out.iter_mut().for_each(|element| *element = f(*element));
        return Ok(E::store(out));
    }
    let view = view::<E, E>(x)?;
    let mut out = reserve(view.len())?;
    out.extend(view.iter().map(|&element| f(element)));
    Ok(E::store(out))
}
