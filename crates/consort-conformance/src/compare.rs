//! Whole models: a backend beside the oracle, in numbers, with a verdict.
//!
//! For tensors x of the backend, e of the oracle (the scalar backend in f64) and s of scalar f32, all three with weights
//! kept as the same type:
//!
//! ```text
//! error          max |x − e| / (max e − min e)             of the logits, and of each hidden state
//! noise floor    max |s − e| / (max e − min e)             what f32 costs when nothing is wrong
//! times floor    error / noise floor                       of the logits; f32 backends only
//! divergence     Σ p (ln p − ln q), p = softmax(e), q = softmax(x), mean and greatest over rows, in nats
//! top choice     rows with the same argmax, among those with a margin over 2·max |s − e|; see `measure`
//! cuts           bits of: token by token, odd chunks, without a cache, beside others ≡ bits of one pass
//! oracle         max |e − r| / (max r − min r)             r of the reference implementation, the worst of all tensors
//! quality        divergence of e from the oracle with weights as they are stored: what keeping them as this type costs
//! ```
//!
//! **Verdict.** A backend agrees when, for its output and every hidden state, `error ≤ bar`; all cuts have the same bits;
//! and the oracle itself, with weights as they are stored, is within its bar of the reference, for otherwise the yardstick is
//! wrong. Written as `!(error <= bar)`, so that NaN fails. The rest is shown, not judged: the multiple of the noise floor
//! says how much of the bar is the backend's own.
//!
//! **The bar** is [`BAR_F32`] (or [`BAR_F64`] if the backend computes in f64). A model without a reference may be deeper or
//! more ill-conditioned than the goldens are: where scalar f32 itself needs more than a fourth of [`BAR_F32`], its bar is
//! [`FLOORS`] times the noise floor of that tensor. Weights are rounded to the type that they are kept as on both sides, so
//! no bar is wider for a narrow type.
//!
//! **Products in bf16 or int8.** Nothing here can be as near as f32 is: activations that differ by a rounding may have other
//! codes, and what follows walks from there. So the exact model stays the yardstick, and what the oracle itself loses by
//! computing so is the noise floor: every error may be [`FLOORS`] times that of the oracle in the same compute, and the mean
//! divergence likewise (the KL budget). Whether each product is right is the operations' cases to say, and lockstep's.
//!
//! **References** in F64 hold the oracle to [`BAR_ORACLE`]; those in F32 are rounded themselves, so to [`BAR_F32`]. Attention
//! probabilities in F32 inherit the error of their scores times the scores' size (`dp ≤ |ds|/2`, scores of some hundreds with
//! errors of some 1e-6 of them), so to [`BAR_F32_ATTENTION`], which still tells a wrong mask, head or scale. Between backend
//! and oracle they are not compared: the hidden states after them are.

use std::collections::BTreeMap;

use consort_core::{Backend, Compute, DType, Device, WeightDType};
use serde::Serialize;

use crate::{
    error::Error,
    golden::{Golden, cannot_keep, keeps_exactly},
    measure::{Deviation, Divergence, TopChoice, Values, spread},
    number,
    oracle::{Oracle, Single},
    pass::{self, Cut},
};

/// Greatest error of an f32 backend, of the spread: the project's bar for "the same model". Scalar f32 stays below
/// 3e-6 on every golden.
pub const BAR_F32: f64 = 1e-5;
/// Greatest error of an f64 backend, of the spread.
pub const BAR_F64: f64 = 1e-10;
/// Greatest error of the oracle against a reference in F64.
pub const BAR_ORACLE: f64 = 1e-10;
/// Greatest error of the oracle's attention probabilities against a reference in F32.
pub const BAR_F32_ATTENTION: f64 = 1e-3;
/// How many noise floors an f32 backend's error may be where that is more than [`BAR_F32`]. Scalar f32 adds in one chain,
/// the longest there is; other orders of the same sums are as good or better, and walk independently.
pub const FLOORS: f64 = 4.0;

