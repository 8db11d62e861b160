//! Cross-entropy of a softmax with label smoothing (Szegedy et al. 2016, section 7):
//! `ln Σ eˣ − (1 − s)·x[target] − s/V · Σ x`.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::{BinaryKind, ReduceKind, UnaryKind},
};

/// Losses `[R]` and `ln Σ eˣ` `[R]` of logits `[R, V]` for targets u32 `[R]`; a target from V on has loss 0.
///
/// # Errors
/// What the primitives meet.
pub fn cross_entropy<B: Backend>(
    device: &Device<B>,
    logits: TensorOf<B>,
    targets: &TensorOf<B>,
    smoothing: f64,
) -> Result<[TensorOf<B>; 2]> {
    let [rows, classes] = [logits.size(0), logits.size(1)];
    let greatest = device.reduce(&logits, 1, ReduceKind::Maximum)?;
    let weights = device.unary(device.subtract(logits.clone(), greatest.clone())?, UnaryKind::Exp)?;
    let sum = device.reduce(&weights, 1, ReduceKind::Sum)?;
    let log_sum = device.add(greatest, device.unary(sum, UnaryKind::Log)?)?; // [R, 1]

    let zero = device.fill(&[1, 1], 0.0)?;
    let [is_target, has_target] = target_masks(device, targets, classes)?;
    let chosen = device.select(is_target, logits.clone(), zero.clone())?;
    let chosen = device.reduce(&chosen, 1, ReduceKind::Sum)?;
    let mut loss = device.subtract(log_sum.clone(), device.scale(chosen, 1.0 - smoothing)?)?;
    if smoothing > 0.0 {
        let sum = device.reduce(&logits, 1, ReduceKind::Sum)?;
        loss = device.subtract(loss, device.scale(sum, smoothing / classes as f64)?)?;
    }
    let loss = device.select(has_target, loss, zero)?;
    Ok([loss.view(&[rows])?, log_sum.view(&[rows])?])
}

/// `d_loss · (softmax − (1 − s)·[v = target] − s/V)`: the cotangent of the logits `[R, V]`; 0 in rows without a target.
///
/// # Errors
/// What the primitives meet.
pub fn cross_entropy_backward<B: Backend>(
    device: &Device<B>,
    logits: TensorOf<B>,
    targets: &TensorOf<B>,
    log_sum: &TensorOf<B>,
    d_loss: &TensorOf<B>,
    smoothing: f64,
) -> Result<TensorOf<B>> {
    let [rows, classes] = [logits.size(0), logits.size(1)];
    let column = |x: &TensorOf<B>| device.reshape(x, &[rows, 1]);
    let [is_target, has_target] = target_masks(device, targets, classes)?;
    let zero = device.fill(&[1, 1], 0.0)?;
    let probability = device.unary(device.subtract(logits, column(log_sum)?)?, UnaryKind::Exp)?;
    let share = device.fill(&[1, 1], smoothing / classes as f64)?;
    let chosen = device.fill(&[1, 1], 1.0 - smoothing + smoothing / classes as f64)?;
    let wanted = device.select(is_target, chosen, share)?;
    let difference = device.subtract(probability, wanted)?;
    device.select(has_target, device.multiply(difference, column(d_loss)?)?, zero)
}

/// Whether a class is the target `[R, V]`, and whether there is one `[R, 1]`.
fn target_masks<B: Backend>(device: &Device<B>, targets: &TensorOf<B>, classes: usize) -> Result<[TensorOf<B>; 2]> {
    let target = device.reshape(targets, &[targets.size(0), 1])?;
    let every_class = device.upload_ids((0..classes as u32).collect())?.view(&[1, classes])?;
    let count = device.upload_ids(vec![classes as u32])?.view(&[1, 1])?;
    Ok([
        device.binary(target.clone(), every_class, BinaryKind::Equal)?,
        device.binary(target, count, BinaryKind::Less)?,
    ])
}
