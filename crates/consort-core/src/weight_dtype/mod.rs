//! How weights are stored and kept: floats, and ggml's block formats.
//!
//! A block format keeps [`block`](WeightDType::block) neighbouring inputs of one output together. What its bytes mean is
//! ggml's (`ggml-common.h`, and `quants.py` of the `gguf` Python package, with which decoding agrees bit for bit): integers
//! times scales, evaluated in f32. Which integers and scales a value gets is this crate's choice for the formats of 256
//! (`super_blocks.rs`), and ggml's reference for those of 32 (`small_blocks.rs`).

mod fit;
mod small_blocks;
mod super_blocks;

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::dtype::{to_bf16, to_f16};

/// How a weight is stored in a file or asked to be kept by a backend.
///
/// | format | elements | bytes | an element, d and m in f16 |
/// |---|---|---|---|
/// | Q8_0 | 32 | 34 | `d · q`, q from −128 to 127 |
/// | Q4_0, Q5_0 | 32 | 18, 22 | `d · (q − 8)`, `d · (q − 16)` |
/// | Q4_1, Q5_1 | 32 | 20, 24 | `d · q + m` |
/// | Q2_K | 16 × 16 | 84 | `d · s · q − m · t`, q of 2 bits, s and t of 4 |
/// | Q3_K | 16 × 16 | 110 | `d · s · q`, q from −4 to 3, s from −32 to 31 |
/// | Q4_K, Q5_K | 8 × 32 | 144, 176 | `d · s · q − m · t`, q of 4 or 5 bits, s and t of 6 |
/// | Q6_K | 16 × 16 | 210 | `d · s · q`, q from −32 to 31, s from −128 to 127 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(non_camel_case_types, reason = "the formats' own names")]
pub enum WeightDType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// 8 bits and a scale.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4 bits and a scale.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// 4 bits, a scale and a minimum.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// 5 bits and a scale.
    #[serde(rename = "q5_0")]
    Q5_0,
    /// 5 bits, a scale and a minimum.
    #[serde(rename = "q5_1")]
    Q5_1,
    /// 2 bits; scales and minima that are quantised themselves.
    #[serde(rename = "q2_k")]
    Q2_K,
    /// 3 bits; scales that are quantised themselves.
    #[serde(rename = "q3_k")]
    Q3_K,
    /// 4 bits; scales and minima that are quantised themselves.
    #[serde(rename = "q4_k")]
    Q4_K,
    /// 5 bits; scales and minima that are quantised themselves.
    #[serde(rename = "q5_k")]
    Q5_K,
    /// 6 bits; scales that are quantised themselves.
    #[serde(rename = "q6_k")]
    Q6_K,
}

/// Elements of the largest block.
pub(crate) const MAX_BLOCK: usize = 256;

