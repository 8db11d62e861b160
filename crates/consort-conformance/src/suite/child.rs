//! The process that a backend runs in: opens it, then answers with what each case came to.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use consort_core::{Compute, DType, WeightDType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    candidate::{Candidate, Opened},
    check::Checked,
    work::{self, Settings},
};
use crate::{
    bounds::{self, Bounded, Profile},
    case_file::CaseFile,
    error::Error,
    golden::Golden,
    isolate, models,
    ops::{Kind, Operation},
    problem::Problem,
    quantized,
    recipe::Recipe,
    report::{Case, Direction, Outcome, Source, words},
};

/// Serves as the child that `arguments` ask for; `None` where they ask for something else.
pub(crate) fn main(candidates: &[Candidate], arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1).is_none_or(|first| first != isolate::MARK) {
        return None;
    }
    let settings = arguments.get(2).and_then(|text| serde_json::from_str::<Settings>(&text.to_string_lossy()).ok());
    let Some(settings) = settings else {
        eprintln!("error: {} is for this program's own use", isolate::MARK);
        return Some(ExitCode::from(2));
    };
    let Some(candidate) = candidates.iter().find(|candidate| candidate.name() == settings.backend) else {
        eprintln!("error: there is no candidate '{}' here", settings.backend);
        return Some(ExitCode::from(2));
    };
    let mut device = None;
    let served = isolate::serve(|request, emit| match &device {
        _ if request["open"] == true => match candidate.open(settings.threads, settings.policy()) {
            Ok(opened) => {
                emit(&json!(work::Opened::Open {
                    title: opened.title().to_owned(),
                    float: opened.float().to_string(),
                    profile: json!(candidate.profile_for(None, opened.float())),
                }));
                device = Some(opened);
            }
            Err(reason) => emit(&json!(work::Opened::Unavailable(reason))),
        },
        Some(device) if request["close"] == true => emit(&json!(device.warnings())),
        Some(device) if !request["model"].is_null() => model(candidate, device.as_ref(), &request, emit),
        Some(device) => {
            let source = serde_json::from_value(request["source"].clone()).unwrap_or(Source::Given);
            emit(&json!(case(candidate, device.as_ref(), source, &request["case"])));
        }
        None => {}
    });
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a case came to.
fn case(candidate: &Candidate, device: &dyn Opened, source: Source, value: &Value) -> Case {
    let mut found = Case::unknown("", Direction::Forward, source, value);
    let checked = match problem(value) {
        Ok((problem, file)) => {
            found.op.clone_from(&problem.op);
            found.direction = if problem.backward.is_some() { Direction::Backward } else { Direction::Forward };
            found.shapes = shapes(&problem);
            found.weight = problem.weight_dtype;
            let profile = candidate.profile_for(Some((&problem.op, quantized::compute(&problem))), device.float());
            found.profile = profile.name.to_string();
            judged(device, &problem, file.as_ref(), profile)
        }
        Err(error) => without("case", &error),
    };
    found.outcome = match (&checked.skipped, checked.findings.is_empty()) {
        (Some(_), _) => Outcome::Skipped,
        (None, true) => Outcome::Passed,
        (None, false) => Outcome::Failed,
    };
    found.reason = checked.skipped;
    found.level = checked.level;
    found.budget = checked.budget;
    found.worst = checked.worst;
    found.checks = checked.checks;
    found.findings = checked.findings;
    found.seconds = checked.seconds;
    found.bits = checked.bits;
    found
}

/// What is asked of a whole model.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ModelRequest {
    /// Its directory.
    pub(crate) model: PathBuf,
    /// What its weights are kept as, one after the other.
    pub(crate) dtypes: Vec<WeightDType>,
    /// What its products are computed in.
    #[serde(default)]
    pub(crate) compute: Compute,
    /// Whether it is trained where it has training.
    pub(crate) training: bool,
    /// Where the cases of a run in lockstep are written.
    pub(crate) lockstep: Option<PathBuf>,
}

fn model(candidate: &Candidate, device: &dyn Opened, request: &Value, emit: &mut dyn FnMut(&Value)) {
    let ran = serde_json::from_value(request.clone()).map_err(|error| error.to_string()).and_then(|request| {
        let ModelRequest { model, dtypes, compute, training, lockstep } = request;
        let golden = Golden::of_model(&model).map_err(|error| error.to_string())?;
        let profile = candidate.profile_for(None, device.float());
        let own = [models::Candidate { name: candidate.name(), device: device.tested(), profile: &profile }];
        let plan = models::Plan { dtypes: &dtypes, compute, training, lockstep: lockstep.as_deref() };
        models::run(&golden, &own, &plan, &mut |event| emit(&json!(event)));
        Ok(())
    });
    if let Err(error) = ran {
        emit(&json!({"event": "error", "agrees": false, "error": error}));
    }
}

/// The problem of a recipe, or of a folder by its path.
pub(crate) fn problem(value: &Value) -> Result<(Problem, Option<CaseFile>), Error> {
    match value {
        Value::String(path) => {
            let file = CaseFile::read(Path::new(path))?;
            Ok((file.problem.clone(), Some(file)))
        }
        recipe => {
            let recipe: Recipe = serde_json::from_value(recipe.clone())
                .map_err(|error| Error::problem(&words(&recipe["op"]), format!("this is no recipe: {error}")))?;
            Ok((recipe.problem()?, None))
        }
    }
}

fn judged(device: &dyn Opened, problem: &Problem, file: Option<&CaseFile>, profile: Profile) -> Checked {
    let asks = problem.attributes.get("dtype").and_then(Value::as_str);
    let own = device.float().to_string();
    if let Some(asks @ ("f32" | "f64")) = asks
        && asks != own
    {
        let skipped = Some(format!("it asks for {asks}, this backend computes in {own}"));
        return Checked { skipped, ..Checked::default() };
    }
    let profile = Profile { weight: problem.weight_dtype, ..profile };
    let expected: Vec<Bounded> = match file {
        Some(file) => match file.expected(&profile) {
            Ok(expected) => expected,
            Err(error) => return without("case", &error),
        },
        None => match bounds::expected(problem, &profile) {
            Ok(expected) => expected,
            Err(error) => return without("oracle", &error),
        },
    };
    let derived = file.is_none_or(|file| file.expected.is_empty());
    device.check(problem, &expected, derived.then_some(&profile))
}

fn without(check: &str, error: &Error) -> Checked {
    let mut found = Checked { budget: f64::INFINITY, ..Checked::default() };
    found.find(check, error.to_string(), None);
    found
}

/// Operands with their sizes, and attributes.
fn shapes(problem: &Problem) -> String {
    let kind = |name: &str| Operation::find(&problem.op)?.operand(name).map(|slot| slot.kind);
    let mut parts: Vec<String> = problem
        .operands
        .iter()
        .map(|(name, operand)| {
            let layout = &operand.layout;
            let mut text = format!("{name} {:?}", layout.shape().sizes());
            if kind(name) == Some(Kind::Weight) && problem.weight_dtype.name() != DType::F32.to_string() {
                text.push_str(&format!(" {}", problem.weight_dtype));
            }
            if !layout.is_contiguous() {
                text.push_str(&format!(" strides {:?}", layout.strides()));
            }
            if layout.offset() > 0 {
                text.push_str(&format!(" offset {}", layout.offset()));
            }
            text
        })
        .collect();
    if !problem.attributes.is_empty() {
        let attributes = Value::Object(problem.attributes.clone()).to_string();
        if attributes.len() < 400 {
            parts.push(attributes);
        }
    }
    parts.join(", ")
}
