//! Element-wise non-linearities and what is built on them.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::{
    backend::{Backend, TensorOf},
    config::Activation,
    device::Device,
    error::Result,
    operation::{BinaryKind, UnaryKind},
};

/// `f(x)` by the formula that [`Activation`] gives for each kind.
///
/// # Errors
/// What the primitives meet.
pub fn activation<B: Backend>(device: &Device<B>, x: TensorOf<B>, kind: Activation) -> Result<TensorOf<B>> {
    match kind {
        Activation::Relu => device.binary(x, device.fill(&[1], 0.0)?, BinaryKind::Maximum),
        Activation::Tanh => device.unary(x, UnaryKind::Tanh),
        Activation::Silu => times_sigmoid(device, x, 1.0),
        Activation::QuickGelu => times_sigmoid(device, x, 1.702),
        Activation::Gelu => {
            let inner = device.unary(device.scale(x.clone(), FRAC_1_SQRT_2)?, UnaryKind::Erf)?;
            half_times_one_plus(device, x, inner)
        }
        Activation::GeluTanh => {
            // √(2/π) · (x + 0.044715 x³), Hendrycks & Gimpel 2016.
            let square = device.multiply(x.clone(), x.clone())?;
            let cube = device.multiply(square, x.clone())?;
            let sum = device.add(x.clone(), device.scale(cube, 0.044715)?)?;
            let inner = device.unary(device.scale(sum, (2.0 / PI).sqrt())?, UnaryKind::Tanh)?;
            half_times_one_plus(device, x, inner)
        }
    }
}

/// `f(gate) · up`.
///
/// # Errors
/// What the primitives meet.
pub fn gated<B: Backend>(
    device: &Device<B>,
    gate: TensorOf<B>,
    up: TensorOf<B>,
    kind: Activation,
) -> Result<TensorOf<B>> {
    let gate = device.activation(gate, kind)?;
    device.multiply(gate, up)
}

/// `cap · tanh(x / cap)`.
///
/// # Errors
/// What the primitives meet.
pub fn soft_cap<B: Backend>(device: &Device<B>, x: TensorOf<B>, cap: f64) -> Result<TensorOf<B>> {
    let inner = device.divide(x, device.fill(&[1], cap)?)?;
    let inner = device.unary(inner, UnaryKind::Tanh)?;
    device.scale(inner, cap)
}

/// `x / (1 + e^(−βx))`: e^(−βx) may overflow to infinity, and the quotient is then 0 as it should be.
fn times_sigmoid<B: Backend>(device: &Device<B>, x: TensorOf<B>, beta: f64) -> Result<TensorOf<B>> {
    let exponential = device.unary(device.scale(x.clone(), -beta)?, UnaryKind::Exp)?;
    let divisor = device.add(exponential, device.fill(&[1], 1.0)?)?;
    device.divide(x, divisor)
}

/// `½ · x · (1 + inner)`.
fn half_times_one_plus<B: Backend>(device: &Device<B>, x: TensorOf<B>, inner: TensorOf<B>) -> Result<TensorOf<B>> {
    let sum = device.add(inner, device.fill(&[1], 1.0)?)?;
    device.multiply(device.scale(x, 0.5)?, sum)
}
