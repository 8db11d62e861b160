//! Elements of operands that lie anyhow, visited in row-major order.

use std::ops::Range;

use consort_core::{Layout, MAX_RANK, Result, Tensor};

use crate::storage::{Buffer, Item, misfit};

/// Elements that a task should have at least where each costs little more than its memory.
pub(crate) const GRAIN: usize = 1 << 14;
/// Elements of a [`run`] that are brought together at a time.
pub(crate) const CHUNK: usize = 256;

/// Calls a function for the type that a dtype names; f64 is an error.
macro_rules! by_dtype {
    ($dtype:expr, $function:ident($($arg:expr),*)) => {
        match $dtype {
            consort_core::DType::F32 => $function::<f32>($($arg),*),
            consort_core::DType::F16 => $function::<half::f16>($($arg),*),
            consort_core::DType::BF16 => $function::<half::bf16>($($arg),*),
            consort_core::DType::U32 => $function::<u32>($($arg),*),
            consort_core::DType::F64 => Err(crate::storage::misfit("this backend does not hold f64")),
        }
    };
}
pub(crate) use by_dtype;

/// The buffer of `x`, in which all its elements lie.
///
/// # Errors
/// [`Error::Shape`](consort_core::Error::Shape) when it is of another type or too short.
pub(crate) fn whole<T: Item>(x: &Tensor<Buffer>) -> Result<&[T]> {
    let elements = x.buffer.elements::<T>()?;
    if x.layout().end() > elements.len() {
        return Err(misfit("a tensor beyond its buffer"));
    }
    Ok(elements)
}

/// Where the elements of N operands of one shape lie, with as few dimensions as say it.
#[derive(Clone, Copy)]
pub(crate) struct Walk<const N: usize> {
    rank: usize,
    sizes: [usize; MAX_RANK],
    /// Of each dimension, for each operand.
    strides: [[usize; N]; MAX_RANK],
    first: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// Of layouts that have the same shape.
    pub(crate) fn new(layouts: [&Layout; N]) -> Self {
        let (mut rank, mut sizes, mut strides) = (0, [1; MAX_RANK], [[1; N]; MAX_RANK]);
        for (axis, &size) in layouts[0].shape().sizes().iter().enumerate().filter(|(_, size)| **size != 1) {
            let stride = layouts.map(|layout| layout.strides()[axis]);
            let joins = rank > 0 && (0..N).all(|operand| strides[rank - 1][operand] == size * stride[operand]);
            if joins {
                sizes[rank - 1] *= size;
            } else {
                sizes[rank] = size;
                rank += 1;
            }
            strides[rank - 1] = stride;
        }
        Self { rank: rank.max(1), sizes, strides, first: layouts.map(Layout::offset) }
    }

    /// Sizes of the dimensions that are left; there is one at least.
    pub(crate) fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }

    /// Strides of each of them.
    pub(crate) fn strides(&self) -> &[[usize; N]] {
        &self.strides[..self.rank]
    }

    /// First elements.
    pub(crate) fn first(&self) -> [usize; N] {
        self.first
    }

    /// From one element of a segment to the next.
    pub(crate) fn steps(&self) -> [usize; N] {
        self.strides[self.rank - 1]
    }

    /// The elements of a range, counted row-major, in pieces whose elements lie [`steps`](Self::steps) apart: which elements
    /// these are, and where the first lies in each operand.
    #[inline(always)]
    pub(crate) fn segments(&self, range: Range<usize>) -> Segments<'_, N> {
        let (mut index, mut first, mut rest) = ([0; MAX_RANK], self.first, range.start);
        for axis in (0..self.rank).rev() {
            index[axis] = rest % self.sizes[axis].max(1);
            rest /= self.sizes[axis].max(1);
            for (operand, first) in first.iter_mut().enumerate() {
                *first += index[axis] * self.strides[axis][operand];
            }
        }
        Segments { walk: self, index, first, range }
    }
}

/// See [`Walk::segments`].
pub(crate) struct Segments<'a, const N: usize> {
    walk: &'a Walk<N>,
    index: [usize; MAX_RANK],
    first: [usize; N],
    /// What is left.
    range: Range<usize>,
}

