//! The element types of ggml by their numbers (`enum ggml_type` in `ggml.h`; sizes as in the `gguf` package's
//! `GGML_QUANT_SIZES`): those that weights are read in, and the others, so that a message can name them.

use consort_core::WeightDType;

use crate::weights::ElementType;

/// One element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GgmlType {
    number: u32,
    name: &'static str,
    /// Elements of a block.
    pub(crate) block: u64,
    /// Bytes of a block.
    pub(crate) bytes: u64,
    weight: Option<WeightDType>,
}

/// What a message says can be read.
const READ: &str = "F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K (choose a file of \
    one of these)";

impl GgmlType {
    /// The type of this number, if ggml has one.
    pub(crate) fn of(number: u32) -> Option<Self> {
        TYPES.iter().find(|known| known.number == number).copied()
    }

    /// Its name in ggml.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// As an element type of weights.
    pub(crate) fn element(self) -> ElementType {
        match self.weight {
            Some(dtype) => ElementType::Weight(dtype),
            None => ElementType::Other { name: self.name.to_owned(), expected: READ },
        }
    }
}

const fn weight(number: u32, name: &'static str, dtype: WeightDType, block: u64, bytes: u64) -> GgmlType {
    GgmlType { number, name, block, bytes, weight: Some(dtype) }
}

const fn other(number: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType { number, name, block, bytes, weight: None }
}

const TYPES: [GgmlType; 34] = [
    weight(0, "F32", WeightDType::F32, 1, 4),
    weight(1, "F16", WeightDType::F16, 1, 2),
    weight(2, "Q4_0", WeightDType::Q4_0, 32, 18),
    weight(3, "Q4_1", WeightDType::Q4_1, 32, 20),
    weight(6, "Q5_0", WeightDType::Q5_0, 32, 22),
    weight(7, "Q5_1", WeightDType::Q5_1, 32, 24),
    weight(8, "Q8_0", WeightDType::Q8_0, 32, 34),
    other(9, "Q8_1", 32, 40),
    weight(10, "Q2_K", WeightDType::Q2_K, 256, 84),
    weight(11, "Q3_K", WeightDType::Q3_K, 256, 110),
    weight(12, "Q4_K", WeightDType::Q4_K, 256, 144),
    weight(13, "Q5_K", WeightDType::Q5_K, 256, 176),
    weight(14, "Q6_K", WeightDType::Q6_K, 256, 210),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    weight(28, "F64", WeightDType::F64, 1, 8),
    other(29, "IQ1_M", 256, 56),
    weight(30, "BF16", WeightDType::BF16, 1, 2),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_core() {
        for one in TYPES {
            if let Some(dtype) = one.weight {
                assert_eq!((dtype.block() as u64, dtype.block_bytes() as u64), (one.block, one.bytes), "{}", one.name);
                assert_eq!(dtype.name(), one.name.to_lowercase());
            }
        }
        let weights = TYPES.iter().filter(|one| one.weight.is_some()).count();
        assert_eq!(weights, WeightDType::ALL.len());
    }
}
