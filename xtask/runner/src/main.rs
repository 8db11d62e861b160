//! Runs comparisons on the backends compiled in. `cargo xtask compare` builds and starts it; people use that.
//!
//! Standard output has one JSON object a line, told apart by `event`:
//!
//! ```text
//! plan      models, backends                  first: names of what will be compared
//! skipped   backend, reason                   a backend that is compiled in and does not work on this machine
//! report    backend, agrees, failures, directory, report
//! error     backend, model, directory, error  a comparison that could not be finished; counts as a disagreement
//! ```
//!
//! Exit status: 0 all agree, 1 one does not or nothing was compared, 2 wrong usage.

#![forbid(unsafe_code)]

mod backends;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use consort_conformance::{
    compare::Reference,
    golden::{Golden, goldens},
};
use serde_json::{Value, json};

use crate::backends::{Entry, Tested};

/// Compares backends with the oracle on golden models.
#[derive(Parser)]
#[command(name = "consort-runner")]
struct Arguments {
    /// A golden, or a folder of goldens.
    #[arg(long = "golden", value_name = "DIR", required = true)]
    goldens: Vec<PathBuf>,
    /// Backends, separated by commas; all that are compiled in by default.
    #[arg(long = "backend", value_name = "NAMES", value_delimiter = ',')]
    backends: Vec<String>,
    /// Only goldens whose name contains this.
    #[arg(long, value_name = "FILTER", default_value = "")]
    model: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (entries, goldens) = match choose(&arguments) {
        Ok(chosen) => chosen,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::from(2);
        }
    };
    match run(&entries, &goldens) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the arguments ask for, or what is wrong with them.
fn choose(arguments: &Arguments) -> Result<(Vec<Entry>, Vec<Golden>), String> {
    let mut entries = backends::compiled();
    let compiled: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    if compiled.is_empty() {
        return Err("no backend is compiled in: build with a feature that has one, `--features scalar`".to_owned());
    }
    if let Some(unknown) = arguments.backends.iter().find(|name| !compiled.contains(&name.as_str())) {
        return Err(format!("backend '{unknown}' is not in this build (in it: {})", compiled.join(", ")));
    }
    entries.retain(|entry| arguments.backends.is_empty() || arguments.backends.iter().any(|name| name == entry.name));
    let mut found = Vec::new();
    for folder in &arguments.goldens {
        found.extend(goldens(folder).map_err(|error| error.to_string())?);
    }
    found.retain(|golden| golden.name.contains(&arguments.model));
    if found.is_empty() {
        return Err(format!("no golden has '{}' in its name", arguments.model));
    }
    Ok((entries, found))
}

/// Whether something was compared and all of it agreed.
fn run(entries: &[Entry], goldens: &[Golden]) -> io::Result<bool> {
    let models: Vec<&str> = goldens.iter().map(|golden| golden.name.as_str()).collect();
    let backends: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    print(&json!({"event": "plan", "models": models, "backends": backends}))?;
    let mut open: Vec<(&str, Box<dyn Tested>)> = Vec::new();
    for entry in entries {
        match (entry.open)() {
            Ok(backend) => open.push((entry.name, backend)),
            Err(reason) => print(&json!({"event": "skipped", "backend": entry.name, "reason": reason}))?,
        }
    }
    let mut agree = !open.is_empty();
    for golden in goldens {
        let reference = if open.is_empty() { continue } else { Reference::compute(golden) };
        for (backend, tested) in &open {
            let found = match &reference {
                Ok(reference) => tested.compare(reference).map_err(|error| error.to_string()),
                Err(error) => Err(format!("oracle: {error}")),
            };
            let directory = golden.directory.display().to_string();
            match found {
                Ok(report) => {
                    agree &= report.agrees();
                    print(&json!({
                        "event": "report", "backend": backend, "directory": directory, "agrees": report.agrees(),
                        "failures": report.failures(), "report": report,
                    }))?;
                }
                Err(error) => {
                    agree = false;
                    print(&json!({
                        "event": "error", "backend": backend, "model": golden.name, "directory": directory,
                        "error": error,
                    }))?;
                }
            }
        }
    }
    Ok(agree)
}

fn print(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
