//! Safetensors files: eight bytes of length, a JSON object of tensors, then their bytes.

use std::path::Path;

use consort_core::{StoredTensor, WeightDType};
use serde_json::{Map, Value, json};

use super::{Counted, Progress, pieces, whole_file};
use crate::error::{Error, show};

/// A tensor to write: a float type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) sizes: Vec<usize>,
    pub(crate) dtype: WeightDType,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.sizes.iter().product::<usize>() * self.dtype.block_bytes()
    }
}

/// Writes a file; `parts(i)` gives what follows one another in tensor i, when its turn comes.
///
/// # Errors
/// [`Error::Io`] when the system refuses, [`Error::Malformed`] for weights that cannot be kept so, [`Error::Stopped`].
pub(crate) fn write(
    path: &Path,
    tensors: &[Tensor],
    parts: &mut dyn FnMut(usize) -> Result<Vec<StoredTensor>, Error>,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let header = header(tensors);
    let total = header.len() + tensors.iter().map(Tensor::bytes).sum::<usize>();
    whole_file(
        path,
        |file| {
            let mut out = Counted { path, file, written: 0, total: total as u64, progress };
            out.write(&header)?;
            for (index, tensor) in tensors.iter().enumerate() {
                pieces::encode(&show(path), &parts(index)?, tensor.dtype, &mut |bytes| out.write(bytes))?;
            }
            Ok(())
        },
        &|_| Ok(()),
    )
}

fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = Map::new();
    // What the reference's loader asks for.
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.bytes();
        let dtype = tensor.dtype.name().to_ascii_uppercase();
        let entry = json!({"dtype": dtype, "shape": tensor.sizes, "data_offsets": [begin, end]});
        entries.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    // Data begin at a multiple of eight, as the format's own crate writes them.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}
