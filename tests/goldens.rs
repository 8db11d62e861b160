//! Every golden model, by every way of running it.
//!
//! Per model: the oracle (f64) within 1e-10 of the spread of what the reference implementation computes in f64, and
//! f32 within 1e-5, for hidden states after every layer, attention and logits; one pass, token by token, odd chunks and
//! the cacheless pass with the same bits; the same greedy tokens; a backend of three methods with the same bits through
//! the host; decorators that change nothing.

use consort_core::{
    Backend, DType, Device, Error, HostData, Lockstep, Nothing, Ready, Result, TensorOf, Trace, Transformer,
    model::{AttentionKind, LoadOptions, Observer, SourceId, StackKind, State, Tokens},
};
use consort_scalar::{Oracle, Scalar, Single};
use consort_tests::{FileWeights, Golden, error_over_spread, goldens};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for golden in goldens() {
        let golden: &'static Golden = Box::leak(Box::new(golden));
        let mut trial = |name: &str, run: fn(&Golden) -> Result<(), Failed>| {
            trials.push(Trial::test(format!("{}::{name}", golden.name), move || run(golden)));
        };
        trial("oracle", |golden| numbers(golden, Oracle::new(), 1e-10));
        trial("single", |golden| numbers(golden, Single::new(), 1e-5));
        trial("cuts_in_f64", |golden| cuts(golden, Oracle::new()));
        trial("cuts_in_f32", |golden| cuts(golden, Single::new()));
        trial("greedy", greedy);
        trial("three_methods", three_methods);
        trial("decorators", decorators);
        if golden.directory.join("config.v4.json").is_file() {
            trial("version_4_config", version_4_config);
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn load<B: Backend>(golden: &Golden, device: &Device<B>) -> Result<Transformer<B>, Failed> {
    let model = consort_formats::open(&golden.directory)?;
    Ok(Transformer::load(device, &model.config, &FileWeights(model.weights), LoadOptions::default())?)
}

/// What a pass shows, under the names of the goldens.
struct Shown<'a, B: Backend> {
    device: &'a Device<B>,
    prefix: &'static str,
    attention: bool,
    tensors: Vec<(String, HostData)>,
}

impl<'a, B: Backend> Shown<'a, B> {
    fn new(device: &'a Device<B>, attention: bool) -> Self {
        Self { device, prefix: "", attention, tensors: Vec::new() }
    }
}

impl<B: Backend> Observer<B> for Shown<'_, B> {
    fn hidden(&mut self, _: StackKind, index: usize, hidden: &TensorOf<B>) -> Result<()> {
        self.tensors.push((format!("{}hidden.{index}", self.prefix), self.device.download(hidden)?));
        Ok(())
    }

    fn wants_attention(&self) -> bool {
        self.attention
    }

    fn attention(&mut self, _: StackKind, kind: AttentionKind, layer: usize, p: &TensorOf<B>) -> Result<()> {
        let prefix = if kind == AttentionKind::Cross { "cross_" } else { self.prefix };
        self.tensors.push((format!("{prefix}attention.{layer}"), self.device.download(p)?));
        Ok(())
    }
}

/// The decoder's prompt: the target of an encoder-decoder model.
fn prompt(golden: &Golden) -> &[u32] {
    if golden.case.decoder_tokens.is_empty() { &golden.case.tokens } else { &golden.case.decoder_tokens }
}

fn open<B: Backend>(golden: &Golden, model: &Transformer<B>, announced: usize) -> Result<(State<B>, consort_core::SlotId)> {
    let mut state = model.state()?;
    let source: Option<SourceId> = match model.config().encoder {
        Some(_) => model.add_sources(&mut state, &[&golden.case.tokens])?.pop(),
        None => None,
    };
    let slot = state.open(announced, source);
    Ok((state, slot))
}

/// The prompt in steps of these sizes: logits of all rows.
fn in_steps<B: Backend>(golden: &Golden, model: &Transformer<B>, sizes: &[usize]) -> Result<Vec<f64>> {
    let tokens = prompt(golden);
    let (mut state, slot) = open(golden, model, tokens.len())?;
    let mut logits = Vec::new();
    let mut rest = tokens;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(size.min(rest.len()));
        let hidden = model.step(&mut state, &vec![slot; now.len()], Tokens::Host(now), None)?;
        logits.extend(model.device().download(&output(model, &hidden)?)?.to_f64());
        rest = later;
    }
    Ok(logits)
}

