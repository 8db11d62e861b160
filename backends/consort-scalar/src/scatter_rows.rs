//! Rows of a tensor replaced or added to, by their indices.

use consort_core::{Result, Tensor};
use ndarray::Axis;

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, take_or_copy, view},
};

/// `into` with row `ids[r]` replaced by, or increased by, row r of `x`, in ascending r; in place where nobody else holds
/// `into`. Ids beyond the rows are left out.
pub(crate) fn scatter_rows<E: Element>(
    into: &mut Tensor<Buffer<E>>,
    ids: &Tensor<Buffer<E>>,
    x: &Tensor<Buffer<E>>,
    add: bool,
) -> Result<Storage<E>> {
    if add && !planted(Fault::AddReplaces) {
        scatter::<E, E>(into, ids, x, |old, new| old + new)
    } else {
        by_dtype!(E, into.dtype(), replace(into, ids, x))
    }
}

fn replace<E: Element, T: Item<E>>(
    into: &mut Tensor<Buffer<E>>,
    ids: &Tensor<Buffer<E>>,
    x: &Tensor<Buffer<E>>,
) -> Result<Storage<E>> {
    scatter::<E, T>(into, ids, x, |_, new| new)
}

fn scatter<E: Element, T: Item<E>>(
    into: &mut Tensor<Buffer<E>>,
    ids: &Tensor<Buffer<E>>,
    x: &Tensor<Buffer<E>>,
    f: impl Fn(T, T) -> T,
) -> Result<Storage<E>> {
    let ids = view::<E, u32>(ids)?;
    let x = view::<E, T>(x)?;
    let width: usize = x.shape().iter().skip(1).product();
    let mut out: Vec<T> = take_or_copy(into)?;
    for (&id, row) in ids.iter().zip(x.axis_iter(Axis(0))) {
        if let Some(out) = out.chunks_exact_mut(width).nth(id as usize) {
            out.iter_mut().zip(&row).for_each(|(out, &new)| *out = f(*out, new));
        }
    }
    Ok(T::store(out))
}