/// Compares a backend with the oracle on one golden, its weights kept as f32.
///
/// # Errors
/// When there is nothing to compare: the golden's model does not open, or a pass fails. A backend that computes
/// something else gives a report that does not [agree](ModelReport::agrees).
pub fn compare<B: Backend>(golden: &Golden, device: &Device<B>) -> Result<ModelReport, Error> {
    Exact::compute(golden)?.kept_as(WeightDType::F32)?.compare(device, default_profile(device))
}

/// Name of the profile that a backend has unless it says otherwise.
pub fn default_profile<B: Backend>(device: &Device<B>) -> &'static str {
    if device.float() == DType::F64 { "f64" } else { "ieee" }
}

/// The oracle with weights as they are stored, held against the reference: computed once for any number of types that weights
/// are kept as.
pub struct Exact<'a> {
    golden: &'a Golden,
    output: &'static str,
    /// Of the oracle.
    tensors: BTreeMap<String, Values>,
    /// Against the reference, each tensor that both have, with its bar.
    reference: Vec<Judged>,
    unmatched: Vec<String>,
    /// Types that keep every stored weight exactly.
    exact: Vec<WeightDType>,
    /// Why weights cannot be kept as a type.
    refused: Vec<(WeightDType, String)>,
}

impl<'a> Exact<'a> {
    /// Runs the oracle.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where it does not fit this machine; when the golden's model does not open or a pass fails.
    pub fn compute(golden: &'a Golden) -> Result<Self, Error> {
        let files = golden.checked()?;
        let refused = |dtype| cannot_keep(&files.config, &files.weights, dtype).map(|why| (dtype, why));
        let refused = WeightDType::ALL.into_iter().filter_map(refused).collect();
        let exact = WeightDType::ALL.into_iter().filter(|dtype| keeps_exactly(&files.weights, *dtype)).collect();

        let model = golden.load_as(&Device::new(Oracle::new()), WeightDType::F64, DType::F64)?;
        let tensors = pass::observe(golden, &model, golden.has_reference())?;
        let output = pass::output_name(&model);
        drop(model);
        let mut reference = Vec::new();
        let mut unmatched = Vec::new();
        for (name, expected) in &golden.expected {
            match tensors.get(name) {
                Some(values) if expected.sizes == values.sizes => {
                    let bar = match (golden.narrow.contains(name), name.contains("attention")) {
                        (false, _) => BAR_ORACLE,
                        (true, false) => BAR_F32,
                        (true, true) => BAR_F32_ATTENTION,
                    };
                    reference.push(Judged { found: Deviation::measure(name, &values.data, expected)?, bar });
                }
                _ => unmatched.push(name.clone()),
            }
        }
        if golden.has_reference() && !golden.expected.contains_key(output) {
            unmatched.push(output.to_owned());
        }
        Ok(Self { golden, output, tensors, reference, unmatched, exact, refused })
    }

