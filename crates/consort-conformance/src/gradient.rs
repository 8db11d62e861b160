//! Gradients against finite differences, in f64.
//!
//! For operands x, a direction v and a cotangent w, the derivative of `⟨w, f(x + t·v)⟩` at t = 0 is `⟨J·v, w⟩`, and what a tape
//! pulls back is `Jᵀ·w`: `⟨J·v, w⟩ = ⟨v, Jᵀ·w⟩`. The left side comes from the oracle's forward alone, by central differences
//! with one step of Richardson (1911):
//!
//! ```text
//! D(h) = (f(x + h·v) − f(x − h·v)) / 2h           error c₂·h² + c₄·h⁴ + …
//! R(h) = (4·D(h) − D(2h)) / 3                     error −4·c₄·h⁴ + O(h⁶)
//! ```
//!
//! What is left of `R(h)` is a fifteenth of `|R(2h) − R(h)|`, which needs no knowledge of f: that is the first term of the
//! tolerance. The second is what rounding makes of the differences, [`ROUNDINGS`]` · ε · Σ|w·f| / h`. Neither depends on the
//! gradient that is checked, and a check whose tolerance is no small part of the gradient is [vacuous](Check::is_vacuous),
//! which is a failure of the check.
//!
//! Cotangents are random: pulled back from a sum, softmax would have a gradient of 0 whatever its backward does. Operands are
//! moved one at a time, then all at once; cotangents are normal draws, then others, then one of a single element, which picks
//! one row of J. Where f has kinks, operands are drawn away from them ([`Fill::Apart`]).

use consort_core::{Backend, Device, WeightDType};
use consort_scalar::Oracle;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    error::Error,
    ops::Kind,
    problem::{Backward, How, Operand, Output, Problem},
    recipe::{Fill, Recipe, View},
    recipes::normal,
};

/// h: h⁴ is 1.5e-11, and rounding over h 1e-13.
const STEP: f64 = 1.0 / 512.0;
/// Operations on the way from an operand to an output, each of which may be off by ε.
const ROUNDINGS: f64 = 32.0;
/// A tolerance that is a greater part of the gradient says nothing.
const VACUOUS: f64 = 1e-5;
/// Stream of directions and further cotangents, apart from those of operands.
const DIRECTIONS: u64 = 1 << 20;

/// `⟨J·v, w⟩` beside `⟨v, Jᵀ·w⟩`.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was moved: an operand, or `all`.
    pub operand: String,
    /// Which cotangent: the recipe's own, other draws, or one element.
    pub cotangent: Cotangent,
    /// `⟨J·v, w⟩`, from the forward.
    pub numeric: f64,
    /// `⟨v, Jᵀ·w⟩`, from the tape.
    pub pulled: f64,
    /// How far apart they may be.
    pub tolerance: f64,
    /// `‖Jᵀ·w‖₂`, of what was moved.
    pub norm: f64,
}

/// What is pulled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cotangent {
    /// The recipe's own draws.
    Own,
    /// Other draws.
    Other,
    /// 1 at one place of one output, 0 elsewhere.
    One,
}

impl Check {
    /// Whether the two agree and that means something.
    pub fn passed(&self) -> bool {
        (self.numeric - self.pulled).abs() <= self.tolerance && !self.is_vacuous()
    }

    /// Whether the gradient is too small beside the tolerance for agreement to mean anything. One element may well not
    /// depend on what was moved.
    pub fn is_vacuous(&self) -> bool {
        let says = self.tolerance <= VACUOUS * self.norm;
        !says && (self.cotangent != Cotangent::One || !self.tolerance.is_finite())
    }
}

