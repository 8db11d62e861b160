//! Blocks of 256 in sub-blocks whose scales (and minima) are quantised once more: ggml's K formats.
//!
//! Codes lie in planes. With `part` elements that share bytes, element `part·g + l` of a group reads byte l and shift g:
//! two bits at a time in groups of 32 (Q2_K, Q3_K, the high bits of Q6_K), four in groups of 32 of 64 (Q4_K, Q5_K) or
//! of 64 of 128 (the low bits of Q6_K). Encoding fits each sub-block by itself (`fit.rs`), quantises scales and
//! minima by the greatest, and takes the codes once more with what is kept of them.

use std::array;

use super::{Format, fit, half, put_half};

pub(super) const Q2_K: Format = Format {
    decode: |block, values| {
        let (d, dmin) = (half(block, 80), half(block, 82));
        let scale = |sub: usize| (d * f32::from(block[sub] & 15), dmin * f32::from(block[sub] >> 4));
        let code = |i: usize| block[16 + byte_of_pair(i)] >> shift_of_pair(i) & 3;
        for (i, value) in values.iter_mut().enumerate() {
            let (scale, minimum) = scale(i / 16);
            *value = scale * f32::from(code(i)) - minimum;
        }
    },
    encode: |values, block| {
        let (d, dmin, scales, minima, codes) = affine::<16>(values, 15, 3);
        put_half(block, 80, d);
        put_half(block, 82, dmin);
        for (sub, (scale, minimum)) in scales.iter().zip(&minima).enumerate() {
            block[sub] = scale | minimum << 4;
        }
        for (i, code) in codes.iter().enumerate() {
            block[16 + byte_of_pair(i)] |= code << shift_of_pair(i);
        }
    },
};

pub(super) const Q3_K: Format = Format {
    decode: |block, values| {
        let d = half(block, 108);
        let scale = |sub: usize| d * f32::from(three_scale(&block[96..108], sub) - 32);
        for (i, value) in values.iter_mut().enumerate() {
            let low = block[32 + byte_of_pair(i)] >> shift_of_pair(i) & 3;
            let high = block[i % 32] >> (i / 32) & 1;
            *value = scale(i / 16) * (f32::from(low) - if high == 1 { 0.0 } else { 4.0 });
        }
    },
    encode: |values, block| {
        let (d, scales, codes) = symmetric(values, 32, 4);
        put_half(block, 108, d);
        for (sub, scale) in scales.iter().enumerate() {
            let scale = (scale + 32) as u8;
            block[96 + sub % 8] |= (scale & 15) << (sub / 8 * 4);
            block[104 + sub % 4] |= (scale >> 4) << (sub / 4 * 2);
        }
        for (i, code) in codes.iter().enumerate() {
            let code = (code + 4) as u8;
            block[32 + byte_of_pair(i)] |= (code & 3) << shift_of_pair(i);
            block[i % 32] |= (code >> 2) << (i / 32);
        }
    },
};

pub(super) const Q4_K: Format = Format {
    decode: |block, values| decode_k::<4>(block, values),
    encode: |values, block| encode_k::<4>(values, block),
};

pub(super) const Q5_K: Format = Format {
    decode: |block, values| decode_k::<5>(block, values),
    encode: |values, block| encode_k::<5>(values, block),
};

pub(super) const Q6_K: Format = Format {
    decode: |block, values| {
        let d = half(block, 208);
        for (i, value) in values.iter_mut().enumerate() {
            let low = block[byte_of_half(i)] >> shift_of_half(i) & 15;
            let high = block[128 + byte_of_pair(i)] >> shift_of_pair(i) & 3;
            let scale = d * f32::from(block[192 + i / 16] as i8);
            *value = scale * (f32::from(low | high << 4) - 32.0);
        }
    },
    encode: |values, block| {
        let (d, scales, codes) = symmetric(values, 128, 32);
        put_half(block, 208, d);
        for (sub, scale) in scales.iter().enumerate() {
            block[192 + sub] = *scale as i8 as u8;
        }
        for (i, code) in codes.iter().enumerate() {
            let code = (code + 32) as u8;
            block[byte_of_half(i)] |= (code & 15) << shift_of_half(i);
            block[128 + byte_of_pair(i)] |= (code >> 4) << shift_of_pair(i);
        }
    },
};

/// Where the two bits of element i lie: 128 elements in 32 bytes.
fn byte_of_pair(i: usize) -> usize {
    i / 128 * 32 + i % 32
}

fn shift_of_pair(i: usize) -> usize {
    i % 128 / 32 * 2
}

/// Where the four low bits of element i of Q6_K lie: 128 elements in 64 bytes.
fn byte_of_half(i: usize) -> usize {
    i / 128 * 64 + i % 64
}

fn shift_of_half(i: usize) -> usize {
    i % 128 / 64 * 4
}

/// Scale `sub` of Q3_K, 6 bits: four low bits of two scales a byte, then two high bits of four.
fn three_scale(bytes: &[u8], sub: usize) -> i8 {
    let low = bytes[sub % 8] >> (sub / 8 * 4) & 15;
    let high = bytes[8 + sub % 4] >> (sub / 4 * 2) & 3;
    (low | high << 4) as i8
}

