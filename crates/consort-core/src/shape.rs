//! Shapes and layouts, kept inline: making one costs no allocation.
//!
//! Letters used throughout the workspace: T rows (tokens), D model width, H query heads, K key/value heads, C head
//! width, F feed-forward width, V vocabulary, S keys, L layers.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::error::{Error, Result};

/// Most dimensions a tensor can have.
pub const MAX_RANK: usize = 6;

/// Sizes of a tensor's dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Shape {
    rank: u8,
    sizes: [usize; MAX_RANK],
}

impl Shape {
    /// A shape of these sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] beyond [`MAX_RANK`] dimensions or when the number of elements does not fit `isize`.
    pub fn new(sizes: &[usize]) -> Result<Self> {
        let elements = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
        if sizes.len() > MAX_RANK || elements.is_none_or(|elements| elements > isize::MAX as usize / 16) {
            return Err(Error::shape("shape", format!("{sizes:?} is beyond what a tensor can be")));
        }
        let mut all = [1; MAX_RANK];
        all[..sizes.len()].copy_from_slice(sizes);
        Ok(Self { rank: sizes.len() as u8, sizes: all })
    }

    /// The sizes as a slice.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank as usize]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.sizes().iter().product()
    }

    /// The shape that both broadcast to: sizes agree from the right, or one of them is 1.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not.
    pub fn broadcast(&self, other: &Self) -> Result<Self> {
        let rank = self.rank().max(other.rank());
        let mut out: SmallVec<[usize; MAX_RANK]> = SmallVec::new();
        for dimension in 0..rank {
            let size = |shape: &Self| {
                (dimension + shape.rank()).checked_sub(rank).map_or(1, |dimension| shape.sizes[dimension])
            };
            match (size(self), size(other)) {
                (a, b) if a == b || b == 1 => out.push(a),
                (1, b) => out.push(b),
                _ => return Err(Error::shape("broadcast", format!("{self} with {other}"))),
            }
        }
        Self::new(&out)
    }
}

impl From<Shape> for Vec<usize> {
    fn from(shape: Shape) -> Self {
        shape.sizes().to_vec()
    }
}

impl TryFrom<Vec<usize>> for Shape {
    type Error = Error;

    fn try_from(sizes: Vec<usize>) -> Result<Self> {
        Self::new(&sizes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.sizes(), f)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a tensor's elements lie in its buffer, in elements: element `(i, j, …)` is at `offset + i·stride₀ + j·stride₁ …`.
///
/// Strides are never negative; a broadcast dimension has stride 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// Row-major from element 0.
    pub fn contiguous(shape: Shape) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1;
        for dimension in (0..shape.rank()).rev() {
            strides[dimension] = stride;
            stride *= shape.sizes[dimension].max(1);
        }
        Self { shape, strides, offset: 0 }
    }

    /// Any strides; nothing is checked against a buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is not one stride for each dimension, or the highest element does not fit `isize`.
    pub fn strided(shape: Shape, strides: &[usize], offset: usize) -> Result<Self> {
        let end = shape
            .sizes()
            .iter()
            .zip(strides)
            .try_fold(offset, |end, (&size, &stride)| end.checked_add(size.saturating_sub(1).checked_mul(stride)?));
        if strides.len() != shape.rank() || end.is_none_or(|end| end >= isize::MAX as usize / 16) {
            return Err(Error::shape("layout", format!("{shape} with strides {strides:?} from {offset}")));
        }
        let mut all = [0; MAX_RANK];
        all[..strides.len()].copy_from_slice(strides);
        Ok(Self { shape, strides: all, offset })
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Elements from one index to the next, per dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    /// First element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether the elements lie row-major without gaps (wherever they begin).
    pub fn is_contiguous(&self) -> bool {
        let mut stride = 1;
        for dimension in (0..self.shape.rank()).rev() {
            let size = self.shape.sizes[dimension];
            if size != 1 && self.strides[dimension] != stride {
                return false;
            }
            stride *= size;
        }
        true
    }

    /// One more than the highest element touched.
    pub fn end(&self) -> usize {
        if self.shape.elements() == 0 {
            return self.offset;
        }
        let last: usize = self.shape.sizes().iter().zip(self.strides()).map(|(size, stride)| (size - 1) * stride).sum();
        self.offset + last + 1
    }

    /// The same elements with dimensions in another order: dimension `i` of the result is `order[i]` of this.
    ///
    /// # Errors
    /// [`Error::Shape`] when `order` is no permutation.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut seen = [false; MAX_RANK];
        let valid = order.len() == self.shape.rank()
            && order.iter().all(|&dimension| dimension < order.len() && !std::mem::replace(&mut seen[dimension], true));
        if !valid {
            return Err(Error::shape("permute", format!("{order:?} of {}", self.shape)));
        }
        let mut out = *self;
        for (to, &from) in order.iter().enumerate() {
            out.shape.sizes[to] = self.shape.sizes[from];
            out.strides[to] = self.strides[from];
        }
        Ok(out)
    }

