//! `f(a, b)`, element by element, broadcast.

use consort_core::{Result, Shape, Tensor, operation::BinaryKind};
use ndarray::Zip;

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, broadcast, filled, row_major, take},
};

/// `f(a, b)` of the shape that both broadcast to; in place where nobody else holds an operand of that shape.
pub(crate) fn binary<E: Element>(
    a: &mut Tensor<Buffer<E>>,
    b: &mut Tensor<Buffer<E>>,
    kind: BinaryKind,
    shape: &Shape,
) -> Result<Storage<E>> {
    match kind {
        BinaryKind::Add => combine(a, b, shape, |a, b| a + b),
        BinaryKind::Subtract if planted(Fault::OperandsSwapped) && a.shape() != shape => {
            combine(a, b, shape, |a, b| b - a)
        }
        BinaryKind::Subtract => combine(a, b, shape, |a, b| a - b),
        BinaryKind::Multiply => combine(a, b, shape, |a, b| a * b),
        BinaryKind::Divide => combine(a, b, shape, |a, b| a / b),
        BinaryKind::Maximum => combine(a, b, shape, |a, b| if a > b || a.is_nan() { a } else { b }),
        BinaryKind::Minimum => combine(a, b, shape, |a, b| if a < b || a.is_nan() { a } else { b }),
        BinaryKind::Less => by_dtype!(E, a.dtype(), less(a, b, shape)),
        BinaryKind::Equal => by_dtype!(E, a.dtype(), equal(a, b, shape)),
    }
}

fn combine<E: Element>(
    a: &mut Tensor<Buffer<E>>,
    b: &mut Tensor<Buffer<E>>,
    shape: &Shape,
    f: impl Fn(E, E) -> E,
) -> Result<Storage<E>> {
    if a.shape() == shape
        && let Some(mut out) = take::<E, E>(a)
    {
        let b = broadcast::<E, E>(b, shape)?;
        Zip::from(row_major(&mut out, shape)?).and(&b).for_each(|out, &b| *out = f(*out, b));
        return Ok(E::store(out));
    }
    if b.shape() == shape
        && let Some(mut out) = take::<E, E>(b)
    {
        let a = broadcast::<E, E>(a, shape)?;
        Zip::from(row_major(&mut out, shape)?).and(&a).for_each(|out, &a| *out = f(a, *out));
        return Ok(E::store(out));
    }
    elementwise::<E, E, E>(a, b, shape, f)
}

fn less<E: Element, T: Item<E>>(a: &Tensor<Buffer<E>>, b: &Tensor<Buffer<E>>, shape: &Shape) -> Result<Storage<E>> {
    elementwise::<E, T, u32>(a, b, shape, |a, b| u32::from(a < b || (a == b && planted(Fault::LessOrEqual))))
}

fn equal<E: Element, T: Item<E>>(a: &Tensor<Buffer<E>>, b: &Tensor<Buffer<E>>, shape: &Shape) -> Result<Storage<E>> {
    elementwise::<E, T, u32>(a, b, shape, |a, b| u32::from(a == b))
}

fn elementwise<E: Element, T: Item<E>, O: Item<E>>(
    a: &Tensor<Buffer<E>>,
    b: &Tensor<Buffer<E>>,
    shape: &Shape,
    f: impl Fn(T, T) -> O,
) -> Result<Storage<E>> {
    let (a, b) = (broadcast::<E, T>(a, shape)?, broadcast::<E, T>(b, shape)?);
    let mut out = filled(shape.elements(), O::ZERO)?;
    Zip::from(row_major(&mut out, shape)?).and(&a).and(&b).for_each(|out, &a, &b| *out = f(a, b));
    Ok(O::store(out))
}
