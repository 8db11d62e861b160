//! How products of rounded operands are judged.
//!
//! A bound with the unit roundoff of bf16, or of a step of int8, would let a zeroed output pass. So the rounding and the product
//! answer each for itself:
//!
//! - `quantize_activations` is a case of its own: the same bits everywhere under IEEE arithmetic, else what the profile's
//!   division brings, which moves a code by one where it is nearly a tie.
//! - A product in int8 is held against the f64 product of the codes that *the same device* gives for the same x, within what
//!   f32 may be off by. A product in bf16 is held against the f64 product of the rounded operands, which are certain.
//! - Quality: beside the product of x as it is, and of W as it is kept, a product may be off by that and by
//!
//! ```text
//! int8    λ √Σ (d²/12 · w²)      d the step of the block that an element is in
//! bf16    λ u ‖a∘b‖₂             u = 2⁻⁸
//! ```
//!
//! where λ = √(2 ln(2N/p)) for N outputs, of which one may be beyond with p = 1e-9: an error spread evenly over half a step to
//! either side is sub-Gaussian with its own variance, d²/12, and two of bf16, each within u of its operand, together with two
//! thirds of u². Both hold where roundings are independent, so of independent draws alone: of equal or correlated operands all
//! are rounded the same way, and nothing walks. An activation makes no more of it than its greatest slope.

use consort_core::{
    Backend, Compute, DType, Device, StoredTensor, decode,
    decompose::{ACTIVATION_BLOCK, LEAST_ACTIVATION},
};
use serde_json::{Map, Value};

use crate::{
    bounds::{self, Bounded, Emitted, Profile, confidence},
    error::Error,
    problem::{How, Problem},
};

/// Greatest slope of any activation, of GELU at √2: 1.1289.
const STEEPEST: f64 = 1.13;
/// Unit roundoff of bf16.
const ROUNDOFF: f64 = 1.0 / 256.0;

/// What a problem's products are computed in: f32 where it has none.
pub(crate) fn compute(problem: &Problem) -> Compute {
    let compute = problem.attributes.get("compute").cloned().unwrap_or(Value::Null);
    serde_json::from_value(compute).unwrap_or_default()
}

/// What the products of a problem are computed in; `None` for what is no forward product, or one of operands as they are.
pub(crate) fn narrow(problem: &Problem) -> Option<Compute> {
    let compute = compute(problem);
    (problem.op == "linear" && problem.backward.is_none() && compute != Compute::F32).then_some(compute)
}

impl Emitted {
    /// What `device` gives for the activations of a product in int8; `None` where there are none.
    ///
    /// # Errors
    /// What the device meets.
    pub(crate) fn of<B: Backend>(problem: &Problem, device: &Device<B>, how: How) -> Result<Option<Self>, Error> {
        if narrow(problem) != Some(Compute::Int8) {
            return Ok(None);
        }
        let quantize = Problem {
            op: "quantize_activations".to_owned(),
            attributes: Map::new(),
            operands: problem.operands.iter().filter(|(name, _)| name == "x").cloned().collect(),
            random: false,
            ..problem.clone()
        };
        let mut outputs = quantize.run(device, how)?.into_iter().map(|output| output.data.to_f64());
        let (codes, scales) = (outputs.next().unwrap_or_default(), outputs.next().unwrap_or_default());
        Ok(Some(Self { codes, scales }))
    }

    /// What is expected of a product on `device`, of the codes that it gives; `None` for other problems.
    ///
    /// # Errors
    /// What the device meets.
    pub(crate) fn expected<B: Backend>(
        problem: &Problem,
        profile: &Profile,
        device: &Device<B>,
        how: How,
    ) -> Result<Option<Vec<Bounded>>, Error> {
        let emitted = Self::of(problem, device, how)?;
        emitted.map(|emitted| bounds::expected_of(problem, profile, emitted)).transpose()
    }
}

/// What a product in bf16 or int8 may be beside that of x as it is; `None` where that says nothing: for other problems, and
/// where operands are no independent draws.
///
/// # Errors
/// What the device meets, asked for its codes.
pub(crate) fn quality<B: Backend>(
    problem: &Problem,
    profile: &Profile,
    device: &Device<B>,
) -> Result<Option<Vec<Bounded>>, Error> {
    let Some(compute) = narrow(problem).filter(|_| problem.random) else { return Ok(None) };
    let mut unrounded = problem.clone();
    unrounded.attributes.insert("compute".to_owned(), Value::from(Compute::F32.name()));
    let mut expected = bounds::expected(&unrounded, profile)?;
    let (Some(x), Some(weight)) = (problem.operand("x"), problem.operand("weight")) else { return Ok(None) };
    let width = x.layout.shape().sizes().last().copied().unwrap_or(0);
    let x = x.values();
    let weight = kept(&weight.stored("weight")?, problem, profile)?;
    // The variance of what each activation is off by, as a share of the weight's square.
    let variances: Vec<f64> = match (compute, Emitted::of(problem, device, How::AsAsked)?) {
        (Compute::Int8, Some(Emitted { scales, .. })) => {
            let blocks = width.div_ceil(ACTIVATION_BLOCK);
            let step = |at: usize| scales.get(at / width * blocks + at % width / ACTIVATION_BLOCK).copied();
            // What is taken for 0 is off by all of itself.
            (0..x.len()).map(|at| step(at).unwrap_or(f64::NAN).max(LEAST_ACTIVATION).powi(2) / 12.0).collect()
        }
        _ => x.iter().map(|x| (ROUNDOFF * x).powi(2)).collect(),
    };
    let lambda = confidence(expected.iter().map(|output| output.values.len()).sum());
    let rows = variances.chunks(width.max(1));
    let sums = rows.flat_map(|row| {
        weight.chunks(width.max(1)).map(move |weights| row.iter().zip(weights).map(|(v, w)| v * w * w).sum::<f64>())
    });
    if let Some(output) = expected.first_mut() {
        output.errors.iter_mut().zip(sums).for_each(|(error, sum)| *error += STEEPEST * lambda * sum.sqrt());
    }
    Ok(Some(expected))
}

/// A weight as a device of this profile keeps it.
fn kept(weight: &StoredTensor, problem: &Problem, profile: &Profile) -> Result<Vec<f64>, Error> {
    let float: DType = profile.float();
    Ok(decode(std::slice::from_ref(weight), problem.weight_dtype, float)?.to_f64())
}
