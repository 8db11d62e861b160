//! Weights as they lie in a file: owned slices of memory that stays mapped, with a type and a layout.

use std::{fmt, ops::Range, sync::Arc};

use crate::{
    error::{Error, Result},
    weight_dtype::{MAX_BLOCK, WeightDType},
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
/// aligned. A matrix stored the other way round, or a part of a fused one, is a choice of strides; outputs in another order
/// ([`reordered`](Self::reordered)) are read through a list.
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
    /// Which of the strided outputs, or inputs, stands at each place; as they come without it.
    output_order: Option<Arc<[u32]>>,
    input_order: Option<Arc<[u32]>>,
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
        Ok(Self {
            name,
            slot,
            source,
            start,
            first: 0,
            dtype,
            outputs,
            inputs,
            output_stride: inputs,
            input_stride: 1,
            output_order: None,
            input_order: None,
        })
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
            output_order: self.input_order,
            input_order: self.output_order,
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
        let outputs = range.len();
        if let Some(order) = self.output_order.as_ref().and_then(|order| order.get(range.clone())) {
            let output_order = Some(order.into());
            return Ok(Self { output_order, outputs, ..self });
        }
        let first = self.first + range.start * self.output_stride;
        Ok(Self { first, outputs, ..self })
    }

    /// The outputs in another order: `order[o]` is what stands at place o. For files that interleave what the graph keeps
    /// in halves, or the projections of a fused matrix.
    ///
    /// # Errors
    /// [`Error::Weight`] when `order` names an output that is not there.
    pub fn reordered(self, order: &[usize]) -> Result<Self> {
        let stands = |&output: &usize| match &self.output_order {
            _ if output >= self.outputs => None,
            Some(order) => order.get(output).copied(),
            None => u32::try_from(output).ok(),
        };
        let Some(output_order) = order.iter().map(stands).collect::<Option<Arc<[u32]>>>() else {
            return Err(Error::weight(&*self.name, format!("an order beyond the {} outputs", self.outputs)));
        };
        Ok(Self { outputs: order.len(), output_order: Some(output_order), ..self })
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
        let (block, size) = (self.dtype.block(), self.dtype.block_bytes());
        let first = self.first + place(&self.output_order, output) * self.output_stride;
        // The block under way: neighbours decode once.
        let mut held = (usize::MAX, [0f64; MAX_BLOCK]);
        (0..self.inputs).map(move |input| {
            let element = first + place(&self.input_order, input) * self.input_stride;
            let index = element / block;
            if held.0 != index {
                self.dtype.decode(&bytes[index * size..(index + 1) * size], &mut held.1[..block]);
                held.0 = index;
            }
            held.1[element % block]
        })
    }

    /// The bytes of one output as they are stored, where they lie together in whole blocks; for weights that are kept in
    /// the type they have.
    ///
    /// # Panics
    /// When `output` is not below the number of outputs.
    pub fn row_bytes(&self, output: usize) -> Option<&[u8]> {
        assert!(output < self.outputs, "output {output} of {}", self.outputs);
        let (block, size) = (self.dtype.block(), self.dtype.block_bytes());
        let first = self.first + place(&self.output_order, output) * self.output_stride;
        let together = self.input_stride == 1 && self.input_order.is_none();
        let whole = first.is_multiple_of(block) && self.inputs.is_multiple_of(block);
        let start = self.start + first / block * size;
        (together && whole).then(|| &self.source.bytes()[start..start + self.inputs / block * size])
    }

    /// Says that the pages behind this tensor can be let go.
    pub fn release(&self) {
        let ends = |order: &Option<Arc<[u32]>>, places: usize| match order {
            Some(order) => {
                let place = |end: Option<&u32>| end.map_or(0, |&place| place as usize);
                (place(order.iter().min()), place(order.iter().max()))
            }
            None => (0, places.saturating_sub(1)),
        };
        let (outputs, inputs) = (ends(&self.output_order, self.outputs), ends(&self.input_order, self.inputs));
        let element =
            |output: usize, input: usize| self.first + output * self.output_stride + input * self.input_stride;
        let byte = |element: usize| self.start + element / self.dtype.block() * self.dtype.block_bytes();
        let end = byte(element(outputs.1, inputs.1)) + self.dtype.block_bytes();
        self.source.release(byte(element(outputs.0, inputs.0))..end.min(self.source.bytes().len()));
    }
}

fn place(order: &Option<Arc<[u32]>>, at: usize) -> usize {
    order.as_ref().map_or(at, |order| order[at] as usize)
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.dtype, self.outputs, self.inputs)
    }
}
