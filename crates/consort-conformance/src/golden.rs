//! Models to compare on, with what a reference implementation computes for them where there is one.
//!
//! A **golden** is a model directory with an `expected.safetensors` (logits, and where they are known hidden states and
//! attention) and, unless that file has a tensor `tokens`, a `case.json` with the prompt: docs/case-format.md says it all.
//! `cargo xtask golden` makes Consort's own, in f64.
//!
//! Any other model directory can be compared on as well: its tokens are then **drawn** from a fixed seed, and the oracle
//! stands alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use consort_core::{
    Backend, Compute, DType, Device, StoredTensor, Transformer, TransformerConfig, WeightDType, model::LoadOptions,
    philox,
};
use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::{error::Error, measure::Values, memory};

/// A model to compare on.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Folder name.
    pub name: String,
    /// The model directory.
    pub directory: PathBuf,
    /// Inputs and greedy tokens.
    pub case: Case,
    /// What the reference implementation computes, under the names of [`pass::observe`](crate::pass::observe); empty where
    /// there is none.
    pub expected: BTreeMap<String, Values>,
    /// Those of `expected` that are kept as F32: they are as good as f32 is.
    pub narrow: BTreeSet<String>,
}

/// `case.json`.
#[derive(Clone, Debug, Default, Deserialize)]
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

const CASE: &str = "case.json";
const EXPECTED: &str = "expected.safetensors";

/// Most tokens that are drawn for a model without any.
pub const DRAWN: usize = 24;
/// Key of the draws.
const KEY: u64 = 0x636f_6e73_6f72_7431;

/// The goldens of a folder in order of their names: the folder itself if it is one, else those directly in it.
///
/// # Errors
/// [`Error::NoGoldens`] when there are none; otherwise the first that [`Golden::read`] meets.
pub fn goldens(folder: &Path) -> Result<Vec<Golden>, Error> {
    if is_golden(folder) {
        return Ok(vec![Golden::read(folder)?]);
    }
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut directories = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_golden(&path) {
            directories.push(path);
        }
    }
    if directories.is_empty() {
        return Err(Error::NoGoldens { path: folder.to_owned() });
    }
    directories.sort();
    directories.iter().map(|directory| Golden::read(directory)).collect()
}

fn is_golden(folder: &Path) -> bool {
    folder.join(CASE).is_file() || folder.join(EXPECTED).is_file()
}

