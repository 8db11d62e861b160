//! The `consort` command: what its arguments are, and one file for each of its parts.
//!
//! Text that a model makes goes to standard output; progress, timings and notes go to standard error. Exit status: 0
//! done, 1 failed (one line says what, in which file, and what to do), 2 wrong usage.

mod backends;
mod forward;
mod generate;
mod info;
mod interrupt;
mod tokenize;

use std::{
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use consort_core::Policy;

use crate::{LoadOptions, Model, OpenModel};

#[derive(Parser)]
#[command(name = "consort", version, about = "Runs transformers: one graph, played by every backend")]
struct Command {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Continue a text, or write what an encoder-decoder makes of it
    Generate(generate::Generate),
    /// Run one pass and keep logits, hidden states and attention as safetensors
    Forward(forward::Forward),
    /// Show the token ids of a text
    Tokenize(tokenize::Tokenize),
    /// Describe a model directory
    Info(info::Info),
    /// List the backends of this build
    Backends,
}

/// Which model.
#[derive(Args)]
struct ModelPath {
    /// Hugging Face directory
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

/// How it runs.
#[derive(Args)]
struct Common {
    /// Backend to run on (see `consort backends`); the fastest one in this build by default
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Which of the backend's devices
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: usize,
    /// Type that weights are kept in: f32, bf16, f16; f64 on scalar [default: as stored]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Type that products are computed in: f32
    #[arg(long, value_name = "TYPE")]
    compute: Option<String>,
    /// Threads to use (the scalar backend always uses one)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Say more: how every operation ran
    #[arg(short, long)]
    verbose: bool,
}

/// Runs the command on the process's arguments.
pub fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // Help and version are no failures; clap knows which stream each belongs to.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match command.part {
        Part::Generate(generate) => generate.run(),
        Part::Forward(forward) => forward.run(),
        Part::Tokenize(tokenize) => tokenize.run(),
        Part::Info(info) => info.run(),
        Part::Backends => backends::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a file or a prompt put into it.
            let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(stderr(), "error: {line}");
            ExitCode::FAILURE
        }
    }
}

/// The reader of our output has gone: nothing is wrong, and nothing is left to do.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

impl ModelPath {
    fn open(&self) -> Result<OpenModel> {
        let Some(path) = &self.model else {
            bail!("no model comes with this version yet: give a Hugging Face directory with --model PATH");
        };
        Ok(Model::open(path)?)
    }
}

impl Common {
    fn load(&self, open: OpenModel) -> Result<Model> {
        if self.device != 0 {
            return Err(anyhow!("device {} does not exist: this build's backends have one device, 0", self.device));
        }
        let chosen = crate::backends::choose(self.backend.as_deref())?;
        if self.backend.is_none() {
            eprintln!("backend: {}", chosen.name);
        }
        let start = Instant::now();
        let shown = stderr().is_terminal();
        let mut progress = |done: usize, all: usize| {
            // A model that loads at once should not flicker.
            if shown && start.elapsed() > Duration::from_millis(500) {
                eprint!("\rloading weights {done}/{all} ");
                if done == all {
                    eprintln!();
                }
            }
        };
        let options = LoadOptions {
            backend: self.backend.clone(),
            dtype: self.dtype.clone(),
            compute: self.compute.clone(),
            fallback: Policy::Allow,
            progress: Some(&mut progress),
        };
        Ok(open.load_with(options)?)
    }

    /// How every operation ran, with `-v`.
    fn report(&self, model: &Model) {
        if !self.verbose {
            return;
        }
        eprintln!("{:20} {:>10} {:>10} {:>10}", "operation", "native", "composed", "host");
        for (operation, counts) in model.report() {
            eprintln!("{operation:20} {:>10} {:>10} {:>10}", counts.native, counts.composed, counts.host);
        }
    }
}

/// `1,80,147` as token ids.
fn parse_tokens(list: &str) -> Result<Vec<u32>, String> {
    list.split(',')
        .map(|part| {
            let part = part.trim();
            part.parse().map_err(|_| format!("'{part}' is not a token id (whole numbers separated by commas)"))
        })
        .collect()
}

/// Token ids, comma-separated.
fn join(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
