//! A step of AdamW in one pass. With the constants rounded to f32 once:
//!
//! `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`, `p ← (1 − rate·decay)p − (rate/(1 − β₁ᵗ))m / (√(v/(1 − β₂ᵗ)) + ε)`.

use consort_core::{DType, Outputs, Result, Tensor, operation::AdamWSettings};
use smallvec::smallvec;

use crate::{
    Simd, copy,
    isa::{Isa, Kernel},
    storage::{Buffer, contiguous, filled, misfit, take},
    team::Parts,
};

/// Elements that a task has at least: seven numbers of each move.
const GRAIN: usize = 4096;

/// Parameter and both moments after a step; in place where nobody else holds them.
pub(crate) fn adamw(
    simd: &Simd,
    parameter: &mut Tensor<Buffer>,
    gradient: &mut Tensor<Buffer>,
    first: &mut Tensor<Buffer>,
    second: &mut Tensor<Buffer>,
    settings: &AdamWSettings,
) -> Result<Outputs<Buffer>> {
    let elements = parameter.shape().elements();
    for x in [&mut *parameter, &mut *gradient, &mut *first, &mut *second] {
        if contiguous::<f32>(x)?.is_none() {
            *x = Tensor::new(copy::copy(simd, x, DType::F32)?, *x.shape(), DType::F32);
        }
    }
    let mut outs: Outputs<Buffer> = smallvec![];
    let mut taken = [false; 3];
    for (x, taken) in [&mut *parameter, &mut *first, &mut *second].into_iter().zip(&mut taken) {
        let own = take::<f32>(x, &simd.none);
        *taken = own.is_some();
        outs.push(match own {
            Some(own) => own,
            None => simd.pool.take::<f32>(elements)?,
        });
    }
    let [p, m, v] = &mut outs[..] else { return Err(misfit("three outputs")) };
    let outs_parts = [p, m, v].map(filled::<f32>);
    let [p, m, v] = outs_parts;
    let parts = [Parts::new(p?), Parts::new(m?), Parts::new(v?)];
    let gradient = contiguous::<f32>(gradient)?.ok_or_else(|| misfit("a copy with gaps"))?;
    let mut from = [None; 3];
    for ((from, x), taken) in from.iter_mut().zip([&*parameter, &*first, &*second]).zip(taken) {
        *from = if taken { None } else { contiguous::<f32>(x)? };
    }
    let constants = Constants::new(settings);
    simd.team.ranges(elements, GRAIN, |range| {
        // SAFETY: ranges of different tasks do not meet.
        let out = [0, 1, 2].map(|i: usize| unsafe { parts[i].part(range.clone()) });
        let from = from.map(|from: Option<&[f32]>| from.map(|from| &from[range.clone()]));
        simd.level.run(Step { out, from, gradient: &gradient[range], constants });
    });
    Ok(outs)
}

#[derive(Clone, Copy)]
struct Constants {
    keep: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    correction2: f32,
    epsilon: f32,
}

impl Constants {
    fn new(settings: &AdamWSettings) -> Self {
        let AdamWSettings { rate, beta1, beta2, epsilon, weight_decay, step } = *settings;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(f64::from(step)));
        Self {
            keep: (1.0 - rate * weight_decay) as f32,
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            rate: (rate * correction(beta1)) as f32,
            correction2: correction(beta2) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// A range of the elements.
struct Step<'a> {
    /// Parameter, first and second moment.
    out: [&'a mut [f32]; 3],
    /// What they were; `None` for what stands where its output goes.
    from: [Option<&'a [f32]>; 3],
    gradient: &'a [f32],
    constants: Constants,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { out: [p, m, v], from, gradient, constants } = self;
        let [from_p, from_m, from_v] = from;
        let (keep, rate) = (isa.splat(constants.keep), isa.splat(constants.rate));
        let (beta1, rest1) = (isa.splat(constants.beta1), isa.splat(constants.rest1));
        let (beta2, rest2) = (isa.splat(constants.beta2), isa.splat(constants.rest2));
        let (correction2, epsilon) = (isa.splat(constants.correction2), isa.splat(constants.epsilon));
        for start in (0..gradient.len()).step_by(S::LANES) {
            let g = isa.read(&gradient[start..]);
            let first = isa.read(&from_m.unwrap_or(m)[start..]);
            let second = isa.read(&from_v.unwrap_or(v)[start..]);
            let parameter = isa.read(&from_p.unwrap_or(p)[start..]);
            let first = isa.add(isa.mul(first, beta1), isa.mul(g, rest1));
            let second = isa.add(isa.mul(second, beta2), isa.mul(isa.mul(g, g), rest2));
            let divisor = isa.add(isa.sqrt(isa.mul(second, correction2)), epsilon);
            let update = isa.div(isa.mul(first, rate), divisor);
            isa.write(&mut p[start..], isa.sub(isa.mul(parameter, keep), update));
            isa.write(&mut m[start..], first);
            isa.write(&mut v[start..], second);
        }
    }
}