impl<const N: usize> Iterator for Segments<'_, N> {
    type Item = (Range<usize>, [usize; N]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let Walk { rank, sizes, strides, .. } = self.walk;
        let last = rank - 1;
        let column = self.index[last];
        let length = (sizes[last] - column).min(self.range.len());
        let segment = (self.range.start..self.range.start + length, self.first);
        self.range.start += length;
        // On to the first column of the next row.
        self.index[last] = 0;
        for (first, stride) in self.first.iter_mut().zip(&strides[last]) {
            *first -= column * stride;
        }
        for axis in (0..last).rev() {
            self.index[axis] += 1;
            for (first, stride) in self.first.iter_mut().zip(&strides[axis]) {
                *first += stride;
            }
            if self.index[axis] < sizes[axis] {
                break;
            }
            for (first, stride) in self.first.iter_mut().zip(&strides[axis]) {
                *first -= self.index[axis] * stride;
            }
            self.index[axis] = 0;
        }
        Some(segment)
    }
}

/// Row indices.
#[derive(Clone, Copy)]
pub(crate) struct Ids<'a> {
    all: &'a [u32],
    step: usize,
    /// How many there are.
    pub(crate) count: usize,
}

impl<'a> Ids<'a> {
    /// Of a vector.
    ///
    /// # Errors
    /// As [`whole`].
    pub(crate) fn new(ids: &'a Tensor<Buffer>) -> Result<Self> {
        let all = whole::<u32>(ids)?.get(ids.layout().offset()..).unwrap_or_default();
        Ok(Self { all, step: ids.layout().strides().first().copied().unwrap_or(0), count: ids.shape().elements() })
    }

    /// Id `index`.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> usize {
        self.all[index * self.step] as usize
    }
}

/// `count ≤ CHUNK` elements from `first` on, `step` apart: where they lie together, as they lie, else brought together.
#[inline(always)]
pub(crate) fn run<'a, T: Copy>(
    x: &'a [T],
    first: usize,
    step: usize,
    count: usize,
    together: &'a mut [T; CHUNK],
) -> &'a [T] {
    match step {
        1 => return &x[first..first + count],
        0 => together[..count].fill(x[first]),
        _ => gather(&x[first..], step, &mut together[..count]),
    }
    &together[..count]
}

/// Elements of `x` that lie `step` apart, from its first on.
#[inline(always)]
pub(crate) fn gather<T: Copy>(x: &[T], step: usize, to: &mut [T]) {
    for (to, x) in to.iter_mut().zip(x.iter().step_by(step)) {
        *to = *x;
    }
}

#[cfg(test)]
mod tests {
    use consort_core::Shape;

    use super::*;

    fn layout(sizes: &[usize], strides: &[usize], offset: usize) -> Layout {
        Layout::strided(Shape::new(sizes).unwrap(), strides, offset).unwrap()
    }

    #[test]
    fn segments_visit_every_element_in_order() {
        let layouts = [
            (layout(&[3, 4, 5], &[20, 5, 1], 7), layout(&[3, 4, 5], &[0, 0, 0], 2)),
            (layout(&[3, 1, 4], &[1, 9, 3], 0), layout(&[3, 1, 4], &[4, 0, 1], 1)),
            (layout(&[2, 3, 2, 5], &[100, 10, 5, 1], 0), layout(&[2, 3, 2, 5], &[1, 0, 2, 7], 0)),
            (layout(&[], &[], 3), layout(&[], &[], 0)),
        ];
        for (a, b) in layouts {
            let place = |layout: &Layout, mut element: usize| {
                let mut place = layout.offset();
                for (size, stride) in layout.shape().sizes().iter().zip(layout.strides()).rev() {
                    place += element % size * stride;
                    element /= size;
                }
                place
            };
            let walk = Walk::new([&a, &b]);
            let elements = a.shape().elements();
            for start in 0..elements {
                for end in start..=elements {
                    let mut next = start;
                    for (range, first) in walk.segments(start..end) {
                        assert_eq!(range.start, next);
                        next = range.end;
                        for (index, element) in range.enumerate() {
                            let steps = walk.steps();
                            assert_eq!(first[0] + index * steps[0], place(&a, element));
                            assert_eq!(first[1] + index * steps[1], place(&b, element));
                        }
                    }
                    assert_eq!(next, end);
                }
            }
        }
    }

    #[test]
    fn dimensions_that_follow_on_each_other_are_joined() {
        let a = layout(&[3, 4, 5], &[20, 5, 1], 0);
        assert_eq!(Walk::new([&a]).sizes(), [60]);
        assert_eq!(Walk::new([&a, &layout(&[3, 4, 5], &[0, 0, 1], 0)]).sizes(), [12, 5]);
        assert_eq!(Walk::new([&layout(&[1, 1], &[8, 9], 0)]).steps(), [1]);
    }
}
