//! Element types of tensors and of stored weights.

use std::fmt;

use half::{bf16, f16};

/// Type of a tensor's elements on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// How a weight is stored in a file or asked to be kept by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightDType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

impl WeightDType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Decodes one little-endian element; exact.
    ///
    /// `bytes` must hold [`size`](Self::size) bytes.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Self::F64 => f64::from_le_bytes(array(bytes)),
            Self::F32 => f64::from(f32::from_le_bytes(array(bytes))),
            Self::F16 => f16::from_le_bytes(array(bytes)).to_f64(),
            Self::BF16 => bf16::from_le_bytes(array(bytes)).to_f64(),
        }
    }

    /// `value` as this type would keep it, rounded to nearest even.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F64 => value,
            Self::F32 => f64::from(value as f32),
            Self::F16 => f16::from_f64(value).to_f64(),
            Self::BF16 => bf16::from_f64(value).to_f64(),
        }
    }
}

impl fmt::Display for WeightDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}