/// Scale and minimum `sub` of Q4_K and Q5_K, 6 bits each in 12 bytes: the first four whole, the last four with their high
/// bits above those.
fn scale_and_minimum(bytes: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (bytes[sub] & 63, bytes[sub + 4] & 63)
    } else {
        (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4)
    }
}

fn put_scale_and_minimum(bytes: &mut [u8], sub: usize, scale: u8, minimum: u8) {
    if sub < 4 {
        bytes[sub] |= scale;
        bytes[sub + 4] |= minimum;
    } else {
        bytes[sub + 4] |= scale & 15 | minimum << 4;
        bytes[sub - 4] |= scale >> 4 << 6;
        bytes[sub] |= minimum >> 4 << 6;
    }
}

/// Where Q4_K's codes begin, and Q5_K's, whose fifth bits come first.
const fn nibbles(bits: u32) -> usize {
    if bits == 5 { 48 } else { 16 }
}

fn decode_k<const BITS: u32>(block: &[u8], values: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for sub in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], sub);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for l in 0..32 {
            let low = block[nibbles(BITS) + sub / 2 * 32 + l] >> (sub % 2 * 4) & 15;
            let fifth = if BITS == 5 { (block[16 + l] >> sub & 1) << 4 } else { 0 };
            values[sub * 32 + l] = scale * f32::from(low | fifth) - minimum;
        }
    }
}

fn encode_k<const BITS: u32>(values: &[f32], block: &mut [u8]) {
    let (d, dmin, scales, minima, codes) = affine::<8>(values, 63, (1 << BITS) - 1);
    put_half(block, 0, d);
    put_half(block, 2, dmin);
    for sub in 0..8 {
        put_scale_and_minimum(&mut block[4..16], sub, scales[sub], minima[sub]);
        for l in 0..32 {
            let code = codes[sub * 32 + l];
            block[nibbles(BITS) + sub / 2 * 32 + l] |= (code & 15) << (sub % 2 * 4);
            if BITS == 5 {
                block[16 + l] |= (code >> 4) << sub;
            }
        }
    }
}

/// d, m, scales and minima up to `most`, and codes up to `top`, such that `x ≈ d · s · q − m · t`.
fn affine<const SUBS: usize>(values: &[f32], most: u8, top: u8) -> (f32, f32, [u8; SUBS], [u8; SUBS], [u8; 256]) {
    let size = 256 / SUBS;
    let mut codes = [0; 256];
    if !values.iter().all(|value| value.is_finite()) {
        return (f32::NAN, f32::NAN, [0; SUBS], [0; SUBS], codes);
    }
    let fitted: [(f32, f32); SUBS] =
        array::from_fn(|sub| fit::affine(&values[sub * size..(sub + 1) * size], f32::from(top)));
    let greatest = |part: fn(&(f32, f32)) -> f32| fitted.iter().map(part).fold(0.0, f32::max);
    let d = kept_as_half(greatest(|fit| fit.0) / f32::from(most));
    let dmin = kept_as_half(greatest(|fit| fit.1) / f32::from(most));
    let quantised = |value: f32, unit: f32| code(value, unit, 0.0, f32::from(most)) as u8;
    let scales = array::from_fn(|sub| quantised(fitted[sub].0, d));
    let minima = array::from_fn(|sub| quantised(fitted[sub].1, dmin));
    for (i, (value, kept)) in values.iter().zip(&mut codes).enumerate() {
        let sub = i / size;
        let (scale, minimum) = (d * f32::from(scales[sub]), dmin * f32::from(minima[sub]));
        *kept = code(value + minimum, scale, 0.0, f32::from(top)) as u8;
    }
    (d, dmin, scales, minima, codes)
}

/// d, scales from `−most` to `most − 1` and codes from `−top` to `top − 1`, such that `x ≈ d · s · q`, in sub-blocks of 16.
fn symmetric(values: &[f32], most: i16, top: i16) -> (f32, [i16; 16], [i16; 256]) {
    let mut codes = [0; 256];
    if !values.iter().all(|value| value.is_finite()) {
        return (f32::NAN, [0; 16], codes);
    }
    let fitted: [f32; 16] = array::from_fn(|sub| fit::symmetric(&values[sub * 16..(sub + 1) * 16], f32::from(top)));
    let greatest = fitted.iter().fold(0f32, |most, &scale| if scale.abs() > most.abs() { scale } else { most });
    // The negative end has one code more.
    let d = kept_as_half(greatest / -f32::from(most));
    let (low, high) = (-f32::from(most), f32::from(most - 1));
    let scales: [i16; 16] = array::from_fn(|sub| code(fitted[sub], d, low, high) as i16);
    for (i, (value, kept)) in values.iter().zip(&mut codes).enumerate() {
        let scale = d * f32::from(scales[i / 16]);
        *kept = code(*value, scale, -f32::from(top), f32::from(top - 1)) as i16;
    }
    (d, scales, codes)
}

/// The nearest whole multiple of `unit` within bounds; 0 of nothing.
fn code(value: f32, unit: f32, low: f32, high: f32) -> f32 {
    if unit == 0.0 { 0.0 } else { (value / unit).round_ties_even().clamp(low, high) }
}

fn kept_as_half(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}
