//! A tensor of one value.

use consort_core::{DType, Result, Shape, to_bf16, to_f16};
use half::{bf16, f16};

use crate::{
    Simd,
    storage::{Buffer, Item, filled, misfit},
    strided::GRAIN,
};

/// A tensor of `value`, rounded to `dtype`.
pub(crate) fn fill(simd: &Simd, shape: &Shape, value: f64, dtype: DType) -> Result<Buffer> {
    let elements = shape.elements();
    match dtype {
        DType::F32 => typed::<f32>(simd, elements, value as f32),
        DType::F16 => typed::<f16>(simd, elements, to_f16(value)),
        DType::BF16 => typed::<bf16>(simd, elements, to_bf16(value)),
        DType::U32 => typed::<u32>(simd, elements, value as u32),
        DType::F64 => Err(misfit("this backend does not hold f64")),
    }
}

fn typed<T: Item>(simd: &Simd, elements: usize, value: T) -> Result<Buffer> {
    let mut out = simd.pool.take::<T>(elements)?;
    simd.team.rows(filled(&mut out)?, 1, GRAIN, |_, out| out.fill(value));
    Ok(out)
}
