//! The suite: cases and whole models on backends, each backend in processes of its own, with a verdict.
//!
//! A backend's tests are one file without a harness:
//!
//! ```no_run
//! use consort_conformance::{oracle::Single, suite::Candidate};
//!
//! fn main() -> std::process::ExitCode {
//!     // Your backend instead of `Single`; an `Err` says why it does not work on this machine.
//!     Candidate::new("mine", || Ok(Single::new())).main()
//! }
//! ```
//!
//! `cargo xtask compare` is [`run`] with a list of candidates. What is checked of a case is in `check.rs` and in the kit's
//! README.

#![allow(clippy::indexing_slicing, reason = "a JSON value indexed by a key gives null where there is none")]

mod arguments;
mod candidate;
mod check;
mod child;
mod harness;
mod outcome;
mod plan;
mod progress;
mod work;

use std::{ffi::OsString, io::Write, process::ExitCode, time::Instant};

use clap::{Parser, error::ErrorKind};

pub use self::candidate::Candidate;
use self::{
    arguments::{Arguments, Asked},
    outcome::Finished,
    plan::Plan,
    work::{Job, News, Settings, Terms},
};
use crate::{
    isolate,
    report::{Column, Report, html, json, table},
};

/// Compares candidates as `arguments` say, the first of which is the program's name; `--help` lists them. Prints a report and
/// gives the exit status: 0 when everything agrees, 1 when something does not or nothing was compared, 2 for wrong usage.
///
/// The program must pass its arguments on unchanged: it is started again for the processes that backends run in.
pub fn run(mut candidates: Vec<Candidate>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    candidates.push(Candidate::new("oracle", || Ok(crate::oracle::Oracle::new())).for_oracle());
    if let Some(code) = child::main(&candidates, &arguments) {
        return code;
    }
    match compare(&candidates, &arguments, "cargo xtask compare") {
        Ok(report) if report.agrees() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

/// As [`run`], for the report; `command` is what people type.
fn compare(candidates: &[Candidate], arguments: &[OsString], command: &str) -> Result<Report, ExitCode> {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            print(&[error.to_string()]);
            return Err(ExitCode::SUCCESS);
        }
        Err(error) => return Err(wrong_usage(&arguments::one_line(&error))),
    };
    if parsed.self_test {
        return Err(self_test(&parsed));
    }
    let named: Vec<&str> = candidates.iter().filter(|candidate| !candidate.is_oracle()).map(Candidate::name).collect();
    let asked = parsed.check(&named).map_err(|wrong| wrong_usage(&wrong))?;
    let plan = Plan::make(candidates, &parsed, &asked).map_err(|wrong| wrong_usage(&wrong))?;
    for file in [&parsed.json, &parsed.html].into_iter().flatten() {
        // Before minutes of work, not after.
        if file.is_dir() || file.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            return Err(wrong_usage(&format!("{}: there is no folder to write this file to", file.display())));
        }
    }
    isolate::listen();
    // What people gave: where the repository is comes from xtask.
    let given = arguments.iter().skip(1).take_while(|word| *word != "--root");
    let given: Vec<String> = given.map(|word| quoted(&word.to_string_lossy())).collect();
    let mut report = execute(candidates, &plan, &asked, &parsed);
    report.command = [vec![command.to_owned()], given].concat().join(" ");
    Finished { candidates, command, arguments: &parsed, asked: &asked, whole: plan.whole }.settle(&mut report);

    print(&table::lines(&report));
    let mut written = Vec::new();
    if let Some(path) = &parsed.json {
        written.push(json::replace(path, &json::value(&report).to_string()));
    }
    if let Some(path) = &parsed.html {
        written.push(html::page(&report).and_then(|page| json::replace(path, &page)));
    }
    if let Some(error) = written.into_iter().find_map(Result::err) {
        eprintln!("error: {error}");
        return Err(ExitCode::FAILURE);
    }
    Ok(report)
}

/// `--self-test`.
#[cfg(feature = "self-test")]
fn self_test(arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let Some(vectors) = arguments.root.as_deref().map(|root| root.join("tests/vectors")) else {
        return wrong_usage("--self-test needs the vectors of the repository: start it by cargo xtask compare");
    };
    let line = |hunt: &crate::self_test::Hunt| {
        let by = hunt.caught_by.as_deref().unwrap_or("NOBODY");
        println!("{:8} {:28} {:40} {}", hunt.planted.name(), hunt.fault, by, hunt.about);
    };
    println!("{:8} {:28} {:40} what is wrong", "planted", "fault", "caught by");
    let hunts = match crate::self_test::hunt(&vectors, &mut |hunt| line(hunt)) {
        Ok(hunts) => hunts,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (lines, all) = crate::self_test::summary(&hunts, start);
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    if let Some(path) = &arguments.json
        && let Err(error) = json::replace(path, &serde_json::json!({ "self_test": hunts }).to_string())
    {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "self-test"))]
fn self_test(_: &Arguments) -> ExitCode {
    wrong_usage("--self-test is not in this build: build consort-conformance with its feature self-test")
}

/// The names of the checks that find something in a case.
#[cfg(feature = "self-test")]
pub(crate) fn findings<B: consort_core::Backend>(
    device: &consort_core::Device<B>,
    problem: &crate::problem::Problem,
    expected: &[crate::bounds::Bounded],
    profile: &crate::bounds::Profile,
) -> Vec<String> {
    let mut names: Vec<String> =
        check::check(device, problem, expected, Some(profile)).findings.into_iter().map(|f| f.check).collect();
    names.dedup();
    names
}

/// Lines to standard output. Who reads them may have had enough, which changes no verdict.
fn print(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

fn wrong_usage(wrong: &str) -> ExitCode {
    eprintln!("error: {wrong}");
    ExitCode::from(2)
}

/// Runs a plan.
fn execute(candidates: &[Candidate], plan: &Plan, asked: &Asked, arguments: &Arguments) -> Report {
    let start = Instant::now();
    let settings: Vec<Settings> = plan.columns.iter().map(|column| column.settings(candidates, arguments)).collect();
    let mut columns: Vec<Column> = settings.iter().map(column).collect();
    let mut report = Report { quick: arguments.quick, ..Report::default() };
    let terms = Terms { limit: asked.limit, processes: asked.jobs, echo: asked.case.is_some() };
    let mut progress = progress::Progress::new(plan.jobs.iter().map(|job| job.work.steps()).sum());
    let mut found = Vec::new();
    work::run(&settings, &mut columns, &plan.jobs, &terms, |at, news| {
        let job = plan.jobs.get(at);
        progress.at(job.map(|job: &Job| (settings.get(job.column).map_or("", |own| own.backend.as_str()), job)));
        match news {
            News::Case(case) => {
                progress.step(1);
                found.push((at, *case));
            }
            News::Model(event) => report.models.push(event),
            News::Steps(steps) => progress.step(steps),
        }
    });
    progress.end();
    found.sort_by_key(|(at, _)| *at);
    report.cases = found.into_iter().map(|(_, case)| case).collect();
    report.columns = columns;
    report.interrupted = isolate::interrupted();
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// A column of which nothing is known yet.
fn column(settings: &Settings) -> Column {
    Column { backend: settings.backend.clone(), threads: settings.threads, ..Column::default() }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@+×".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(super::quoted("--case"), "--case");
        assert_eq!(super::quoted(r#"{"op": "it's"}"#), r#"'{"op": "it'\''s"}'"#);
        assert_eq!(super::quoted(""), "''");
    }
}
