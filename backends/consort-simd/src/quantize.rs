//! Activations as whole numbers and scales, block by block, as
//! [`consort_core::decompose::quantize_activations`] defines them to the bit.

use consort_core::{
    Outputs, Result, Tensor,
    decompose::{ACTIVATION_BLOCK, LEAST_ACTIVATION},
};
use smallvec::smallvec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, Rows, filled},
    strided::GRAIN,
    team::Parts,
};

/// The greatest code.
const MOST: f32 = 127.0;
/// Lanes of the widest set.
const MOST_LANES: usize = 16;

/// Codes `[T, D]` in f32 and scales `[T, ⌈D/32⌉]`.
pub(crate) fn quantize_activations(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let width = x.size(1);
    let blocks = width.div_ceil(ACTIVATION_BLOCK);
    let rows = simd.rows(x, width)?;
    let mut codes = simd.pool.take::<f32>(rows.count * width)?;
    let mut scales = simd.pool.take::<f32>(rows.count * blocks)?;
    let (all_codes, all_scales) = (Parts::new(filled::<f32>(&mut codes)?), Parts::new(filled::<f32>(&mut scales)?));
    simd.team.ranges(rows.count, GRAIN / width.max(1), |range| {
        // SAFETY: rows of different tasks do not meet.
        let codes = unsafe { all_codes.part(range.start * width..range.end * width) };
        // SAFETY: as above.
        let scales = unsafe { all_scales.part(range.start * blocks..range.end * blocks) };
        simd.level.run(Quantize { rows, first: range.start, codes, scales });
    });
    Ok(smallvec![codes, scales])
}

struct Quantize<'a> {
    rows: Rows<'a>,
    first: usize,
    codes: &'a mut [f32],
    scales: &'a mut [f32],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { rows, first, codes, scales } = self;
        let blocks = rows.width.div_ceil(ACTIVATION_BLOCK);
        let of_rows = codes.chunks_exact_mut(rows.width.max(1)).zip(scales.chunks_exact_mut(blocks.max(1)));
        for (index, (codes, scales)) in of_rows.enumerate() {
            let x = rows.row(first + index).chunks(ACTIVATION_BLOCK);
            for ((x, codes), scale) in x.zip(codes.chunks_mut(ACTIVATION_BLOCK)).zip(scales) {
                let factor = factors(isa, x, scale);
                block(isa, x, factor, 1.0, codes);
            }
        }
    }
}

/// `scale · code` `[T, D]`: what [`dequantize_activations`](consort_core::decompose::dequantize_activations) gives of both.
pub(crate) fn quantized(simd: &Simd, rows: Rows<'_>) -> Result<Buffer> {
    let mut out = simd.pool.take::<f32>(rows.count * rows.width)?;
    simd.team.rows(filled(&mut out)?, rows.width, GRAIN / rows.width.max(1), |first, out| {
        simd.level.run(Quantized { rows, first, out });
    });
    Ok(out)
}

struct Quantized<'a> {
    rows: Rows<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Quantized<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        for (index, out) in self.out.chunks_exact_mut(self.rows.width.max(1)).enumerate() {
            let x = self.rows.row(self.first + index).chunks(ACTIVATION_BLOCK);
            for (x, out) in x.zip(out.chunks_mut(ACTIVATION_BLOCK)) {
                let mut scale = 0.0;
                let factor = factors(isa, x, &mut scale);
                block(isa, x, factor, scale, out);
            }
        }
    }
}

/// The codes of a block, each times `scale`.
#[inline(always)]
fn block<S: Isa>(isa: S, x: &[f32], factor: Option<f32>, scale: f32, out: &mut [f32]) {
    let Some(factor) = factor else { return out.fill(0.0 * scale) };
    let (factor, scale) = (isa.splat(factor), isa.splat(scale));
    for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        isa.write(out, isa.mul(isa.round(isa.mul(isa.read(x), factor)), scale));
    }
}

/// A row's codes as bytes, and a scale for each block of 32 of them, of which the last may have fewer.
#[inline(always)]
pub(crate) fn quantize_row<S: Isa>(isa: S, x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    let blocks = x.chunks(ACTIVATION_BLOCK).zip(codes.chunks_mut(ACTIVATION_BLOCK));
    for ((x, codes), scale) in blocks.zip(scales) {
        let Some(factor) = factors(isa, x, scale) else {
            codes.fill(0);
            continue;
        };
        let factor = isa.splat(factor);
        for (x, codes) in x.chunks(S::LANES).zip(codes.chunks_mut(S::LANES)) {
            let mut whole = [0; MOST_LANES];
            // SAFETY: there is room for the lanes of the widest set.
            unsafe { isa.store_i(whole.as_mut_ptr(), isa.to_i(isa.mul(isa.read(x), factor))) };
            for (code, whole) in codes.iter_mut().zip(whole) {
                *code = whole as i8;
            }
        }
    }
}

/// Sets the scale of a block; gives what its elements times are its codes, `None` where these are all 0.
#[inline(always)]
fn factors<S: Isa>(isa: S, x: &[f32], scale: &mut f32) -> Option<f32> {
    let mut most = isa.zero();
    // NaN from where an element is not finite.
    let mut nothing = isa.zero();
    for x in x.chunks(S::LANES) {
        let x = isa.read(x);
        most = isa.max(isa.abs(x), most);
        nothing = isa.mul_add(x, isa.zero(), nothing);
    }
    let most = isa.greatest(most);
    if isa.any(isa.unordered(nothing, nothing)) {
        *scale = f32::NAN;
        None
    } else if most < LEAST_ACTIVATION as f32 {
        *scale = 0.0;
        None
    } else {
        *scale = most / MOST;
        Some(MOST / most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Level;

    struct Bytes<'a>(&'a [f32], &'a mut [i8], &'a mut [f32]);

    impl Kernel for Bytes<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Isa>(self, isa: S) {
            quantize_row(isa, self.0, self.1, self.2);
        }
    }

    #[test]
    fn bytes_are_the_codes() {
        for level in Level::available() {
            for width in 1..70 {
                let mut x: Vec<f32> = (0..width).map(|i| ((i * 37 % 29) as f32 - 14.0) * 0.37).collect();
                if width == 40 {
                    x[33] = f32::INFINITY;
                }
                let (mut codes, mut scales) = (vec![99; width], vec![9.0; width.div_ceil(ACTIVATION_BLOCK)]);
                level.run(Bytes(&x, &mut codes, &mut scales));
                for (index, &code) in codes.iter().enumerate() {
                    let block = &x[index / 32 * 32..width.min(index / 32 * 32 + 32)];
                    let most = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                    let scale = scales[index / 32];
                    if most == f32::INFINITY {
                        assert!(scale.is_nan() && code == 0);
                    } else if most == 0.0 {
                        assert!(scale == 0.0 && code == 0);
                    } else {
                        assert_eq!(scale, most / 127.0);
                        assert_eq!(f32::from(code), (x[index] * (127.0 / most)).round_ties_even(), "{level:?} {width}");
                    }
                }
            }
        }
    }
}
