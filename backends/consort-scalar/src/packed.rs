//! Weights in the type that they are asked to be kept in: the bytes that a file would have, row after row.
//!
//! [`unpack`](Packed::unpack) is the specification of what they mean. Operations over a weight are the core's
//! decompositions: they unpack, and compute as with any tensor.

use consort_core::{Result, StoredTensor, WeightDType, encode};

use crate::{
    element::Element,
    storage::{Storage, filled},
};

/// A weight `[outputs, inputs]`; its rows are whole blocks.
#[derive(Debug)]
pub struct Packed {
    dtype: WeightDType,
    bytes: Vec<u8>,
}

impl Packed {
    pub(crate) fn new(parts: &[StoredTensor], dtype: WeightDType) -> Result<Self> {
        Ok(Self { dtype, bytes: encode(parts, dtype)? })
    }

    /// The values, row-major.
    pub(crate) fn unpack<E: Element>(&self) -> Result<Storage<E>> {
        let (block, size) = (self.dtype.block(), self.dtype.block_bytes());
        let mut values = filled(self.bytes.len() / size * block, E::ZERO)?;
        // Some blocks at a time.
        let mut exact = [0.0; 256];
        let exact = &mut exact[..256 / block * block];
        let some = exact.len() / block * size;
        for (bytes, values) in self.bytes.chunks(some).zip(values.chunks_mut(exact.len())) {
            let exact = &mut exact[..values.len()];
            self.dtype.decode(bytes, exact);
            for (value, exact) in values.iter_mut().zip(exact) {
                *value = E::from_f64(*exact);
            }
        }
        Ok(Storage::Float(values))
    }
}
