//! Whole models: a backend beside the oracle, in numbers, with a verdict.
//!
//! For tensors x of the backend, e of the oracle (the scalar backend in f64) and s of scalar f32:
//!
//! ```text
//! error          max |x − e| / (max e − min e)             of the logits, and of the worst hidden state
//! noise floor    max |s − e| / (max e − min e)             what f32 costs when nothing is wrong
//! times floor    error / noise floor                       of the logits; f32 backends only
//! divergence     Σ p (ln p − ln q), p = softmax(e), q = softmax(x), mean and greatest over rows, in nats
//! top choice     rows with the same argmax, among those with a margin over 2·max |s − e|; see `measure`
//! cuts           bits of: token by token, odd chunks, without a cache, beside others ≡ bits of one pass
//! oracle         max |e − r| / (max r − min r)             r of the reference implementation, the worst of all tensors
//! ```
//!
//! **Verdict.** A backend agrees when, for its output and every hidden state, `error ≤` [`BAR_F32`] (or [`BAR_F64`] if it
//! computes in f64); all cuts have the same bits; and the oracle itself is within [`BAR_ORACLE`] of the reference, for
//! otherwise the yardstick is wrong. Written as `!(error <= bar)`, so that NaN fails. The rest is shown, not judged: the
//! multiple of the noise floor says how much of the bar is the backend's own.
//!
//! Attention probabilities are compared between oracle and reference only: in f32 they inherit the error of their scores
//! times the scores' size, and the hidden states after them are compared anyhow.

use std::collections::BTreeMap;

use consort_core::{Backend, DType, Device};
use serde::Serialize;

use crate::{
    error::Error,
    golden::Golden,
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
/// Greatest error of the oracle against the reference implementation, both in f64.
pub const BAR_ORACLE: f64 = 1e-10;

/// Compares a backend with the oracle on one golden.
///
/// # Errors
/// When there is nothing to compare: the golden's model does not open, or a pass fails. A backend that computes
/// something else gives a report that does not [agree](ModelReport::agrees).
pub fn compare<B: Backend>(golden: &Golden, device: &Device<B>) -> Result<ModelReport, Error> {
    Reference::compute(golden)?.compare(device)
}

/// What any number of backends are compared with on one golden, computed once.
pub struct Reference<'a> {
    golden: &'a Golden,
    output: &'static str,
    tensors: BTreeMap<String, Values>,
    oracle: Deviation,
    unmatched: Vec<String>,
    floor: f64,
    /// Margin beyond which scalar f32 could not change a choice.
    clear: f64,
}

impl<'a> Reference<'a> {
    /// Runs the oracle and scalar f32.
    ///
    /// # Errors
    /// When the golden's model does not open or a pass fails.
    pub fn compute(golden: &'a Golden) -> Result<Self, Error> {
        let model = golden.load(&Device::new(Oracle::new()))?;
        let tensors = pass::observe(golden, &model, true)?;
        let output = pass::output_name(&model);

        let mut unmatched: Vec<String> =
            golden.expected.keys().filter(|name| !tensors.contains_key(*name)).cloned().collect();
        let mut worst: Option<Deviation> = None;
        for (name, values) in &tensors {
            match golden.expected.get(name) {
                Some(expected) if expected.sizes == values.sizes => {
                    worse(&mut worst, Deviation::measure(name, &values.data, expected)?);
                }
                _ => unmatched.push(name.clone()),
            }
        }
        let exact = named(&tensors, output)?;
        let oracle = match worst {
            Some(worst) => worst,
            None => Deviation::measure(output, &exact.data, exact)?,
        };

        let single = pass::observe(golden, &golden.load(&Device::new(Single::new()))?, false)?;
        let floor = Deviation::measure(output, &named(&single, output)?.data, exact)?.error;
        let clear = 2.0 * floor * spread(&exact.data);
        Ok(Self { golden, output, oracle, unmatched, floor, clear, tensors })
    }