/// Logits, or hidden states of a model without a head.
fn output<B: Backend>(model: &Transformer<B>, hidden: &TensorOf<B>) -> Result<TensorOf<B>> {
    if model.config().head.is_some() { model.logits(hidden, None) } else { Ok(hidden.clone()) }
}

fn numbers<B: Backend>(golden: &Golden, backend: B, bar: f64) -> Result<(), Failed> {
    let device = Device::new(backend);
    let model = load(golden, &device)?;
    let mut shown = Shown::new(&device, true);
    let hidden = if model.config().decoder.is_some() {
        if model.config().encoder.is_some() {
            shown.prefix = "encoder_";
            let encoded = model.encode(&[&golden.case.tokens], Some(&mut shown))?;
            shown.tensors.push(("encoder_last_hidden_state".into(), device.download(&encoded)?));
            shown.prefix = "";
        }
        let tokens = prompt(golden);
        let (mut state, slot) = open(golden, &model, tokens.len())?;
        model.step(&mut state, &vec![slot; tokens.len()], Tokens::Host(tokens), Some(&mut shown))?
    } else {
        model.encode(&[&golden.case.tokens], Some(&mut shown))?
    };
    let name = if model.config().head.is_some() { "logits" } else { "last_hidden_state" };
    shown.tensors.push((name.into(), device.download(&output(&model, &hidden)?)?));

    let mut failures = Vec::new();
    for (name, (_, expected)) in &golden.expected {
        // In f32 the bar is for hidden states and logits: probabilities inherit the error of their scores times the
        // scores' size, which random weights make large.
        if device.float() == DType::F32 && name.contains("attention") {
            continue;
        }
        match shown.tensors.iter().find(|tensor| tensor.0 == *name) {
            Some((_, actual)) => {
                let error = error_over_spread(actual, expected);
                if !(error <= bar) {
                    failures.push(format!("{name}: {error:e} of the spread, at most {bar:e}"));
                }
            }
            None => failures.push(format!("{name} was not computed")),
        }
    }
    for (name, _) in &shown.tensors {
        if !golden.expected.contains_key(name) {
            failures.push(format!("{name} has no reference"));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

fn cuts<B: Backend>(golden: &Golden, backend: B) -> Result<(), Failed> {
    let device = Device::new(backend);
    let model = load(golden, &device)?;
    if model.config().decoder.is_none() {
        // Rows of an encoder see each other; what must not matter is the company of other sequences.
        let alone = device.download(&model.encode(&[&golden.case.tokens], None)?)?.to_f64();
        let beside = model.encode(&[&golden.case.tokens[..3], &golden.case.tokens, &golden.case.tokens[2..9]], None)?;
        let beside = device.download(&beside.slice(0, 3, golden.case.tokens.len())?)?.to_f64();
        return same_bits("beside others", &beside, &alone);
    }
    let tokens = prompt(golden);
    let whole = in_steps(golden, &model, &[tokens.len()])?;
    same_bits("token by token", &in_steps(golden, &model, &[1])?, &whole)?;
    same_bits("odd chunks", &in_steps(golden, &model, &[3, 1, 7, 5])?, &whole)?;
    let sources: &[&[u32]] = if model.config().encoder.is_some() { &[&golden.case.tokens] } else { &[] };
    let cacheless = output(&model, &model.forward(sources, &[tokens], None)?)?;
    same_bits("without a cache", &device.download(&cacheless)?.to_f64(), &whole)
}

fn same_bits(what: &str, actual: &[f64], expected: &[f64]) -> Result<(), Failed> {
    if actual.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", actual.len(), expected.len()).into());
    }
    match actual.iter().zip(expected).position(|(a, e)| a.to_bits() != e.to_bits()) {
        Some(at) => Err(format!("{what}: element {at} is {:e}, expected the bits of {:e}", actual[at], expected[at]).into()),
        None => Ok(()),
    }
}

fn greedy(golden: &Golden) -> Result<(), Failed> {
    let device = Device::new(Single::new());
    let model = load(golden, &device)?;
    if model.config().decoder.is_none() || golden.case.greedy.is_empty() {
        return Ok(());
    }
    let tokens = prompt(golden);
    let (mut state, slot) = open(golden, &model, tokens.len())?;
    let mut hidden = model.step(&mut state, &vec![slot; tokens.len()], Tokens::Host(tokens), None)?;
    let mut found = Vec::new();
    while found.len() < golden.case.greedy.len() {
        let logits = device.download(&model.logits(&hidden, Some(&[hidden.size(0) - 1]))?)?.to_f64();
        let mut best = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = token;
            }
        }
        found.push(best as u32);
        hidden = model.step(&mut state, &[slot], Tokens::Host(&[best as u32]), None)?;
    }
    if found == golden.case.greedy { Ok(()) } else { Err(format!("{found:?}, expected {:?}", golden.case.greedy).into()) }
}

