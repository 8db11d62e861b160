//! Choosing tokens: the host reads the logits and draws, as [`sample_row`] defines.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    sample::{SampleRow, sample_row},
};

/// One token per row: `[R, V] → u32 [R]`.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when a row has no finite logit to choose.
pub fn sample<B: Backend>(device: &Device<B>, logits: &TensorOf<B>, rows: &[SampleRow]) -> Result<TensorOf<B>> {
    device.allow_host("sample")?;
    let vocabulary = logits.size(1);
    let data = device.download(logits)?.to_f64();
    let tokens = data
        .chunks_exact(vocabulary)
        .zip(rows)
        .map(|(logits, row)| Ok(sample_row(logits, row)?.token))
        .collect::<Result<_>>()?;
    device.upload_ids(tokens)
}
