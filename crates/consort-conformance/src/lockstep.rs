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
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use consort_core::{
    Backend, CacheSpec, Compute, DType, Device, HostCache, HostData, HostOperation, HostTensor, HostWeight, Layout,
    Lockstep, Seen, Shape, Watcher, WeightDType,
    autodiff::Autodiff,
    model::{State, Tokens},
    scope,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    bounds::{Bounded, Emitted, Profile, expected, expected_of},
    case_file::CaseFile,
    codec::{self, Operands},
    error::Error,
    golden::Golden,
    judge::{Worst, judge},
    number,
    ops::Operation,
    oracle::Oracle,
    pass,
    problem::{Elements, How, Operand, Output, Problem},
    training::{self, Training},
};

/// What a run in lockstep is of.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// What weights are kept as.
    pub dtype: WeightDType,
    /// What products are computed in.
    pub compute: Compute,
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
    /// What products are computed in.
    pub compute: Compute,
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
    pub replay: Option<Replay>,
}

/// A case that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Its folder.
    pub case: PathBuf,
    /// The command that runs it.
    pub command: String,
    /// Whether the operation was as wrong when it was run again, alone: what depends on its place or on what ran before is not.
    pub alone: bool,
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
        compute: settings.compute,
        emitted: {
            let device = device.clone();
            Box::new(move |problem| {
                let _outside = scope::Place::default().enter();
                Emitted::of(problem, &device, How::AsAsked)
            })
        },
        cases: settings.cases.map(|(folder, backend)| (folder.to_owned(), backend.to_owned())),
        alone: {
            let (device, profile) = (device.clone(), settings.profile.clone());
            Box::new(move |problem| {
                let _outside = scope::Place::default().enter();
                let outputs = problem.run(&device, How::AsAsked).ok();
                let own = Emitted::expected(problem, &profile, &device, How::AsAsked).ok().flatten();
                let expected = own.or_else(|| expected(problem, &profile).ok());
                outputs.zip(expected).is_some_and(|(outputs, expected)| beyond(judge(&outputs, &expected).budget))
            })
        },
        state: Mutex::new(Found::default()),
    });
    let both = Lockstep::new(device.clone(), Device::new(Oracle::new()), judge.clone());
    run(&golden, &Device::new(both), settings)?;
    // Nothing is trained in int8.
    if let Some(training) = Training::read(&golden)?.filter(|_| settings.compute != Compute::Int8) {
        let both = Lockstep::new(device.clone(), Device::new(Oracle::new()), judge.clone());
        let tape = Device::new(Autodiff::new(Device::new(both)));
        let model = golden.load_in(&tape, WeightDType::F32, DType::F32, settings.compute)?;
        training::loss_and_gradients(&model, &training.course)?;
    }

    let found = std::mem::take(&mut *judge.found());
    Ok(LockstepReport {
        model: golden.name,
        backend: device.backend().name().to_owned(),
        float: device.float().to_string(),
        weight_dtype: settings.dtype,
        compute: settings.compute,
        profile: settings.profile.name.to_string(),
        judged: found.operations.iter().map(|own| own.calls - own.vague).sum(),
        vague: found.operations.iter().map(|own| own.vague).sum(),
        absent: found.absent,
        operations: found.operations,
        guilty: found.guilty,
        troubles: found.troubles,
    })
}

