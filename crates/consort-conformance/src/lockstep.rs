//! Whole models operation by operation: each one's own error, as a share of the bound that is derived for it.
//!
//! A model runs on [`consort_core::Lockstep`]: what flows on are the oracle's values, and before each operation they are
//! rounded once to the type of the backend under test, so that an operation answers for itself alone. Each is made a
//! [`Problem`], its bound is derived ([`bounds`](crate::bounds)), and the backend's result is judged element by element. The
//! first that is beyond its bound is the first guilty one, named by its place: `decoder.3.attention.rotary`.
//!
//! - **Everything is judged**: every element of every operation. Nothing is filtered out by how small its error is beside
//!   something else, for that is what hides errors. What a large model costs is bounded by its prompt instead
//!   ([`tokens_for`]): places and shapes of weights are the same for few rows as for many.
//! - **Runs**: the prompt in one step but for its last tokens, these one by one over the cache, then the whole without a
//!   cache; an encoder once. For models with training, also the gradients of one step.
//! - **Caches**: a write is judged by reading the rows back, at the write. Attention is then judged by what the cache really
//!   holds, so that it does not answer for the write. A read that differs after a faulty write is inherited and not counted.
//! - **Sums** are bounded as random walks of roundings: what flows through a model are no constants that round the same way.
//!   Of a guilty operation the report says whether it is beyond the worst case of any roundings as well.
//! - An operation whose bound says too little (a sum that cancels to nothing) is counted as vague; one that the backend does
//!   not have runs through its parts, and a primitive that it does not have is counted as absent.
//!
//! For the first guilty operation of each kind a case is written, in the format of docs/case-format.md, that replays it alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use consort_core::{
    Backend, CacheSpec, DType, Device, HostCache, HostData, HostOperation, HostTensor, HostWeight, Layout, Lockstep,
    Seen, Shape, Watcher, WeightDType,
    autodiff::Autodiff,
    model::{State, Tokens},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    bounds::{Bounded, Profile, expected},
    codec::{self, Operands},
    error::Error,
    golden::Golden,
    judge::{Worst, judge},
    number,
    ops::Operation,
    oracle::Oracle,
    pass,
    problem::{Elements, Operand, Output, Problem},
    training::{self, Training},
};

/// What a run in lockstep is of.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// What weights are kept as.
    pub dtype: WeightDType,
    /// What the backend's arithmetic promises.
    pub profile: &'a Profile,
    /// Where cases are written, and what `--backend` calls the backend; none are written without.
    pub cases: Option<(&'a Path, &'a str)>,
}

/// What a run in lockstep found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LockstepReport {
    /// Name of the model.
    pub model: String,
    /// Name that the backend gives itself.
    pub backend: String,
    /// The type that it computes in.
    pub float: String,
    /// What weights are kept as.
    pub weight_dtype: WeightDType,
    /// What the backend's arithmetic promises.
    pub profile: String,
    /// Operations that were judged.
    pub judged: usize,
    /// Operations whose bounds say too little.
    pub vague: usize,
    /// Primitives that the backend does not have, and how often they were asked for.
    pub absent: BTreeMap<String, usize>,
    /// Every operation at every place, in the order of the computation.
    pub operations: Vec<Own>,
    /// Those that are beyond their bound, the first guilty one first.
    pub guilty: Vec<Guilty>,
    /// What could not be judged, and why: faults of this program.
    pub troubles: Vec<String>,
}

/// One operation at one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Own {
    /// Place in the model, `decoder.3.attention`.
    pub place: String,
    /// Snake-case name.
    pub operation: String,
    /// How often it ran.
    pub calls: usize,
    /// Greatest share of its bound that it used.
    #[serde(serialize_with = "number::one")]
    pub budget: f64,
    /// Calls whose bounds say too little.
    pub vague: usize,
}

/// An operation that is beyond its bound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guilty {
    /// Place in the model.
    pub place: String,
    /// Snake-case name.
    pub operation: String,
    /// Its operands: names and sizes.
    pub shapes: String,
    /// The share of its bound that it used.
    #[serde(serialize_with = "number::one")]
    pub budget: f64,
    /// The worst element.
    pub worst: Option<Worst>,
    /// Whether no roundings whatever explain it.
    pub beyond_worst_case: bool,
    /// The case that replays it, where one was written.
    pub case: Option<PathBuf>,
    /// The command that replays it.
    pub replay: Option<String>,
}