/// The least that a backend can be: memory. Everything else happens on its host.
struct ThreeMethods(Single);

impl Backend for ThreeMethods {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Scalar<f32>;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.0.alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.0.upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        self.0.download(buffer)
    }
}

fn last_logits<B: Backend>(golden: &Golden, device: &Device<B>) -> Result<Vec<f64>, Failed> {
    let model = load(golden, device)?;
    Ok(match model.config().decoder {
        Some(_) => in_steps(golden, &model, &[prompt(golden).len() - 1, 1])?,
        None => device.download(&output(&model, &model.encode(&[&golden.case.tokens], None)?)?)?.to_f64(),
    })
}

fn three_methods(golden: &Golden) -> Result<(), Failed> {
    let plain = last_logits(golden, &Device::new(Single::new()))?;
    let device = Device::new(ThreeMethods(Single::new()));
    same_bits("through the host", &last_logits(golden, &device)?, &plain)?;
    let report = device.report();
    if report.values().any(|counts| counts.native > 0) || report.is_empty() {
        return Err(format!("a backend of three methods has nothing native: {report:?}").into());
    }
    let denied = Device::with_policy(ThreeMethods(Single::new()), consort_core::Policy::Deny);
    let model = load(golden, &denied)?;
    let result = match model.config().encoder {
        Some(_) => model.encode(&[&golden.case.tokens], None),
        None => model.forward(&[], &[&golden.case.tokens], None),
    };
    match result {
        Err(Error::FallbackDenied { .. }) => Ok(()),
        other => Err(format!("fall-back was denied, yet: {:?}", other.map(|x| *x.shape())).into()),
    }
}

fn decorators(golden: &Golden) -> Result<(), Failed> {
    let plain_device = Device::new(Single::new());
    let plain = last_logits(golden, &plain_device)?;
    let traced_device = Device::new(Trace::new(Single::new()));
    same_bits("traced", &last_logits(golden, &traced_device)?, &plain)?;
    if traced_device.report() != plain_device.report() {
        return Err(format!("counts {:?}, expected {:?}", traced_device.report(), plain_device.report()).into());
    }
    let records = traced_device.backend().take();
    let asked: u64 = plain_device.report().values().map(|counts| counts.native + counts.composed + counts.host).sum();
    if records.len() as u64 != asked {
        return Err(format!("{} records of {asked} operations", records.len()).into());
    }
    if !records.iter().any(|record| record.place.ends_with(".1.attention")) {
        return Err("no record names its place in layer 1's attention".into());
    }
    let lockstep =
        Device::new(Lockstep::new(Device::new(Single::new()), Device::new(Oracle::new())));
    let stepped = last_logits(golden, &lockstep)?;
    let error = error_over_spread(&HostData::F64(stepped), &plain);
    if !(error <= 1e-5) {
        return Err(format!("logits in lockstep are {error:e} of the spread away").into());
    }
    let worst = lockstep.backend().take().into_iter().max_by(|a, b| a.error.total_cmp(&b.error));
    match worst {
        // n products in f32 stay within n·2⁻²⁴ of their magnitudes; no reduction here is longer than 200.
        Some(worst) if worst.error <= 200.0 * (-24f64).exp2() => Ok(()),
        Some(worst) => Err(format!("{worst:?}").into()),
        None => Err("nothing was compared".into()),
    }
}

fn version_4_config(golden: &Golden) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(&golden.directory)? {
        let entry = entry?;
        if entry.file_name() != "config.json" {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
    }
    std::fs::rename(folder.path().join("config.v4.json"), folder.path().join("config.json"))?;
    let (old, new) = (consort_formats::open(folder.path())?, consort_formats::open(&golden.directory)?);
    if old.config == new.config {
        Ok(())
    } else {
        Err(format!("{:?}\nexpected {:?}", old.config, new.config).into())
    }
}
