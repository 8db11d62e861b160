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
    let mut out = argmax(simd, &rows)?;
    let tokens = filled::<u32>(&mut out)?;
    if settings.iter().enumerate().all(|(index, settings)| is_chosen(rows.row(index), tokens[index], settings)) {
        return Ok(smallvec![out]);
    }
    let tokens = Parts::new(tokens);
    let failed = Mutex::new(None);
    simd.team.each(rows.count, |index| {
        // SAFETY: each task has a row of its own.
        let token = unsafe { &mut tokens.part(index..index + 1)[0] };
        if is_chosen(rows.row(index), *token, &settings[index]) {
            return;
        }
        match draw(rows.row(index), *token, &settings[index]) {
            Ok(drawn) => *token = drawn,
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

/// Whether the row's choice is its greatest logit as it is. What is no number to choose is an error that the core words.
fn is_chosen(logits: &[f32], greatest: u32, row: &SampleRow) -> bool {
    row.temperature == 0.0 && is_plain(row) && logits[greatest as usize].is_finite()
}

/// Whether logits are taken as they are.
fn is_plain(row: &SampleRow) -> bool {
    row.repetition_penalty == 1.0 && row.suppressed.is_empty()
}

/// A token as the core draws it: of all, or where the most likely k alone count, of as many at least that lie close below the
/// greatest, in ascending order, which gives the same.
fn draw(logits: &[f32], greatest: u32, row: &SampleRow) -> Result<u32> {
    let most = logits[greatest as usize];
    if row.top_k > 0 && is_plain(row) && most.is_finite() {
        for distance in [8.0, 32.0] {
            let least = most - distance * row.temperature as f32;
            let close = logits.iter().filter(|logit| **logit >= least).count();
            if (row.top_k..=logits.len() / 8).contains(&close) {
                let (ids, logits): (Vec<usize>, Vec<f64>) =
                    logits.iter().enumerate().filter(|(_, x)| **x >= least).map(|(id, x)| (id, f64::from(*x))).unzip();
                return Ok(ids[sample_row(&logits, row)?.token as usize] as u32);
            }
        }
    }
    let logits: Vec<f64> = logits.iter().copied().map(f64::from).collect();
    Ok(sample_row(&logits, row)?.token)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use consort_core::{Backend, DType, HostData, Shape};

    use super::*;
    use crate::isa::Level;

    #[test]
    fn few_that_are_close_give_what_all_give() {
        let simd = Simd::new(Level::best(), 2);
        let (rows, width) = (200, 3000);
        // Many are tied.
        let logits: Vec<f32> = (0..rows * width).map(|i| ((i * 7919 + i / 7 * 31) % 257) as f32 * 0.125).collect();
        for (top_k, temperature) in [(1, 0.5), (7, 0.1), (40, 0.7), (2999, 1.0), (5000, 2.0), (40, 1e-3)] {
            for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.1)] {
                let settings: Arc<[SampleRow]> = (0..rows as u64)
                    .map(|seed| SampleRow { temperature, top_k, top_p, min_p, seed, ..SampleRow::greedy() })
                    .collect();
                let shape = Shape::new(&[rows, width]).unwrap();
                let mut x = Tensor::new(simd.upload(HostData::F32(logits.clone())).unwrap(), shape, DType::F32);
                let found = sample(&simd, &mut x, &settings).unwrap();
                let found = found[0].elements::<u32>().unwrap();
                for ((logits, row), found) in logits.chunks(width).zip(settings.iter()).zip(found) {
                    let logits: Vec<f64> = logits.iter().copied().map(f64::from).collect();
                    assert_eq!(*found, sample_row(&logits, row).unwrap().token, "{top_k} {temperature}");
                }
            }
        }
    }
}
