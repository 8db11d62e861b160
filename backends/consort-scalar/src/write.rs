//! A box of a tensor replaced.

use consort_core::{Result, Shape, Tensor};
use ndarray::Slice;

use crate::{
    element::Element,
    fault::{Fault, planted},
    misfit,
    storage::{Buffer, Item, Storage, row_major, take_or_copy, view},
};

/// `into` with the box from `start` on replaced by `x`; in place where nobody else holds `into`.
pub(crate) fn write<E: Element>(
    into: &mut Tensor<Buffer<E>>,
    x: &Tensor<Buffer<E>>,
    start: &Shape,
) -> Result<Storage<E>> {
    by_dtype!(E, into.dtype(), typed(into, x, start))
}

fn typed<E: Element, T: Item<E>>(
    into: &mut Tensor<Buffer<E>>,
    x: &Tensor<Buffer<E>>,
    start: &Shape,
) -> Result<Storage<E>> {
    let shape = *into.shape();
    let x = view::<E, T>(x)?;
    let fits = x.ndim() == shape.rank()
        && start.rank() == shape.rank()
        && (0..shape.rank()).all(|axis| start.sizes()[axis].saturating_add(x.shape()[axis]) <= shape.sizes()[axis]);
    if !fits {
        return Err(misfit("write", format!("{:?} at {start} into {shape}", x.shape())));
    }
    let mut out: Vec<T> = take_or_copy(into)?;
    row_major(&mut out, &shape)?
        .slice_each_axis_mut(|axis| {
            let last = axis.axis.index() + 1 == shape.rank();
            let first = if last && planted(Fault::WrittenAtStart) { 0 } else { start.sizes()[axis.axis.index()] };
            Slice::from(first..first + x.shape()[axis.axis.index()])
        })
        .assign(&x);
    Ok(T::store(out))
}