impl Golden {
    /// Reads one folder; its model is not opened yet.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Malformed`] when it is not what its name says or there are no
    /// tokens.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(EXPECTED);
        let at_case = directory.join(CASE);
        let written = if at_case.is_file() { Some(case(&at_case)?) } else { None };
        let Expected { tensors, narrow, tokens, decoder_tokens } = expected(&path)?;
        let malformed = |what: String| Error::Malformed { path: path.clone(), what };
        let case = match written {
            Some(case) => {
                for (name, found, expected) in
                    [("tokens", tokens, &case.tokens), ("decoder_tokens", decoder_tokens, &case.decoder_tokens)]
                {
                    if found.is_some_and(|found| found != *expected) {
                        return Err(malformed(format!("tensor '{name}' has other tokens than {CASE}")));
                    }
                }
                case
            }
            None => Case {
                tokens: tokens.ok_or_else(|| {
                    malformed(format!("no tensor 'tokens' (I64, I32 or U32), and no {CASE} beside it that has them"))
                })?,
                decoder_tokens: decoder_tokens.unwrap_or_default(),
                ..Case::default()
            },
        };
        if case.tokens.is_empty() {
            return Err(malformed("no tokens, expected at least one".to_owned()));
        }
        Ok(Self { name: name(directory), directory: directory.to_owned(), case, expected: tensors, narrow })
    }

    /// A model directory without a reference: tokens drawn from a fixed seed within its vocabulary, as many as its context
    /// allows up to [`DRAWN`], for source and target alike.
    ///
    /// # Errors
    /// [`Error::Model`] when the directory does not open.
    pub fn drawn(directory: &Path) -> Result<Self, Error> {
        let config = consort_formats::open(directory)?.config;
        let draw = |stream: u64, vocabulary: usize, context: Option<usize>| {
            let length = context.unwrap_or(DRAWN).min(DRAWN) as u64;
            (0..length).map(|at| (philox::uniform(KEY, stream, at) * vocabulary as f64) as u32).collect::<Vec<u32>>()
        };
        let mut stacks = [&config.encoder, &config.decoder].into_iter().flatten().zip(0..);
        let mut next = || stacks.next().map(|(stack, stream)| draw(stream, stack.vocabulary, stack.context));
        let case =
            Case { tokens: next().unwrap_or_default(), decoder_tokens: next().unwrap_or_default(), ..Case::default() };
        Ok(Self {
            name: name(directory),
            directory: directory.to_owned(),
            case,
            expected: BTreeMap::new(),
            narrow: BTreeSet::new(),
        })
    }

    /// What `--model` takes: a golden where the directory is one, else [`drawn`](Self::drawn).
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`drawn`](Self::drawn).
    pub fn of_model(directory: &Path) -> Result<Self, Error> {
        if directory.join(EXPECTED).is_file() { Self::read(directory) } else { Self::drawn(directory) }
    }

    /// What the decoder reads: the target of an encoder-decoder model, the prompt otherwise.
    pub fn prompt(&self) -> &[u32] {
        if self.case.decoder_tokens.is_empty() { &self.case.tokens } else { &self.case.decoder_tokens }
    }

    /// Whether a reference implementation has computed it.
    pub fn has_reference(&self) -> bool {
        !self.expected.is_empty()
    }

    /// The model on a device, its weights kept as they are stored.
    ///
    /// # Errors
    /// [`Error::Model`] when the directory does not open, [`Error::Core`] when the device does not take the weights.
    pub fn load<B: Backend>(&self, device: &Device<B>) -> Result<Transformer<B>, Error> {
        let model = consort_formats::open(&self.directory)?;
        Ok(Transformer::load(device, &model.config, &model.weights, LoadOptions::default())?)
    }

    /// The model on a device, its weights kept as `dtype`, and its vectors and small tables as `vectors` holds them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_as<B: Backend>(
        &self,
        device: &Device<B>,
        dtype: WeightDType,
        vectors: DType,
    ) -> Result<Transformer<B>, Error> {
        self.load_in(device, dtype, vectors, Compute::F32)
    }

    /// As [`load_as`](Self::load_as), its products computed in `compute`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_in<B: Backend>(
        &self,
        device: &Device<B>,
        dtype: WeightDType,
        vectors: DType,
        compute: Compute,
    ) -> Result<Transformer<B>, Error> {
        let model = consort_formats::open(&self.directory)?;
        let weights = Held { weights: model.weights, vectors };
        let options = LoadOptions { dtype: Some(dtype), compute, ..LoadOptions::default() };
        Ok(Transformer::load(device, &model.config, &weights, options)?)
    }

    /// Opens the model's files, to say what of them a comparison needs to know.
    ///
    /// # Errors
    /// [`Error::Model`] when the directory does not open; [`Error::TooLarge`] when the oracle does not fit this machine.
    pub fn checked(&self) -> Result<consort_formats::Model, Error> {
        let model = consort_formats::open(&self.directory)?;
        memory::fits(&model.config)?;
        Ok(model)
    }
}

/// Weights whose vectors and small tables are rounded to what the tested backend computes in, so that the oracle begins
/// from the same numbers. Only files in F64 have any that change.
struct Held {
    weights: consort_formats::Weights,
    vectors: DType,
}

impl consort_core::model::Weights for Held {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        let stored = self.weights.get(slot)?.clone();
        if stored.dtype() != WeightDType::F64 || self.vectors == DType::F64 || is_matrix(slot, stored.shape()) {
            return Some(stored);
        }
        let [outputs, inputs] = stored.shape();
        let rounded: Vec<f64> =
            (0..outputs).flat_map(|row| stored.row(row).map(|value| f64::from(value as f32))).collect();
        StoredTensor::from_values(stored.name(), &rounded, [outputs, inputs]).ok()
    }
}

/// Whether a slot is packed as a weight, rather than kept as floats.
fn is_matrix(slot: &str, [outputs, _]: [usize; 2]) -> bool {
    outputs > 1 && !slot.ends_with("relative_bias.weight") && !slot.ends_with("token_types.weight")
}

