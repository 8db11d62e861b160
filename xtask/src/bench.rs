//! `cargo xtask bench`: operations, models and a training step measured; or, with `--against DIR`, rows of a table held against
//! other engines, whose scripts are run in turn with ours.
//!
//! - Seconds are told and never judged. What is judged is a ratio of two rates that were measured in turn ([`against`]), or a
//!   count of instructions ([`guard`]).
//! - No backend is linked here: the command and `consort-benches` are built with those asked for, and print JSON.

mod against;
mod date;
mod document;
mod guard;
mod job;
mod machine;
mod results;
mod rows;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    Outcome,
    process::{cargo, shown, status},
    workspace::{self, Metadata},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Backends to build, as cargo features of the command
    #[arg(long, value_name = "LIST", default_value = "simd")]
    features: String,
    /// Short runs: to see that everything runs
    #[arg(long)]
    quick: bool,
    /// What to measure
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "operations,models,training")]
    parts: Vec<Part>,
    /// Folder of the scripts of other engines: hold rows of the table against them, and write docs/benchmarks.md
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Rows of the table whose names begin so [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    rows: Vec<String>,
    /// How often ours and theirs take turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that a case may wait for other processes to be quiet
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u32,
    /// Python with torch, transformers, onnxruntime, ctranslate2 and gguf
    #[arg(long, value_name = "FILE", env = "CONSORT_PEERS_PYTHON")]
    peers_python: Option<PathBuf>,
    /// llama.cpp's llama-bench
    #[arg(long, value_name = "FILE", env = "CONSORT_LLAMA_BENCH")]
    llama_bench: Option<PathBuf>,
    /// candle-bench, built from its folder among the scripts
    #[arg(long, value_name = "FILE", env = "CONSORT_CANDLE_BENCH")]
    candle_bench: Option<PathBuf>,
    /// Where the GGUF files are that all engines read, or are to be made [default: bench/gguf in the target folder]
    #[arg(long, value_name = "DIR", env = "CONSORT_BENCH_GGUF")]
    gguf: Option<PathBuf>,
    /// List the rows and what each asks
    #[arg(long)]
    list: bool,
    /// Write docs/benchmarks.md from the results that are there, without measuring
    #[arg(long)]
    report: bool,
    /// Hold the instructions a token against the committed counts
    #[arg(long)]
    guard: bool,
    /// With --guard: commit to what is counted now
    #[arg(long, requires = "guard")]
    write: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Criterion, an operation at a time.
    Operations,
    /// Models of the presets, with random weights.
    Models,
    /// A step of training, and a square product.
    Training,
}

/// What was built.
struct Built {
    /// The command.
    consort: PathBuf,
    /// The product and the training step.
    benches: PathBuf,
}

/// `cargo xtask bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    if arguments.list {
        rows::list();
        return Ok(Outcome::Done);
    }
    if arguments.report {
        return document::write(arguments).map(|()| Outcome::Done);
    }
    let known = Metadata::read()?.features("consort-benches")?;
    if let Some(unknown) = arguments.features.split(',').find(|name| !known.iter().any(|known| known == name)) {
        eprintln!("error: there is no backend feature '{unknown}' to measure (there are: {})", known.join(", "));
        return Ok(Outcome::WrongUsage);
    }
    if arguments.guard {
        return guard::run(arguments);
    }
    if arguments.against.is_some() {
        return against::run(arguments);
    }
    let mut good = true;
    if arguments.parts.contains(&Part::Operations) {
        good &= operations(arguments)?;
    }
    if arguments.parts.iter().any(|part| *part != Part::Operations) {
        let Some(built) = build(&arguments.features)? else { return Ok(Outcome::Failed) };
        if arguments.parts.contains(&Part::Models) {
            good &= models(arguments, &built)?;
        }
        if arguments.parts.contains(&Part::Training) {
            good &= training(arguments, &built)?;
        }
    }
    Ok(if good { Outcome::Done } else { Outcome::Failed })
}

