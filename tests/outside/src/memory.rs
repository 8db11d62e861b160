//! How operations see memory: the elements of a tensor, wherever they lie in its buffer.

use std::{borrow::Cow, sync::Arc};

use consort_core::{HostData, Layout, Tensor};

/// A handle of memory.
pub(crate) type Buffer = Arc<HostData>;

/// Where the elements of `layout` lie, in row-major order.
pub(crate) fn places(layout: &Layout) -> Vec<usize> {
    let mut places = vec![layout.offset()];
    for (&size, &stride) in layout.shape().sizes().iter().zip(layout.strides()) {
        places = places.iter().flat_map(|first| (0..size).map(move |index| first + index * stride)).collect();
    }
    places
}

/// The elements of `x` in row-major order: where they lie so, themselves, else a copy. `None` when they are no singles.
pub(crate) fn singles(x: &Tensor<Buffer>) -> Option<Cow<'_, [f32]>> {
    let HostData::F32(all) = &*x.buffer else { return None };
    let layout = x.layout();
    Some(match layout.is_contiguous() {
        true => Cow::Borrowed(&all[layout.offset()..][..layout.shape().elements()]),
        false => places(layout).into_iter().map(|place| all[place]).collect(),
    })
}

/// Size of the last dimension.
pub(crate) fn width(x: &Tensor<Buffer>) -> usize {
    x.sizes().last().copied().unwrap_or(1)
}
