//! A backend's own tests: one trial for each operation and direction, with the arguments that `cargo test` and nextest pass.

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use clap::Parser;
use libtest_mimic::{Completion, Failed, Trial};

use super::{
    arguments::{Arguments, Asked},
    candidate::Candidate,
    child, compare,
    outcome::Finished,
    plan::Plan,
    quoted,
    work::{self, Job, Terms},
};
use crate::{
    isolate,
    report::{Column, Direction, Report},
};

/// `quick` (the default) or `full`.
const SIZE: &str = "CONSORT_CONFORMANCE";

impl Candidate {
    /// Runs the suite on this backend as a test binary without a harness does, with `cargo test`'s and nextest's arguments:
    /// one trial for each operation and direction, `softmax::forward`. `CONSORT_CONFORMANCE=full` runs every case instead
    /// of some of each operation. With `--case` or `--cases`, as failures print them, it runs those and reports at length.
    ///
    /// Cases run in processes of their own, for which this executable is started again: call it first thing in `main`.
    pub fn main(self) -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let candidates = [self];
        if let Some(code) = child::main(&candidates, &arguments) {
            return code;
        }
        let command = command();
        let ours = |word: &OsString| {
            let word = word.to_string_lossy();
            ["--case", "--cases"].iter().any(|flag| word == *flag || word.starts_with(&format!("{flag}=")))
        };
        if arguments.iter().any(ours) {
            return match compare(&candidates, &arguments, &command) {
                Ok(report) if report.agrees() => ExitCode::SUCCESS,
                Ok(_) => ExitCode::FAILURE,
                Err(code) => code,
            };
        }
        let quick = match std::env::var(SIZE).as_deref() {
            Err(_) | Ok("" | "quick") => true,
            Ok("full") => false,
            Ok(other) => {
                eprintln!("error: {SIZE} is '{other}', expected quick or full");
                return ExitCode::from(2);
            }
        };
        trials(candidates, quick, command, &libtest_mimic::Arguments::from_iter(arguments))
    }
}

/// What people type to run this test binary, up to its own arguments.
fn command() -> String {
    let executable = std::env::current_exe().unwrap_or_default();
    let stem = executable.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // Cargo appends a hash to the name of a test.
    let name = match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => return quoted(&executable.display().to_string()),
    };
    match std::env::var("CARGO_PKG_NAME") {
        Ok(package) => format!("cargo test -p {package} --test {name} --"),
        Err(_) => quoted(&executable.display().to_string()),
    }
}

/// What all trials need.
struct Shared {
    candidates: [Candidate; 1],
    command: String,
    arguments: Arguments,
    asked: Asked,
    echo: bool,
}

fn trials(candidates: [Candidate; 1], quick: bool, command: String, own: &libtest_mimic::Arguments) -> ExitCode {
    let given = if quick { vec!["compare", "--quick"] } else { vec!["compare"] };
    let planned = Arguments::try_parse_from(given).map_err(|error| error.to_string()).and_then(|arguments| {
        let [candidate] = &candidates;
        let asked = arguments.check(&[candidate.name()])?;
        let plan = Plan::make(&candidates, &arguments, &asked)?;
        Ok((arguments, asked, plan))
    });
    let (arguments, asked, plan) = match planned {
        Ok(planned) => planned,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::from(2);
        }
    };
    let mut groups: Vec<(String, Direction, Vec<Job>)> = Vec::new();
    for job in plan.jobs {
        match groups.iter_mut().find(|(op, direction, _)| *op == job.op && *direction == job.direction) {
            Some((_, _, jobs)) => jobs.push(job),
            None => groups.push((job.op.clone(), job.direction, vec![job])),
        }
    }
    let shared = Shared { candidates, command, arguments, asked, echo: own.nocapture };
    // A process of its own finds out, for even opening may crash.
    let opened = run(&shared, &[]);
    let reason = opened.columns.iter().find_map(|column| column.unavailable.clone());
    let crashed = !opened.agrees() && opened.totals().troubles > 0;
    if let (Some(reason), false) = (&reason, crashed) {
        let [candidate] = &shared.candidates;
        eprintln!("\n{} IS NOT TESTED, it does not work here: {reason}\n", candidate.name());
    }
    let unavailable = reason.filter(|_| !crashed);
    isolate::listen();
    let shared = Arc::new(shared);
    let trials = groups.into_iter().map(|(op, direction, jobs)| {
        let (shared, reason) = (Arc::clone(&shared), unavailable.clone());
        let ignored = reason.is_some();
        let name = format!("{op}::{}", direction.name());
        let trial = Trial::ignorable_test(name, move || match &reason {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => judge(&shared, &jobs).map(|()| Completion::Completed),
        });
        trial.with_ignored_flag(ignored)
    });
    libtest_mimic::run(own, trials.collect()).exit_code()
}

/// Runs the jobs of one trial.
fn judge(shared: &Shared, jobs: &[Job]) -> Result<(), Failed> {
    let report = run(shared, jobs);
    for case in report.cases.iter().filter(|case| case.reason.is_some()) {
        eprintln!("{} {}: {:?}: {}", case.op, case.shapes, case.outcome, case.reason.as_deref().unwrap_or_default());
    }
    if report.agrees() {
        return Ok(());
    }
    let mut lines: Vec<String> = Vec::new();
    for failure in report.failures(3) {
        lines.push(failure.title);
        lines.extend(failure.lines.into_iter().map(|line| format!("  {line}")));
        if !failure.replay.is_empty() {
            lines.push(format!("  again: {}", failure.replay));
        }
    }
    let totals = report.totals();
    lines.push(format!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped));
    Err(lines.join("\n").into())
}

fn run(shared: &Shared, jobs: &[Job]) -> Report {
    let [candidate] = &shared.candidates;
    let settings = [work::Settings { backend: candidate.name().to_owned(), threads: None, fallback: None }];
    let terms = Terms { limit: shared.asked.limit, processes: 1, echo: shared.echo };
    let mut report = Report::default();
    let mut columns: Vec<Column> = settings.iter().map(super::column).collect();
    if jobs.is_empty() {
        work::open(&settings, &mut columns, &terms);
    }
    work::run(&settings, &mut columns, jobs, &terms, |_, news| {
        if let work::News::Case(case) = news {
            report.cases.push(*case);
        }
    });
    report.columns = columns;
    report.interrupted = isolate::interrupted();
    let finished = Finished {
        candidates: &shared.candidates,
        command: &shared.command,
        arguments: &shared.arguments,
        asked: &shared.asked,
        whole: true,
    };
    finished.settle(&mut report);
    report
}
