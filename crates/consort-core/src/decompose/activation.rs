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

/// `f′(x) · d_y`; the slope of relu at 0 is 0.
///
/// # Errors
/// What the primitives meet.
pub fn activation_backward<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    d_y: TensorOf<B>,
    kind: Activation,
) -> Result<TensorOf<B>> {
    let one = || device.fill(&[1], 1.0);
    let slope = match kind {
        Activation::Relu => {
            let zero = device.fill(&[1], 0.0)?;
            let positive = device.binary(zero.clone(), x, BinaryKind::Less)?;
            return device.select(positive, d_y, zero);
        }
        // 1 − tanh².
        Activation::Tanh => slope_of_tanh(device, device.unary(x, UnaryKind::Tanh)?)?,
        Activation::Silu => slope_of_times_sigmoid(device, x, 1.0)?,
        Activation::QuickGelu => slope_of_times_sigmoid(device, x, 1.702)?,
        Activation::Gelu => {
            // Φ(x) + x·φ(x), with φ(x) = e^(−x²/2) / √(2π).
            let erf = device.unary(device.scale(x.clone(), FRAC_1_SQRT_2)?, UnaryKind::Erf)?;
            let cumulative = device.scale(device.add(erf, one()?)?, 0.5)?;
            let square = device.multiply(x.clone(), x.clone())?;
            let density = device.unary(device.scale(square, -0.5)?, UnaryKind::Exp)?;
            let density = device.scale(density, 1.0 / (2.0 * PI).sqrt())?;
            device.add(cumulative, device.multiply(x, density)?)?
        }
        Activation::GeluTanh => {
            // ½(1 + t) + ½x(1 − t²)·√(2/π)·(1 + 3·0.044715·x²), t the forward's tanh. From 16 on t is 1 in every type, and
            // x² must not overflow.
            let x = device.binary(x, device.fill(&[1], 16.0)?, BinaryKind::Minimum)?;
            let x = device.binary(x, device.fill(&[1], -16.0)?, BinaryKind::Maximum)?;
            let square = device.multiply(x.clone(), x.clone())?;
            let cube = device.multiply(square.clone(), x.clone())?;
            let sum = device.add(x.clone(), device.scale(cube, 0.044715)?)?;
            let tanh = device.unary(device.scale(sum, (2.0 / PI).sqrt())?, UnaryKind::Tanh)?;
            let inner = device.add(device.scale(square, 3.0 * 0.044715)?, one()?)?;
            let inner = device.multiply(device.scale(x, 0.5 * (2.0 / PI).sqrt())?, inner)?;
            let inner = device.multiply(inner, slope_of_tanh(device, tanh.clone())?)?;
            let half = device.scale(device.add(tanh, one()?)?, 0.5)?;
            device.add(half, inner)?
        }
    };
    device.multiply(slope, d_y)
}

/// Cotangents of gate and up: `f′(gate) · up · d_y` and `f(gate) · d_y`.
///
/// # Errors
/// What the primitives meet.
pub fn gated_backward<B: Backend>(
    device: &Device<B>,
    gate: TensorOf<B>,
    up: TensorOf<B>,
    d_y: TensorOf<B>,
    kind: Activation,
) -> Result<[TensorOf<B>; 2]> {
    let activated = device.activation(gate.clone(), kind)?;
    let d_up = device.multiply(activated, d_y.clone())?;
    let d_activated = device.multiply(up, d_y)?;
    Ok([device.activation_backward(gate, d_activated, kind)?, d_up])
}

/// `(1 − tanh²(x / cap)) · d_y`.
///
/// # Errors
/// What the primitives meet.
pub fn soft_cap_backward<B: Backend>(
    device: &Device<B>,
    x: TensorOf<B>,
    d_y: TensorOf<B>,
    cap: f64,
) -> Result<TensorOf<B>> {
    let tanh = device.unary(device.divide(x, device.fill(&[1], cap)?)?, UnaryKind::Tanh)?;
    device.multiply(slope_of_tanh(device, tanh)?, d_y)
}

/// `1 − tanh²`, of the tanh.
fn slope_of_tanh<B: Backend>(device: &Device<B>, tanh: TensorOf<B>) -> Result<TensorOf<B>> {
    let square = device.multiply(tanh.clone(), tanh)?;
    device.subtract(device.fill(&[1], 1.0)?, square)
}

/// `σ(βx) · (1 + βx · (1 − σ(βx)))`.
fn slope_of_times_sigmoid<B: Backend>(device: &Device<B>, x: TensorOf<B>, beta: f64) -> Result<TensorOf<B>> {
    let one = || device.fill(&[1], 1.0);
    let x = device.scale(x, beta)?;
    let exponential = device.unary(device.unary(x.clone(), UnaryKind::Negate)?, UnaryKind::Exp)?;
    let sigmoid = device.divide(one()?, device.add(exponential, one()?)?)?;
    let rest = device.multiply(x, device.subtract(one()?, sigmoid.clone())?)?;
    device.multiply(sigmoid, device.add(rest, one()?)?)
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
