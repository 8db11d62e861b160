//! `mask ≠ 0 ? a : b`, element by element, broadcast.

use consort_core::{Result, Shape, Tensor};
use ndarray::Zip;

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, broadcast, filled, row_major},
};

/// Each element of `a` where the mask is set, else of `b`; what is not chosen is not even read into the result.
pub(crate) fn select<E: Element>(
    mask: &Tensor<Buffer<E>>,
    a: &Tensor<Buffer<E>>,
    b: &Tensor<Buffer<E>>,
    shape: &Shape,
) -> Result<Storage<E>> {
    if planted(Fault::ChosenByProduct) && a.dtype() == E::DTYPE {
        return by_product(mask, a, b, shape);
    }
    by_dtype!(E, a.dtype(), typed(mask, a, b, shape))
}

fn typed<E: Element, T: Item<E>>(
    mask: &Tensor<Buffer<E>>,
    a: &Tensor<Buffer<E>>,
    b: &Tensor<Buffer<E>>,
    shape: &Shape,
) -> Result<Storage<E>> {
    let mask = broadcast::<E, u32>(mask, shape)?;
    let (a, b) = (broadcast::<E, T>(a, shape)?, broadcast::<E, T>(b, shape)?);
    let mut out = filled(shape.elements(), T::ZERO)?;
    Zip::from(row_major(&mut out, shape)?)
        .and(&mask)
        .and(&a)
        .and(&b)
        .for_each(|out, &mask, &a, &b| *out = if mask != 0 { a } else { b });
    Ok(T::store(out))
}

/// What [`Fault::ChosenByProduct`] makes of a choice.
fn by_product<E: Element>(
    mask: &Tensor<Buffer<E>>,
    a: &Tensor<Buffer<E>>,
    b: &Tensor<Buffer<E>>,
    shape: &Shape,
) -> Result<Storage<E>> {
    let mask = broadcast::<E, u32>(mask, shape)?;
    let (a, b) = (broadcast::<E, E>(a, shape)?, broadcast::<E, E>(b, shape)?);
    let mut out = filled(shape.elements(), E::ZERO)?;
    Zip::from(row_major(&mut out, shape)?).and(&mask).and(&a).and(&b).for_each(|out, &mask, &a, &b| {
        let one = if mask != 0 { E::ONE } else { E::ZERO };
        *out = one * a + (E::ONE - one) * b;
    });
    Ok(E::store(out))
}
