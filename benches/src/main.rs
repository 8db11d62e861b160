//! Measures that are no model's: a matrix product through the contract, and a step of training. One JSON object a case, with the
//! names that `consort bench --json` gives.

#![forbid(unsafe_code)]

mod linear;
mod train;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use consort::bench::{Blocks, Limits, Timed, peak_memory};
use consort_benches::{OnBackend, each};
use consort_core::Compute;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(name = "consort-benches")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A square matrix product: rows times a packed weight
    Linear(linear::Linear),
    /// A step of training: forward, backward and AdamW
    Train(train::Train),
}

/// What both take.
#[derive(Args)]
struct Common {
    /// Backend [default: every one in the build]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Threads of a backend that takes a number of them [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Type that products are computed in
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = compute)]
    compute: Compute,
    /// Blocks of runs that are timed
    #[arg(long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Least seconds of a block
    #[arg(long, value_name = "SECONDS", default_value_t = 0.4)]
    block: f64,
    /// Seconds to wait for other processes to be quiet
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    patience: f64,
    /// Leave out what the machine could do at most
    #[arg(long)]
    no_limits: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        What::Linear(linear) => run(linear),
        What::Train(train) => run(train),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut what: impl OnBackend + AsRef<Common>) -> Result<()> {
    let common: &Common = what.as_ref();
    let (backend, threads) = (common.backend.clone(), common.threads);
    each(backend.as_deref(), threads, &mut what)
}

impl Common {
    fn blocks(&self) -> Result<Blocks> {
        Ok(Blocks {
            wanted: self.repetitions.max(1),
            least: Duration::try_from_secs_f64(self.block).context("--block")?,
            patience: Duration::try_from_secs_f64(self.patience).context("--patience")?,
        })
    }

    /// Prints what was timed: `work` in `unit`s a run, of `operations` multiplications and additions.
    fn print(&self, backend: &str, unit: &str, work: f64, operations: f64, timed: &Timed, own: Value) -> Result<()> {
        // Read before the limits are measured, which takes a gibibyte.
        let peak = peak_memory();
        let limits = match self.no_limits {
            true => Limits::default(),
            false => consort::backends::limits(backend, self.threads)?,
        };
        let rate = timed.rate(work).context("no run was timed")?;
        let seconds = work / rate.median;
        let gflop_s = operations / seconds / 1e9;
        let mut line = json!({
            "engine": "consort",
            "version": env!("CARGO_PKG_VERSION"),
            "backend": backend,
            "threads": self.threads,
            "compute": self.compute.to_string(),
            "unit": unit,
            "median": rate.median,
            "min": rate.min,
            "max": rate.max,
            "median_ms": 1e3 * seconds,
            "runs": timed.seconds.len(),
            "gflop_s": gflop_s,
            "share_of_arithmetic": limits.arithmetic(self.compute).map(|limit| gflop_s / limit),
            "limits": {
                "read_gb_s": limits.read,
                "f32_gflop_s": limits.f32,
                "bf16_gflop_s": limits.bf16,
                "int8_gflop_s": limits.int8,
            },
            "peak_rss_mib": peak.map(|bytes| bytes as f64 / f64::from(1 << 20)),
            "clean": timed.clean,
            "discarded_blocks": timed.discarded,
            "worst_foreign_cpus": timed.others,
        });
        if let (Some(line), Value::Object(own)) = (line.as_object_mut(), own) {
            line.extend(own);
        }
        println!("{line}");
        Ok(())
    }
}

fn compute(name: &str) -> Result<Compute, String> {
    Compute::from_name(name).ok_or_else(|| format!("'{name}' is none of f32, bf16, int8"))
}
