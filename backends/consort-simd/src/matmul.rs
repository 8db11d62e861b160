//! `[…, M, K] · […, K, N] → […, M, N]`, leading dimensions broadcast.

use consort_core::{Compute, DType, Result, Tensor, backend::Spec};

use crate::{
    Simd, copy,
    gemm::{Epilogue, Matrix},
    linear::general,
    storage::{Buffer, filled},
};

pub(crate) fn matmul(simd: &Simd, a: &mut Tensor<Buffer>, b: &mut Tensor<Buffer>, out: &Spec) -> Result<Buffer> {
    if out.dtype != DType::F32 {
        // Halves are multiplied in f32 and rounded.
        let wide = |x: &mut Tensor<Buffer>| -> Result<Tensor<Buffer>> {
            Ok(Tensor::new(copy::copy(simd, x, DType::F32)?, *x.shape(), DType::F32))
        };
        let (mut wide_a, mut wide_b) = (wide(a)?, wide(b)?);
        let spec = Spec { shape: out.shape, dtype: DType::F32 };
        let product = matmul(simd, &mut wide_a, &mut wide_b, &spec)?;
        return copy::copy(simd, &mut Tensor::new(product, out.shape, DType::F32), out.dtype);
    }
    let sizes = out.shape.sizes();
    let rank = sizes.len();
    let (rows, columns) = (sizes[rank - 2], sizes[rank - 1]);
    let batch = &sizes[..rank - 2];
    let (a, b) = (Batched::new(a, batch)?, Batched::new(b, batch)?);
    let mut result = simd.pool.take::<f32>(out.shape.elements())?;
    for (index, to) in filled::<f32>(&mut result)?.chunks_exact_mut(rows * columns).enumerate() {
        general(simd, a.matrix(index, batch), b.matrix(index, batch), Compute::F32, to, &Epilogue::default())?;
    }
    Ok(result)
}

/// Matrices of a tensor, by their number among broadcast leading dimensions.
struct Batched<'a> {
    whole: Matrix<'a>,
    /// Of the leading dimensions, as many as `batch` has; 0 where broadcast.
    strides: [usize; 6],
}

impl<'a> Batched<'a> {
    fn new(x: &'a Tensor<Buffer>, batch: &[usize]) -> Result<Self> {
        let layout = x.layout();
        let (sizes, own) = (layout.shape().sizes(), layout.strides());
        let lead = sizes.len() - 2;
        let mut strides = [0; 6];
        for axis in 0..lead {
            if sizes[axis] > 1 {
                strides[batch.len() - lead + axis] = own[axis];
            }
        }
        let elements = x.buffer.elements::<f32>()?.get(layout.offset()..).unwrap_or(&[]);
        let [row_stride, column_stride] = [own[lead], own[lead + 1]];
        let whole = Matrix { elements, rows: sizes[lead], columns: sizes[lead + 1], row_stride, column_stride };
        Ok(Self { whole, strides })
    }

    fn matrix(&self, index: usize, batch: &[usize]) -> Matrix<'a> {
        let mut rest = index;
        let mut offset = 0;
        for (axis, &size) in batch.iter().enumerate().rev() {
            offset += rest % size * self.strides[axis];
            rest /= size;
        }
        Matrix { elements: &self.whole.elements[offset..], ..self.whole }
    }
}
