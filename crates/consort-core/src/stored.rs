//! Weights as they lie in a file: owned slices of memory that stays mapped, with a type and a layout.

use std::{fmt, ops::Range, sync::Arc};

use crate::{
    dtype::WeightDType,
    error::{Error, Result},
};

/// Memory that weights lie in: a mapped file or bytes in memory.
pub trait ByteSource: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// The pages behind `range` will not be read again soon; a mapped file can let them go.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl ByteSource for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A two-dimensional weight `[outputs, inputs]`, or a vector `[1, inputs]`, inside a [`ByteSource`].
///
/// Element `(o, i)` is number `first + o · output_stride + i · input_stride` of those from byte `start` on; nothing need be
/// aligned. A matrix stored the other way round, or a part of a fused one, is a choice of strides.
#[derive(Clone)]
pub struct StoredTensor {
    name: Arc<str>,
    /// The slot of the graph that it fills; its own name where that is not known.
    slot: Arc<str>,
    source: Arc<dyn ByteSource>,
    start: usize,
    first: usize,
    dtype: WeightDType,
    outputs: usize,
    inputs: usize,
    output_stride: usize,
    input_stride: usize,
}

impl StoredTensor {
    /// Rows of `inputs` elements, one after the other, from byte `start`.
    ///
    /// # Errors
    /// [`Error::Weight`] when the source ends before the tensor does, or rows are no whole blocks.
    pub fn new(
        name: impl Into<Arc<str>>,
        source: Arc<dyn ByteSource>,
        start: usize,
        dtype: WeightDType,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Self> {
        let name = name.into();
        let end = outputs
            .checked_mul(inputs)
            .and_then(|elements| elements.div_ceil(dtype.block()).checked_mul(dtype.block_bytes()))
            .and_then(|bytes| bytes.checked_add(start));
        let available = source.bytes().len();
        if !inputs.is_multiple_of(dtype.block()) {
            let block = dtype.block();
            return Err(Error::weight(&*name, format!("rows of {inputs} are no whole blocks of {block} as {dtype}")));
        }
        if end.is_none_or(|end| end > available) {
            return Err(Error::weight(
                &*name,
                format!("{outputs} x {inputs} {dtype} from byte {start} on do not fit into {available} bytes"),
            ));
        }
        let slot = Arc::clone(&name);
        Ok(Self { name, slot, source, start, first: 0, dtype, outputs, inputs, output_stride: inputs, input_stride: 1 })
    }

    /// A matrix made here (tests, initialisation): `values` row by row, kept as f64.
    ///
    /// # Errors
    /// [`Error::Weight`] when the number of values is not `outputs · inputs`.
    pub fn from_values(name: &str, values: &[f64], shape: [usize; 2]) -> Result<Self> {
        if shape[0].checked_mul(shape[1]) != Some(values.len()) {
            return Err(Error::weight(name, format!("{} values for {shape:?}", values.len())));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, Arc::new(bytes), 0, WeightDType::F64, shape)
    }

    /// The name in its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slot of the graph that it fills; its name where that is not known.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// The same, as what fills a slot.
    pub fn for_slot(self, slot: &str) -> Self {
        Self { slot: slot.into(), ..self }
    }

    /// Type of the stored elements.
    pub fn dtype(&self) -> WeightDType {
        self.dtype
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// The same matrix with outputs and inputs swapped: for files that keep `[inputs, outputs]`.
    pub fn transposed(self) -> Self {
        Self {
            outputs: self.inputs,
            inputs: self.outputs,
            output_stride: self.input_stride,
            input_stride: self.output_stride,
            ..self
        }
    }

    /// Outputs `range` only: for files that keep several projections in one tensor.
    ///
    /// # Errors
    /// [`Error::Weight`] when the range is not inside the outputs.
    pub fn outputs(self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.outputs {
            return Err(Error::weight(&*self.name, format!("outputs {range:?} of {}", self.outputs)));
        }
        let first = self.first + range.start * self.output_stride;
        Ok(Self { first, outputs: range.len(), ..self })
    }

    /// Inputs `range` only: for vectors that are parts of a fused one.
    ///
    /// # Errors
    /// [`Error::Weight`] when the range is not inside the inputs.
    pub fn inputs(self, range: Range<usize>) -> Result<Self> {
        Ok(self.transposed().outputs(range)?.transposed())
    }

    /// One output's elements in order, decoded; exact.
    ///
    /// # Panics
    /// When `output` is not below the number of outputs.
    pub fn row(&self, output: usize) -> impl Iterator<Item = f64> + '_ {
        assert!(output < self.outputs, "output {output} of {}", self.outputs);
        let bytes = &self.source.bytes()[self.start..];
        let first = self.first + output * self.output_stride;
        (0..self.inputs).map(move |input| self.dtype.element(bytes, first + input * self.input_stride))
    }

    /// Says that the pages behind this tensor can be let go.
    pub fn release(&self) {
        let last =
            self.outputs.saturating_sub(1) * self.output_stride + self.inputs.saturating_sub(1) * self.input_stride;
        let byte = |element: usize| self.start + element / self.dtype.block() * self.dtype.block_bytes();
        let end = byte(self.first + last) + self.dtype.block_bytes();
        self.source.release(byte(self.first)..end.min(self.source.bytes().len()));
    }
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.dtype, self.outputs, self.inputs)
    }
}