/// Checks the gradients of a backward recipe as `device`, which computes in f64, pulls them back.
///
/// # Errors
/// [`Error::Problem`] when the recipe is no backward or has a weight that would be rounded; what the device meets.
pub fn check<B: Backend>(recipe: &Recipe, device: &Device<B>) -> Result<Vec<Check>, Error> {
    let problem = recipe.problem()?;
    let Some(backward) = problem.backward.clone() else {
        return Err(Error::problem(&recipe.op, "a forward recipe, expected a backward one"));
    };
    let packed = problem.operation()?.operands.iter().any(|slot| slot.kind == Kind::Weight);
    if packed && problem.weight_dtype != WeightDType::F64 {
        let found = problem.weight_dtype;
        return Err(Error::problem(
            &recipe.op,
            format!("a weight kept as {found} has no finite differences, expected f64"),
        ));
    }
    let forward = Problem { backward: None, ..problem.clone() };
    let direction = |at: usize, name: &String| -> Vec<f64> {
        let count = problem.operand(name).map_or(0, |operand| operand.layout.shape().elements());
        (0..count as u64).map(|index| normal(recipe.seed, DIRECTIONS + at as u64, index)).collect()
    };
    let directions: Vec<Vec<f64>> =
        backward.gradients.iter().enumerate().map(|(at, name)| direction(at, name)).collect();

    // Jᵀ·w for each cotangent.
    let mut pulled = Vec::new();
    for cotangent in [Cotangent::Own, Cotangent::Other, Cotangent::One] {
        let cotangents = cotangents(recipe.seed, &backward, cotangent)?;
        let problem = Problem {
            backward: Some(Backward { cotangents: cotangents.clone(), gradients: backward.gradients.clone() }),
            ..problem.clone()
        };
        let weights: Vec<Option<Vec<f64>>> =
            cotangents.iter().map(|cotangent| cotangent.as_ref().map(Operand::values)).collect();
        pulled.push((cotangent, weights, values(problem.run(device, How::AsAsked)?)));
    }

    let mut checks = Vec::new();
    let single = (0..backward.gradients.len()).map(|at| at..at + 1);
    let every = (backward.gradients.len() > 1).then_some(0..backward.gradients.len());
    for moved in single.chain(every) {
        let names = backward.gradients.get(moved.clone()).unwrap_or(&[]);
        let along = directions.get(moved.clone()).unwrap_or(&[]);
        let differences = Differences::new(&forward, names, along)?;
        for (cotangent, weights, gradients) in &pulled {
            let gradients = gradients.get(moved.clone()).unwrap_or(&[]);
            let (numeric, tolerance) = differences.along(weights);
            checks.push(Check {
                operand: if let [name] = names { name.clone() } else { "all".to_owned() },
                cotangent: *cotangent,
                numeric,
                pulled: gradients.iter().zip(along).map(|(gradient, along)| dot(gradient, along)).sum(),
                tolerance,
                norm: gradients.iter().map(|gradient| dot(gradient, gradient)).sum::<f64>().sqrt(),
            });
        }
    }
    Ok(checks)
}

/// The cotangents of a problem, or others in their place.
fn cotangents(seed: u64, backward: &Backward, kind: Cotangent) -> Result<Vec<Option<Operand>>, Error> {
    let sizes = |operand: &Operand| operand.layout.shape().sizes().to_vec();
    let elements = |operand: &Operand| operand.layout.shape().elements();
    let all: usize = backward.cotangents.iter().flatten().map(elements).sum();
    // A place among all outputs together.
    let mut place = Some((normal(seed, 2 * DIRECTIONS, 0).abs() * 1e4) as usize % all.max(1));
    let mut cotangents = Vec::new();
    for (at, cotangent) in backward.cotangents.iter().enumerate() {
        let Some(own) = cotangent else {
            cotangents.push(None);
            continue;
        };
        let count = elements(own);
        let values = match kind {
            Cotangent::Own => own.values(),
            Cotangent::Other => {
                (0..count as u64).map(|index| normal(seed, 2 * DIRECTIONS + 1 + at as u64, index)).collect()
            }
            Cotangent::One => {
                let here = place.filter(|place| *place < count);
                place = place.and_then(|place| place.checked_sub(count));
                (0..count).map(|index| f64::from(u8::from(here == Some(index)))).collect()
            }
        };
        cotangents.push(Some(Operand::floats(values, &sizes(own))?));
    }
    Ok(cotangents)
}

