//! What can go wrong, from file to result.

/// Errors of the facade: those of its parts, and choices that cannot be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model directory that cannot be read.
    #[error(transparent)]
    Format(#[from] consort_formats::Error),
    /// A tokenizer that cannot be read, or text that it cannot encode.
    #[error(transparent)]
    Text(#[from] consort_text::Error),
    /// Weights that a backend does not take, such as those that are not finite.
    #[error("{path}: {source}")]
    Load {
        /// The model directory.
        path: String,
        /// Which weight, and why.
        source: Box<consort_core::Error>,
    },
    /// The computation.
    #[error(transparent)]
    Core(#[from] consort_core::Error),
    /// A backend, type or setting that is not available; says what is.
    #[error("{0}")]
    Choice(String),
}