fn operations(arguments: &Arguments) -> Result<bool> {
    let mut command = cargo(&["bench", "--package", "consort-benches", "--no-default-features"]);
    command.args(["--features", &arguments.features, "--"]);
    match arguments.quick {
        true => command.args(["--quick", "--noplot"]),
        false => command.args(["--warm-up-time", "0.5", "--measurement-time", "2", "--noplot"]),
    };
    say(&command);
    Ok(status(&mut command)?.success())
}

/// The presets, in the types that are of interest for each.
fn models(arguments: &Arguments, built: &Built) -> Result<bool> {
    let mut good = true;
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("stories-15m", &["f32/f32"], &["--prompt-tokens", "128", "--new-tokens", "64"]),
        ("gpt2-124m", &["f32/f32", "bf16/bf16", "q8_0/int8"], &["--prompt-tokens", "512", "--new-tokens", "64"]),
        ("bert-base", &["f32/f32", "bf16/bf16"], &["--prompt-tokens", "128", "--batch", "1,8"]),
        ("marian-base", &["f32/f32", "bf16/bf16", "q8_0/int8"], &["--batch", "1,8", "--beams", "1,4"]),
        ("llama-1.1b", &["bf16/bf16", "q8_0/int8", "q4_0/int8"], &["--prompt-tokens", "128", "--new-tokens", "32"]),
        // Between one row and many there must be no cliff.
        (
            "gpt2-124m",
            &["bf16/bf16", "q8_0/int8"],
            &["--prompt-tokens", "32", "--new-tokens", "32", "--rows", "1,2,4,8,16"],
        ),
    ];
    for (config, types, more) in cases {
        for types in types {
            let (dtype, compute) = types.split_once('/').context("a pair of types")?;
            let mut command = Command::new(&built.consort);
            command.current_dir(workspace::root());
            command.args(["bench", "--random-config", &format!("configs/{config}.toml")]);
            command.args(["--dtype", dtype, "--compute", compute]).args(more);
            if arguments.quick {
                command.args(["--repetitions", "1", "--block", "0"]);
            }
            say(&command);
            good &= status(&mut command)?.success();
        }
    }
    Ok(good)
}

fn training(arguments: &Arguments, built: &Built) -> Result<bool> {
    let mut good = true;
    for (what, compute) in
        [("linear", "f32"), ("linear", "bf16"), ("linear", "int8"), ("train", "f32"), ("train", "bf16")]
    {
        let mut command = Command::new(&built.benches);
        command.current_dir(workspace::root()).args([what, "--compute", compute]);
        if arguments.quick {
            command.args(["--repetitions", "1", "--block", "0"]);
        }
        say(&command);
        good &= status(&mut command)?.success();
    }
    Ok(good)
}

/// Command and benchmarks with these backends, optimised as they are released; `None` when they do not compile, which cargo
/// has said.
fn build(features: &str) -> Result<Option<Built>> {
    let of = |package: &str| features.split(',').map(|name| format!("{package}/{name}")).collect::<Vec<_>>().join(",");
    let mut command = cargo(&["build", "--release", "--quiet", "--message-format=json-render-diagnostics"]);
    command.args(["--package", "consort", "--package", "consort-benches", "--no-default-features"]);
    command.args(["--features", &format!("{},{}", of("consort"), of("consort-benches"))]);
    eprintln!("building {features} as it is released");
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let executable = |name: &str| {
        let mut of = messages.iter().filter(|message| message["target"]["name"] == name);
        let found = of.find_map(|message| message["executable"].as_str().map(PathBuf::from));
        found.with_context(|| format!("`{}` named no executable {name}", shown(&command)))
    };
    Ok(Some(Built { consort: executable("consort")?, benches: executable("consort-benches")? }))
}

fn say(command: &Command) {
    eprintln!("\n$ {}", shown(command));
}
