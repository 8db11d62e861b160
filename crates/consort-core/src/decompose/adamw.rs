//! AdamW (Loshchilov & Hutter 2019; order of operations as in torch.optim.AdamW):
//!
//! `p ← p − rate·decay·p`, `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
//! `p ← p − rate · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)`.

use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::Result,
    operation::{AdamWSettings, UnaryKind},
};

/// Parameter and moments after one step, all of the parameter's shape.
///
/// # Errors
/// What the primitives meet.
pub fn adamw<B: Backend>(
    device: &Device<B>,
    parameter: TensorOf<B>,
    gradient: TensorOf<B>,
    first: TensorOf<B>,
    second: TensorOf<B>,
    settings: &AdamWSettings,
) -> Result<[TensorOf<B>; 3]> {
    let AdamWSettings { rate, beta1, beta2, epsilon, weight_decay, step } = *settings;
    let square = device.multiply(gradient.clone(), gradient.clone())?;
    let first = device.add(device.scale(first, beta1)?, device.scale(gradient, 1.0 - beta1)?)?;
    let second = device.add(device.scale(second, beta2)?, device.scale(square, 1.0 - beta2)?)?;
    let correction = |beta: f64| 1.0 / (1.0 - beta.powf(f64::from(step)));
    let root = device.unary(device.scale(second.clone(), correction(beta2))?, UnaryKind::Sqrt)?;
    let divisor = device.add(root, device.fill(&[1], epsilon)?)?;
    let update = device.divide(device.scale(first.clone(), rate * correction(beta1))?, divisor)?;
    let parameter = device.subtract(device.scale(parameter, 1.0 - rate * weight_decay)?, update)?;
    Ok([parameter, first, second])
}
