//! Choosing tokens from logits, by the core's definition.

use consort_core::{
    Result, Tensor,
    sample::{SampleRow, sample_row},
};

use crate::{
    element::Element,
    misfit,
    storage::{Buffer, Storage, view},
};

/// One token for each row of `logits` `[R, V]`.
pub(crate) fn sample<E: Element>(logits: &Tensor<Buffer<E>>, rows: &[SampleRow]) -> Result<Storage<E>> {
    let logits = view::<E, E>(logits)?;
    if logits.ndim() != 2 {
        return Err(misfit("sample", format!("logits {:?}", logits.shape())));
    }
    let tokens = logits.outer_iter().zip(rows).map(|(logits, row)| {
        let logits: Vec<f64> = logits.iter().map(|logit| logit.to_f64()).collect();
        Ok(sample_row(&logits, row)?.token)
    });
    Ok(Storage::U32(tokens.collect::<Result<_>>()?))
}
