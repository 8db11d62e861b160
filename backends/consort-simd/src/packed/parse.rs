//! What the bytes of a block mean: codes, scales and minima apart, as `WeightDType` documents them (ggml's formats).

use consort_core::WeightDType;

/// One block of one output.
pub(super) struct Parsed {
    /// Scale and minimum of all: f16.
    pub(super) d: u16,
    pub(super) m: u16,
    /// From 0 up; what is taken off them is the format's.
    pub(super) codes: [u8; 256],
    /// Of sub-blocks, where there are any.
    pub(super) scales: [u8; 16],
    pub(super) minima: [u8; 16],
}

pub(super) fn parse(dtype: WeightDType, block: &[u8]) -> Parsed {
    let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let mut parsed = Parsed { d: 0, m: 0, codes: [0; 256], scales: [0; 16], minima: [0; 16] };
    let Parsed { d, m, codes, scales, minima } = &mut parsed;
    // Two bits of 128 elements in 32 bytes.
    let pair_of = |bytes: &[u8], i: usize| bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    match dtype {
        WeightDType::Q8_0 => {
            *d = half(0);
            for (code, byte) in codes.iter_mut().zip(&block[2..34]) {
                *code = byte ^ 0x80;
            }
        }
        WeightDType::Q4_0 | WeightDType::Q4_1 | WeightDType::Q5_0 | WeightDType::Q5_1 => {
            *d = half(0);
            let mut at = 2;
            if matches!(dtype, WeightDType::Q4_1 | WeightDType::Q5_1) {
                *m = half(2);
                at = 4;
            }
            if matches!(dtype, WeightDType::Q5_0 | WeightDType::Q5_1) {
                for (i, code) in codes.iter_mut().enumerate().take(32) {
                    *code = (block[at + i / 8] >> (i % 8) & 1) << 4;
                }
                at += 4;
            }
            for (i, byte) in block[at..at + 16].iter().enumerate() {
                codes[i] |= byte & 15;
                codes[i + 16] |= byte >> 4;
            }
        }
        WeightDType::Q2_K => {
            (*d, *m) = (half(80), half(82));
            for sub in 0..16 {
                (scales[sub], minima[sub]) = (block[sub] & 15, block[sub] >> 4);
            }
            for (i, code) in codes.iter_mut().enumerate() {
                *code = pair_of(&block[16..80], i);
            }
        }
        WeightDType::Q3_K => {
            *d = half(108);
            let bytes = &block[96..108];
            for (sub, scale) in scales.iter_mut().enumerate() {
                let low = bytes[sub % 8] >> (sub / 8 * 4) & 15;
                let high = bytes[8 + sub % 4] >> (sub / 4 * 2) & 3;
                *scale = (low | high << 4).wrapping_sub(32);
            }
            for (i, code) in codes.iter_mut().enumerate() {
                *code = pair_of(&block[32..96], i) | (block[i % 32] >> (i / 32) & 1) << 2;
            }
        }
        WeightDType::Q4_K | WeightDType::Q5_K => {
            (*d, *m) = (half(0), half(2));
            let bytes = &block[4..16];
            for sub in 0..8 {
                (scales[sub], minima[sub]) = match sub {
                    0..4 => (bytes[sub] & 63, bytes[sub + 4] & 63),
                    _ => (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4),
                };
            }
            let five = dtype == WeightDType::Q5_K;
            let nibbles = if five { 48 } else { 16 };
            for (i, code) in codes.iter_mut().enumerate() {
                let (sub, l) = (i / 32, i % 32);
                *code = block[nibbles + sub / 2 * 32 + l] >> (sub % 2 * 4) & 15;
                if five {
                    *code |= (block[16 + l] >> sub & 1) << 4;
                }
            }
        }
        _ => {
            // Q6_K: four low bits of 128 elements in 64 bytes, two high bits in 32.
            *d = half(208);
            scales.copy_from_slice(&block[192..208]);
            for (i, code) in codes.iter_mut().enumerate() {
                let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
                *code = low | pair_of(&block[128..192], i) << 4;
            }
        }
    }
    parsed
}
