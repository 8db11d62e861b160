//! Packed weights: opaque to everyone but the backend that packed them.

use std::sync::Arc;

use crate::{
    dtype::DType,
    error::{Error, Result},
    stored::StoredTensor,
    tensor::{HostData, Tensor},
    weight_dtype::WeightDType,
};

/// A weight `[outputs, inputs]` on a device, shared by handle: a tied embedding exists once.
pub struct Weight<Buffer, Packed>(Arc<Inner<Buffer, Packed>>);

struct Inner<Buffer, Packed> {
    outputs: usize,
    inputs: usize,
    dtype: WeightDType,
    store: WeightStore<Buffer, Packed>,
}

/// How a weight is kept.
pub enum WeightStore<Buffer, Packed> {
    /// As a tensor `[outputs, inputs]` of the backend's float type: for backends without a layout of their own.
    Plain(Tensor<Buffer>),
    /// As the backend packed it.
    Packed(Packed),
}

impl<Buffer, Packed> Clone for Weight<Buffer, Packed> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Buffer, Packed> Weight<Buffer, Packed> {
    /// A handle of `store`.
    pub fn new([outputs, inputs]: [usize; 2], dtype: WeightDType, store: WeightStore<Buffer, Packed>) -> Self {
        Self(Arc::new(Inner { outputs, inputs, dtype, store }))
    }

    /// Rows: outputs of a projection, entries of a table.
    pub fn outputs(&self) -> usize {
        self.0.outputs
    }

    /// Columns: inputs of a projection, width of a table.
    pub fn inputs(&self) -> usize {
        self.0.inputs
    }

    /// The type that the values were rounded to.
    pub fn dtype(&self) -> WeightDType {
        self.0.dtype
    }

    /// How it is kept.
    pub fn store(&self) -> &WeightStore<Buffer, Packed> {
        &self.0.store
    }
}

/// `[Σ outputs, inputs]` of stored parts concatenated along the outputs.
///
/// # Errors
/// [`Error::Weight`] without parts or when their inputs differ.
pub fn concatenated_shape(parts: &[StoredTensor]) -> Result<[usize; 2]> {
    let first = parts.first().ok_or_else(|| Error::weight("(none)", "a weight of no parts"))?;
    let inputs = first.shape()[1];
    let mut outputs = 0;
    for part in parts {
        if part.shape()[1] != inputs {
            return Err(Error::weight(
                part.name(),
                format!("{:?} cannot stand under '{}' of {inputs} inputs", part.shape(), first.name()),
            ));
        }
        outputs += part.shape()[0];
    }
    Ok([outputs, inputs])
}

/// Stored parts as the bytes of `[Σ outputs, inputs]` kept as `keep`, row after row: what is stored so already is copied, the
/// rest is decoded exactly and encoded; the source's pages are let go part by part.
///
/// # Errors
/// [`Error::Weight`] names the first element that is not finite, or rows that are no whole blocks.
pub fn encode(parts: &[StoredTensor], keep: WeightDType) -> Result<Vec<u8>> {
    let [outputs, inputs] = concatenated_shape(parts)?;
    let mut bytes = Vec::new();
    let mut row = vec![0.0; inputs];
    let mut kept = vec![0.0; inputs];
    for part in parts {
        whole_blocks(part, keep)?;
        if bytes.is_empty() {
            bytes.reserve_exact(outputs * (inputs / keep.block() * keep.block_bytes()));
        }
        for output in 0..part.shape()[0] {
            let start = bytes.len();
            match part.row_bytes(output).filter(|_| part.dtype() == keep) {
                Some(stored) => bytes.extend_from_slice(stored),
                None => {
                    row.clear();
                    row.extend(part.row(output));
                    keep.encode(&row, &mut bytes);
                }
            }
            keep.decode(&bytes[start..], &mut kept);
            if let Some(input) = kept.iter().position(|kept| !kept.is_finite()) {
                let value = part.row(output).nth(input).unwrap_or(f64::NAN);
                return Err(not_finite(part, [output, input], value, kept[input], keep, DType::F64));
            }
        }
        part.release();
    }
    Ok(bytes)
}

/// Stored parts as host data `[Σ outputs, inputs]`: decoded exactly, rounded to `keep`, then to `dtype` (f64, or else
/// f32); the source's pages are let go part by part.
///
/// # Errors
/// [`Error::Weight`] names the first element that is not finite.
pub fn decode(parts: &[StoredTensor], keep: WeightDType, dtype: DType) -> Result<HostData> {
    let [outputs, inputs] = concatenated_shape(parts)?;
    let mut wide = Vec::new();
    let mut narrow = Vec::new();
    if dtype == DType::F64 {
        wide.reserve_exact(outputs * inputs);
    } else {
        narrow.reserve_exact(outputs * inputs);
    }
    for part in parts {
        whole_blocks(part, keep)?;
        for output in 0..part.shape()[0] {
            let stored: Vec<f64> = part.row(output).collect();
            let mut row = stored.clone();
            // What is stored as it is kept stays as it is.
            if part.dtype() != keep {
                keep.round(&mut row);
            }
            for (input, (value, kept)) in stored.into_iter().zip(row).enumerate() {
                let held = if dtype == DType::F64 { kept } else { f64::from(kept as f32) };
                if !held.is_finite() {
                    return Err(not_finite(part, [output, input], value, kept, keep, dtype));
                }
                if dtype == DType::F64 {
                    wide.push(kept);
                } else {
                    narrow.push(kept as f32);
                }
            }
        }
        part.release();
    }
    Ok(if dtype == DType::F64 { HostData::F64(wide) } else { HostData::F32(narrow) })
}

fn whole_blocks(part: &StoredTensor, keep: WeightDType) -> Result<()> {
    let (inputs, block) = (part.shape()[1], keep.block());
    if inputs.is_multiple_of(block) {
        return Ok(());
    }
    Err(Error::weight(part.name(), format!("rows of {inputs} are no whole blocks of {block} as {keep}")))
}

fn not_finite(
    part: &StoredTensor,
    [output, input]: [usize; 2],
    value: f64,
    kept: f64,
    keep: WeightDType,
    dtype: DType,
) -> Error {
    let beyond = match value.is_finite() {
        true if kept.is_finite() => format!(" (beyond {dtype})"),
        true => format!(" (beyond {keep})"),
        false => String::new(),
    };
    Error::weight(part.name(), format!("element [{output}, {input}] is {value}{beyond}, not a finite number"))
}