    /// The model with its weights kept as `dtype`.
    ///
    /// # Errors
    /// [`Error::Kept`] when they cannot be, which is nobody's fault; when a pass fails.
    pub fn kept_as(&self, dtype: WeightDType) -> Result<Reference<'_>, Error> {
        self.computed(dtype, Compute::F32)
    }

    /// As [`kept_as`](Self::kept_as), with products computed in `compute`.
    ///
    /// # Errors
    /// As [`kept_as`](Self::kept_as).
    pub fn computed(&self, dtype: WeightDType, compute: Compute) -> Result<Reference<'_>, Error> {
        if let Some((_, what)) = self.refused.iter().find(|(refused, _)| *refused == dtype) {
            return Err(Error::Kept { dtype, what: what.clone() });
        }
        let distributions = self.output == "logits";
        let (rounded, quality) = if self.exact.contains(&dtype) {
            (None, distributions.then_some(Divergence { mean: 0.0, max: 0.0 }))
        } else {
            let model = self.golden.load_as(&Device::new(Oracle::new()), dtype, DType::F32)?;
            let tensors = pass::observe(self.golden, &model, false)?;
            let logits = &named(&tensors, self.output)?.data;
            let quality = Divergence::measure(logits, named(&self.tensors, self.output)?)?;
            (Some(tensors), distributions.then_some(quality))
        };
        let exact = rounded.as_ref().unwrap_or(&self.tensors);
        let noisy = match compute {
            Compute::F32 => {
                let single = self.golden.load_as(&Device::new(Single::new()), dtype, DType::F32)?;
                pass::observe(self.golden, &single, false)?
            }
            narrow => {
                let oracle = self.golden.load_in(&Device::new(Oracle::new()), dtype, DType::F32, narrow)?;
                pass::observe(self.golden, &oracle, false)?
            }
        };
        let divergence_budget = match compute {
            Compute::F32 => None,
            _ if !distributions => None,
            _ => {
                let exact = named(exact, self.output)?;
                Some(FLOORS * Divergence::measure(&named(&noisy, self.output)?.data, exact)?.mean)
            }
        };
        let mut floors = BTreeMap::new();
        for (name, values) in &noisy {
            floors.insert(name.clone(), Deviation::measure(name, &values.data, named(exact, name)?)?.error);
        }
        let floor = floors.get(self.output).copied().unwrap_or(0.0);
        let clear = 2.0 * floor * spread(&named(exact, self.output)?.data);
        Ok(Reference { exact: self, dtype, compute, rounded, floors, floor, clear, quality, divergence_budget })
    }
}

/// What any number of backends are compared with on one model with its weights kept as one type, computed once.
pub struct Reference<'a> {
    exact: &'a Exact<'a>,
    dtype: WeightDType,
    compute: Compute,
    /// Of the oracle, where the weights are not what is stored.
    rounded: Option<BTreeMap<String, Values>>,
    /// Errors of scalar f32, or of the oracle in a narrow compute, by tensor.
    floors: BTreeMap<String, f64>,
    floor: f64,
    /// Margin beyond which scalar f32 could not change a choice.
    clear: f64,
    quality: Option<Divergence>,
    divergence_budget: Option<f64>,
}

