//! Goldens: small models with what a reference implementation computes for them in f64.
//!
//! A golden is a model directory with two more files: `case.json` (the prompt, greedy tokens, tensors of no use) and
//! `expected.safetensors` (logits, hidden states and attention, all f64). `cargo xtask golden` makes them with torch.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use consort_core::{Backend, Device, StoredTensor, Transformer, model::LoadOptions};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{error::Error, measure::Values};

/// A golden model.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Folder name.
    pub name: String,
    /// The model directory.
    pub directory: PathBuf,
    /// Inputs and greedy tokens.
    pub case: Case,
    /// What the reference implementation computes, under the names of [`pass::observe`](crate::pass::observe).
    pub expected: BTreeMap<String, Values>,
}

/// `case.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Tokens of the prompt or source; at least one.
    pub tokens: Vec<u32>,
    /// Tokens of the target (encoder-decoder models).
    #[serde(default)]
    pub decoder_tokens: Vec<u32>,
    /// What greedy decoding appends.
    #[serde(default)]
    pub greedy: Vec<u32>,
    /// Tensors of the model's files that nothing needs.
    #[serde(default)]
    pub unused: Vec<String>,
}

/// Weights of a model directory, for [`Transformer::load`].
#[derive(Debug)]
pub struct FileWeights(pub consort_formats::Weights);

impl consort_core::model::Weights for FileWeights {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        self.0.get(slot).cloned()
    }
}

const CASE: &str = "case.json";
const EXPECTED: &str = "expected.safetensors";

/// The goldens of a folder in order of their names: the folder itself if it is one, else those directly in it.
///
/// # Errors
/// [`Error::NoGoldens`] when there are none; otherwise the first that [`Golden::read`] meets.
pub fn goldens(folder: &Path) -> Result<Vec<Golden>, Error> {
    if folder.join(CASE).is_file() {
        return Ok(vec![Golden::read(folder)?]);
    }
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut directories = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.join(CASE).is_file() {
            directories.push(path);
        }
    }
    if directories.is_empty() {
        return Err(Error::NoGoldens { path: folder.to_owned() });
    }
    directories.sort();
    directories.iter().map(|directory| Golden::read(directory)).collect()
}

impl Golden {
    /// Reads one folder; its model is not opened yet.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Malformed`] when it is not what its name says or has no
    /// tokens.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(CASE);
        let case: Case = serde_json::from_slice(&read(&path)?)
            .map_err(|error| Error::Malformed { path: path.clone(), what: error.to_string() })?;
        if case.tokens.is_empty() {
            return Err(Error::Malformed { path, what: "no tokens, expected at least one".to_owned() });
        }
        Ok(Self {
            name: directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            directory: directory.to_owned(),
            case,
            expected: expected(&directory.join(EXPECTED))?,
        })
    }

    /// What the decoder reads: the target of an encoder-decoder model, the prompt otherwise.
    pub fn prompt(&self) -> &[u32] {
        if self.case.decoder_tokens.is_empty() { &self.case.tokens } else { &self.case.decoder_tokens }
    }

    /// The model on a device.
    ///
    /// # Errors
    /// [`Error::Model`] when the directory does not open, [`Error::Core`] when the device does not take the weights.
    pub fn load<B: Backend>(&self, device: &Device<B>) -> Result<Transformer<B>, Error> {
        let model = consort_formats::open(&self.directory)?;
        Ok(Transformer::load(device, &model.config, &FileWeights(model.weights), LoadOptions::default())?)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn expected(path: &Path) -> Result<BTreeMap<String, Values>, Error> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), what };
    let bytes = read(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| malformed(error.to_string()))?;
    let mut expected = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        if tensor.dtype() != Dtype::F64 {
            return Err(malformed(format!("tensor '{name}' is {:?}, expected F64", tensor.dtype())));
        }
        let (numbers, _) = tensor.data().as_chunks::<8>();
        let data = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        expected.insert(name.to_owned(), Values::new(name, tensor.shape().to_vec(), data)?);
    }
    Ok(expected)
}