/// Outputs at `x ± h·v`, `x ± 2h·v` and `x ± 4h·v`.
struct Differences {
    /// By distance.
    beyond: Vec<(f64, Outputs, Outputs)>,
}

/// The elements of each output.
type Outputs = Vec<Vec<f64>>;

impl Differences {
    fn new(forward: &Problem, names: &[String], along: &[Vec<f64>]) -> Result<Self, Error> {
        let device = Device::new(Oracle::new());
        let at = |distance: f64| -> Result<Vec<Vec<f64>>, Error> {
            let mut moved = forward.clone();
            for (name, along) in names.iter().zip(along) {
                let operand = moved.operands.iter_mut().find(|(of, _)| of == name).map(|(_, operand)| operand);
                if let Some(operand) = operand {
                    let values = operand.values().iter().zip(along).map(|(x, v)| x + distance * v).collect();
                    let sizes = operand.layout.shape().sizes().to_vec();
                    *operand = Operand::floats(values, &sizes)?;
                }
            }
            Ok(values(moved.run(&device, How::AsAsked)?))
        };
        let beyond = [STEP, 2.0 * STEP, 4.0 * STEP].into_iter();
        let beyond = beyond.map(|distance| Ok((distance, at(distance)?, at(-distance)?)));
        Ok(Self { beyond: beyond.collect::<Result<_, Error>>()? })
    }

    /// The derivative of `⟨w, f⟩`, and how far off it may be.
    fn along(&self, weights: &[Option<Vec<f64>>]) -> (f64, f64) {
        let weigh = |outputs: &[Vec<f64>], f: fn(f64) -> f64| -> f64 {
            let pairs = outputs.iter().zip(weights).filter_map(|(output, weights)| Some((output, weights.as_ref()?)));
            pairs.flat_map(|(output, weights)| output.iter().zip(weights)).map(|(y, w)| f(w * y)).sum()
        };
        // Differences of outputs first: what does not depend on the operand falls out before it is rounded.
        let central = |(distance, after, before): &(f64, Vec<Vec<f64>>, Vec<Vec<f64>>)| {
            let moved = |(after, before): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
                after.iter().zip(before).map(|(after, before)| after - before).collect()
            };
            let differences: Vec<Vec<f64>> = after.iter().zip(before).map(moved).collect();
            weigh(&differences, |x| x) / (2.0 * distance)
        };
        let central: Vec<f64> = self.beyond.iter().map(central).collect();
        let (&[near, far, farther], Some((_, after, _))) = (&central[..], self.beyond.first()) else {
            return (f64::NAN, f64::NAN);
        };
        let richardson = |near: f64, far: f64| (4.0 * near - far) / 3.0;
        let (fine, coarse) = (richardson(near, far), richardson(far, farther));
        let rounding = ROUNDINGS * f64::EPSILON * weigh(after, f64::abs) / STEP;
        (fine, (coarse - fine).abs() + rounding)
    }
}

