//! Elements in row-major order, cast to another type.

use consort_core::{DType, Result, Tensor};

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, extend, reserve, view},
};

/// The elements of `x`, each rounded once to `dtype`. A copy of the same type keeps every bit.
pub(crate) fn copy<E: Element>(x: &Tensor<Buffer<E>>, dtype: DType) -> Result<Storage<E>> {
    if dtype == x.dtype() { by_dtype!(E, dtype, same(x)) } else { by_dtype!(E, x.dtype(), from(x, dtype)) }
}

fn same<E: Element, T: Item<E>>(x: &Tensor<Buffer<E>>) -> Result<Storage<E>> {
    let view = view::<E, T>(x)?;
    let mut out = reserve(view.len())?;
    extend(&mut out, &view);
    Ok(T::store(out))
}

fn from<E: Element, F: Item<E>>(x: &Tensor<Buffer<E>>, dtype: DType) -> Result<Storage<E>> {
    let view = view::<E, F>(x)?;
    // f64 holds every element of every type exactly, so that nothing is rounded twice.
    let mut wide = view.iter().map(|&element| {
        let value = element.to_f64();
        let halves = planted(Fault::TruncatedCast) && matches!(dtype, DType::F16 | DType::BF16);
        if halves { f64::from_bits(value.to_bits() & !0x3ff_ffff_ffff) } else { value }
    });
    by_dtype!(E, dtype, to(view.len(), &mut wide))
}

fn to<E: Element, T: Item<E>>(elements: usize, wide: &mut dyn Iterator<Item = f64>) -> Result<Storage<E>> {
    let mut out = reserve(elements)?;
    out.extend(wide.map(T::from_f64));
    Ok(T::store(out))
}
