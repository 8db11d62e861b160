//! Tensors: immutable handles of a buffer, a layout and a type; and typed data on the host.

use half::{bf16, f16};

use crate::{
    dtype::{DType, to_bf16, to_f16},
    error::{Error, Result},
    shape::{Layout, Shape},
};

/// A handle of `Buffer`, the backend's memory. Cloning it clones the handle, never the elements.
///
/// Views (permuted, sliced, broadcast) share the buffer. An operation that takes a tensor by value may reuse its
/// buffer when no other handle is left; nothing else ever changes a tensor.
#[derive(Clone, Debug)]
pub struct Tensor<Buffer> {
    /// The memory, as the backend knows it.
    pub buffer: Buffer,
    layout: Layout,
    dtype: DType,
}

impl<Buffer: Clone> Tensor<Buffer> {
    /// A contiguous tensor over the whole of `buffer`.
    pub fn new(buffer: Buffer, shape: Shape, dtype: DType) -> Self {
        Self { buffer, layout: Layout::contiguous(shape), dtype }
    }

    /// A tensor over any part of `buffer`.
    pub fn with_layout(buffer: Buffer, layout: Layout, dtype: DType) -> Self {
        Self { buffer, layout, dtype }
    }

    /// Where the elements are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The sizes of the dimensions.
    pub fn sizes(&self) -> &[usize] {
        self.layout.shape().sizes()
    }

    /// Size of dimension `axis`; 1 beyond the rank.
    pub fn size(&self, axis: usize) -> usize {
        self.sizes().get(axis).copied().unwrap_or(1)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// See [`Layout::permute`].
    ///
    /// # Errors
    /// [`Error::Shape`] when `order` is no permutation of the dimensions.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.permute(order)?, ..self.clone() })
    }

    /// See [`Layout::slice`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the range is not inside.
    pub fn slice(&self, axis: usize, start: usize, length: usize) -> Result<Self> {
        Ok(Self { layout: self.layout.slice(axis, start, length)?, ..self.clone() })
    }

    /// See [`Layout::broadcast_to`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape does not broadcast.
    pub fn broadcast_to(&self, sizes: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.broadcast_to(Shape::new(sizes)?)?, ..self.clone() })
    }

    /// The same elements under another shape, without a copy; the strides must allow it (a contiguous tensor's and a
    /// split of dimensions always do). [`Device::reshape`](crate::Device::reshape) copies where this fails.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs or a copy would be needed.
    pub fn view(&self, sizes: &[usize]) -> Result<Self> {
        let shape = Shape::new(sizes)?;
        match self.layout.reshape(shape)? {
            Some(layout) => Ok(Self { layout, ..self.clone() }),
            None => Err(Error::shape("view", format!("{} as {shape} needs a copy", self.shape()))),
        }
    }
}

/// Elements on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// Singles.
    F32(Vec<f32>),
    /// Doubles.
    F64(Vec<f64>),
    /// Halves.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
    /// Whole numbers.
    U32(Vec<u32>),
}

impl HostData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F64(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::BF16(data) => data.len(),
            Self::U32(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leaves out what follows the first `length` elements.
    pub fn truncate(&mut self, length: usize) {
        match self {
            Self::F32(data) => data.truncate(length),
            Self::F64(data) => data.truncate(length),
            Self::F16(data) => data.truncate(length),
            Self::BF16(data) => data.truncate(length),
            Self::U32(data) => data.truncate(length),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::U32(_) => DType::U32,
        }
    }

    /// `values` rounded to `dtype`; whole numbers are truncated towards zero and clamped.
    pub fn from_f64(values: impl Iterator<Item = f64>, dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32(values.map(|value| value as f32).collect()),
            DType::F64 => Self::F64(values.collect()),
            DType::F16 => Self::F16(values.map(to_f16).collect()),
            DType::BF16 => Self::BF16(values.map(to_bf16).collect()),
            DType::U32 => Self::U32(values.map(|value| value as u32).collect()),
        }
    }

    /// Every element as f64; exact.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(data) => data.iter().copied().map(f64::from).collect(),
            Self::F64(data) => data.clone(),
            Self::F16(data) => data.iter().map(|value| value.to_f64()).collect(),
            Self::BF16(data) => data.iter().map(|value| value.to_f64()).collect(),
            Self::U32(data) => data.iter().copied().map(f64::from).collect(),
        }
    }

    /// The whole numbers, or `None` for floats.
    pub fn into_u32(self) -> Option<Vec<u32>> {
        match self {
            Self::U32(data) => Some(data),
            _ => None,
        }
    }
}
