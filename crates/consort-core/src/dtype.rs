//! Element types of tensors and of stored weights.

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

/// How a weight is stored in a file or asked to be kept by a backend.
///
/// Block formats keep [`block`](Self::block) neighbouring inputs of one output together, with a scale: Q8_0 as
/// `d · q`, q an i8; Q4_0 as `d · (q − 8)`, q four bits, the low ones of byte j for element j and the high ones for element
/// `j + 16`. d is an f16 in front (ggml's layout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of 32 in 34 bytes.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Blocks of 32 in 18 bytes.
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl WeightDType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F64, Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0];

    /// Its name: `f32`, `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Elements that are kept together; 1 but for block formats.
    pub fn block(self) -> usize {
        match self {
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
        }
    }

    /// Bytes of a [`block`](Self::block).
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
        }
    }

    /// The narrowest type that holds every value of both.
    pub fn common(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::F64, _) | (_, Self::F64) => Self::F64,
            _ => Self::F32,
        }
    }

    /// Element `index` of little-endian `bytes`, exact. Blocks begin at the first byte.
    ///
    /// # Panics
    /// When the bytes end before the element's block does.
    pub fn element(self, bytes: &[u8], index: usize) -> f64 {
        let first = index / self.block() * self.block_bytes();
        let block = &bytes[first..first + self.block_bytes()];
        let scale = || f16::from_le_bytes(array(block)).to_f64();
        match self {
            Self::F64 => f64::from_le_bytes(array(block)),
            Self::F32 => f64::from(f32::from_le_bytes(array(block))),
            Self::F16 => f16::from_le_bytes(array(block)).to_f64(),
            Self::BF16 => bf16::from_le_bytes(array(block)).to_f64(),
            Self::Q8_0 => scale() * f64::from(block[2 + index % 32] as i8),
            Self::Q4_0 => {
                let both = block[2 + index % 16];
                let quant = if index % 32 < 16 { both & 15 } else { both >> 4 };
                scale() * (f64::from(quant) - 8.0)
            }
        }
    }

    /// Neighbouring `values` of one output as this type would keep them: floats rounded to nearest even; blocks as ggml's
    /// reference quantises them, in f32: for Q8_0 `d = max|x| / 127`, `q = round(x / d)` with halves away from zero; for
    /// Q4_0 `d = m / −8` with m the first value of the greatest magnitude, `q = min(15, ⌊x / d + 8.5⌋)`.
    ///
    /// The last block of a block format may be short.
    pub fn round(self, values: &mut [f64]) {
        match self {
            Self::F64 => {}
            Self::F32 => values.iter_mut().for_each(|value| *value = f64::from(*value as f32)),
            Self::F16 => values.iter_mut().for_each(|value| *value = to_f16(*value).to_f64()),
            Self::BF16 => values.iter_mut().for_each(|value| *value = to_bf16(*value).to_f64()),
            Self::Q8_0 => values.chunks_mut(32).for_each(|block| {
                round_block(block, |greatest| greatest.abs() / 127.0, |scaled| scaled.round());
            }),
            Self::Q4_0 => values.chunks_mut(32).for_each(|block| {
                round_block(block, |greatest| greatest / -8.0, |scaled| (scaled + 8.5).trunc().clamp(0.0, 15.0) - 8.0);
            }),
        }
    }
}

/// Replaces a block by `d · quantised(x / d)`, d rounded to f16 in the product, not in the quotient. Not finite values stay
/// as they are, and are refused where weights are packed.
fn round_block(block: &mut [f64], scale: impl Fn(f32) -> f32, quantise: impl Fn(f32) -> f32) {
    if block.iter().any(|value| !value.is_finite()) {
        return;
    }
    let greatest = block.iter().fold(0f32, |most, &value| {
        let value = value as f32;
        if value.abs() > most.abs() { value } else { most }
    });
    let scale = scale(greatest);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let kept = to_f16(f64::from(scale)).to_f64();
    for value in block {
        *value = kept * f64::from(quantise(*value as f32 * inverse));
    }
}

impl fmt::Display for WeightDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
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
        let mut one = [tie + (-23f64).exp2()];
        WeightDType::BF16.round(&mut one);
        assert_eq!(one, [1.0 + (-7f64).exp2()]);
        assert_eq!(to_f16(1e300), f16::INFINITY);
        assert_eq!(to_f16(-1e-300).to_bits(), 0x8000);
        assert_eq!(to_bf16(f64::INFINITY), bf16::INFINITY);
        assert!(to_f16(f64::NAN).is_nan());
    }

    #[test]
    fn types_are_written_by_their_names() {
        use serde::de::{IntoDeserializer, value::Error};
        for dtype in WeightDType::ALL {
            let name = IntoDeserializer::<Error>::into_deserializer(dtype.name());
            assert_eq!(WeightDType::deserialize(name), Ok(dtype));
        }
    }

    #[test]
    fn blocks_keep_scale_and_quants() {
        let mut bytes = vec![0; 34];
        bytes[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        bytes[2] = -128i8 as u8;
        bytes[33] = 127;
        assert_eq!([0, 1, 31].map(|index| WeightDType::Q8_0.element(&bytes, index)), [-64.0, 0.0, 63.5]);
        let mut bytes = vec![0x88; 18];
        bytes[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        bytes[2] = 0xf0; // element 0 low, element 16 high
        assert_eq!([0, 1, 16, 17].map(|index| WeightDType::Q4_0.element(&bytes, index)), [-16.0, 0.0, 14.0, 0.0]);
    }

    #[test]
    fn what_a_block_keeps_is_kept_again() {
        for dtype in [WeightDType::Q8_0, WeightDType::Q4_0] {
            let mut values: Vec<f64> = (0..40).map(|i| f64::from(i * 37 % 41 - 20) / 16.0).collect();
            dtype.round(&mut values);
            let once = values.clone();
            dtype.round(&mut values);
            assert_eq!(values, once, "{dtype}");
            let mut zeros = [0.0; 32];
            dtype.round(&mut zeros);
            assert!(zeros.iter().all(|zero| *zero == 0.0));
        }
    }
}
