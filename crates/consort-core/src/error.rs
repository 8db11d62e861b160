//! The one error type of the core: data, not prose, so that a caller can decide.

use std::borrow::Cow;

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
    #[error("{operation}: {}", one_line(what))]
    Shape {
        /// Snake-case name of the operation.
        operation: &'static str,
        /// Expected and found.
        what: String,
    },
    /// A field of a configuration that cannot be.
    #[error("{}: {}", one_line(field), one_line(what))]
    Config {
        /// Dotted path of the field.
        field: String,
        /// Why not.
        what: String,
    },
    /// A weight of the model that is missing, misshapen or not finite.
    #[error("weight '{}': {}", one_line(slot), one_line(what))]
    Weight {
        /// Slot of the graph, or the tensor's name in its file.
        slot: String,
        /// Expected and found.
        what: String,
    },
    /// Input that the model is not defined for: token ids, positions, lengths.
    #[error("{}", one_line(.0))]
    Input(String),
    /// Memory: bytes asked for and bytes that may be used.
    #[error("out of memory: {asked} bytes asked{}", if *limit > 0 { format!(", {limit} available") } else { String::new() })]
    OutOfMemory {
        /// Bytes of the request.
        asked: u64,
        /// Bytes that were left; 0 where that is not known.
        limit: u64,
    },
    /// The device is gone; what was on it is lost, the program goes on.
    #[error("the device was lost: {}", one_line(.0))]
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

/// Names come from files: what would break or rewrite the line is escaped.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect::<String>().into()
}

/// Shorthand for results of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line() {
        let hostile = || "a\nb\r\u{1b}[2J\u{85}".to_string();
        let shape = Shape::new(&[2, 3]).unwrap();
        let unsupported = |form| Error::Unsupported { backend: "b", operation: "softmax", form, reason: "r" };
        let errors = [
            (unsupported(None), "b does not have softmax: r"),
            (unsupported(Some((DType::F32, shape))), "b does not have softmax for f32 [2, 3]: r"),
            (
                Error::FallbackDenied { backend: "b", operation: "copy" },
                "copy is not native on b and host fall-back is denied",
            ),
            (Error::shape("copy", hostile()), "copy: a\\nb\\r\\u{1b}[2J\\u{85}"),
            (Error::config(hostile(), "x"), "a\\nb\\r\\u{1b}[2J\\u{85}: x"),
            (Error::weight(hostile(), hostile()), "weight 'a\\nb\\r\\u{1b}[2J\\u{85}': a\\nb\\r\\u{1b}[2J\\u{85}"),
            (Error::Input(hostile()), "a\\nb\\r\\u{1b}[2J\\u{85}"),
            (Error::OutOfMemory { asked: 9, limit: 0 }, "out of memory: 9 bytes asked"),
            (Error::OutOfMemory { asked: 9, limit: 5 }, "out of memory: 9 bytes asked, 5 available"),
            (Error::DeviceLost(hostile()), "the device was lost: a\\nb\\r\\u{1b}[2J\\u{85}"),
        ];
        for (error, expected) in errors {
            let line = error.to_string();
            assert_eq!(line, expected);
            assert_eq!(line.lines().count(), 1);
            // No wildcard: a new variant must come here.
            match error {
                Error::Unsupported { .. }
                | Error::FallbackDenied { .. }
                | Error::Shape { .. }
                | Error::Config { .. }
                | Error::Weight { .. }
                | Error::Input(_)
                | Error::OutOfMemory { .. }
                | Error::DeviceLost(_) => {}
            }
        }
    }
}
