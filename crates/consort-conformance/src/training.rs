//! Training checked: gradients of a whole model, and the loss over ten steps of AdamW, against a reference implementation.
//!
//! ```text
//! loss        mean over the targets that are not ignored of Fused::CrossEntropy(logits, target)
//! gradient    max |g − r| / scale          of each slot, before the first step; r of the reference
//! scale       max |r|, at least SMALL of the greatest |r| of all slots
//! losses      |l − r| / |r|                before the first step, and after each of a row of steps
//! steps       |l − r| / |r|                after one step from where the oracle was before it
//! noise floor the same of scalar f32
//! ```
//!
//! **Scale.** A slot's gradient is measured by its own greatest element. Where that is next to nothing beside the rest of the
//! model it is what is left of sums that cancel (a key's bias under softmax has the gradient zero), and its rounding is that
//! of their terms: [`SMALL`] of the greatest of all slots is the least that anything is measured by.
//!
//! **Steps.** AdamW divides by the root of the second moment: an element whose gradient is rounding alone moves as far as any
//! other, to either side, and what a row of steps makes of that grows from step to step. In ten steps at a rate of 0.01 scalar
//! f32 is off by 1e-6 to 1e-5, on one golden by 2e-2. So a row of steps shows that a backend trains, and single steps from the
//! oracle's own values and moments show that each step is right. The noise floor of a row of steps is the greatest so far of
//! four runs that begin a rounding apart, since one run may be near by chance.
//!
//! **Verdict.** In f64: gradients to [`BAR_GRADIENT_F64`], losses to [`BAR_LOSS_F64`]. In f32: gradients to
//! [`BAR_GRADIENT_F32`], losses to [`BAR_LOSS_F32`], each or [`FLOORS`] noise floors, whichever is more. The model's weights
//! are kept as the type that is computed in, so that a step is not rounded away.
//!
//! A golden with training has `training.json` (inputs, targets, settings, losses) and `gradients/`, a model directory whose
//! weights are the gradients: so they go to their slots as weights do.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use consort_core::{
    Backend, DType, Device, Fused, TensorOf, Transformer, WeightDType,
    autodiff::{Autodiff, Gradients, Parameter},
    operation::AdamWSettings,
    philox,
};
use serde::{Deserialize, Serialize};

use crate::{
    compare::{FLOORS, default_profile},
    error::Error,
    golden::Golden,
    measure::Deviation,
    number,
    oracle::{Oracle, Single},
};

/// Greatest error of a gradient in f64. The oracle stays below 3e-14 on every golden.
pub const BAR_GRADIENT_F64: f64 = 1e-10;
/// Greatest error of a loss in f64. The oracle stays below 1e-12 on every golden, through ten steps.
pub const BAR_LOSS_F64: f64 = 1e-9;
/// Greatest error of a gradient in f32. Scalar f32 stays below 7e-6 on every golden.
pub const BAR_GRADIENT_F32: f64 = 2e-5;
/// Greatest error of a loss in f32. Scalar f32 stays below 4e-6 after single steps on every golden.
pub const BAR_LOSS_F32: f64 = 1e-5;
/// Of the greatest gradient of a model: the least that one of its gradients is measured by.
pub const SMALL: f64 = 1e-2;

const TRAINING: &str = "training.json";
const GRADIENTS: &str = "gradients";

/// `training.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Token ids of the sources; none but for encoder-decoder models.
    #[serde(default)]
    pub sources: Vec<Vec<u32>>,
    /// Token ids of the sequences that are trained on.
    pub inputs: Vec<Vec<u32>>,
    /// For each of their tokens what it should lead to; `null` is left out of the loss.
    pub targets: Vec<Vec<Option<u32>>>,
    /// Label smoothing.
    #[serde(default)]
    pub smoothing: f64,
    /// Settings of the optimizer.
    pub adamw: Settings,
    /// The loss before each step, and after the last.
    pub losses: Vec<f64>,
}