    /// Compares a backend with what was computed.
    ///
    /// # Errors
    /// When a pass fails on the backend.
    pub fn compare<B: Backend>(&self, device: &Device<B>) -> Result<ModelReport, Error> {
        let model = self.golden.load(device)?;
        let before = device.report();
        let found = pass::observe(self.golden, &model, false)?;
        let mut operations = BTreeMap::new();
        for (name, after) in device.report() {
            let before = before.get(name).copied().unwrap_or_default();
            let levels = Levels {
                native: after.native - before.native,
                composed: after.composed - before.composed,
                host: after.host - before.host,
            };
            if levels != Levels::default() {
                operations.insert(name, levels);
            }
        }

        let exact = named(&self.tensors, self.output)?;
        let whole = &named(&found, self.output)?.data;
        let output = Deviation::measure(self.output, whole, exact)?;
        let mut worst_hidden = None;
        for (name, values) in found.iter().filter(|(name, _)| *name != self.output) {
            worse(&mut worst_hidden, Deviation::measure(name, &values.data, named(&self.tensors, name)?)?);
        }
        let distributions = self.output == "logits";
        let single = device.float() != DType::F64;
        Ok(ModelReport {
            model: self.golden.name.clone(),
            backend: device.backend().name(),
            float: device.float().to_string(),
            bar: if single { BAR_F32 } else { BAR_F64 },
            floor: self.floor,
            times_floor: (single && self.floor > 0.0).then(|| output.error / self.floor),
            divergence: if distributions { Some(Divergence::measure(whole, exact)?) } else { None },
            top_choice: if distributions { Some(TopChoice::measure(whole, exact, self.clear)?) } else { None },
            cuts: pass::cuts(self.golden, &model, whole)?,
            oracle: self.oracle.clone(),
            unmatched: self.unmatched.clone(),
            operations,
            output,
            worst_hidden,
        })
    }
}

/// How a backend did on one golden; formulas in the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    /// Name of the golden.
    pub model: String,
    /// Name that the backend gives itself.
    pub backend: &'static str,
    /// The type that it computes in.
    pub float: String,
    /// Greatest error that its output and hidden states may have.
    pub bar: f64,
    /// Error of the logits, or of the last hidden state of a model without a head.
    pub output: Deviation,
    /// The hidden state with the greatest error.
    pub worst_hidden: Option<Deviation>,
    /// Error of scalar f32 in the output.
    #[serde(serialize_with = "number::one")]
    pub floor: f64,
    /// The output's error over the floor; for f32 backends, where the floor is not zero.
    #[serde(serialize_with = "number::optional")]
    pub times_floor: Option<f64>,
    /// Of the oracle's distributions from the backend's; for models with a head.
    pub divergence: Option<Divergence>,
    /// The same choices; for models with a head.
    pub top_choice: Option<TopChoice>,
    /// The other ways of running the same rows.
    pub cuts: Vec<Cut>,
    /// The oracle's worst tensor against the reference implementation.
    pub oracle: Deviation,
    /// Tensors that only one of oracle and reference has, or in other sizes.
    pub unmatched: Vec<String>,
    /// How the operations of one pass ran; parts of compositions count as well.
    pub operations: BTreeMap<&'static str, Levels>,
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
        judge("the oracle's ", &self.oracle, BAR_ORACLE);
        if let Some(hidden) = &self.worst_hidden {
            judge("", hidden, self.bar);
        }
        judge("", &self.output, self.bar);
        for name in &self.unmatched {
            failures.push(format!("{name} is not in both the oracle and the reference with the same sizes"));
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

/// Keeps the greater error; NaN is greatest.
fn worse(worst: &mut Option<Deviation>, found: Deviation) {
    match worst {
        Some(worst) if worst.error.is_nan() || worst.error >= found.error => {}
        _ => *worst = Some(found),
    }
}