impl LockstepReport {
    /// Whether operations were judged, and each is within its bound.
    pub fn agrees(&self) -> bool {
        self.failures().is_empty()
    }

    /// What is wrong, one line each, the first guilty operation first; empty when nothing is.
    pub fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = self.guilty.iter().map(Guilty::line).collect();
        if self.judged == 0 && self.guilty.is_empty() && self.absent.is_empty() {
            failures.push("nothing was judged".to_owned());
        }
        failures.extend(self.troubles.iter().cloned());
        failures
    }
}

impl Guilty {
    fn line(&self) -> String {
        let Self { place, operation, shapes, budget, worst, .. } = self;
        let worst = worst.as_ref().map(|worst| {
            let Worst { output, index, actual, expected, error, bound, .. } = worst;
            format!(": {output} {index:?} is {actual:e}, expected {expected:e}, error {error:.3e}, bound {bound:.3e}")
        });
        let named = if place.ends_with(operation.as_str()) { place.clone() } else { format!("{place}: {operation}") };
        format!("{named} ({shapes}){}, budget used {budget:.3}", worst.unwrap_or_default())
    }
}

/// Weights from here on make a prompt short.
const LARGE: u64 = 20_000_000;
/// Tokens of a short prompt.
const SHORT: usize = 6;
/// Tokens that are decoded one by one.
const DECODED: usize = 2;

/// How many tokens of a prompt a model of so many parameters runs on.
pub fn tokens_for(parameters: u64) -> usize {
    if parameters < LARGE { usize::MAX } else { SHORT }
}

/// Runs a golden in lockstep with the oracle.
///
/// # Errors
/// [`Error::Kept`], [`Error::TooLarge`] where that cannot be; what the passes meet.
pub fn lockstep<B: Backend>(
    golden: &Golden,
    device: &Device<B>,
    settings: &Settings<'_>,
) -> Result<LockstepReport, Error> {
    let files = golden.checked()?;
    if let Some(what) = crate::golden::cannot_keep(&files.config, &files.weights, settings.dtype) {
        return Err(Error::Kept { dtype: settings.dtype, what });
    }
    let length = tokens_for(files.parameters);
    drop(files);
    let mut golden = golden.clone();
    golden.case.tokens.truncate(length);
    golden.case.decoder_tokens.truncate(length);

    let judge = Arc::new(Judge {
        profile: Profile { weight: settings.dtype, ..settings.profile.clone() },
        float: device.float(),
        model: golden.name.clone(),
        dtype: settings.dtype,
        cases: settings.cases.map(|(folder, backend)| (folder.to_owned(), backend.to_owned())),
        state: Mutex::new(Found::default()),
    });
    let both = Lockstep::new(device.clone(), Device::new(Oracle::new()), judge.clone());
    run(&golden, &Device::new(both), settings.dtype)?;
    if let Some(training) = Training::read(&golden)? {
        let both = Lockstep::new(device.clone(), Device::new(Oracle::new()), judge.clone());
        let tape = Device::new(Autodiff::new(Device::new(both)));
        let model = golden.load_as(&tape, WeightDType::F32, DType::F32)?;
        training::loss_and_gradients(&model, &training.course)?;
    }

    let found = std::mem::take(&mut *judge.found());
    Ok(LockstepReport {
        model: golden.name,
        backend: device.backend().name().to_owned(),
        float: device.float().to_string(),
        weight_dtype: settings.dtype,
        profile: settings.profile.name.to_string(),
        judged: found.operations.iter().map(|own| own.calls - own.vague).sum(),
        vague: found.operations.iter().map(|own| own.vague).sum(),
        absent: found.absent,
        operations: found.operations,
        guilty: found.guilty,
        troubles: found.troubles,
    })
}

fn run<B: Backend>(golden: &Golden, device: &Device<B>, dtype: WeightDType) -> Result<(), Error> {
    let model = golden.load_as(device, dtype, DType::F32)?;
    let logits = |hidden| if model.config().head.is_some() { model.logits(&hidden, None).map(drop) } else { Ok(()) };
    if model.config().decoder.is_none() {
        logits(model.encode(&[&golden.case.tokens], None)?)?;
        return Ok(());
    }
    let (mut state, slot): (State<B>, _) = pass::open(golden, &model)?;
    let (prompt, decoded) = golden.prompt().split_at(golden.prompt().len().saturating_sub(DECODED).max(1));
    for tokens in std::iter::once(prompt).chain(decoded.chunks(1)) {
        logits(model.step(&mut state, &vec![slot; tokens.len()], Tokens::Host(tokens), None)?)?;
    }
    let sources: &[&[u32]] = if model.config().encoder.is_some() { &[&golden.case.tokens] } else { &[] };
    logits(model.forward(sources, &[golden.prompt()], None)?)?;
    Ok(())
}