/// Settings of AdamW, the same for every parameter and step.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the parameters.
    pub weight_decay: f64,
}

/// What a golden's training should give.
#[derive(Clone, Debug)]
pub struct Training {
    /// What is trained on, and the losses.
    pub course: Course,
    /// Gradients before the first step, by slot, row-major.
    pub gradients: BTreeMap<String, Vec<f64>>,
}

impl Training {
    /// Whether a golden has training.
    pub fn is_there(golden: &Golden) -> bool {
        golden.directory.join(TRAINING).is_file()
    }

    /// Reads a golden's; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] and [`Error::Model`] name the file that is not what it should be.
    pub fn read(golden: &Golden) -> Result<Option<Self>, Error> {
        let path = golden.directory.join(TRAINING);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let malformed = |what: String| Error::Malformed { path: path.clone(), what };
        let course: Course = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        course.check().map_err(malformed)?;
        Ok(Some(Self { course, gradients: gradients(&golden.directory.join(GRADIENTS))? }))
    }
}

impl Course {
    fn check(&self) -> Result<(), String> {
        let lengths = |all: usize, expected: usize, what: &str| match all == expected {
            true => Ok(()),
            false => Err(format!("{all} {what}, expected {expected}")),
        };
        lengths(self.targets.len(), self.inputs.len(), "lists of targets")?;
        for (inputs, targets) in self.inputs.iter().zip(&self.targets) {
            lengths(targets.len(), inputs.len(), "targets of a sequence")?;
        }
        if !self.sources.is_empty() {
            lengths(self.sources.len(), self.inputs.len(), "sources")?;
        }
        if self.counted() == 0 {
            return Err("no target that counts".to_owned());
        }
        if self.losses.is_empty() {
            return Err("no losses".to_owned());
        }
        Ok(())
    }

    /// Targets that are not ignored.
    fn counted(&self) -> usize {
        self.targets.iter().flatten().flatten().count()
    }
}

fn gradients(directory: &Path) -> Result<BTreeMap<String, Vec<f64>>, Error> {
    let model = consort_formats::open(directory)?;
    let values = |stored: &consort_core::StoredTensor| {
        (0..stored.shape()[0]).flat_map(|row| stored.row(row).collect::<Vec<_>>()).collect()
    };
    Ok(model.weights.iter().map(|(slot, stored)| (slot.to_owned(), values(stored))).collect())
}

/// How a backend trained one golden; formulas in the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingReport {
    /// Name of the model.
    pub model: String,
    /// Name that the backend gives itself.
    pub backend: String,
    /// The type that it computes in.
    pub float: String,
    /// What the backend's arithmetic promises.
    pub profile: String,
    /// Every slot's gradient, in the order of their names.
    pub gradients: Vec<Gradient>,
    /// Slots that only one of model and reference has, or in other sizes.
    pub unmatched: Vec<String>,
    /// Before the first step, and after each of a row of steps.
    pub losses: Curve,
    /// After one step from where the oracle was before it.
    pub steps: Curve,
}

/// One slot's gradient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gradient {
    /// The worst element, its error over the slot's scale.
    pub worst: Deviation,
    /// The same of scalar f32.
    #[serde(serialize_with = "number::one")]
    pub floor: f64,
    /// The most that it may be.
    #[serde(serialize_with = "number::one")]
    pub bar: f64,
}

/// Losses beside those of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The losses.
    #[serde(serialize_with = "number::many")]
    pub found: Vec<f64>,
    /// The reference's.
    #[serde(serialize_with = "number::many")]
    pub expected: Vec<f64>,
    /// Relative errors.
    #[serde(serialize_with = "number::many")]
    pub errors: Vec<f64>,
    /// Those of scalar f32.
    #[serde(serialize_with = "number::many")]
    pub floors: Vec<f64>,
    /// The most that they may be.
    #[serde(serialize_with = "number::many")]
    pub bars: Vec<f64>,
}

