//! Rows of a tensor by their indices.

use consort_core::{Result, Tensor};
use ndarray::Axis;

use crate::{
    element::Element,
    fault::{Fault, planted},
    storage::{Buffer, Item, Storage, extend, reserve, view},
};

/// `x[ids[r], …]` for every r; zeros for an id beyond the rows.
pub(crate) fn gather_rows<E: Element>(x: &Tensor<Buffer<E>>, ids: &Tensor<Buffer<E>>) -> Result<Storage<E>> {
    by_dtype!(E, x.dtype(), typed(x, ids))
}

fn typed<E: Element, T: Item<E>>(x: &Tensor<Buffer<E>>, ids: &Tensor<Buffer<E>>) -> Result<Storage<E>> {
    let ids = view::<E, u32>(ids)?;
    let x = view::<E, T>(x)?;
    let width: usize = x.shape().iter().skip(1).product();
    let mut out = reserve(ids.len() * width)?;
    for &id in &ids {
        let next = planted(Fault::NextRow) && (id as usize) + 1 < x.len_of(Axis(0));
        let id = id + u32::from(next);
        if (id as usize) < x.len_of(Axis(0)) {
            extend(&mut out, &x.index_axis(Axis(0), id as usize));
        } else {
            out.resize(out.len() + width, T::ZERO);
        }
    }
    Ok(T::store(out))
}