impl Reference<'_> {
    /// The model.
    pub fn golden(&self) -> &Golden {
        self.exact.golden
    }

    /// What weights are kept as.
    pub fn dtype(&self) -> WeightDType {
        self.dtype
    }

    /// Compares a backend with what was computed. `profile` is the name of what its arithmetic promises.
    ///
    /// # Errors
    /// When a pass fails on the backend.
    pub fn compare<B: Backend>(&self, device: &Device<B>, profile: &str) -> Result<ModelReport, Error> {
        let Exact { golden, output, .. } = self.exact;
        let (golden, output_name): (&Golden, &str) = (golden, output);
        let tensors = self.rounded.as_ref().unwrap_or(&self.exact.tensors);
        let model = golden.load_in(device, self.dtype, DType::F32, self.compute)?;
        let before = device.report();
        let found = pass::observe(golden, &model, false)?;
        let mut operations = BTreeMap::new();
        for (name, after) in device.report() {
            let before = before.get(name).copied().unwrap_or_default();
            let levels = Levels {
                native: after.native - before.native,
                composed: after.composed - before.composed,
                host: after.host - before.host,
            };
            if levels != Levels::default() {
                operations.insert(name.to_owned(), levels);
            }
        }

        let exact = named(tensors, output_name)?;
        let whole = &named(&found, output_name)?.data;
        let output = Deviation::measure(output_name, whole, exact)?;
        let single = device.float() != DType::F64;
        let narrow = self.compute != Compute::F32;
        let bar_of = |name: &str| match (single, golden.has_reference()) {
            _ if narrow => self.floors.get(name).map_or(BAR_F32, |floor| BAR_F32.max(FLOORS * floor)),
            (false, _) => BAR_F64,
            (true, true) => BAR_F32,
            (true, false) => self.floors.get(name).map_or(BAR_F32, |floor| BAR_F32.max(FLOORS * floor)),
        };
        let mut hidden = Vec::new();
        for (name, values) in found.iter().filter(|(name, _)| *name != output_name) {
            let found = Deviation::measure(name, &values.data, named(tensors, name)?)?;
            hidden.push(Judged { found, bar: bar_of(name) });
        }
        hidden.sort_by_key(|hidden| place(&hidden.found.tensor));
        let layer = |found: &Deviation| Layer {
            name: found.tensor.clone(),
            error: found.error,
            floor: self.floors.get(&found.tensor).copied().unwrap_or(f64::NAN),
        };
        let layers = hidden.iter().map(|hidden| layer(&hidden.found)).chain([layer(&output)]).collect();
        let worst_hidden = worst(hidden);
        let oracle = worst(self.exact.reference.clone());
        let distributions = output_name == "logits";
        Ok(ModelReport {
            model: golden.name.clone(),
            backend: device.backend().name().to_owned(),
            float: device.float().to_string(),
            weight_dtype: self.dtype,
            compute: if narrow { self.compute.to_string() } else { device.float().to_string() },
            profile: profile.to_owned(),
            bar: bar_of(output_name),
            floor: self.floor,
            times_floor: ((single || narrow) && self.floor > 0.0).then(|| output.error / self.floor),
            divergence: if distributions { Some(Divergence::measure(whole, exact)?) } else { None },
            top_choice: if distributions { Some(TopChoice::measure(whole, exact, self.clear)?) } else { None },
            quality: self.quality,
            divergence_budget: self.divergence_budget,
            layers,
            cuts: pass::cuts(golden, &model, whole)?,
            oracle_bar: oracle.as_ref().map(|oracle| oracle.bar),
            oracle: oracle.map(|oracle| oracle.found),
            compared: self.exact.reference.len(),
            unmatched: self.exact.unmatched.clone(),
            operations,
            output,
            hidden_bar: worst_hidden.as_ref().map(|hidden| hidden.bar),
            worst_hidden: worst_hidden.map(|hidden| hidden.found),
        })
    }
}

/// An error and what it may be.
#[derive(Clone, Debug)]
struct Judged {
    found: Deviation,
    bar: f64,
}

/// The one with the greatest error for its bar; NaN is greatest.
fn worst(all: Vec<Judged>) -> Option<Judged> {
    let share = |judged: &Judged| {
        let share = judged.found.error / judged.bar;
        if share.is_nan() { f64::INFINITY } else { share }
    };
    all.into_iter().max_by(|a, b| share(a).total_cmp(&share(b)))
}

/// Encoder first, then layer by layer.
fn place(name: &str) -> (bool, bool, usize) {
    let layer = name.rsplit('.').next().and_then(|last| last.parse().ok());
    (!name.starts_with("encoder"), layer.is_none(), layer.unwrap_or(0))
}

/// Error and noise floor of one hidden state, or of the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// `hidden.0` after the embedding, `hidden.1` after the first block …
    pub name: String,
    /// Of the backend.
    #[serde(serialize_with = "number::one")]
    pub error: f64,
    /// Of scalar f32.
    #[serde(serialize_with = "number::one")]
    pub floor: f64,
}