impl Curve {
    /// The greatest error; NaN if there is any.
    pub fn error(&self) -> f64 {
        greatest(&self.errors)
    }

    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN fails")]
    fn failure(&self, what: &str) -> Option<String> {
        let all = self.errors.iter().zip(&self.bars).zip(self.found.iter().zip(&self.expected)).enumerate();
        let mut wrong = all.filter(|(_, ((error, bar), _))| !(error <= bar));
        let (at, ((error, bar), (found, expected))) = wrong.next()?;
        Some(format!("{what} {at}: loss {found}, expected {expected}: {error:.2e} of it, at most {bar:.2e}"))
    }
}

impl TrainingReport {
    /// Whether the backend trains as the reference does.
    pub fn agrees(&self) -> bool {
        self.failures().is_empty()
    }

    /// What is wrong, one line each, the worst gradients first; empty when nothing is.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN fails")]
    pub fn failures(&self) -> Vec<String> {
        let mut wrong: Vec<&Gradient> =
            self.gradients.iter().filter(|gradient| !(gradient.worst.error <= gradient.bar)).collect();
        wrong.sort_by(|a, b| b.worst.error.total_cmp(&a.worst.error));
        let mut failures: Vec<String> = wrong
            .into_iter()
            .map(|Gradient { worst, bar, .. }| {
                format!(
                    "gradient of {} {:?}: element {:?} is {:e}, expected {:e}: {:.2e} of its scale, at most {bar:.2e}",
                    worst.tensor, worst.sizes, worst.index, worst.actual, worst.expected, worst.error
                )
            })
            .collect();
        failures
            .extend(self.unmatched.iter().map(|slot| format!("{slot}: no gradient of it in both, in the same sizes")));
        failures.extend(self.steps.failure("after one step from step"));
        failures.extend(self.losses.failure("after step"));
        failures
    }

    /// The gradient with the greatest error for its bar.
    pub fn worst(&self) -> Option<&Gradient> {
        let share = |gradient: &Gradient| {
            let share = gradient.worst.error / gradient.bar;
            if share.is_nan() { f64::INFINITY } else { share }
        };
        self.gradients.iter().max_by(|a, b| share(a).total_cmp(&share(b)))
    }
}

/// What any number of backends are held against on one golden, computed once.
pub struct TrainingReference<'a> {
    golden: &'a Golden,
    training: Training,
    /// Where the oracle was before each step.
    states: Vec<State>,
    floors: Floors,
}

/// Errors of scalar f32.
struct Floors {
    gradients: BySlot,
    /// The greatest so far of some runs that differ by roundings.
    losses: Vec<f64>,
    steps: Vec<f64>,
}

/// Runs of scalar f32 that the noise floor of the loss curve is the greatest of.
const RUNS: u64 = 4;

impl<'a> TrainingReference<'a> {
    /// Trains the oracle and scalar f32; `None` for a golden without training.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] and [`Error::Model`] name the file that is not what it should be; what the passes
    /// meet.
    pub fn compute(golden: &'a Golden) -> Result<Option<Self>, Error> {
        let Some(training) = Training::read(golden)? else { return Ok(None) };
        let course = &training.course;
        let states = run(golden, course, &Device::new(Oracle::new()))?.states;
        let device = Device::new(Single::new());
        let mut gradients = None;
        let mut losses: Vec<f64> = vec![0.0; course.losses.len()];
        for seed in 0..RUNS {
            let mut trainer = Trainer::new(golden, &device)?;
            if seed > 0 {
                trainer.nudge(seed)?;
            }
            let trained = trainer.run(course)?;
            for (most, error) in losses.iter_mut().zip(relative(&trained.losses, &course.losses)) {
                *most = most.max(error);
            }
            gradients.get_or_insert(trained.gradients);
        }
        let mut so_far: f64 = 0.0;
        for error in &mut losses {
            so_far = so_far.max(*error);
            *error = so_far;
        }
        let steps = Trainer::new(golden, &device)?.single_steps(course, &states)?;
        let steps = relative(&steps, course.losses.get(1..).unwrap_or_default());
        let floors = Floors { gradients: gradients.unwrap_or_default(), losses, steps };
        Ok(Some(Self { golden, training, states, floors }))
    }

