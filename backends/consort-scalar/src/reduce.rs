//! Sums and greatest elements along an axis, in ascending order of its index.

use consort_core::{Result, Tensor, operation::ReduceKind};
use ndarray::{ArrayView1, Axis};

use crate::{
    element::Element,
    fault::{Fault, planted},
    misfit,
    storage::{Buffer, Item, Storage, reserve, view},
};

/// One number for each lane of `x` along `axis`.
pub(crate) fn reduce<E: Element>(x: &Tensor<Buffer<E>>, axis: usize, kind: ReduceKind) -> Result<Storage<E>> {
    match kind {
        ReduceKind::Sum => lanes::<E, E>(x, axis, |lane| {
            let terms = lane.len() - usize::from(planted(Fault::SumDropsLast));
            lane.iter().take(terms).fold(E::ZERO, |sum, &term| sum + term)
        }),
        ReduceKind::Maximum => lanes::<E, E>(x, axis, |lane| {
            let greatest = lane[argmax(lane)];
            if planted(Fault::MaximumFromZero) && greatest < E::ZERO { E::ZERO } else { greatest }
        }),
        ReduceKind::ArgMaximum => lanes::<E, u32>(x, axis, |lane| argmax(lane) as u32),
    }
}

fn lanes<E: Element, T: Item<E>>(
    x: &Tensor<Buffer<E>>,
    axis: usize,
    f: impl Fn(&ArrayView1<'_, E>) -> T,
) -> Result<Storage<E>> {
    let view = view::<E, E>(x)?;
    if axis >= view.ndim() || view.is_empty() {
        return Err(misfit("reduce", format!("axis {axis} of {}", x.shape())));
    }
    let mut out = reserve(view.len() / view.len_of(Axis(axis)))?;
    out.extend(view.lanes(Axis(axis)).into_iter().map(|lane| f(&lane)));
    Ok(T::store(out))
}

/// Index of the first NaN; without one, of the greatest element, the lowest on ties.
fn argmax<E: Element>(lane: &ArrayView1<'_, E>) -> usize {
    let mut best = (0, lane[0]);
    for (index, &element) in lane.iter().enumerate() {
        if element.is_nan() {
            return index;
        }
        if element > best.1 || (element == best.1 && planted(Fault::LastOfEquals)) {
            best = (index, element);
        }
    }
    best.0
}
