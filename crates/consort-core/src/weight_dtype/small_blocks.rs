//! Blocks of 32 with one scale, and a minimum in the formats that end in 1.
//!
//! Nibbles lie in 16 bytes: the low one of byte j is element j, the high one element `j + 16`. A fifth bit is bit j of the
//! 32 bits in front of them. Encoding is ggml's reference, all in f32, d and m rounded to f16 in what is kept and not in
//! the quotients:
//! - Q8_0: `d = max|x| / 127`, `q = round(x / d)`, halves away from zero;
//! - Q4_0, Q5_0: `d = x̂ / −2ᵇ⁻¹`, x̂ the first value of the greatest magnitude, `q = min(2ᵇ − 1, ⌊x / d + 2ᵇ⁻¹ + ½⌋)`;
//! - Q4_1, Q5_1: `m = min x`, `d = (max x − m) / (2ᵇ − 1)`, `q = min(2ᵇ − 1, ⌊(x − m) / d + ½⌋)`.

use super::{Format, half, put_half};

pub(super) const Q8_0: Format = Format {
    decode: |block, values| {
        let d = half(block, 0);
        for (value, byte) in values.iter_mut().zip(&block[2..]) {
            *value = d * f32::from(*byte as i8);
        }
    },
    encode: |values, block| {
        let d = values.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
        let d = if values.iter().all(|value| value.is_finite()) { d } else { f32::NAN };
        let inverse = inverse(d);
        put_half(block, 0, d);
        for (byte, value) in block[2..].iter_mut().zip(values) {
            *byte = (value * inverse).round() as i8 as u8;
        }
    },
};

pub(super) const Q4_0: Format = Format {
    decode: |block, values| symmetric::<4>(block, values),
    encode: |v, block| encode_symmetric::<4>(v, block),
};

pub(super) const Q5_0: Format = Format {
    decode: |block, values| symmetric::<5>(block, values),
    encode: |v, block| encode_symmetric::<5>(v, block),
};

pub(super) const Q4_1: Format =
    Format { decode: |block, values| affine::<4>(block, values), encode: |v, block| encode_affine::<4>(v, block) };

pub(super) const Q5_1: Format =
    Format { decode: |block, values| affine::<5>(block, values), encode: |v, block| encode_affine::<5>(v, block) };

fn symmetric<const BITS: u32>(block: &[u8], values: &mut [f32]) {
    let d = half(block, 0);
    unpack::<BITS>(&block[2..], |j, q| values[j] = d * (f32::from(q) - offset(BITS)));
}

fn affine<const BITS: u32>(block: &[u8], values: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    unpack::<BITS>(&block[4..], |j, q| values[j] = d * f32::from(q) + m);
}

fn encode_symmetric<const BITS: u32>(values: &[f32], block: &mut [u8]) {
    let greatest = values.iter().fold(0f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    let d = if values.iter().all(|value| value.is_finite()) { greatest / -offset(BITS) } else { f32::NAN };
    let inverse = inverse(d);
    put_half(block, 0, d);
    pack::<BITS>(&mut block[2..], |j| values[j] * inverse + (offset(BITS) + 0.5));
}

fn encode_affine<const BITS: u32>(values: &[f32], block: &mut [u8]) {
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
    let d = (high - low) / ((1 << BITS) - 1) as f32;
    let d = if values.iter().all(|value| value.is_finite()) { d } else { f32::NAN };
    let inverse = inverse(d);
    put_half(block, 0, d);
    put_half(block, 2, low);
    pack::<BITS>(&mut block[4..], |j| (values[j] - low) * inverse + 0.5);
}

/// The middle of the codes of so many bits.
fn offset(bits: u32) -> f32 {
    (1 << (bits - 1)) as f32
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Calls `each` with the elements' numbers and codes.
fn unpack<const BITS: u32>(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    let (fifth, nibbles) = bytes.split_at(if BITS == 5 { 4 } else { 0 });
    let fifth = |j: usize| if BITS == 5 { (fifth[j / 8] >> (j % 8) & 1) << 4 } else { 0 };
    for (j, byte) in nibbles.iter().enumerate() {
        each(j, byte & 15 | fifth(j));
        each(j + 16, byte >> 4 | fifth(j + 16));
    }
}

/// Puts codes: `code` cut to an integer of the format.
fn pack<const BITS: u32>(bytes: &mut [u8], code: impl Fn(usize) -> f32) {
    let (fifth, nibbles) = bytes.split_at_mut(if BITS == 5 { 4 } else { 0 });
    let code = |j: usize| (code(j) as i32).clamp(0, (1 << BITS) - 1) as u8;
    for (j, byte) in nibbles.iter_mut().enumerate() {
        let (low, high) = (code(j), code(j + 16));
        *byte = low & 15 | high << 4;
        if BITS == 5 {
            fifth[j / 8] |= (low >> 4) << (j % 8);
            fifth[j / 8 + 2] |= (high >> 4) << (j % 8);
        }
    }
}
