//! Every golden model, by every way of running it.
//!
//! Per model: the oracle (f64) within 1e-10 of the spread of what the reference implementation computes in f64, and
//! f32 within 1e-5, for hidden states after every layer, attention and logits; one pass, token by token, odd chunks,
//! the cacheless pass and a pass beside other sequences with the same bits; the same greedy tokens; a backend of three
//! methods with the same bits through the host; decorators that change nothing. On simd, every instruction set of this machine:
//! the same bars and cuts, and everything native.

#![allow(clippy::neg_cmp_op_on_partial_ord, reason = "`!(error <= bar)`, so that NaN fails")]

use consort_conformance::{
    bounds::Profile,
    golden::Golden,
    lockstep::{Settings, lockstep},
    measure::{Deviation, other_bits},
    pass,
    training::{Training, TrainingReference},
};
use consort_core::{
    Backend, Compute, DType, Device, Error, HostData, Nothing, Policy, Ready, Result, Trace, WeightDType, model::Tokens,
};
use consort_scalar::{Oracle, Scalar, Single};
use consort_simd::{Level, Simd};
use consort_tests::goldens;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for golden in goldens() {
        let golden: &'static Golden = Box::leak(Box::new(golden));
        for level in Level::available() {
            let name = |what: &str| format!("{}::{what}_{}", golden.name, level.name());
            let simd = move || Simd::new(level, 2);
            trials.push(Trial::test(name("simd"), move || numbers(golden, simd(), 1e-5)));
            trials.push(Trial::test(name("simd_cuts"), move || cuts(golden, simd())));
            trials.push(Trial::test(name("simd_native"), move || native(golden, simd())));
            if Training::is_there(golden) {
                trials.push(Trial::test(name("simd_training"), move || training(golden, simd(), "ieee")));
            }
        }
        let mut trial = |name: &str, run: fn(&Golden) -> Result<(), Failed>| {
            trials.push(Trial::test(format!("{}::{name}", golden.name), move || run(golden)));
        };
        trial("oracle", |golden| numbers(golden, Oracle::new(), 1e-10));
        trial("single", |golden| numbers(golden, Single::new(), 1e-5));
        trial("cuts_in_f64", |golden| cuts(golden, Oracle::new()));
        trial("cuts_in_f32", |golden| cuts(golden, Single::new()));
        trial("greedy", greedy);
        trial("three_methods", three_methods);
        trial("trace", trace);
        trial("lockstep", in_lockstep);
        if Training::is_there(golden) {
            trial("training_oracle", |golden| training(golden, Oracle::new(), "f64"));
            trial("training_single", |golden| training(golden, Single::new(), "ieee"));
        }
        if golden.name == "llama-tied-bias" {
            trial("training_three_methods", |golden| training(golden, ThreeMethods(Single::new()), "ieee"));
        }
        if golden.directory.join("config.v4.json").is_file() {
            trial("version_4_config", version_4_config);
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn numbers<B: Backend>(golden: &Golden, backend: B, bar: f64) -> Result<(), Failed> {
    let device = Device::new(backend);
    let shown = pass::observe(golden, &golden.load(&device)?, true)?;
    let mut failures = Vec::new();
    for (name, expected) in &golden.expected {
        // In f32 the bar is for hidden states and logits: probabilities inherit the error of their scores times the
        // scores' size, which random weights make large.
        if device.float() == DType::F32 && name.contains("attention") {
            continue;
        }
        match shown.get(name) {
            Some(actual) => {
                let worst = Deviation::measure(name, &actual.data, expected)?;
                if !(worst.error <= bar) {
                    failures.push(format!("at most {bar:e} of the spread: {worst:?}"));
                }
            }
            None => failures.push(format!("{name} was not computed")),
        }
    }
    for name in shown.keys() {
        if !golden.expected.contains_key(name) {
            failures.push(format!("{name} has no reference"));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

fn cuts<B: Backend>(golden: &Golden, backend: B) -> Result<(), Failed> {
    let model = golden.load(&Device::new(backend))?;
    let shown = pass::observe(golden, &model, false)?;
    let whole = shown.get(pass::output_name(&model)).ok_or("no output")?;
    match pass::cuts(golden, &model, &whole.data)?.into_iter().find(|cut| cut.differs.is_some()) {
        Some(cut) => Err(format!("{cut:?}").into()),
        None => Ok(()),
    }
}

/// Every operation has a form of the backend's own.
fn native<B: Backend>(golden: &Golden, backend: B) -> Result<(), Failed> {
    let device = Device::with_policy(backend, Policy::Deny);
    pass::observe(golden, &golden.load(&device)?, false)?;
    let composed: Vec<_> =
        device.report().into_iter().filter(|(_, counts)| counts.composed + counts.host > 0).collect();
    if composed.is_empty() { Ok(()) } else { Err(format!("not native: {composed:?}").into()) }
}

fn same_bits(what: &str, actual: &[f64], expected: &[f64]) -> Result<(), Failed> {
    match other_bits(what, actual, expected)? {
        Some(other) => Err(format!("{what}: {other:?}").into()),
        None => Ok(()),
    }
}

fn greedy(golden: &Golden) -> Result<(), Failed> {
    let device = Device::new(Single::new());
    let model = golden.load(&device)?;
    if model.config().decoder.is_none() || golden.case.greedy.is_empty() {
        return Ok(());
    }
    let tokens = golden.prompt();
    let (mut state, slot) = pass::open(golden, &model)?;
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
    if found == golden.case.greedy {
        Ok(())
    } else {
        Err(format!("{found:?}, expected {:?}", golden.case.greedy).into())
    }
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
    let model = golden.load(device)?;
    if model.config().decoder.is_some() {
        return Ok(pass::in_steps(golden, &model, &[golden.prompt().len() - 1, 1])?);
    }
    let mut shown = pass::observe(golden, &model, false)?;
    Ok(shown.remove(pass::output_name(&model)).ok_or("no output")?.data)
}

fn three_methods(golden: &Golden) -> Result<(), Failed> {
    let plain = last_logits(golden, &Device::new(Single::new()))?;
    let device = Device::new(ThreeMethods(Single::new()));
    same_bits("through the host", &last_logits(golden, &device)?, &plain)?;
    let report = device.report();
    if report.values().any(|counts| counts.native > 0) || report.is_empty() {
        return Err(format!("a backend of three methods has nothing native: {report:?}").into());
    }
    let denied = Device::with_policy(ThreeMethods(Single::new()), Policy::Deny);
    let model = golden.load(&denied)?;
    let result = match model.config().encoder {
        Some(_) => model.encode(&[&golden.case.tokens], None),
        None => model.forward(&[], &[&golden.case.tokens], None),
    };
    match result {
        Err(Error::FallbackDenied { .. }) => Ok(()),
        other => Err(format!("fall-back was denied, yet: {:?}", other.map(|x| *x.shape())).into()),
    }
}

fn trace(golden: &Golden) -> Result<(), Failed> {
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
    let config = consort_formats::open(&golden.directory)?.config;
    let last = format!(".{}.attention", config.output_stack()?.layers - 1);
    if records.iter().any(|record| record.place.ends_with(&last)) {
        Ok(())
    } else {
        Err("no record names its place in the last layer's attention".into())
    }
}

fn in_lockstep(golden: &Golden) -> Result<(), Failed> {
    let profile = Profile::ieee();
    let settings = Settings { dtype: WeightDType::F32, compute: Compute::F32, profile: &profile, cases: None };
    let report = lockstep(golden, &Device::new(Single::new()), &settings)?;
    if report.vague > 0 || !report.absent.is_empty() {
        return Err(format!("{} vague, absent {:?}", report.vague, report.absent).into());
    }
    all_well(&report.failures())
}

fn training<B: Backend>(golden: &Golden, backend: B, profile: &str) -> Result<(), Failed> {
    let reference = TrainingReference::compute(golden)?.ok_or("no training")?;
    all_well(&reference.train(&Device::new(backend), profile)?.failures())
}

fn all_well(failures: &[String]) -> Result<(), Failed> {
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

fn version_4_config(golden: &Golden) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(&golden.directory)? {
        let entry = entry?;
        if entry.file_name() != "config.json" && entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
    }
    std::fs::rename(folder.path().join("config.v4.json"), folder.path().join("config.json"))?;
    let (old, new) = (consort_formats::open(folder.path())?, consort_formats::open(&golden.directory)?);
    if old.config == new.config { Ok(()) } else { Err(format!("{:?}\nexpected {:?}", old.config, new.config).into()) }
}
