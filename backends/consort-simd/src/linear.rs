//! Products with packed weights, and their backwards.
//!
//! In f32 a weight's values are widened a chunk at a time on their way to the tile, whatever they are kept as. In bf16 both
//! operands are pairs. In int8 block formats are multiplied as codes; other weights take the quantised activations as numbers.

use consort_core::{Compute, Outputs, Result, Tensor, WeightDType, WeightOf, WeightStore, config::Activation};
use smallvec::smallvec;

use crate::{
    Simd,
    gemm::{Epilogue, Left, Matrix, PANEL, Panels, Quantized, Strided, int8_product, product},
    isa::Isa,
    packed::{Bf16, Packed, Rounded, with_blocks, with_panels},
    quantize::quantized,
    storage::{Buffer, Rows, filled},
};

#[allow(clippy::too_many_arguments, reason = "the operands of the operation")]
pub(crate) fn linear(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &WeightOf<Simd>,
    bias: &mut Option<Tensor<Buffer>>,
    activation: Option<Activation>,
    residual: &mut Option<Tensor<Buffer>>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let x = simd.rows(x, inputs)?;
    let mut out = simd.pool.take::<f32>(x.count * outputs)?;
    let bias = bias.as_mut().map(|bias| simd.rows(bias, outputs)).transpose()?;
    let residual = residual.as_mut().map(|residual| simd.rows(residual, outputs)).transpose()?;
    let epilogue = Epilogue { bias: bias.map(|bias| bias.row(0)), activation, residual };
    let to = filled::<f32>(&mut out)?;
    match weight.store() {
        WeightStore::Packed(packed) => match (compute, packed.dtype) {
            (Compute::BF16, WeightDType::BF16) => {
                product(simd, &Left::new(simd, matrix(x), true)?, &Bf16(packed), outputs, to, &epilogue)?;
            }
            (Compute::BF16, _) => {
                let left = Left::new(simd, matrix(x), true)?;
                with_panels!(packed, |panels| product(simd, &left, &Rounded(panels, inputs), outputs, to, &epilogue)?);
            }
            (Compute::Int8, dtype) if dtype.block() > 1 => {
                with_blocks!(packed, |panels| {
                    let left = Quantized::new(simd, x, panels)?;
                    int8_product(simd, &left, panels, outputs, to, &epilogue);
                });
            }
            (Compute::Int8, _) => {
                let rounded = quantized(simd, x)?;
                let matrix = dense(rounded.elements()?, x.count, inputs);
                let left = Left::new(simd, matrix, false)?;
                with_panels!(packed, |panels| product(simd, &left, panels, outputs, to, &epilogue)?);
            }
            (Compute::F32, _) => {
                let left = Left::new(simd, matrix(x), false)?;
                with_panels!(packed, |panels| product(simd, &left, panels, outputs, to, &epilogue)?);
            }
        },
        WeightStore::Plain(plain) => {
            let right = tensor_matrix(plain)?.transposed();
            let rounded = match compute {
                Compute::Int8 => Some(quantized(simd, x)?),
                _ => None,
            };
            let left = match &rounded {
                Some(rounded) => dense(rounded.elements()?, x.count, inputs),
                None => matrix(x),
            };
            general(simd, left, right, compute, to, &epilogue)?;
        }
    }
    Ok(smallvec![out])
}

/// `d_y · W`.
pub(crate) fn linear_backward_input(
    simd: &Simd,
    d_y: &mut Tensor<Buffer>,
    weight: &WeightOf<Simd>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let d_y = simd.rows(d_y, outputs)?;
    let mut out = simd.pool.take::<f32>(d_y.count * inputs)?;
    let to = filled::<f32>(&mut out)?;
    let epilogue = Epilogue::default();
    let pairs = compute == Compute::BF16;
    match weight.store() {
        WeightStore::Packed(packed) => {
            let left = Left::new(simd, matrix(d_y), pairs)?;
            with_panels!(packed, |panels| {
                let across = Across { panels, packed };
                match pairs {
                    true => product(simd, &left, &Rounded(&across, outputs), inputs, to, &epilogue)?,
                    false => product(simd, &left, &across, inputs, to, &epilogue)?,
                }
            });
        }
        WeightStore::Plain(plain) => general(simd, matrix(d_y), tensor_matrix(plain)?, compute, to, &epilogue)?,
    }
    Ok(smallvec![out])
}

/// `d_yᵀ · x`.
pub(crate) fn linear_backward_weight(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    compute: Compute,
) -> Result<Outputs<Buffer>> {
    let (inputs, outputs) = (x.size(1), d_y.size(1));
    let x = matrix(simd.rows(x, inputs)?);
    let d_y = matrix(simd.rows(d_y, outputs)?);
    let mut out = simd.pool.take::<f32>(outputs * inputs)?;
    general(simd, d_y.transposed(), x, compute, filled::<f32>(&mut out)?, &Epilogue::default())?;
    Ok(smallvec![out])
}

/// A product of two matrices in memory.
pub(crate) fn general(
    simd: &Simd,
    left: Matrix<'_>,
    right: Matrix<'_>,
    compute: Compute,
    to: &mut [f32],
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    match compute {
        Compute::BF16 => {
            product(simd, &Left::new(simd, left, true)?, &Strided::<true>(right), right.columns, to, epilogue)
        }
        _ => product(simd, &Left::new(simd, left, false)?, &Strided::<false>(right), right.columns, to, epilogue),
    }
}

/// Rows as a matrix.
fn matrix(x: Rows<'_>) -> Matrix<'_> {
    Matrix { elements: x.elements(), rows: x.count, columns: x.width, row_stride: x.stride(), column_stride: 1 }
}

fn dense(elements: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix { elements, rows, columns, row_stride: columns, column_stride: 1 }
}

/// A tensor of two dimensions as a matrix.
///
/// # Errors
/// For a buffer of another type.
pub(crate) fn tensor_matrix(x: &Tensor<Buffer>) -> Result<Matrix<'_>> {
    let layout = x.layout();
    let elements = x.buffer.elements::<f32>()?.get(layout.offset()..).unwrap_or(&[]);
    let [row_stride, column_stride] = [layout.strides()[0], layout.strides()[1]];
    Ok(Matrix { elements, rows: x.size(0), columns: x.size(1), row_stride, column_stride })
}

/// A packed weight the other way round: panels of inputs, steps of outputs.
struct Across<'a, P> {
    panels: &'a P,
    packed: &'a Packed,
}

impl<P: Panels> Panels for Across<'_, P> {
    const PAIRS: bool = false;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(
        &'a self,
        isa: S,
        panel: usize,
        range: std::ops::Range<usize>,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let inputs = panel * PANEL..((panel + 1) * PANEL).min(self.packed.inputs);
        let mut wide = [0f32; PANEL * PANEL];
        let to = &mut scratch[..range.len() * PANEL];
        for (of, to) in (range.start / PANEL..).zip(to.chunks_mut(PANEL * PANEL)) {
            let values = self.panels.chunk(isa, of, inputs.clone(), &mut wide); // [inputs, outputs]
            for (lane, to) in to.chunks_exact_mut(PANEL).enumerate() {
                for (input, to) in to.iter_mut().enumerate() {
                    *to = values.get(input * PANEL + lane).copied().unwrap_or(0.0);
                }
            }
        }
        to
    }
}