fn run<B: Backend>(golden: &Golden, device: &Device<B>, settings: &Settings<'_>) -> Result<(), Error> {
    let model = golden.load_in(device, settings.dtype, DType::F32, settings.compute)?;
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

/// What a backend gives for the activations of a product in int8; `None` for other problems.
type Quantize = dyn Fn(&Problem) -> Result<Option<Emitted>, Error> + Send + Sync;

/// Judges what it is shown.
struct Judge {
    profile: Profile,
    float: DType,
    model: String,
    dtype: WeightDType,
    compute: Compute,
    /// What the backend gives for the activations of a product in int8.
    emitted: Box<Quantize>,
    cases: Option<(PathBuf, String)>,
    /// Whether the backend is beyond the bound of a problem that it runs by itself.
    alone: Box<dyn Fn(&Problem) -> bool + Send + Sync>,
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
        let bounded = self.expected(&problem)?;
        let judgement = judge(&outputs, &bounded);
        let mut found = self.found();
        found.count(seen, judgement.budget, !judgement.tells);
        if !beyond(judgement.budget) {
            return Ok(());
        }
        found.tainted |= matches!(seen.operation, "cache_write" | "cache_copy");
        if found.knows(seen) {
            return Ok(());
        }
        let certain = Problem { random: false, ..problem.clone() };
        let beyond_worst_case = beyond(judge(&outputs, &self.expected(&certain)?).budget);
        let shapes = shapes(&problem);
        let replay = self.write(seen, problem, judgement.budget, &mut found)?;
        found.guilty.push(Guilty {
            place: seen.place.clone(),
            operation: seen.operation.to_owned(),
            shapes,
            budget: judgement.budget,
            worst: judgement.worst,
            beyond_worst_case,
            replay,
        });
        Ok(())
    }

    /// What a problem should give; a product in int8, of the codes that the backend gives.
    fn expected(&self, problem: &Problem) -> Result<Vec<Bounded>, Error> {
        match (self.emitted)(problem)? {
            Some(emitted) => expected_of(problem, &self.profile, emitted),
            None => expected(problem, &self.profile),
        }
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
                replay: None,
            });
        }
    }

    /// Writes the first guilty operation of each kind as a case, small where it is as wrong when it is small.
    fn write(
        &self,
        seen: &Seen<'_>,
        problem: Problem,
        budget: f64,
        found: &mut Found,
    ) -> Result<Option<Replay>, Error> {
        let Some((folder, backend)) = &self.cases else { return Ok(None) };
        if !found.written.insert(seen.operation.to_owned()) {
            return Ok(None);
        }
        let mut parts = vec![backend.clone(), self.model.clone()];
        parts.extend((self.dtype != WeightDType::F32).then(|| self.dtype.to_string()));
        parts.extend((self.compute != Compute::F32).then(|| self.compute.to_string()));
        parts.extend([seen.place.clone(), seen.operation.to_owned()]);
        let directory = folder.join(file_name(&parts));
        let alone = (self.alone)(&problem);
        let problem = if alone { smaller(problem, &*self.alone) } else { problem };
        CaseFile::write(&problem, None, &directory)?;
        let Self { model, dtype, .. } = self;
        let Seen { place, operation, .. } = seen;
        comment(
            &directory,
            &format!("{operation} at {place} of {model} in {dtype} on {backend}: budget used {budget:.3}"),
        )?;
        let command = format!("cargo xtask compare --backend {backend} --cases {}", directory.display());
        Ok(Some(Replay { case: directory, command, alone }))
    }
}

/// Names in one, for a folder.
fn file_name(parts: &[String]) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let parts = parts.iter().filter(|part| !part.is_empty()).map(|part| part.chars().map(keep).collect::<String>());
    parts.collect::<Vec<_>>().join("-")
}

/// Adds a comment to a case.
fn comment(directory: &Path, text: &str) -> Result<(), Error> {
    let path = directory.join("case.json");
    let io = |source| Error::Io { path: path.clone(), source };
    let mut case: Value = serde_json::from_slice(&fs::read(&path).map_err(io)?)
        .map_err(|error| Error::Malformed { path: path.clone(), what: error.to_string() })?;
    if let Some(keys) = case.as_object_mut() {
        keys.insert("comment".to_owned(), Value::from(text));
    }
    fs::write(&path, format!("{case:#}\n")).map_err(io)
}

/// Elements of operands up to which a case is written as it is.
const SMALL_CASE: usize = 1 << 16;

/// The problem with fewer rows, ids of a smaller table, or fewer outputs of a weight, as far as it stays as wrong.
fn smaller(mut problem: Problem, wrong: &dyn Fn(&Problem) -> bool) -> Problem {
    let elements =
        |problem: &Problem| problem.operands.iter().map(|(_, operand)| operand.elements.len()).sum::<usize>();
    if elements(&problem) <= SMALL_CASE {
        return problem;
    }
    while let Some(rows) = problem.rows().filter(|rows| *rows > 1) {
        let halves = [0..rows / 2, rows / 2..rows];
        let half = halves.into_iter().filter_map(|half| problem.restricted(half)).find(|half| wrong(half));
        match half {
            Some(half) => problem = half,
            None => break,
        }
    }
    if let Some(table) = smaller_table(&problem).filter(|table| wrong(table)) {
        problem = table;
    }
    while let Some(outputs) = outputs_of(&problem).filter(|outputs| *outputs > 1) {
        let halves = [0..outputs / 2, outputs / 2..outputs];
        let half = halves.into_iter().filter_map(|half| with_outputs(&problem, half)).find(|half| wrong(half));
        match half {
            Some(half) => problem = half,
            None => break,
        }
    }
    problem
}

