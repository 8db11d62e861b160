//! Position biases by distance `key − query`: a row of scores takes them as they lie, whatever their kind.

use std::{cell::RefCell, ops::Range};

use consort_core::{DType, Error, Result, Tensor, operation::ScoreBias, positions::relative_bucket};

use crate::{
    Simd,
    storage::{Buffer, filled, misfit},
    team::Parts,
};

/// Before and after the distances that are seen: as many as lanes of a register that reaches over them.
const PAD: usize = 16;
/// Distances times heads that are held at most.
const MOST: usize = 1 << 28;

/// A number for each distance that is seen, in rows: biases of heads, or their gradients.
pub(crate) struct Distances {
    buffer: Buffer,
    seen: Range<i64>,
    /// Entries of a row.
    stride: usize,
}

impl Distances {
    /// Biases of each head at distances in `seen`; `None` where there is no bias, or where nothing is seen.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Unsupported`] for positions absurdly far from each other.
    pub(crate) fn new(
        simd: &Simd,
        bias: Option<&Tensor<Buffer>>,
        kind: ScoreBias,
        heads: usize,
        seen: Range<i64>,
    ) -> Result<Option<Self>> {
        let Some(bias) = bias.filter(|_| !seen.is_empty()) else { return Ok(None) };
        let stride = stride(heads, &seen)?;
        let elements = bias.buffer.elements::<f32>()?;
        let layout = bias.layout();
        let element = |index: &[usize]| -> Result<f32> {
            let place = index.iter().zip(layout.strides()).map(|(index, stride)| index * stride).sum::<usize>();
            elements.get(layout.offset() + place).copied().ok_or_else(|| misfit("a bias beyond its buffer"))
        };
        let mut buffer = simd.pool.take::<f32>(heads * stride)?;
        for (head, row) in filled::<f32>(&mut buffer)?.chunks_exact_mut(stride).enumerate() {
            row.fill(0.0);
            let row = &mut row[PAD..stride - PAD];
            match kind {
                ScoreBias::Linear => {
                    let slope = element(&[head])?;
                    row.iter_mut().zip(seen.clone()).for_each(|(to, distance)| *to = slope * distance as f32);
                }
                ScoreBias::Relative { .. } => bucket_of(kind, &seen, |bucket| {
                    row.iter_mut().zip(seen.clone()).try_for_each(|(to, distance)| {
                        *to = element(&[bucket(distance), head])?;
                        Ok(())
                    })
                })?,
                ScoreBias::None => return Err(misfit("a bias of no kind")),
            }
        }
        Ok(Some(Self { buffer, seen, stride }))
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn zeros(simd: &Simd, rows: usize, seen: Range<i64>) -> Result<Self> {
        let stride = stride(rows, &seen)?;
        Ok(Self { buffer: simd.pool.zeros(DType::F32, rows * stride)?, seen, stride })
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn seen(&self) -> Range<i64> {
        self.seen.clone()
    }

    pub(crate) fn rows(&self) -> Result<usize> {
        Ok(self.buffer.elements::<f32>()?.len() / self.stride)
    }

    /// All rows, to be added to.
    pub(crate) fn parts(&mut self) -> Result<Parts<f32>> {
        Ok(Parts::new(filled(&mut self.buffer)?))
    }

    /// Distances of a row, going up, and what is there.
    pub(crate) fn row(&self, row: usize) -> Result<impl Iterator<Item = (i64, f32)>> {
        let (row, _) = self.of_head(row)?;
        Ok(self.seen.clone().zip(row[PAD..].iter().copied()))
    }

    /// A head's, and where in it distance 0 would be.
    pub(crate) fn of_head(&self, head: usize) -> Result<(&[f32], i64)> {
        let row = self.buffer.elements::<f32>()?.get(head * self.stride..(head + 1) * self.stride);
        Ok((row.ok_or_else(|| misfit("a head without biases"))?, PAD as i64 - self.seen.start))
    }
}

/// Entries a head for distances in `seen`, with room on both sides.
///
/// # Errors
/// [`Error::Unsupported`] where they are too many.
fn stride(heads: usize, seen: &Range<i64>) -> Result<usize> {
    let span = usize::try_from(seen.end.saturating_sub(seen.start)).unwrap_or(0);
    if span > MOST / heads.max(1) {
        let reason = "positions are too far from each other";
        return Err(Error::Unsupported { backend: "simd", operation: "attention", form: None, reason });
    }
    Ok((span + 2 * PAD).next_multiple_of(16))
}

/// Buckets of distances, computed once a thread as long as the kind stays the same.
pub(crate) fn bucket_of<T>(kind: ScoreBias, seen: &Range<i64>, run: impl FnOnce(&dyn Fn(i64) -> usize) -> T) -> T {
    thread_local! {
        static BUCKETS: RefCell<(ScoreBias, Vec<u32>)> = const { RefCell::new((ScoreBias::None, Vec::new())) };
    }
    let ScoreBias::Relative { bidirectional, buckets, max_distance } = kind else { return run(&|_| 0) };
    // From `max_distance` on all share a bucket, on either side.
    let far = (max_distance as i64).max(0).min(seen.start.unsigned_abs().max(seen.end.unsigned_abs()) as i64);
    BUCKETS.with_borrow_mut(|(known, table)| {
        if *known != kind {
            (*known, *table) = (kind, Vec::new());
        }
        let bucket = |distance| relative_bucket(distance, bidirectional, buckets, max_distance) as u32;
        // Entry 2d is of distance d, 2d − 1 of −d.
        for magnitude in table.len().div_ceil(2) as i64..=far {
            if magnitude > 0 {
                table.push(bucket(-magnitude));
            }
            table.push(bucket(magnitude));
        }
        run(&|distance: i64| {
            let near = distance.clamp(-far, far);
            table[2 * near.unsigned_abs() as usize - usize::from(near < 0)] as usize
        })
    })
}
