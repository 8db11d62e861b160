//! Element types of tensors.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Type of a tensor's elements on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single: what every backend computes in.
    F32,
    /// IEEE double: the oracle.
    F64,
    /// IEEE half, storage only.
    F16,
    /// bfloat16, storage only.
    BF16,
    /// Token ids, positions, rows, masks (0 or 1).
    U32,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Whether elements are numbers with a fraction.
    pub fn is_float(self) -> bool {
        self != Self::U32
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
        })
    }
}

/// `value` as f16, rounded once to nearest even.
pub fn to_f16(value: f64) -> f16 {
    f16::from_f32(to_odd(value))
}

/// `value` as bf16, rounded once to nearest even.
pub fn to_bf16(value: f64) -> bf16 {
    bf16::from_f32(to_odd(value))
}

/// `value` as f32, rounded to odd: what is inexact takes the neighbour whose last bit is set.
///
/// Rounding that to a type of at least two bits less equals rounding `value` once (Boldo & Melquiond 2008). `half`'s
/// own conversions from f64 look at the upper word only and take some values for ties that are none.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let exact = f64::from(near) == value || value.is_nan();
    if exact || near.to_bits() & 1 == 1 {
        near
    } else if f64::from(near).abs() < value.abs() {
        f32::from_bits(near.to_bits() + 1)
    } else {
        f32::from_bits(near.to_bits() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_once() {
        let tie = 1.0 + (-11f64).exp2();
        assert_eq!(to_f16(tie).to_f64(), 1.0);
        assert_eq!(to_f16(tie + (-50f64).exp2()).to_f64(), 1.0 + (-10f64).exp2());
        assert_eq!(to_f16(-tie - (-23f64).exp2()).to_f64(), -1.0 - (-10f64).exp2());
        let tie = 1.0 + (-8f64).exp2();
        assert_eq!(to_bf16(tie).to_f64(), 1.0);
        assert_eq!(to_bf16(tie + (-23f64).exp2()).to_f64(), 1.0 + (-7f64).exp2());
        assert_eq!(to_f16(1e300), f16::INFINITY);
        assert_eq!(to_f16(-1e-300).to_bits(), 0x8000);
        assert_eq!(to_bf16(f64::INFINITY), bf16::INFINITY);
        assert!(to_f16(f64::NAN).is_nan());
    }
}
