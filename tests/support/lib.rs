//! What several test files need: goldens and where data lie.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use consort_core::{HostData, StoredTensor, model::Weights};
use serde::Deserialize;

/// A golden model with what the reference implementation computes for it; see `xtask/golden`.
pub struct Golden {
    /// Folder name.
    pub name: String,
    /// The model directory.
    pub directory: PathBuf,
    /// Inputs and greedy tokens.
    pub case: Case,
    /// Sizes and elements of every expected tensor.
    pub expected: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// `case.json`.
#[derive(Deserialize)]
pub struct Case {
    /// Tokens of the prompt or source.
    pub tokens: Vec<u32>,
    /// Tokens of the target (encoder-decoder models).
    #[serde(default)]
    pub decoder_tokens: Vec<u32>,
    /// What greedy decoding appends.
    #[serde(default)]
    pub greedy: Vec<u32>,
    /// Tensors of the file that nothing needs.
    #[serde(default)]
    pub unused: Vec<String>,
}

/// The goldens of the repository, or of the folder that `CONSORT_GOLDEN` names.
///
/// # Panics
/// When there are none: a run that tests nothing must not pass.
pub fn goldens() -> Vec<Golden> {
    let root = std::env::var_os("CONSORT_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from);
    let mut directories: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.join("case.json").is_file())
        .collect();
    directories.sort();
    assert!(!directories.is_empty(), "no goldens in {}", root.display());
    directories.iter().map(|directory| Golden::read(directory)).collect()
}

impl Golden {
    /// Reads one folder.
    ///
    /// # Panics
    /// When it is not a golden.
    pub fn read(directory: &Path) -> Self {
        let case = fs::read(directory.join("case.json")).expect("case.json");
        let expected = fs::read(directory.join("expected.safetensors")).expect("expected.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(&expected).expect("expected.safetensors");
        let expected = tensors
            .iter()
            .map(|(name, tensor)| {
                assert_eq!(tensor.dtype(), safetensors::Dtype::F64, "{name}");
                let values = tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")));
                (name.to_owned(), (tensor.shape().to_vec(), values.collect()))
            })
            .collect();
        Self {
            name: directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            directory: directory.to_owned(),
            case: serde_json::from_slice(&case).expect("case.json"),
            expected,
        }
    }
}

/// The folder of real models and corpora, `CONSORT_SHARED` or `../shared`, if it is there.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("CONSORT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    path.join("data").is_dir().then(|| path.join("data"))
}

/// Weights of a model directory, for [`consort_core::Transformer::load`].
pub struct FileWeights(pub consort_formats::Weights);

impl Weights for FileWeights {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        self.0.get(slot).cloned()
    }
}

/// Greatest difference over the spread (greatest minus smallest) of what is expected.
pub fn error_over_spread(actual: &HostData, expected: &[f64]) -> f64 {
    let actual = actual.to_f64();
    assert_eq!(actual.len(), expected.len(), "number of elements");
    let (low, high) = expected.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let mut worst = 0.0;
    for (a, e) in actual.iter().zip(expected) {
        let difference = (a - e).abs();
        // Written so that NaN is the worst.
        if !(difference <= worst) {
            worst = difference;
        }
    }
    worst / (high - low)
}
