//! Rows of a packed table, read from the panels that a tied head multiplies with.

use consort_core::{Outputs, Result, Tensor, WeightOf, WeightStore};
use smallvec::smallvec;

use crate::{
    Simd, copy,
    storage::{Buffer, contiguous, filled, misfit},
    team::Parts,
};

/// Rows `ids` of the weight; an id beyond it gives zeros.
pub(crate) fn embedding(simd: &Simd, weight: &WeightOf<Simd>, ids: &mut Tensor<Buffer>) -> Result<Outputs<Buffer>> {
    if contiguous::<u32>(ids)?.is_none() {
        *ids = Tensor::new(copy::copy(simd, ids, ids.dtype())?, *ids.shape(), ids.dtype());
    }
    let ids = contiguous::<u32>(ids)?.ok_or_else(|| misfit("ids that do not lie together"))?;
    let inputs = weight.inputs();
    let mut out = simd.pool.take::<f32>(ids.len() * inputs)?;
    let to = Parts::new(filled::<f32>(&mut out)?);
    simd.team.ranges(ids.len(), 1 + 4096 / inputs.max(1), |range| {
        for index in range {
            // SAFETY: rows do not meet.
            let to = unsafe { to.part(index * inputs..(index + 1) * inputs) };
            let row = ids[index] as usize;
            match weight.store() {
                WeightStore::Packed(packed) => packed.read_row(simd, row, to),
                WeightStore::Plain(plain) => match crate::linear::tensor_matrix(plain) {
                    Ok(matrix) if row < matrix.rows => {
                        to.iter_mut().enumerate().for_each(|(input, to)| *to = matrix.at(row, input));
                    }
                    _ => to.fill(0.0),
                },
            }
        }
    });
    Ok(smallvec![out])
}
