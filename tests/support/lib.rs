//! What several test files need: where goldens and real models lie.

use std::path::{Path, PathBuf};

use consort_conformance::golden::{self, Golden};

/// The goldens of the repository, or of the folder that `CONSORT_GOLDEN` names.
///
/// # Panics
/// When there are none or one cannot be read: a run that tests nothing must not pass.
pub fn goldens() -> Vec<Golden> {
    let folder = std::env::var_os("CONSORT_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from);
    golden::goldens(&folder).unwrap_or_else(|error| panic!("{error}"))
}

/// The folder of real models and corpora, `CONSORT_SHARED` or `../shared`, if it is there.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("CONSORT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    path.join("data").is_dir().then(|| path.join("data"))
}