    /// Trains a backend. `profile` is the name of what its arithmetic promises.
    ///
    /// # Errors
    /// What the passes meet.
    pub fn train<B: Backend>(&self, device: &Device<B>, profile: &str) -> Result<TrainingReport, Error> {
        let Training { course, gradients: expected } = &self.training;
        let mut trainer = Trainer::new(self.golden, device)?;
        let found = trainer.run(course)?;
        let steps = trainer.single_steps(course, &self.states)?;
        let single = device.float() != DType::F64;

        let of_all = expected.values().map(|values| greatest(values)).fold(0.0, f64::max);
        let mut gradients = Vec::new();
        let mut unmatched: Vec<String> =
            expected.keys().filter(|slot| !found.gradients.contains_key(*slot)).cloned().collect();
        for (slot, (sizes, actual)) in &found.gradients {
            let Some(expected) = expected.get(slot).filter(|expected| fits(slot, actual, expected)) else {
                unmatched.push(slot.clone());
                continue;
            };
            let scale = greatest(expected).max(SMALL * of_all);
            let floor = self.floors.gradients.get(slot);
            let floor = floor.map_or(f64::NAN, |(_, single)| worst(slot, sizes, single, expected, scale).error);
            let bar = if single { BAR_GRADIENT_F32.max(FLOORS * floor) } else { BAR_GRADIENT_F64 };
            gradients.push(Gradient { worst: worst(slot, sizes, actual, expected, scale), floor, bar });
        }
        let curve = |found: Vec<f64>, expected: &[f64], floors: &[f64]| Curve {
            errors: relative(&found, expected),
            bars: floors
                .iter()
                .map(|floor| if single { BAR_LOSS_F32.max(FLOORS * floor) } else { BAR_LOSS_F64 })
                .collect(),
            expected: expected.to_vec(),
            floors: floors.to_vec(),
            found,
        };
        Ok(TrainingReport {
            model: self.golden.name.clone(),
            backend: device.backend().name().to_owned(),
            float: device.float().to_string(),
            profile: profile.to_owned(),
            gradients,
            unmatched,
            losses: curve(found.losses, &course.losses, &self.floors.losses),
            steps: curve(steps, course.losses.get(1..).unwrap_or_default(), &self.floors.steps),
        })
    }
}

/// Trains a golden on a backend and holds it against the reference.
///
/// # Errors
/// As [`TrainingReference`]'s; [`Error::Malformed`] for a golden without training.
pub fn train<B: Backend>(golden: &Golden, device: &Device<B>) -> Result<TrainingReport, Error> {
    match TrainingReference::compute(golden)? {
        Some(reference) => reference.train(device, default_profile(device)),
        None => Err(Error::Malformed {
            path: golden.directory.join(TRAINING),
            what: "is not there: this golden has no training".to_owned(),
        }),
    }
}

/// The greatest magnitude; NaN if there is any.
fn greatest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most: f64, value| if most.is_nan() || most >= value.abs() { most } else { value.abs() })
}

fn relative(losses: &[f64], expected: &[f64]) -> Vec<f64> {
    losses.iter().zip(expected).map(|(loss, expected)| (loss - expected).abs() / expected.abs()).collect()
}

/// A table of token types is used by its first row only: the model has a gradient of that, and the others have none.
fn fits(slot: &str, actual: &[f64], expected: &[f64]) -> bool {
    let rest = expected.get(actual.len()..);
    actual.len() == expected.len()
        || slot.ends_with("token_types.weight") && rest.is_some_and(|rest| rest.iter().all(|value| *value == 0.0))
}

