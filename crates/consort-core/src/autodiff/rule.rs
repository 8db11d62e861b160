//! What a rule is: what it saves of an operation, and how it pulls cotangents back.

use smallvec::SmallVec;

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
};

/// Tensors of an entry, saved for its backward, in the order that its rule declared.
pub(super) type Saved<B> = SmallVec<[TensorOf<B>; 4]>;
/// Cotangents of an entry's outputs; at least one is there.
pub(super) type Cotangents<B> = SmallVec<[Option<TensorOf<B>>; 2]>;
/// Gradients of an entry's operands, those that are present, in order of declaration; each of its operand's shape.
pub(super) type Found<B> = SmallVec<[Option<TensorOf<B>>; 4]>;
/// Pulls cotangents back.
pub(super) type Pull<B> = Box<dyn FnOnce(&Device<B>, Saved<B>, Cotangents<B>) -> Result<Found<B>> + Send>;

/// How an operation is differentiated.
pub(super) struct Rule<B: Backend> {
    /// Operands to keep.
    pub(super) saved: Saved<B>,
    /// Outputs to keep, by index: they follow the operands.
    pub(super) saved_outputs: &'static [usize],
    pub(super) pull: Pull<B>,
}

impl<B: Backend> Rule<B> {
    /// A rule that needs operands `saved` and outputs `saved_outputs`.
    pub(super) fn new(
        saved: impl IntoIterator<Item = TensorOf<B>>,
        saved_outputs: &'static [usize],
        pull: impl FnOnce(&Device<B>, Saved<B>, Cotangents<B>) -> Result<Found<B>> + Send + 'static,
    ) -> Self {
        Self { saved: saved.into_iter().collect(), saved_outputs, pull: Box::new(pull) }
    }

    /// A rule of an operation with one output.
    pub(super) fn of_one(
        saved: impl IntoIterator<Item = TensorOf<B>>,
        saved_outputs: &'static [usize],
        pull: impl FnOnce(&Device<B>, Saved<B>, TensorOf<B>) -> Result<Found<B>> + Send + 'static,
    ) -> Self {
        Self::new(saved, saved_outputs, |device, saved, cotangents| match cotangents.into_iter().flatten().next() {
            Some(cotangent) => pull(device, saved, cotangent),
            None => Ok(SmallVec::new()),
        })
    }
}

/// Sums a gradient over what was broadcast, back to an operand's sizes.
pub(super) fn unbroadcast<B: Backend>(device: &Device<B>, x: TensorOf<B>, sizes: &[usize]) -> Result<TensorOf<B>> {
    let lead = x.shape().rank() - sizes.len();
    let mut sum = x;
    for axis in 0..sum.shape().rank() {
        let size = axis.checked_sub(lead).map_or(1, |axis| sizes[axis]);
        if size == 1 && sum.size(axis) != 1 {
            sum = device.reduce(&sum, axis, crate::operation::ReduceKind::Sum)?;
        }
    }
    device.reshape(&sum, sizes)
}
