//! Build tasks of the workspace: `cargo xtask ci | test | golden | compare | bench | new-backend`.
//!
//! They are the only build scripts: a laptop and the CI machine run the same ones. No backend is linked here;
//! [`compare`] builds the runner with those asked for. Exit status: 0 done, 1 failed, 2 wrong usage.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod compare;
mod golden;
mod new_backend;
mod process;
mod rehearsal;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build tasks of Consort.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must pass before a change goes in, the cheap checks first.
    Ci,
    /// The tests: `cargo test --workspace`.
    Test,
    /// Shows that backends compute what the f64 oracle does: operations, then whole models.
    Compare(compare::Arguments),
    /// Measures speed: operations, models, training; or ours in turn with other engines.
    Bench(bench::Arguments),
    /// Makes golden models and vectors anew, with torch in a virtual environment of its own.
    Golden(golden::Arguments),
    /// Makes a backend of three methods that passes everything, for making native.
    NewBackend(new_backend::Arguments),
}

/// How a task ended when nothing kept it from running.
enum Outcome {
    Done,
    Failed,
    WrongUsage,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Ci => ci::run(),
        Task::Test => ci::test(),
        Task::Compare(arguments) => compare::run(arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Golden(arguments) => golden::run(&arguments),
        Task::NewBackend(arguments) => new_backend::run(&arguments),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::WrongUsage) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