#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN is the worst")]
fn worst(slot: &str, sizes: &[usize; 2], actual: &[f64], expected: &[f64], scale: f64) -> Deviation {
    let [_, inputs] = *sizes;
    let mut worst = Deviation {
        tensor: slot.to_owned(),
        sizes: sizes.to_vec(),
        index: vec![0, 0],
        actual: actual.first().copied().unwrap_or(0.0),
        expected: expected.first().copied().unwrap_or(0.0),
        error: 0.0,
    };
    for (at, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = if actual == expected { 0.0 } else { (actual - expected).abs() / scale };
        if !(error <= worst.error) {
            let index = vec![at / inputs.max(1), at % inputs.max(1)];
            worst = Deviation { index, actual, expected, error, ..worst };
            if error.is_nan() {
                break;
            }
        }
    }
    worst
}

/// `[outputs, inputs]` and elements of each slot.
pub type BySlot = BTreeMap<String, ([usize; 2], Vec<f64>)>;

/// What training gave.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Before the first step.
    pub gradients: BySlot,
    /// Before each step, and after the last.
    pub losses: Vec<f64>,
    /// Before each step.
    states: Vec<State>,
}

/// Each parameter's value, first and second moment.
type State = Vec<[Vec<f64>; 3]>;

/// Trains for as many steps as `course` has losses, but one.
///
/// # Errors
/// What the passes meet.
pub fn run<B: Backend>(golden: &Golden, course: &Course, device: &Device<B>) -> Result<Trained, Error> {
    Trainer::new(golden, device)?.run(course)
}

/// A model under training.
struct Trainer<B: Backend> {
    model: Transformer<Autodiff<B>>,
    parameters: Vec<Arc<Parameter<B>>>,
    moments: Vec<[TensorOf<B>; 2]>,
}

