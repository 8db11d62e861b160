//! GGUF files, version 3: a header, metadata, a list of tensors, then their bytes.
//!
//! All numbers are little-endian. Sizes of a tensor stand fastest first, its bytes begin at multiples of 32 after the list.
//! Source: the format's description in ggml's repository (`docs/gguf.md`).

use std::path::Path;

use consort_core::{StoredTensor, WeightDType};

use super::{Counted, Progress, pieces, whole_file};
use crate::error::{Error, show};

/// The format's default alignment, in bytes.
const ALIGNMENT: usize = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bytes(Vec<u8>),
}

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) sizes: Vec<usize>,
    pub(crate) dtype: WeightDType,
}

impl Tensor {
    pub(crate) fn bytes(&self) -> usize {
        self.sizes.iter().product::<usize>() / self.dtype.block() * self.dtype.block_bytes()
    }
}

/// Writes a file; `parts(i)` gives what follows one another in tensor i, when its turn comes; `check` sees the whole under its
/// temporary name.
///
/// # Errors
/// [`Error::Io`] when the system refuses, [`Error::Malformed`] for weights that cannot be kept so, [`Error::Stopped`].
pub(crate) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Tensor],
    parts: &mut dyn FnMut(usize) -> Result<Vec<StoredTensor>, Error>,
    progress: Progress<'_>,
    check: &dyn Fn(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let header = header(metadata, tensors);
    let total = header.len() + tensors.iter().map(|tensor| aligned(tensor.bytes())).sum::<usize>();
    whole_file(
        path,
        |file| {
            let mut out = Counted { path, file, written: 0, total: total as u64, progress };
            out.write(&header)?;
            for (index, tensor) in tensors.iter().enumerate() {
                pieces::encode(&show(path), &parts(index)?, tensor.dtype, &mut |bytes| out.write(bytes))?;
                out.write(&vec![0; aligned(tensor.bytes()) - tensor.bytes()])?;
            }
            Ok(())
        },
        check,
    )
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

fn header(metadata: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.sizes.len() as u32).to_le_bytes());
        tensor.sizes.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(type_number(tensor.dtype).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += aligned(tensor.bytes());
    }
    out.resize(aligned(out.len()), 0);
    out
}

/// The number of a tensor's type in ggml.
fn type_number(dtype: WeightDType) -> u32 {
    match dtype {
        WeightDType::F32 => 0,
        WeightDType::F16 => 1,
        WeightDType::Q4_0 => 2,
        WeightDType::Q4_1 => 3,
        WeightDType::Q5_0 => 6,
        WeightDType::Q5_1 => 7,
        WeightDType::Q8_0 => 8,
        WeightDType::Q2_K => 10,
        WeightDType::Q3_K => 11,
        WeightDType::Q4_K => 12,
        WeightDType::Q5_K => 13,
        WeightDType::Q6_K => 14,
        WeightDType::F64 => 28,
        WeightDType::BF16 => 30,
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number of a value's type, then the value.
fn put(out: &mut Vec<u8>, value: &Value) {
    let number = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let array = |out: &mut Vec<u8>, kind: u32, length: usize| {
        number(out, 9);
        number(out, kind);
        out.extend((length as u64).to_le_bytes());
    };
    match value {
        Value::U32(value) => {
            number(out, 4);
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            number(out, 6);
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            number(out, 7);
            out.push(u8::from(*value));
        }
        Value::Text(value) => {
            number(out, 8);
            text(out, value);
        }
        Value::Texts(values) => {
            array(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Value::I32s(values) => {
            array(out, 5, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::F32s(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::Bytes(values) => {
            array(out, 0, values.len());
            out.extend(values);
        }
    }
}