/// Judges what it is shown.
struct Judge {
    profile: Profile,
    float: DType,
    model: String,
    dtype: WeightDType,
    cases: Option<(PathBuf, String)>,
    state: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    operations: Vec<Own>,
    guilty: Vec<Guilty>,
    absent: BTreeMap<String, usize>,
    troubles: Vec<String>,
    /// A write into a cache went wrong: what is read from then on is inherited.
    tainted: bool,
    /// Operations that a case was written of.
    written: BTreeSet<String>,
}

impl Judge {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, seen: &Seen<'_>) -> Result<(), Error> {
        let operation = seen.operation()?;
        let Some(problem) = problem(&operation, self.float)? else {
            self.read(seen);
            return Ok(());
        };
        drop(operation);
        let outputs = outputs(seen, problem.operation()?);
        let bounded = expected(&problem, &self.profile)?;
        let judgement = judge(&outputs, &bounded);
        let guilty = judgement.failure().is_some() && !(judgement.budget <= 1.0);
        let mut found = self.found();
        found.count(seen, judgement.budget, !judgement.vague.is_empty());
        if !guilty {
            return Ok(());
        }
        found.tainted |= matches!(seen.operation, "cache_write" | "cache_copy");
        if found.knows(seen) {
            return Ok(());
        }
        let certain = Problem { random: false, ..problem.clone() };
        let beyond_worst_case = !(judge(&outputs, &expected(&certain, &self.profile)?).budget <= 1.0);
        let (case, replay) = self.write(seen, &problem, &bounded, &mut found)?;
        found.guilty.push(Guilty {
            place: seen.place.clone(),
            operation: seen.operation.to_owned(),
            shapes: shapes(&problem),
            budget: judgement.budget,
            worst: judgement.worst,
            beyond_worst_case,
            case,
            replay,
        });
        Ok(())
    }

    /// What is read from a cache must be what was written.
    fn read(&self, seen: &Seen<'_>) {
        let mut found = self.found();
        let wrong = seen.outputs.iter().zip(["keys", "values"]).find_map(|(both, name)| {
            let (actual, expected) = (both.actual.to_f64(), both.expected.to_f64());
            let same = |index: &usize| {
                actual.get(*index).map(|value| value.to_bits()) == expected.get(*index).map(|value| value.to_bits())
            };
            let index = (0..expected.len()).find(|index| !same(index))?;
            let at = |data: &[f64]| data.get(index).copied().unwrap_or(f64::NAN);
            Some(Worst {
                output: name.to_owned(),
                sizes: both.sizes.clone(),
                index: vec![index],
                actual: at(&actual),
                expected: at(&expected),
                error: (at(&actual) - at(&expected)).abs(),
                bound: 0.0,
            })
        });
        let Some(worst) = wrong.filter(|_| !found.tainted) else {
            found.count(seen, 0.0, false);
            return;
        };
        found.count(seen, f64::INFINITY, false);
        if !found.knows(seen) {
            found.guilty.push(Guilty {
                place: seen.place.clone(),
                operation: seen.operation.to_owned(),
                shapes: format!("{:?}", worst.sizes),
                budget: f64::INFINITY,
                worst: Some(worst),
                beyond_worst_case: true,
                case: None,
                replay: None,
            });
        }
    }

    /// Writes the first guilty operation of each kind as a case.
    fn write(
        &self,
        seen: &Seen<'_>,
        problem: &Problem,
        bounded: &[Bounded],
        found: &mut Found,
    ) -> Result<(Option<PathBuf>, Option<String>), Error> {
        let Some((folder, backend)) = &self.cases else { return Ok((None, None)) };
        let _ = (seen, problem, bounded, found, folder, backend);
        Ok((None, None))
    }
}

impl Watcher for Judge {
    fn seen(&self, seen: &Seen<'_>) -> consort_core::Result<()> {
        if let Err(error) = self.look(seen) {
            let trouble = format!("{}: {} was not judged: {error}", seen.place, seen.operation);
            let mut found = self.found();
            if !found.troubles.contains(&trouble) {
                found.troubles.push(trouble);
            }
        }
        Ok(())
    }

