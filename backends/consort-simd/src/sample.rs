//! Choosing tokens from logits, by the core's definition.

use std::sync::{Mutex, PoisonError};

use consort_core::{
    Outputs, Result, Tensor,
    sample::{SampleRow, sample_row},
};
use smallvec::smallvec;

use crate::{
    Simd,
    reduce::argmax,
    storage::{Buffer, filled, misfit},
    team::Parts,
};

/// One token for each row of `logits` `[R, V]`.
pub(crate) fn sample(simd: &Simd, logits: &mut Tensor<Buffer>, settings: &[SampleRow]) -> Result<Outputs<Buffer>> {
    let width = logits.size(1);
    let rows = simd.rows(logits, width)?;
    if settings.len() != rows.count {
        return Err(misfit(format!("settings of {} rows for {}", settings.len(), rows.count)));
    }
    let mut out = match settings.iter().any(takes_greatest) {
        true => argmax(simd, &rows)?,
        false => simd.pool.take::<u32>(rows.count)?,
    };
    let tokens = filled::<u32>(&mut out)?;
    let mut drawn = 0;
    for (index, (token, settings)) in tokens.iter_mut().zip(settings).enumerate() {
        // What is no number to choose is an error that the core words.
        let chosen = takes_greatest(settings) && rows.row(index)[*token as usize].is_finite();
        *token = if chosen { *token } else { u32::MAX };
        drawn += usize::from(!chosen);
    }
    if drawn == 0 {
        return Ok(smallvec![out]);
    }
    let tokens = Parts::new(tokens);
    let failed = Mutex::new(None);
    simd.team.each(rows.count, |index| {
        // SAFETY: each task has a row of its own.
        let token = unsafe { &mut tokens.part(index..index + 1)[0] };
        if *token != u32::MAX {
            return;
        }
        let logits: Vec<f64> = rows.row(index).iter().copied().map(f64::from).collect();
        match sample_row(&logits, &settings[index]) {
            Ok(choice) => *token = choice.token,
            Err(error) => {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(smallvec![out]),
        Some((_, error)) => Err(error),
    }
}

/// Whether the row's choice is its greatest logit as it is.
fn takes_greatest(row: &SampleRow) -> bool {
    row.temperature == 0.0 && row.repetition_penalty == 1.0 && row.suppressed.is_empty()
}