/// How a backend did on one model; formulas in the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    /// Name of the model.
    pub model: String,
    /// Name that the backend gives itself.
    pub backend: String,
    /// The type that it computes in.
    pub float: String,
    /// The type that weights are kept as.
    pub weight_dtype: WeightDType,
    /// What products are computed in.
    pub compute: String,
    /// What the backend's arithmetic promises.
    pub profile: String,
    /// Greatest error that its output may have.
    #[serde(serialize_with = "number::one")]
    pub bar: f64,
    /// Error of the logits, or of the last hidden state of a model without a head.
    pub output: Deviation,
    /// The hidden state with the greatest error for its bar.
    pub worst_hidden: Option<Deviation>,
    /// Greatest error that this hidden state may have.
    #[serde(serialize_with = "number::optional")]
    pub hidden_bar: Option<f64>,
    /// Error of scalar f32 in the output; of the oracle itself, where products are in bf16 or int8.
    #[serde(serialize_with = "number::one")]
    pub floor: f64,
    /// The output's error over the floor; for f32 backends, where the floor is not zero.
    #[serde(serialize_with = "number::optional")]
    pub times_floor: Option<f64>,
    /// Every hidden state in the order of the computation, and the output: what was inherited and added on the way.
    pub layers: Vec<Layer>,
    /// Of the oracle's distributions from the backend's; for models with a head.
    pub divergence: Option<Divergence>,
    /// The same choices; for models with a head.
    pub top_choice: Option<TopChoice>,
    /// What keeping the weights as this type costs, backends apart; for models with a head.
    pub quality: Option<Divergence>,
    /// What the mean divergence may be where products are in bf16 or int8.
    #[serde(serialize_with = "number::optional")]
    pub divergence_budget: Option<f64>,
    /// The other ways of running the same rows.
    pub cuts: Vec<Cut>,
    /// The oracle's worst tensor against the reference implementation, where there is one.
    pub oracle: Option<Deviation>,
    /// Greatest error that this tensor may have.
    #[serde(serialize_with = "number::optional")]
    pub oracle_bar: Option<f64>,
    /// How many tensors of the oracle were compared with the reference.
    pub compared: usize,
    /// Tensors of the reference that the oracle does not have, or in other sizes.
    pub unmatched: Vec<String>,
    /// How the operations of one pass ran; parts of compositions count as well.
    pub operations: BTreeMap<String, Levels>,
}

/// How often something ran at each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Levels {
    /// By the backend's own form.
    pub native: u64,
    /// Through its decomposition.
    pub composed: u64,
    /// At least partly on the host.
    pub host: u64,
}

impl ModelReport {
    /// Whether the backend agrees with the oracle, and the oracle with the reference.
    pub fn agrees(&self) -> bool {
        self.failures().is_empty()
    }

    /// What is wrong, one line each; empty when nothing is.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN fails")]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut judge = |whose: &str, found: &Deviation, bar: f64| {
            if !(found.error <= bar) {
                failures.push(format!(
                    "{whose}{} {:?}: element {:?} is {:e}, expected {:e}: {:.2e} of the spread, at most {bar:e}",
                    found.tensor, found.sizes, found.index, found.actual, found.expected, found.error
                ));
            }
        };
        if let (Some(oracle), Some(bar)) = (&self.oracle, self.oracle_bar) {
            judge("the oracle's ", oracle, bar);
        }
        if let (Some(hidden), Some(bar)) = (&self.worst_hidden, self.hidden_bar) {
            judge("", hidden, bar);
        }
        judge("", &self.output, self.bar);
        if let (Some(divergence), Some(budget)) = (&self.divergence, self.divergence_budget)
            && !(divergence.mean <= budget)
        {
            failures.push(format!(
                "the distributions diverge by {:.2e} nats in the mean, at most {budget:.2e}: {FLOORS} times what the oracle \
                 loses in {}",
                divergence.mean, self.compute
            ));
        }
        for name in &self.unmatched {
            failures.push(format!("{name} of the reference is not computed by the oracle in the same sizes"));
        }
        for Cut { way, differs } in &self.cuts {
            if let Some(other) = differs {
                failures.push(format!(
                    "{way}: element {} of the output is {:e}, expected the bits of {:e} as in one pass",
                    other.index, other.actual, other.expected
                ));
            }
        }
        failures
    }

    /// The operations' levels together.
    pub fn levels(&self) -> Levels {
        self.operations.values().fold(Levels::default(), |sum, levels| Levels {
            native: sum.native + levels.native,
            composed: sum.composed + levels.composed,
            host: sum.host + levels.host,
        })
    }
}

fn named<'a>(tensors: &'a BTreeMap<String, Values>, name: &str) -> Result<&'a Values, Error> {
    tensors.get(name).ok_or_else(|| Error::Elements { what: name.to_owned(), actual: 0, expected: 1 })
}
