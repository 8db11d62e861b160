//! Weights encoded piece by piece, by several threads, in order.

use std::{panic::resume_unwind, thread};

use consort_core::{StoredTensor, WeightDType};

use crate::error::{Error, printable};

/// Elements of a piece, about: some MiB, so that threads have work and memory stays small.
const PIECE: usize = 1 << 20;

/// The bytes of `parts`, one after the other, kept as `dtype`, given to `sink` in order.
///
/// # Errors
/// [`Error::Malformed`] for elements that are not finite or rows that are no whole blocks; what `sink` gives.
pub(super) fn encode(
    file: &str,
    parts: &[StoredTensor],
    dtype: WeightDType,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut pieces = Vec::new();
    for part in parts {
        let [outputs, inputs] = part.shape();
        let rows = (PIECE / inputs.max(1)).max(1);
        for start in (0..outputs).step_by(rows) {
            let piece = part.clone().outputs(start..(start + rows).min(outputs));
            pieces.push((part, piece.map_err(|error| weight(file, &error))?));
        }
    }
    // Small tensors are not worth a thread.
    let together = if pieces.len() > 1 { threads } else { 1 };
    for group in pieces.chunks(together) {
        for (encoded, (part, _)) in encode_each(group, dtype).into_iter().zip(group) {
            // The whole part knows which of its elements it is.
            let bytes = encoded.or_else(|_| consort_core::encode(&[(*part).clone()], dtype));
            sink(&bytes.map_err(|error| weight(file, &error))?)?;
        }
    }
    Ok(())
}

fn encode_each(pieces: &[(&StoredTensor, StoredTensor)], dtype: WeightDType) -> Vec<consort_core::Result<Vec<u8>>> {
    let encode = |piece: &StoredTensor| consort_core::encode(std::slice::from_ref(piece), dtype);
    match pieces {
        [(_, piece)] => vec![encode(piece)],
        _ => thread::scope(|scope| {
            let running: Vec<_> = pieces.iter().map(|(_, piece)| scope.spawn(move || encode(piece))).collect();
            let ended =
                |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            running.into_iter().map(ended).collect()
        }),
    }
}

fn weight(file: &str, error: &consort_core::Error) -> Error {
    Error::malformed(file, format!("cannot be written: {}", printable(&error.to_string())))
}