impl<B: Backend> Trainer<B> {
    fn new(golden: &Golden, device: &Device<B>) -> Result<Self, Error> {
        let tape = Device::new(Autodiff::new(device.clone()));
        let (dtype, vectors) = match device.float() {
            DType::F64 => (WeightDType::F64, DType::F64),
            _ => (WeightDType::F32, DType::F32),
        };
        let model = golden.load_as(&tape, dtype, vectors)?;
        let parameters = tape.backend().parameters();
        let moments = parameters
            .iter()
            .map(|parameter| {
                let zeros = || device.zeros(*parameter.value().shape(), device.float());
                Ok([zeros()?, zeros()?])
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { model, parameters, moments })
    }

    fn tape(&self) -> &Autodiff<B> {
        self.model.device().backend()
    }

    fn run(&mut self, course: &Course) -> Result<Trained, Error> {
        let mut trained = Trained { gradients: BySlot::new(), losses: Vec::new(), states: Vec::new() };
        for step in 1..=course.losses.len() {
            let (loss, gradients) = loss_and_gradients(&self.model, course)?;
            trained.losses.push(loss);
            if step == 1 {
                trained.gradients = self.by_slot(&gradients)?;
            }
            if step < course.losses.len() {
                trained.states.push(self.state()?);
                self.step(&gradients, &course.adamw, step)?;
            }
        }
        Ok(trained)
    }

    /// For each of `states`, the loss after one step from there.
    fn single_steps(&mut self, course: &Course, states: &[State]) -> Result<Vec<f64>, Error> {
        let mut losses = Vec::new();
        for (state, step) in states.iter().zip(1..) {
            self.set(state)?;
            let (_, gradients) = loss_and_gradients(&self.model, course)?;
            self.step(&gradients, &course.adamw, step)?;
            losses.push(loss_and_gradients(&self.model, course)?.0);
        }
        Ok(losses)
    }

    fn step(&mut self, gradients: &Gradients<B>, settings: &Settings, step: usize) -> Result<(), Error> {
        let Settings { rate, beta1, beta2, epsilon, weight_decay } = *settings;
        let settings = AdamWSettings { rate, beta1, beta2, epsilon, weight_decay, step: step as u32 };
        let device = self.tape().inner().clone();
        for (parameter, moments) in self.parameters.iter().zip(&mut self.moments) {
            let value = parameter.value();
            let gradient = match gradients.parameter(parameter) {
                Some(gradient) => gradient,
                None => device.zeros(*value.shape(), device.float())?,
            };
            let [first, second] = moments.clone();
            let outputs = device.fused(Fused::AdamW { parameter: value, gradient, first, second, settings })?;
            let outputs = <[TensorOf<B>; 3]>::try_from(outputs.into_vec());
            let Ok([value, first, second]) = outputs else {
                return Err(Error::Elements { what: "adamw".to_owned(), actual: 0, expected: 3 });
            };
            *moments = [first, second];
            self.model.device().backend().set(parameter, value)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<State, Error> {
        let device = self.tape().inner();
        let host = |x: &TensorOf<B>| Ok::<_, Error>(device.download(x)?.to_f64());
        let all = self.parameters.iter().zip(&self.moments);
        all.map(|(parameter, [first, second])| Ok([host(&parameter.value())?, host(first)?, host(second)?])).collect()
    }

    fn set(&mut self, state: &State) -> Result<(), Error> {
        let device = self.tape().inner().clone();
        for ((parameter, moments), state) in self.parameters.iter().zip(&mut self.moments).zip(state) {
            let shape = *parameter.value().shape();
            let [value, first, second] = state;
            let upload = |values: &[f64]| device.upload_floats(values, shape.sizes());
            *moments = [upload(first)?, upload(second)?];
            self.model.device().backend().set(parameter, upload(value)?)?;
        }
        Ok(())
    }

    /// Moves every parameter by about a rounding, up or down: what another order of the same sums might as well have given.
    fn nudge(&mut self, seed: u64) -> Result<(), Error> {
        let mut state = self.state()?;
        for ([values, ..], stream) in state.iter_mut().zip(0..) {
            for (value, at) in values.iter_mut().zip(0..) {
                *value *= 1.0 + (-24f64).exp2() * 3.0 * (philox::uniform(seed, stream, at) - 0.5);
            }
        }
        self.set(&state)
    }

    /// Gradients by slot; zeros where nothing depended on a parameter.
    fn by_slot(&self, gradients: &Gradients<B>) -> Result<BySlot, Error> {
        let device = self.tape().inner();
        let mut all = BTreeMap::new();
        for parameter in &self.parameters {
            let values = match gradients.parameter(parameter) {
                Some(gradient) => device.download(&gradient)?.to_f64(),
                None => vec![0.0; parameter.value().shape().elements()],
            };
            let mut rest = values.as_slice();
            for (slot, sizes) in parameter.slots() {
                let (own, later) = rest.split_at(rest.len().min(sizes[0] * sizes[1]));
                all.insert(slot.clone(), (*sizes, own.to_vec()));
                rest = later;
            }
        }
        Ok(all)
    }
}

/// The mean loss, and the gradients of all parameters.
pub(crate) fn loss_and_gradients<B: Backend>(
    model: &Transformer<Autodiff<B>>,
    course: &Course,
) -> Result<(f64, Gradients<B>), Error> {
    let tape = model.device();
    let device = tape.backend().inner();
    let hidden = model.forward(&slices(&course.sources), &slices(&course.inputs), None)?;
    let logits = model.logits(&hidden, None)?;
    // What is ignored has a target beyond the vocabulary.
    let beyond = logits.size(1) as u32;
    let targets: Vec<u32> = course.targets.iter().flatten().map(|target| target.unwrap_or(beyond)).collect();
    let rows = targets.len();
    let targets = tape.upload_ids(targets)?;
    let losses = tape.one(Fused::CrossEntropy { logits, targets, smoothing: course.smoothing })?; // [R]
    let counted = course.counted() as f64;
    let loss = tape.download(&losses)?.to_f64().iter().sum::<f64>() / counted;
    let share = device.upload_floats(&vec![1.0 / counted; rows], &[rows])?;
    Ok((loss, tape.backend().backward(&[(losses, share)])?))
}

fn slices(all: &[Vec<u32>]) -> Vec<&[u32]> {
    all.iter().map(Vec::as_slice).collect()
}
