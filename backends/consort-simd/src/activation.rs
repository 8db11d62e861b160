//! Non-linearities element by element, gated and capped ones, and their slopes.

use std::f32::consts::FRAC_1_SQRT_2;

use consort_core::{Outputs, Result, Tensor, config::Activation};

use crate::{
    Simd,
    elementwise::elementwise,
    isa::Isa,
    lanes::Map,
    math::{erf, exp, sigmoid, tanh},
    storage::Buffer,
};

/// Elements that a task has at least.
const GRAIN: usize = 4096;
/// β of `x · σ(βx)`, quick GELU.
const QUICK: f32 = 1.702;
/// √(2/π).
const ROOT_2_PI: f32 = 0.797_884_6;
/// Of x³ in GELU by tanh.
const CUBE: f32 = 0.044_715;
/// 1/√(2π).
const DENSITY: f32 = 0.398_942_3;

/// Calls a function with a type for each kind, so that each has a loop of its own.
macro_rules! by_kind {
    ($kind:expr, $Map:ident, $run:expr) => {
        match $kind {
            Activation::Relu => $run($Map::<{ Activation::Relu as u8 }>),
            Activation::Gelu => $run($Map::<{ Activation::Gelu as u8 }>),
            Activation::GeluTanh => $run($Map::<{ Activation::GeluTanh as u8 }>),
            Activation::QuickGelu => $run($Map::<{ Activation::QuickGelu as u8 }>),
            Activation::Silu => $run($Map::<{ Activation::Silu as u8 }>),
            Activation::Tanh => $run($Map::<{ Activation::Tanh as u8 }>),
        }
    };
}

/// `f(x)`; in place where it may be.
pub(crate) fn activation(simd: &Simd, x: &mut Tensor<Buffer>, kind: Activation) -> Result<Outputs<Buffer>> {
    by_kind!(kind, Activate, |f| elementwise(simd, [x], GRAIN, f))
}

/// `f(gate) · up`; in place of one of them where it may be.
pub(crate) fn gated(
    simd: &Simd,
    gate: &mut Tensor<Buffer>,
    up: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    by_kind!(kind, Gate, |f| elementwise(simd, [gate, up], GRAIN, f))
}

/// `cap · tanh(x / cap)`.
pub(crate) fn soft_cap(simd: &Simd, x: &mut Tensor<Buffer>, cap: f64) -> Result<Outputs<Buffer>> {
    elementwise(simd, [x], GRAIN, Cap(cap as f32))
}

/// `f′(x) · d_y`.
pub(crate) fn activation_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    by_kind!(kind, ActivateBackward, |f| elementwise(simd, [x, d_y], GRAIN, f))
}

/// `f′(gate) · up · d_y` and `f(gate) · d_y`.
pub(crate) fn gated_backward(
    simd: &Simd,
    gate: &mut Tensor<Buffer>,
    up: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    kind: Activation,
) -> Result<Outputs<Buffer>> {
    by_kind!(kind, GateBackward, |f| elementwise(simd, [gate, up, d_y], GRAIN, f))
}

/// `(1 − tanh²(x / cap)) · d_y`.
pub(crate) fn soft_cap_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    cap: f64,
) -> Result<Outputs<Buffer>> {
    elementwise(simd, [x, d_y], GRAIN, CapBackward(cap as f32))
}

/// `f(x)`: within a few ulps, apart from what `1 + erf` and products of x bring.
#[inline(always)]
pub(crate) fn activate<S: Isa>(isa: S, kind: Activation, x: S::F) -> S::F {
    match kind {
        // In this order a NaN stays.
        Activation::Relu => isa.max(isa.zero(), x),
        Activation::Tanh => tanh(isa, x),
        Activation::Silu => over_one_plus_exp(isa, x, isa.negate(x)),
        Activation::QuickGelu => over_one_plus_exp(isa, x, isa.mul(x, isa.splat(-QUICK))),
        Activation::Gelu => half_times_one_plus(isa, x, erf(isa, isa.mul(x, isa.splat(FRAC_1_SQRT_2)))),
        // By a sigmoid it would be cheaper, and off by an ulp more near 0.
        Activation::GeluTanh => half_times_one_plus(isa, x, tanh(isa, inner(isa, x))),
    }
}