    /// Indices `start .. start + length` of `axis` only.
    ///
    /// # Errors
    /// [`Error::Shape`] when they are not inside.
    pub fn slice(&self, axis: usize, start: usize, length: usize) -> Result<Self> {
        let inside =
            axis < self.shape.rank() && start.checked_add(length).is_some_and(|end| end <= self.shape.sizes[axis]);
        if !inside {
            return Err(Error::shape("slice", format!("{start}..+{length} of axis {axis} of {}", self.shape)));
        }
        let mut out = *self;
        out.shape.sizes[axis] = length;
        out.offset += start * self.strides[axis];
        Ok(out)
    }

    /// The same elements under another shape, without moving them; `None` when strides forbid it.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn reshape(&self, shape: Shape) -> Result<Option<Self>> {
        if shape.elements() != self.shape.elements() {
            return Err(Error::shape("reshape", format!("{} to {shape}", self.shape)));
        }
        if self.is_contiguous() || shape.elements() == 0 {
            return Ok(Some(Self { offset: self.offset, ..Self::contiguous(shape) }));
        }
        // Dimensions of size 1 have a stride that nothing depends on. The others are split and joined in groups: a group
        // of old dimensions that follow on each other becomes a group of new ones with the same number of elements.
        let old: SmallVec<[(usize, usize); MAX_RANK]> = self
            .shape
            .sizes()
            .iter()
            .copied()
            .zip(self.strides().iter().copied())
            .filter(|(size, _)| *size != 1)
            .collect();
        let new = shape.sizes();
        let mut strides = [0; MAX_RANK];
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let first = j;
            let (mut size_old, mut stride_old) = old[i];
            let mut size_new = 1;
            loop {
                while size_new < size_old && j < new.len() {
                    size_new *= new[j];
                    j += 1;
                }
                if size_new == size_old {
                    break;
                }
                i += 1;
                match old.get(i) {
                    Some(&(size, stride)) if stride_old == size * stride => {
                        size_old *= size;
                        stride_old = stride;
                    }
                    _ => return Ok(None),
                }
            }
            let mut stride = stride_old;
            for dimension in (first..j).rev() {
                strides[dimension] = stride;
                stride *= new[dimension];
            }
            i += 1;
        }
        Ok(Some(Self { shape, strides, offset: self.offset }))
    }

    /// The elements repeated along dimensions of size 1 and new outer dimensions, to `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] when this shape does not broadcast to it.
    pub fn broadcast_to(&self, shape: Shape) -> Result<Self> {
        let error = || Error::shape("broadcast", format!("{} to {shape}", self.shape));
        let lead = shape.rank().checked_sub(self.shape.rank()).ok_or_else(error)?;
        let mut strides = [0; MAX_RANK];
        for dimension in 0..self.shape.rank() {
            let (from, to) = (self.shape.sizes[dimension], shape.sizes[lead + dimension]);
            if from == to {
                strides[lead + dimension] = self.strides[dimension];
            } else if from != 1 {
                return Err(error());
            }
        }
        Ok(Self { shape, strides, offset: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets(layout: &Layout) -> Vec<usize> {
        let mut out = vec![layout.offset()];
        for (size, stride) in layout.shape().sizes().iter().zip(layout.strides()) {
            out = out.iter().flat_map(|base| (0..*size).map(move |index| base + index * stride)).collect();
        }
        out
    }

    proptest! {
        #[test]
        fn a_reshape_without_a_copy_visits_the_same_elements(
            sizes in prop::collection::vec(1usize..4, 1..5),
            order in 0usize..24,
            split in 0usize..3,
        ) {
            let mut permutation: Vec<usize> = (0..sizes.len()).collect();
            permutation.rotate_left(order % sizes.len());
            let layout = Layout::contiguous(Shape::new(&sizes).unwrap()).permute(&permutation).unwrap();
            let elements = layout.shape().elements();
            let target = match split {
                0 => vec![elements],
                1 => layout.shape().sizes().iter().flat_map(|&size| [size, 1]).take(MAX_RANK).collect(),
                _ => {
                    let sizes = layout.shape().sizes();
                    let mut joined = vec![sizes[..sizes.len() - 1].iter().product::<usize>()];
                    joined.push(sizes[sizes.len() - 1]);
                    joined
                }
            };
            prop_assume!(target.iter().product::<usize>() == elements);
            if let Some(reshaped) = layout.reshape(Shape::new(&target).unwrap()).unwrap() {
                prop_assert_eq!(offsets(&reshaped), offsets(&layout));
            }
        }
    }

    #[test]
    fn broadcasting_follows_the_right_edge() {
        let shape = |sizes: &[usize]| Shape::new(sizes).unwrap();
        assert_eq!(shape(&[3, 1]).broadcast(&shape(&[4])).unwrap(), shape(&[3, 4]));
        assert_eq!(shape(&[0, 4]).broadcast(&shape(&[1, 1])).unwrap(), shape(&[0, 4]));
        assert!(shape(&[3]).broadcast(&shape(&[4])).is_err());
        let layout = Layout::contiguous(shape(&[3, 1])).broadcast_to(shape(&[2, 3, 2])).unwrap();
        assert_eq!(offsets(&layout), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
    }
}