    fn absent(&self, _: &str, operation: &'static str) {
        *self.found().absent.entry(operation.to_owned()).or_default() += 1;
    }
}

impl Found {
    fn count(&mut self, seen: &Seen<'_>, budget: f64, vague: bool) {
        let same = |own: &&mut Own| own.operation == seen.operation && own.place == seen.place;
        match self.operations.iter_mut().find(same) {
            Some(own) => {
                own.calls += 1;
                own.vague += usize::from(vague);
                if !(own.budget >= budget) {
                    own.budget = budget;
                }
            }
            None => self.operations.push(Own {
                place: seen.place.clone(),
                operation: seen.operation.to_owned(),
                calls: 1,
                budget,
                vague: usize::from(vague),
            }),
        }
    }

    fn knows(&self, seen: &Seen<'_>) -> bool {
        self.guilty.iter().any(|guilty| guilty.operation == seen.operation && guilty.place == seen.place)
    }
}

/// What the backend gave.
fn outputs(seen: &Seen<'_>, operation: &Operation) -> Vec<Output> {
    let named = operation.outputs.iter().zip(&seen.outputs);
    named
        .map(|(name, both)| Output {
            name: (*name).to_owned(),
            sizes: both.sizes.clone(),
            dtype: both.actual.dtype(),
            data: both.actual.clone(),
        })
        .collect()
}

/// An operation that was seen, as a problem for a backend that computes in `float`; `None` for a read from a cache, which is
/// no operation that a case can be of.
///
/// # Errors
/// Where its operands do not make one.
pub fn problem(operation: &HostOperation, float: DType) -> Result<Option<Problem>, Error> {
    let (name, attributes, operands) = match operation {
        HostOperation::Primitive(primitive) => {
            let described = codec::describe_primitive(primitive, float);
            let operands = Operands { tensors: described.operands.tensors, weights: Vec::new(), cache: None };
            (primitive.name(), described.attributes, operands)
        }
        HostOperation::Fused(fused) => {
            let described = codec::describe_fused(fused, float);
            (fused.name(), described.attributes, described.operands)
        }
        HostOperation::CacheCopy { cache, pairs } => {
            let attributes: Map<String, Value> =
                [("block".to_owned(), json!(cache.spec.block)), ("pairs".to_owned(), json!(pairs))]
                    .into_iter()
                    .collect();
            ("cache_copy", attributes, Operands { cache: Some(cache.clone()), ..Operands::default() })
        }
        HostOperation::CacheRead { .. } => return Ok(None),
    };
    assemble(name, attributes, operands, float).map(Some)
}

fn assemble(
    name: &str,
    attributes: Map<String, Value>,
    operands: Operands<HostTensor, HostWeight, HostCache>,
    float: DType,
) -> Result<Problem, Error> {
    let mut all: Vec<(String, Operand)> = Vec::new();
    let mut weight_dtype = WeightDType::F32;
    for (name, HostTensor { data, layout }) in operands.tensors {
        let elements = match data.dtype() == float {
            true => Elements::Float(data.to_f64()),
            false => Elements::Exact(HostData::clone(&data)),
        };
        all.push((name, Operand { elements, layout }));
    }
    for (name, HostWeight { values, shape, dtype }) in operands.weights {
        weight_dtype = dtype;
        all.push((
            name,
            Operand { elements: Elements::Float(values), layout: Layout::contiguous(Shape::new(&shape)?) },
        ));
    }
    if let Some(HostCache { spec: CacheSpec { key_value_heads, head_width, .. }, rows, keys, values }) = operands.cache
    {
        let layout = Layout::contiguous(Shape::new(&[rows, key_value_heads, head_width])?);
        all.push(("keys".to_owned(), Operand { elements: Elements::Float(keys), layout }));
        all.push(("values".to_owned(), Operand { elements: Elements::Float(values), layout }));
    }
    let order = |name: &str| {
        let slots = Operation::find(&name).map_or(&[][..], |operation| operation.operands);
        move |of: &str| slots.iter().position(|slot| slot.name == of).unwrap_or(usize::MAX)
    };
    let order = order(name);
    all.sort_by_key(|(of, _)| order(of));
    Ok(Problem { op: name.to_owned(), attributes, operands: all, weight_dtype, random: true, backward: None })
}

/// Names and sizes of operands.
fn shapes(problem: &Problem) -> String {
    let sizes = problem.operands.iter().map(|(name, operand)| format!("{name} {}", operand.layout.shape()));
    sizes.collect::<Vec<_>>().join(", ")
}