/// `f′(x) · d_y`; relu chooses, so that an infinite cotangent leaves nothing where the slope is 0.
#[inline(always)]
fn times_slope<S: Isa>(isa: S, kind: Activation, x: S::F, d_y: S::F) -> S::F {
    let one = isa.splat(1.0);
    let slope = match kind {
        Activation::Relu => return isa.select(isa.less(isa.zero(), x), d_y, isa.zero()),
        Activation::Tanh => slope_of_tanh(isa, tanh(isa, x)),
        Activation::Silu => slope_of_times_sigmoid(isa, x),
        Activation::QuickGelu => slope_of_times_sigmoid(isa, isa.mul(x, isa.splat(QUICK))),
        Activation::Gelu => {
            // Φ(x) + x·φ(x), with φ(x) = e^(−x²/2) / √(2π).
            let half = isa.splat(0.5);
            let erf = erf(isa, isa.mul(x, isa.splat(FRAC_1_SQRT_2)));
            let cumulative = isa.mul(isa.add(erf, one), half);
            let density = exp(isa, isa.mul(isa.mul(x, x), isa.splat(-0.5)));
            isa.mul_add(x, isa.mul(density, isa.splat(DENSITY)), cumulative)
        }
        Activation::GeluTanh => {
            // ½(1 + t) + ½x(1 − t²)·√(2/π)·(1 + 3·0.044715·x²). From 16 on t is 1, and x² must not overflow.
            let t = tanh(isa, inner(isa, x));
            let x = isa.max(isa.splat(-16.0), isa.min(isa.splat(16.0), x));
            let slope = isa.mul_add(isa.mul(x, x), isa.splat(1.5 * CUBE * ROOT_2_PI), isa.splat(0.5 * ROOT_2_PI));
            let half = isa.mul(isa.add(t, one), isa.splat(0.5));
            isa.mul_add(isa.mul(x, slope), slope_of_tanh(isa, t), half)
        }
    };
    isa.mul(slope, d_y)
}

/// `x / (1 + eᶻ)`; where that overflows it is 0.
#[inline(always)]
fn over_one_plus_exp<S: Isa>(isa: S, x: S::F, z: S::F) -> S::F {
    isa.div(x, isa.add(isa.splat(1.0), exp(isa, z)))
}

/// `½ · x · (1 + y)`.
#[inline(always)]
fn half_times_one_plus<S: Isa>(isa: S, x: S::F, y: S::F) -> S::F {
    isa.mul(isa.mul(x, isa.splat(0.5)), isa.add(y, isa.splat(1.0)))
}

/// `√(2/π)(x + 0.044715 x³)` (Hendrycks & Gimpel 2016).
#[inline(always)]
fn inner<S: Isa>(isa: S, x: S::F) -> S::F {
    isa.mul(x, isa.mul_add(isa.mul(x, x), isa.splat(ROOT_2_PI * CUBE), isa.splat(ROOT_2_PI)))
}

/// `1 − t²`.
#[inline(always)]
fn slope_of_tanh<S: Isa>(isa: S, t: S::F) -> S::F {
    isa.neg_mul_add(t, t, isa.splat(1.0))
}

/// `σ · (1 + x(1 − σ))`, σ that of x.
#[inline(always)]
fn slope_of_times_sigmoid<S: Isa>(isa: S, x: S::F) -> S::F {
    let one = isa.splat(1.0);
    let sigmoid = sigmoid(isa, x);
    isa.mul(sigmoid, isa.mul_add(x, isa.sub(one, sigmoid), one))
}

/// The kind of this number.
const fn kind_of(number: u8) -> Activation {
    const KINDS: [Activation; 6] = [
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::Tanh,
    ];
    let mut at = 0;
    while at < KINDS.len() - 1 && KINDS[at] as u8 != number {
        at += 1;
    }
    KINDS[at]
}

#[derive(Clone, Copy)]
struct Activate<const KIND: u8>;

impl<const KIND: u8> Map<1, 1> for Activate<KIND> {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x]: [S::F; 1]) -> [S::F; 1] {
        [activate(isa, const { kind_of(KIND) }, x)]
    }
}

#[derive(Clone, Copy)]
struct Gate<const KIND: u8>;

impl<const KIND: u8> Map<2, 1> for Gate<KIND> {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [gate, up]: [S::F; 2]) -> [S::F; 1] {
        [isa.mul(activate(isa, const { kind_of(KIND) }, gate), up)]
    }
}

#[derive(Clone, Copy)]
struct ActivateBackward<const KIND: u8>;

impl<const KIND: u8> Map<2, 1> for ActivateBackward<KIND> {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x, d_y]: [S::F; 2]) -> [S::F; 1] {
        [times_slope(isa, const { kind_of(KIND) }, x, d_y)]
    }
}

#[derive(Clone, Copy)]
struct GateBackward<const KIND: u8>;

impl<const KIND: u8> Map<3, 2> for GateBackward<KIND> {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [gate, up, d_y]: [S::F; 3]) -> [S::F; 2] {
        let kind = const { kind_of(KIND) };
        [times_slope(isa, kind, gate, isa.mul(up, d_y)), isa.mul(activate(isa, kind, gate), d_y)]
    }
}

#[derive(Clone, Copy)]
struct Cap(f32);

impl Map<1, 1> for Cap {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x]: [S::F; 1]) -> [S::F; 1] {
        let cap = isa.splat(self.0);
        [isa.mul(tanh(isa, isa.div(x, cap)), cap)]
    }
}

#[derive(Clone, Copy)]
struct CapBackward(f32);

impl Map<2, 1> for CapBackward {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x, d_y]: [S::F; 2]) -> [S::F; 1] {
        let tanh = tanh(isa, isa.div(x, isa.splat(self.0)));
        [isa.mul(slope_of_tanh(isa, tanh), d_y)]
    }
}