/// Why a model's weights cannot be kept as `dtype`, where they cannot.
pub fn cannot_keep(
    config: &TransformerConfig,
    weights: &consort_formats::Weights,
    dtype: WeightDType,
) -> Option<String> {
    let block = dtype.block();
    for slot in config.slots().into_iter().filter(|slot| is_matrix(&slot.name, slot.shape)) {
        let inputs = slot.shape[1];
        if !inputs.is_multiple_of(block) {
            return Some(format!(
                "rows of {} have {inputs} elements, no whole blocks of {block} as {dtype}",
                slot.name
            ));
        }
        let stored = weights.get(&slot.name)?;
        // Only f16 and the f16 scales of blocks have less range than f32.
        if stored.dtype() == dtype || !(dtype == WeightDType::F16 || block > 1) {
            continue;
        }
        for output in 0..stored.shape()[0] {
            let mut row: Vec<f64> = stored.row(output).collect();
            if row.iter().all(|value| value.abs() <= f64::from(f16::MAX)) {
                continue;
            }
            dtype.round(&mut row);
            if row.iter().any(|value| !value.is_finite()) {
                return Some(format!("{} has elements beyond {dtype}", slot.name));
            }
        }
        stored.release();
    }
    None
}

/// Whether every weight of a model is kept exactly as `dtype`.
pub fn keeps_exactly(weights: &consort_formats::Weights, dtype: WeightDType) -> bool {
    weights.iter().all(|(_, stored)| stored.dtype().common(dtype) == dtype)
}

fn name(directory: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // `.` and `..` have no name of their own.
    named(directory).or_else(|| named(&directory.canonicalize().ok()?)).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn case(path: &Path) -> Result<Case, Error> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), what };
    let case: Case = serde_json::from_slice(&read(path)?).map_err(|error| malformed(error.to_string()))?;
    if case.tokens.is_empty() {
        return Err(malformed("no tokens, expected at least one".to_owned()));
    }
    Ok(case)
}

/// What `expected.safetensors` has.
struct Expected {
    tensors: BTreeMap<String, Values>,
    narrow: BTreeSet<String>,
    tokens: Option<Vec<u32>>,
    decoder_tokens: Option<Vec<u32>>,
}

fn expected(path: &Path) -> Result<Expected, Error> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), what };
    let bytes = read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| malformed(error.to_string()))?;
    let mut found = Expected { tensors: BTreeMap::new(), narrow: BTreeSet::new(), tokens: None, decoder_tokens: None };
    for (name, tensor) in file.iter() {
        match name {
            "tokens" => found.tokens = Some(ids(name, &tensor).map_err(malformed)?),
            "decoder_tokens" => found.decoder_tokens = Some(ids(name, &tensor).map_err(malformed)?),
            _ => {
                let data = floats(name, &tensor).map_err(malformed)?;
                if tensor.dtype() == Dtype::F32 {
                    found.narrow.insert(name.to_owned());
                }
                let sizes = without_batch(name, tensor.shape());
                found.tensors.insert(name.to_owned(), Values::new(name, sizes, data)?);
            }
        }
    }
    if !["logits", "last_hidden_state"].iter().any(|name| found.tensors.contains_key(*name)) {
        return Err(malformed("no tensor 'logits' (or 'last_hidden_state' of a model without a head)".to_owned()));
    }
    Ok(found)
}

/// PyTorch's batch of one sequence is dropped: attention is `[H, T, S]`, everything else `[T, …]`.
fn without_batch(name: &str, shape: &[usize]) -> Vec<usize> {
    let rank = if name.contains("attention") { 3 } else { 2 };
    match shape {
        [1, rest @ ..] if rest.len() == rank => rest.to_vec(),
        _ => shape.to_vec(),
    }
}

fn floats(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f64>, String> {
    match tensor.dtype() {
        Dtype::F64 => Ok(tensor.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
        Dtype::F32 => {
            Ok(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
        }
        other => Err(format!("tensor '{name}' is {other:?}, expected F64 or F32")),
    }
}

/// Token ids, in one dimension or as a batch of one sequence.
fn ids(name: &str, tensor: &TensorView<'_>) -> Result<Vec<u32>, String> {
    if !matches!(tensor.shape(), [_] | [1, _]) {
        return Err(format!("tensor '{name}' is {:?}, expected one dimension", tensor.shape()));
    }
    let all: Vec<i64> = match tensor.dtype() {
        Dtype::I64 => tensor.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        Dtype::I32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
        }
        Dtype::U32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| i64::from(u32::from_le_bytes(*bytes))).collect()
        }
        other => return Err(format!("tensor '{name}' is {other:?}, expected I64, I32 or U32")),
    };
    all.into_iter()
        .map(|id| u32::try_from(id).map_err(|_| format!("tensor '{name}' has {id}, expected a token id")))
        .collect()
}
