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

    let target = targets.view(&[rows, 1])?;
    let zero = device.fill(&[1, 1], 0.0)?;
    let every_class = device.upload_ids((0..classes as u32).collect())?.view(&[1, classes])?;
    let is_target = device.binary(target.clone(), every_class, BinaryKind::Equal)?;
    let chosen = device.select(is_target, logits.clone(), zero.clone())?;
    let chosen = device.reduce(&chosen, 1, ReduceKind::Sum)?;
    let mut loss = device.subtract(log_sum.clone(), device.scale(chosen, 1.0 - smoothing)?)?;
    if smoothing > 0.0 {
        let sum = device.reduce(&logits, 1, ReduceKind::Sum)?;
        loss = device.subtract(loss, device.scale(sum, smoothing / classes as f64)?)?;
    }
    let count = device.upload_ids(vec![classes as u32])?.view(&[1, 1])?;
    let has_target = device.binary(target, count, BinaryKind::Less)?;
    let loss = device.select(has_target, loss, zero)?;
    Ok([loss.view(&[rows])?, log_sum.view(&[rows])?])
}
