//! The `consort` command: what its arguments are, and one file for each of its parts.
//!
//! Text that a model makes goes to standard output; progress, timings and notes go to standard error. Exit status: 0
//! done, 1 failed (one line says what, in which file, and what to do), 2 wrong usage.

mod backends;
mod bench;
mod forward;
mod generate;
mod info;
mod interrupt;
mod progress;
mod quantize;
mod synth;
mod tokenize;

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::{Write, stderr},
    panic::{catch_unwind, set_hook},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use consort_core::{Counts, Policy, WeightDType};

use self::progress::Progress;
use crate::{LoadOptions, Model, OpenModel};

const EXIT_STATUS: &str = "\
Output goes to standard output; progress, timings and notes go to standard error.
Exit status: 0 done; 1 failed (one line on standard error says what, in which file, and what to do); 2 wrong usage.";

#[derive(Parser)]
#[command(
    name = "consort",
    bin_name = "consort",
    version,
    about = "Runs transformers: one graph, played by every backend",
    after_help = EXIT_STATUS
)]
struct Command {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Continue a text, or write what an encoder-decoder makes of it
    #[command(after_help = EXIT_STATUS)]
    Generate(generate::Generate),
    /// Run one pass and keep logits, hidden states and attention as safetensors
    #[command(after_help = EXIT_STATUS)]
    Forward(forward::Forward),
    /// Show the token ids of a text
    #[command(after_help = EXIT_STATUS)]
    Tokenize(tokenize::Tokenize),
    /// Describe a model
    #[command(after_help = EXIT_STATUS)]
    Info(info::Info),
    /// Measure how fast a model reads and writes
    #[command(after_help = EXIT_STATUS)]
    Bench(bench::Bench),
    /// Write a model as one GGUF file of another type of weights
    #[command(after_help = EXIT_STATUS)]
    Quantize(quantize::Quantize),
    /// Make a model of a given shape with random weights
    #[command(after_help = EXIT_STATUS)]
    Synth(synth::Synth),
    /// List the backends of this build
    #[command(after_help = EXIT_STATUS)]
    Backends,
}

/// Which model.
#[derive(Args)]
struct ModelPath {
    /// Hugging Face directory (config.json, model.safetensors) or GGUF file
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

/// How it runs.
#[derive(Args)]
struct Common {
    /// Backend to run on (see `consort backends`) [default: the fastest one in this build]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Which of the backend's devices
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: usize,
    /// Type that weights are kept in: f32, bf16, f16, q8_0, q6_k, q5_k, q4_k, q4_0 …; f64 on scalar [default: as stored]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Type that products are computed in: f32, bf16, int8 [default: f32; f64 with --dtype f64]
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
    set_hook(Box::new(|panic| {
        if !consort_text::guarding() {
            note(format_args!("error: internal error: {}", one_line(panic)));
        }
    }));
    let run = || match command.part {
        Part::Generate(generate) => generate.run(),
        Part::Forward(forward) => forward.run(),
        Part::Tokenize(tokenize) => tokenize.run(),
        Part::Info(info) => info.run(),
        Part::Bench(bench) => bench.run(),
        Part::Quantize(quantize) => quantize.run(),
        Part::Synth(synth) => synth.run(),
        Part::Backends => backends::run(),
    };
    match catch_unwind(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            note(format_args!("error: {}", one_line(whole(&error))));
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
        // The hook has said it.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Wrong usage that the parser of the command line does not see.
#[derive(Debug)]
struct Usage(String);

impl Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A line for standard error. That nobody reads it is no failure.
fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// An error and its causes, but for those that it has named already.
fn whole(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

/// The text on one line, whatever a file or a prompt put into it.
fn one_line(text: impl Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
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
        if !open.files().unused.is_empty() {
            note(format_args!("unused tensors: {}", open.files().unused.join(", ")));
        }
        self.with_options(|options| open.load_with(options))
    }

    /// Loads something as the flags say, with its progress on a terminal.
    fn with_options<T>(&self, load: impl FnOnce(LoadOptions<'_>) -> Result<T, crate::Error>) -> Result<T> {
        if self.device != 0 {
            return Err(anyhow!("device {} does not exist: this build's backends have one device, 0", self.device));
        }
        let chosen = crate::backends::choose(self.backend.as_deref(), self.dtype.as_deref())?;
        if self.backend.is_none() {
            note(format_args!("backend: {}", chosen.name));
        }
        let mut progress = Progress::new("loading weights");
        let mut tell = |done: usize, all: usize| progress.tell(done as u64, all as u64, "");
        Ok(load(LoadOptions {
            backend: self.backend.clone(),
            dtype: self.dtype.clone(),
            compute: self.compute.clone(),
            threads: self.threads.map(|threads| threads as usize),
            fallback: Policy::Allow,
            progress: Some(&mut tell),
        })?)
    }

    /// How every operation ran, with `-v`.
    fn report(&self, report: &BTreeMap<&'static str, Counts>) {
        if !self.verbose {
            return;
        }
        note(format_args!("{:20} {:>10} {:>10} {:>10}", "operation", "native", "composed", "host"));
        for (operation, counts) in report {
            let Counts { native, composed, host } = counts;
            note(format_args!("{operation:20} {native:>10} {composed:>10} {host:>10}"));
        }
    }
}

/// A type that weights are written in, by its name.
fn weight_dtype(name: &str) -> Result<WeightDType, String> {
    let known = || WeightDType::ALL.into_iter().filter(|dtype| *dtype != WeightDType::F64);
    known().find(|dtype| name.eq_ignore_ascii_case(dtype.name())).ok_or_else(|| {
        let known: Vec<&str> = known().map(WeightDType::name).collect();
        format!("weights cannot be kept as '{name}' ({})", known.join(", "))
    })
}

/// The value of an option that takes a list of ids. Spelt `Vec`, clap would take it for an option that can be repeated.
type TokenIds = Vec<u32>;

/// `1,80,147` as token ids.
fn parse_tokens(list: &str) -> Result<TokenIds, String> {
    list.split(',')
        .map(|part| {
            let part = part.trim();
            part.parse().map_err(|_| format!("'{part}' is not a token id (whole numbers separated by commas)"))
        })
        .collect()
}

/// The token ids of a prompt.
fn encode(open: &OpenModel, text: &str) -> Result<Vec<u32>> {
    if text.is_empty() {
        bail!("the prompt is empty: give some text, or token ids with --tokens");
    }
    let tokens = open.encode(text)?;
    if tokens.is_empty() {
        bail!("the prompt {text:?} has no tokens: the tokenizer drops all of it");
    }
    Ok(tokens)
}

/// Token ids, comma-separated.
fn join(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
