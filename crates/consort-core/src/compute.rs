//! What products of activations and weights are computed in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a projection takes its operands; sums are always in f32 or better.
///
/// In a case file the attribute may be left out or `null`, which is f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "Option<Written>")]
pub enum Compute {
    /// As they are, in the backend's float type.
    #[default]
    F32,
    /// Activations and weights rounded to bf16, to nearest even.
    BF16,
    /// Activations as whole numbers times a scale for each block, as
    /// [`QuantizeActivations`](crate::Fused::QuantizeActivations) gives them; weights as they are. No gradient.
    Int8,
}

impl Compute {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::BF16, Self::Int8];

    /// How it is written: `f32`, `bf16`, `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compute| compute.name() == name)
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// [`Compute`] as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    F32,
    BF16,
    Int8,
}

impl From<Option<Written>> for Compute {
    fn from(written: Option<Written>) -> Self {
        match written {
            None | Some(Written::F32) => Self::F32,
            Some(Written::BF16) => Self::BF16,
            Some(Written::Int8) => Self::Int8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for compute in Compute::ALL {
            assert_eq!(Compute::from_name(compute.name()), Some(compute));
        }
        assert_eq!(Compute::from_name("f16"), None);
        assert_eq!(Compute::default(), Compute::F32);
    }
}
