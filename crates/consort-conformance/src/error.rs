//! Why a comparison could not be made. A backend that is wrong is no error: its report says so.

use std::path::PathBuf;

/// What can go wrong before there is something to compare.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of a golden that is not what its name says.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Found and expected.
        what: String,
    },
    /// A folder without goldens: comparing nothing must not pass for agreement.
    #[error(
        "{}: no goldens here: expected expected.safetensors in it or in the folders in it",
        path.display()
    )]
    NoGoldens {
        /// The folder.
        path: PathBuf,
    },
    /// The golden's model directory does not open.
    #[error(transparent)]
    Model(#[from] consort_formats::Error),
    /// A pass failed: on the backend, or on the oracle if the model itself is at fault.
    #[error(transparent)]
    Core(#[from] consort_core::Error),
    /// The oracle keeps eight bytes a number; there is not that much memory.
    #[error(
        "too large for the oracle here: it needs about {:.1} GiB (8 bytes a number), {:.1} GiB are free",
        gib(*needed), gib(*free)
    )]
    TooLarge {
        /// Bytes for its weights and a pass.
        needed: u64,
        /// Bytes that can be had.
        free: u64,
    },
    /// The weights cannot be kept as asked.
    #[error("cannot be kept as {dtype}: {what}")]
    Kept {
        /// What was asked.
        dtype: consort_core::WeightDType,
        /// Which weight, and why.
        what: String,
    },
    /// A tensor with another number of elements than its shape, or than what it is compared with.
    #[error("{what}: {actual} elements, expected {expected}")]
    Elements {
        /// Which tensor.
        what: String,
        /// How many there are.
        actual: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A problem that no device could solve: its operation, attributes and operands do not fit together.
    #[error("{op}: {what}")]
    Problem {
        /// The operation.
        op: String,
        /// Found and expected.
        what: String,
    },
    /// A folder without cases: checking nothing must not pass for agreement.
    #[error("{}: no cases here: expected case.json in it or in the folders in it", path.display())]
    NoCases {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn problem(op: &str, what: impl Into<String>) -> Self {
        Self::Problem { op: op.escape_debug().to_string(), what: what.into() }
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
