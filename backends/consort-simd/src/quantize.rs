//! Not native yet.

use consort_core::{Outputs, Result, Tensor, unsupported};

use crate::{Simd, storage::Buffer};

pub(crate) fn quantize_activations(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    let _ = (x);
    Err(unsupported(simd, "quantize_activations"))
}

/// Codes and scales of a row.
#[inline(always)]
pub(crate) fn quantize_row<S: crate::isa::Isa>(_isa: S, x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    for ((x, codes), scale) in x.chunks(32).zip(codes.chunks_mut(32)).zip(scales) {
        let most = x.iter().fold(0f32, |most, x| if x.abs() > most || x.is_nan() { x.abs() } else { most });
        if !most.is_finite() {
            *scale = f32::NAN;
            codes.fill(0);
        } else if most < 2f32.powi(-100) {
            *scale = 0.0;
            codes.fill(0);
        } else {
            *scale = most / 127.0;
            let inverse = 127.0 / most;
            codes.iter_mut().zip(x).for_each(|(code, x)| *code = (x * inverse).round_ties_even() as i8);
        }
    }
}

/// `scale · code`.
pub(crate) fn quantized(simd: &Simd, x: crate::storage::Rows<'_>) -> Result<Buffer> {
    let mut out = simd.pool.take::<f32>(x.count * x.width)?;
    let mut codes = vec![0i8; x.width];
    let mut scales = vec![0f32; x.width.div_ceil(32)];
    for (row, to) in crate::storage::filled::<f32>(&mut out)?.chunks_mut(x.width).enumerate() {
        simd.level.run(Q(x.row(row), &mut codes, &mut scales));
        for (i, to) in to.iter_mut().enumerate() {
            *to = f32::from(codes[i]) * scales[i / 32];
        }
    }
    Ok(out)
}
struct Q<'a>(&'a [f32], &'a mut [i8], &'a mut [f32]);
impl crate::isa::Kernel for Q<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: crate::isa::Isa>(self, isa: S) {
        quantize_row(isa, self.0, self.1, self.2);
    }
}