fn values(outputs: Vec<Output>) -> Vec<Vec<f64>> {
    outputs.into_iter().map(|output| output.data.to_f64()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A backward recipe of every operation that has a gradient, for every value of every attribute: small, and away from kinks.
pub fn recipes() -> Vec<Recipe> {
    let mut recipes = Vec::new();
    let shape = |op: &str, operands: &[(&str, &[usize])]| {
        operands.iter().fold(Recipe::new(op), |recipe, (name, sizes)| recipe.shape(name, sizes))
    };
    for view in View::DISTINCT {
        recipes.push(shape("copy", &[("x", &[3, 4])]).attribute("dtype", "float").view(view));
        let write = shape("write", &[("into", &[4, 5]), ("x", &[2, 3])]);
        recipes.push(write.attribute("start", json!([1, 2])).view(view));
    }
    for kind in ["negate", "exp", "log", "sqrt", "tanh", "erf", "reciprocal"] {
        let fill = if ["log", "sqrt", "reciprocal"].contains(&kind) { Fill::Offset } else { Fill::Normal };
        recipes.push(shape("unary", &[("x", &[3, 4])]).attribute("kind", kind).fill(fill));
    }
    for kind in ["add", "subtract", "multiply", "divide", "maximum", "minimum"] {
        let fill = match kind {
            "divide" => Fill::Offset,
            "maximum" | "minimum" => Fill::Apart,
            _ => Fill::Normal,
        };
        for (a, b) in [(&[3, 4][..], &[3, 4][..]), (&[3, 4], &[4]), (&[3, 1], &[2, 1, 4]), (&[1], &[5])] {
            recipes.push(shape("binary", &[("a", a), ("b", b)]).attribute("kind", kind).fill(fill));
        }
    }
    for (mask, a, b) in [(&[3, 4][..], &[3, 4][..], &[3, 4][..]), (&[3, 1], &[4], &[3, 4]), (&[4], &[3, 4], &[1])] {
        recipes.push(shape("select", &[("mask", mask), ("a", a), ("b", b)]));
    }
    for (kind, fill) in [("sum", Fill::Normal), ("maximum", Fill::Apart)] {
        for axis in 0..3 {
            recipes
                .push(shape("reduce", &[("x", &[2, 3, 4])]).attribute("kind", kind).attribute("axis", axis).fill(fill));
        }
    }
    for (a, b) in [
        (&[3, 4][..], &[4, 2][..]),
        (&[2, 3, 4], &[2, 4, 2]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[3, 4], &[2, 4, 1]),
        (&[1, 4], &[4, 1]),
    ] {
        recipes.push(shape("matmul", &[("a", a), ("b", b)]));
        recipes.push(shape("matmul", &[("a", a), ("b", b)]).view(View::Permuted));
    }
    for fill in [Fill::Permuted, Fill::Repeated, Fill::Beyond] {
        let rows = |op: &str| Recipe::new(op).dims([("n", 7), ("r", 6), ("w0", 3)]).fill(fill);
        recipes.push(rows("gather_rows"));
        recipes.push(rows("scatter_rows").attribute("add", true));
        recipes.push(rows("scatter_rows").attribute("add", false));
        let embedding = Recipe::new("embedding").dims([("n", 4), ("width", 3), ("rows", 6)]);
        recipes.push(embedding.fill(fill).weight(WeightDType::F64));
    }
    for sizes in [&[5][..], &[3, 4], &[2, 2, 3]] {
        recipes.push(shape("softmax", &[("x", sizes)]));
        recipes.push(shape("softmax", &[("x", sizes)]).fill(Fill::Ties));
        for epsilon in [1e-5, 0.1] {
            let norm = |op: &str| shape(op, &[("x", sizes)]).attribute("epsilon", epsilon);
            recipes.push(norm("layer_norm"));
            recipes.push(norm("layer_norm").without("bias"));
            for offset in [false, true] {
                recipes.push(norm("rms_norm").attribute("unit_offset", offset));
            }
        }
    }
    for pairing in ["halves", "interleaved"] {
        for (width, pairs) in [(6, 3), (7, 2)] {
            let sizes = [("T", 3), ("H", 2), ("C", width), ("N", 5), ("P", pairs)];
            recipes.push(Recipe::new("rotary").dims(sizes).attribute("pairing", pairing));
        }
    }
    let kinds = ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"];
    for kind in kinds {
        let fill = if kind == "relu" { Fill::Apart } else { Fill::Normal };
        recipes.push(shape("activation", &[("x", &[3, 4])]).attribute("kind", kind).fill(fill));
        recipes.push(shape("gated", &[("gate", &[3, 4]), ("up", &[3, 4])]).attribute("kind", kind).fill(fill));
    }
    for cap in [30.0, 1.0, 0.5] {
        recipes.push(shape("soft_cap", &[("x", &[3, 4])]).attribute("cap", cap));
    }
    for kind in kinds.into_iter().map(Some).chain([None]) {
        for absent in [&[][..], &["bias"], &["residual"], &["bias", "residual"]] {
            let recipe = Recipe::new("linear").dims([("rows", 3), ("inputs", 5), ("outputs", 4)]);
            let recipe = recipe.attribute("activation", kind).weight(WeightDType::F64);
            recipes.push(absent.iter().fold(recipe, |recipe, operand| recipe.without(operand)));
        }
    }
    recipes.extend(attention());
    for smoothing in [0.0, 0.1, 0.9] {
        for fill in [Fill::Normal, Fill::Beyond] {
            let recipe = Recipe::new("cross_entropy").dims([("R", 5), ("V", 4)]);
            recipes.push(recipe.attribute("smoothing", smoothing).fill(fill));
        }
    }
    recipes.into_iter().zip(1..).map(|(recipe, seed)| away_from_kinks(recipe.backward().seed(seed))).collect()
}

/// The recipe with the next key for which no input of a `relu` within `linear` comes near 0: by a quarter, when the points of
/// the differences are some hundredths apart.
fn away_from_kinks(recipe: Recipe) -> Recipe {
    if recipe.op != "linear" || recipe.attributes.get("activation") != Some(&json!("relu")) {
        return recipe;
    }
    let inputs = |seed: u64| -> Result<Vec<Output>, Error> {
        let recipe = recipe.clone().attribute("activation", Value::Null).seed(seed);
        let problem = Problem { backward: None, ..recipe.problem()? };
        let operands = problem.operands.iter().filter(|(name, _)| name != "residual").cloned().collect();
        Problem { operands, ..problem }.run(&Device::new(Oracle::new()), How::AsAsked)
    };
    let is_away = |seed: &u64| {
        inputs(*seed).is_ok_and(|outputs| values(outputs).iter().flatten().all(|input| input.abs() > 0.25))
    };
    let seed = (0..1000).map(|step| recipe.seed + 1000 * step).find(is_away);
    Recipe { seed: seed.unwrap_or(recipe.seed), ..recipe }
}

/// Every mask, cap and bias, by itself and together; sequences side by side, queries over other keys, queries that see nothing.
fn attention() -> Vec<Recipe> {
    let bidirectional = json!({"kind": "relative", "bidirectional": true, "buckets": 8, "max_distance": 16});
    let backwards = json!({"kind": "relative", "bidirectional": false, "buckets": 4, "max_distance": 9});
    let own = |lengths: &[usize]| json!({"queries": lengths, "keys": lengths});
    let cross = json!({"queries": [3, 2, 1], "keys": [4, 2, 0]});
    let choices: [(Value, Value); 10] = [
        (json!({"scale": 0.5, "mask": "all"}), own(&[4, 3])),
        (json!({"scale": 0.5, "mask": "all"}), cross.clone()),
        (json!({"scale": 0.5, "mask": "causal"}), own(&[5, 1, 3])),
        (json!({"scale": 1.0, "mask": "causal", "window": 2}), own(&[6])),
        (json!({"scale": 0.5, "mask": "all", "soft_cap": 1.0}), own(&[4])),
        (json!({"scale": 0.5, "mask": "all", "score_bias": bidirectional}), cross),
        (json!({"scale": 0.5, "mask": "causal", "score_bias": backwards}), own(&[6, 2])),
        (json!({"scale": 0.5, "mask": "causal", "score_bias": {"kind": "linear"}}), own(&[5, 2])),
        (
            json!({"scale": 0.5, "mask": "causal", "window": 3, "soft_cap": 2.0, "score_bias": {"kind": "linear"}}),
            own(&[6]),
        ),
        (json!({"scale": 0.5, "mask": "causal", "window": 3, "soft_cap": 2.0, "score_bias": backwards}), own(&[6])),
    ];
    let recipe = |heads: [usize; 2], (attributes, segments): &(Value, Value)| {
        let [heads, keys] = heads;
        let recipe = Recipe::new("attention").dims([("H", heads), ("K", keys), ("C", 3)]);
        let attributes = attributes.as_object().cloned().unwrap_or_default();
        let recipe = attributes.into_iter().fold(recipe, |recipe, (name, value)| recipe.attribute(&name, value));
        recipe.attribute("segments", segments.clone())
    };
    choices.iter().flat_map(|choice| [[1, 1], [4, 2], [3, 1]].map(|heads| recipe(heads, choice))).collect()
}