impl WeightDType {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Its name: `f32`, `q8_0`, `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2_K => "q2_k",
            Self::Q3_K => "q3_k",
            Self::Q4_K => "q4_k",
            Self::Q5_K => "q5_k",
            Self::Q6_K => "q6_k",
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
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
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
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
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

    /// What a matrix of rows of `inputs` is kept as when a model is asked to be kept as this type.
    ///
    /// Formats of few bits leave more to the matrix that makes logits, which is read by every token and feeds no further
    /// layer: Q6_K (llama.cpp does so too). Rows that are no whole blocks take the next format that they fit and that has at
    /// least as many bits, in the end f16.
    pub fn mixed(self, makes_logits: bool, inputs: usize) -> Self {
        let fits = |dtype: &Self| inputs.is_multiple_of(dtype.block());
        let few = self.block() > 1 && self != Self::Q8_0;
        let asked = if makes_logits && few { Self::Q6_K } else { self };
        let next = match asked {
            Self::Q2_K | Self::Q3_K => Self::Q4_0,
            Self::Q4_K => Self::Q5_0,
            Self::Q5_K => Self::Q5_1,
            Self::Q6_K => Self::Q8_0,
            other => other,
        };
        [asked, next].into_iter().find(fits).unwrap_or(Self::F16)
    }

    /// The values of whole blocks: `bytes.len() / block_bytes` of them. Block formats are evaluated in f32, in the order that
    /// the table of the type writes.
    ///
    /// # Panics
    /// When `bytes` are no whole blocks or `values` are not theirs.
    pub fn decode(self, bytes: &[u8], values: &mut [f64]) {
        assert!(bytes.len().is_multiple_of(self.block_bytes()), "{} bytes of {self}", bytes.len());
        assert_eq!(bytes.len() / self.block_bytes() * self.block(), values.len(), "values of {self}");
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(values.chunks_exact_mut(self.block()));
        match self {
            Self::F64 => blocks.for_each(|(b, x)| x[0] = f64::from_le_bytes(array(b))),
            Self::F32 => blocks.for_each(|(b, x)| x[0] = f64::from(f32::from_le_bytes(array(b)))),
            Self::F16 => blocks.for_each(|(b, x)| x[0] = f16::from_le_bytes(array(b)).to_f64()),
            Self::BF16 => blocks.for_each(|(b, x)| x[0] = bf16::from_le_bytes(array(b)).to_f64()),
            _ => {
                let decode = self.format().decode;
                let mut held = [0f32; MAX_BLOCK];
                let held = &mut held[..self.block()];
                for (block, values) in blocks {
                    decode(block, held);
                    for (value, held) in values.iter_mut().zip(&*held) {
                        *value = f64::from(*held);
                    }
                }
            }
        }
    }

    /// Appends whole blocks that keep `values`, neighbouring inputs of one output: floats rounded to nearest even, block
    /// formats as `small_blocks.rs` and `super_blocks.rs` fit them, in f32.
    ///
    /// Values that are not finite are not refused here: a block of such values decodes to values that are not finite.
    ///
    /// # Panics
    /// When `values` are no whole blocks.
    pub fn encode(self, values: &[f64], bytes: &mut Vec<u8>) {
        assert!(values.len().is_multiple_of(self.block()), "{} values of {self}", values.len());
        match self {
            Self::F64 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::F32 => bytes.extend(values.iter().flat_map(|x| (*x as f32).to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|x| to_f16(*x).to_le_bytes())),
            Self::BF16 => bytes.extend(values.iter().flat_map(|x| to_bf16(*x).to_le_bytes())),
            _ => {
                let encode = self.format().encode;
                let mut narrow = [0f32; MAX_BLOCK];
                let narrow = &mut narrow[..self.block()];
                for block in values.chunks_exact(self.block()) {
                    for (narrow, value) in narrow.iter_mut().zip(block) {
                        *narrow = *value as f32;
                    }
                    let start = bytes.len();
                    bytes.resize(start + self.block_bytes(), 0);
                    encode(narrow, &mut bytes[start..]);
                }
            }
        }
    }

    /// Neighbouring `values` of one output as this type would keep them: [`encode`](Self::encode)d and
    /// [`decode`](Self::decode)d. The last block may be short: zeros fill it up.
    pub fn round(self, values: &mut [f64]) {
        let mut bytes = Vec::with_capacity(self.block_bytes());
        let mut padded = [0.0; MAX_BLOCK];
        let padded = &mut padded[..self.block()];
        for block in values.chunks_mut(self.block()) {
            bytes.clear();
            padded.fill(0.0);
            padded[..block.len()].copy_from_slice(block);
            self.encode(padded, &mut bytes);
            self.decode(&bytes, padded);
            block.copy_from_slice(&padded[..block.len()]);
        }
    }

    fn format(self) -> Format {
        match self {
            Self::Q8_0 => small_blocks::Q8_0,
            Self::Q4_0 => small_blocks::Q4_0,
            Self::Q4_1 => small_blocks::Q4_1,
            Self::Q5_0 => small_blocks::Q5_0,
            Self::Q5_1 => small_blocks::Q5_1,
            Self::Q2_K => super_blocks::Q2_K,
            Self::Q3_K => super_blocks::Q3_K,
            Self::Q4_K => super_blocks::Q4_K,
            Self::Q5_K => super_blocks::Q5_K,
            Self::Q6_K => super_blocks::Q6_K,
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 => unreachable!("floats are no blocks"),
        }
    }
}

/// A block format: what one block's bytes mean, and one block's bytes for values.
struct Format {
    decode: fn(&[u8], &mut [f32]),
    encode: fn(&[f32], &mut [u8]),
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

/// The f16 at `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(array(&bytes[at..])).to_f32()
}

/// Puts `value` at `at` as f16, and gives what is kept. What is beyond f16 is kept as infinite.
fn put_half(bytes: &mut [u8], at: usize, value: f32) -> f32 {
    let kept = f16::from_f32(value);
    bytes[at..at + 2].copy_from_slice(&kept.to_le_bytes());
    kept.to_f32()
}

#[cfg(test)]
mod tests;
