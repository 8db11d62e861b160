//! Activations as whole numbers and scales, block by block: what products in int8 are products of.
//!
//! Every step is rounded to f32 once, whatever the backend computes in, so that codes and scales are the same bits on every
//! backend with IEEE arithmetic, the oracle in f64 included: of numbers of f32, a sum, product, quotient or root that was
//! rounded to f64 first gives the same f32 (Figueroa 1995), as long as that is a normal number.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::{BinaryKind, ReduceKind, UnaryKind},
};

/// Neighbours that share a scale; the last block of a row may have fewer.
pub const ACTIVATION_BLOCK: usize = 32;
/// The greatest code.
const MOST: f64 = 127.0;

/// A block whose greatest magnitude is below is taken for zeros: 2⁻¹⁰⁰. From there on `127/m` is far from overflow and the
/// scale far from what a device may take for zero, while what is so small beside ordinary activations says nothing. A
/// denormal in such a block has code 0, flushed or not.
pub const LEAST_ACTIVATION: f64 = 1.0 / (1u128 << 100) as f64;

/// Codes `[T, D]`, whole numbers from −127 to 127 in the float type, and scales `[T, ⌈D/32⌉]`. With m the greatest `|x|` of a
/// block, x rounded to f32:
///
/// ```text
/// m < 2⁻¹⁰⁰      scale 0, codes 0
/// m finite       scale m/127, code x·(127/m) to the nearest whole number, ties to even
/// NaN, infinity  scale NaN, codes 0: what is multiplied with the block is NaN
/// ```
///
/// Which zero a code of 0 is, is open: a whole number has no sign there.
///
/// # Errors
/// What the primitives meet.
pub fn quantize_activations<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Result<[TensorOf<B>; 2]> {
    let [rows, width] = [x.size(0), x.size(1)];
    let blocks = width.div_ceil(ACTIVATION_BLOCK);
    let whole = match width % ACTIVATION_BLOCK {
        0 => x.clone(),
        _ => device.write(device.fill(&[rows, blocks * ACTIVATION_BLOCK], 0.0)?, x.clone(), &[0, 0])?,
    };
    let x = single(device, device.reshape(&whole, &[rows, blocks, ACTIVATION_BLOCK])?)?;
    let magnitude = device.binary(x.clone(), device.unary(x.clone(), UnaryKind::Negate)?, BinaryKind::Maximum)?;
    let greatest = device.reduce(&magnitude, 2, ReduceKind::Maximum)?; // [T, N, 1]

    let zero = device.fill(&[1], 0.0)?;
    let most = device.fill(&[1], MOST)?;
    // 0 where m is finite, NaN elsewhere.
    let nothing = device.multiply(greatest.clone(), zero.clone())?;
    let finite = device.binary(nothing.clone(), zero.clone(), BinaryKind::Equal)?;
    let small = device.binary(greatest.clone(), device.fill(&[1], LEAST_ACTIVATION)?, BinaryKind::Less)?;

    let inverse = single(device, device.divide(most.clone(), greatest.clone())?)?;
    let codes = device.unary(single(device, device.multiply(x, inverse)?)?, UnaryKind::Round)?;
    let codes = device.select(finite, codes, zero.clone())?;
    let codes = device.select(small.clone(), zero.clone(), codes)?;
    let codes = device.reshape(&codes, &[rows, blocks * ACTIVATION_BLOCK])?.slice(1, 0, width)?;

    let scales = device.add(single(device, device.divide(greatest, most)?)?, nothing)?;
    let scales = device.reshape(&device.select(small, zero, scales)?, &[rows, blocks])?;
    Ok([device.contiguous(&codes)?, scales])
}

/// `scale · code` `[T, D]`, rounded once: the activations that a product in int8 is of.
///
/// # Errors
/// What the primitives meet.
pub fn dequantize_activations<B: Backend>(
    device: &Device<B>,
    codes: TensorOf<B>,
    scales: &TensorOf<B>,
) -> Result<TensorOf<B>> {
    let [rows, width, blocks] = [codes.size(0), codes.size(1), scales.size(1)];
    let scales = device.reshape(scales, &[rows, blocks, 1])?.broadcast_to(&[rows, blocks, ACTIVATION_BLOCK])?;
    let scales = device.reshape(&scales, &[rows, blocks * ACTIVATION_BLOCK])?.slice(1, 0, width)?;
    device.multiply(codes, scales)
}

fn single<B: Backend>(device: &Device<B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
    device.unary(x, UnaryKind::Single)
}
