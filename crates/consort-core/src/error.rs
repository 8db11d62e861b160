//! The one error type of the core: data, not prose, so that a caller can decide.

use crate::{dtype::DType, shape::Shape};

/// What can go wrong between a model's description and its results.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend does not have this operation in this form. The [`Device`](crate::Device) answers with the operation's
    /// decomposition or with the host; it reaches a caller only when neither can.
    #[error("{backend} does not have {operation}{}: {reason}", form.map(|(dtype, shape)| format!(" for {dtype} {shape}")).unwrap_or_default())]
    Unsupported {
        /// Who says so.
        backend: &'static str,
        /// Snake-case name of the operation.
        operation: &'static str,
        /// Type and shape of the output that was asked for, where the operation exists in another form.
        form: Option<(DType, Shape)>,
        /// Why, in a few words.
        reason: &'static str,
    },
    /// The policy is [`Policy::Deny`](crate::Policy::Deny) and an operation would have run on the host.
    #[error("{operation} is not native on {backend} and host fall-back is denied")]
    FallbackDenied {
        /// The backend without the primitive.
        backend: &'static str,
        /// Snake-case name of the primitive.
        operation: &'static str,
    },
    /// Operands that do not fit together: a bug in the caller or a config that was not validated.
    #[error("{operation}: {what}")]
    Shape {
        /// Snake-case name of the operation.
        operation: &'static str,
        /// Expected and found.
        what: String,
    },
    /// A field of a configuration that cannot be.
    #[error("{field}: {what}")]
    Config {
        /// Dotted path of the field.
        field: String,
        /// Why not.
        what: String,
    },
    /// A weight of the model that is missing, misshapen or not finite.
    #[error("weight '{slot}': {what}")]
    Weight {
        /// Slot of the graph, or the tensor's name in its file.
        slot: String,
        /// Expected and found.
        what: String,
    },
    /// Input that the model is not defined for: token ids, positions, lengths.
    #[error("{0}")]
    Input(String),
    /// Memory: bytes asked for and bytes that may be used.
    #[error("out of memory: {asked} bytes asked, {limit} available")]
    OutOfMemory {
        /// Bytes of the request.
        asked: u64,
        /// Bytes that were left.
        limit: u64,
    },
    /// The device is gone; what was on it is lost, the program goes on.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
}

impl Error {
    /// A [`Error::Config`].
    pub fn config(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Config { field: field.into(), what: what.into() }
    }

    /// A [`Error::Weight`].
    pub fn weight(slot: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Weight { slot: slot.into(), what: what.into() }
    }

    pub(crate) fn shape(operation: &'static str, what: impl Into<String>) -> Self {
        Self::Shape { operation, what: what.into() }
    }
}

/// Shorthand for results of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;