/// A table with the rows that are looked up, and no others.
fn smaller_table(problem: &Problem) -> Option<Problem> {
    let name = match problem.op.as_str() {
        "embedding" => "weight",
        "gather_rows" => "x",
        _ => return None,
    };
    let (ids, table) = (problem.operand("ids")?, problem.operand(name)?);
    let Elements::Exact(HostData::U32(all)) = &ids.elements else { return None };
    let Elements::Float(values) = &table.elements else { return None };
    let rows = *table.layout.shape().sizes().first()?;
    if ids.layout != Layout::contiguous(*ids.layout.shape())
        || table.layout != Layout::contiguous(*table.layout.shape())
    {
        return None;
    }
    let width = values.len().checked_div(rows)?;
    let used: Vec<u32> =
        BTreeSet::from_iter(all.iter().copied().filter(|id| (*id as usize) < rows)).into_iter().collect();
    let place = |id: &u32| used.binary_search(id).map_or(u32::MAX, |at| at as u32);
    let kept = used.iter().filter_map(|&id| values.get(id as usize * width..(id as usize + 1) * width));
    let kept: Vec<f64> = kept.flatten().copied().collect();
    let mut sizes = table.layout.shape().sizes().to_vec();
    *sizes.first_mut()? = used.len();
    let table = Operand { elements: Elements::Float(kept), layout: Layout::contiguous(Shape::new(&sizes).ok()?) };
    let ids = Operand { elements: Elements::Exact(HostData::U32(all.iter().map(place).collect())), layout: ids.layout };
    let operands = problem.operands.iter().map(|(of, operand)| match of.as_str() {
        "ids" => (of.clone(), ids.clone()),
        of if of == name => (of.to_owned(), table.clone()),
        _ => (of.clone(), operand.clone()),
    });
    Some(Problem { operands: operands.collect(), ..problem.clone() })
}

/// Outputs of the weight of a projection.
fn outputs_of(problem: &Problem) -> Option<usize> {
    match problem.op.as_str() {
        "linear" => problem.operand("weight")?.layout.shape().sizes().first().copied(),
        _ => None,
    }
}

/// A projection to some of its outputs.
fn with_outputs(problem: &Problem, outputs: Range<usize>) -> Option<Problem> {
    let mut operands = Vec::new();
    for (name, operand) in &problem.operands {
        let layout = match name.as_str() {
            "weight" | "bias" => operand.layout.slice(0, outputs.start, outputs.len()).ok()?,
            "residual" => operand.layout.slice(1, outputs.start, outputs.len()).ok()?,
            _ => operand.layout,
        };
        let Elements::Float(values) = &operand.elements else { return None };
        let elements = match name.as_str() {
            // A weight has no strides.
            "weight" => {
                let width = *layout.shape().sizes().get(1)?;
                let rows = values.get(outputs.start * width..outputs.end * width)?;
                operands.push((
                    name.clone(),
                    Operand { elements: Elements::Float(rows.to_vec()), layout: Layout::contiguous(*layout.shape()) },
                ));
                continue;
            }
            _ => operand.elements.clone(),
        };
        operands.push((name.clone(), Operand { elements, layout }));
    }
    Some(Problem { operands, ..problem.clone() })
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
                own.budget = if own.budget >= budget { own.budget } else { budget };
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
    let slots = Operation::find(name).map_or(&[][..], |operation| operation.operands);
    all.sort_by_key(|(of, _)| slots.iter().position(|slot| slot.name == of));
    Ok(Problem { op: name.to_owned(), attributes, operands: all, weight_dtype, random: true, backward: None })
}

/// Whether a share of a bound is more than all of it, or not a number.
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN is beyond")]
fn beyond(budget: f64) -> bool {
    !(budget <= 1.0)
}

/// Names and sizes of operands.
fn shapes(problem: &Problem) -> String {
    let sizes = problem.operands.iter().map(|(name, operand)| format!("{name} {}", operand.layout.shape()));
    sizes.collect::<Vec<_>>().join(", ")
}
