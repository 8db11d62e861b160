//! A gradient of a view, added into that of the whole buffer.
//!
//! A layout that came of slicing, permuting and splitting is a box of the buffer once its dimensions are sorted by stride,
//! joined where they follow on each other, and the buffer is seen with one dimension between each stride and the next. Then
//! the gradient is written into that box, or added to what is there. Any other layout is scattered element by element.

use smallvec::SmallVec;

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::ReduceKind,
    shape::{Layout, MAX_RANK, Shape},
};

/// `so_far` (zeros where there is none), of `elements` in a row, with `gradient` of the shape of `layout` added where
/// `layout` looks.
pub(super) fn accumulate<B: Backend>(
    device: &Device<B>,
    so_far: Option<TensorOf<B>>,
    elements: usize,
    layout: &Layout,
    gradient: TensorOf<B>,
) -> Result<TensorOf<B>> {
    if layout.is_contiguous() && layout.offset() == 0 && layout.shape().elements() == elements {
        let flat = device.reshape(&gradient, &[elements])?;
        drop(gradient);
        return match so_far {
            Some(sum) => device.add(sum, flat),
            None => Ok(flat),
        };
    }
    if layout.shape().elements() == 0 {
        return so_far.map_or_else(|| zeros(device, elements), Ok);
    }
    // What was broadcast is summed.
    let mut gradient = gradient;
    let mut order: SmallVec<[usize; MAX_RANK]> = SmallVec::new();
    for (axis, (&size, &stride)) in layout.shape().sizes().iter().zip(layout.strides()).enumerate() {
        if stride == 0 && size > 1 {
            gradient = device.reduce(&gradient, axis, ReduceKind::Sum)?;
        }
        order.push(axis);
    }
    let strides = layout.strides();
    order.sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
    let gradient = gradient.permute(&order)?;
    // (size, stride), joined.
    let mut dimensions: SmallVec<[(usize, usize); MAX_RANK]> = SmallVec::new();
    for &axis in order.iter().filter(|&&axis| layout.shape().sizes()[axis] > 1 && strides[axis] > 0) {
        let (size, stride) = (layout.shape().sizes()[axis], strides[axis]);
        match dimensions.last_mut() {
            Some(outer) if outer.1 == size * stride => *outer = (outer.0 * size, stride),
            _ => dimensions.push((size, stride)),
        }
    }
    match within(elements, &dimensions, layout.offset()) {
        Some(Within { whole, start, sizes }) => {
            let gradient = device.reshape(&gradient, &sizes)?;
            let (whole, gradient) = match so_far {
                Some(sum) => {
                    let whole = sum.view(&whole)?;
                    drop(sum);
                    let mut part = whole.clone();
                    for (axis, (&start, &size)) in start.iter().zip(&sizes).enumerate() {
                        part = part.slice(axis, start, size)?;
                    }
                    (whole, device.add(part, gradient)?)
                }
                None => (zeros(device, elements)?.view(&whole)?, gradient),
            };
            device.write(whole, gradient, &start)?.view(&[elements])
        }
        None => {
            let mut ids = vec![layout.offset() as u32];
            for &(size, stride) in &dimensions {
                ids =
                    ids.iter().flat_map(|first| (0..size).map(move |index| first + (index * stride) as u32)).collect();
            }
            let gradient = device.reshape(&gradient, &[ids.len(), 1])?;
            let sum = so_far.map_or_else(|| zeros(device, elements), Ok)?.view(&[elements, 1])?;
            device.scatter_rows(sum, &device.upload_ids(ids)?, gradient, true)?.view(&[elements])
        }
    }
}

fn zeros<B: Backend>(device: &Device<B>, elements: usize) -> Result<TensorOf<B>> {
    device.zeros(Shape::new(&[elements])?, device.float())
}

/// A box of a buffer seen as a tensor.
struct Within {
    whole: SmallVec<[usize; MAX_RANK]>,
    start: SmallVec<[usize; MAX_RANK]>,
    sizes: SmallVec<[usize; MAX_RANK]>,
}

/// The box that dimensions `(size, stride)` of falling strides make of `elements`, if they make one.
fn within(elements: usize, dimensions: &[(usize, usize)], offset: usize) -> Option<Within> {
    let mut found = Within { whole: SmallVec::new(), start: SmallVec::new(), sizes: SmallVec::new() };
    let (mut outer, mut offset) = (elements, offset);
    // Below the innermost stride lies one element.
    let innermost = dimensions.last().is_none_or(|&(_, stride)| stride > 1).then_some((1, 1));
    for (size, stride) in dimensions.iter().copied().chain(innermost) {
        let count = outer / stride;
        let start = offset / stride;
        if outer % stride != 0 || start + size > count || found.whole.len() == MAX_RANK {
            return None;
        }
        found.whole.push(count);
        found.start.push(start);
        found.sizes.push(size);
        (outer, offset) = (stride, offset % stride);
    }
    Some(found)
}
