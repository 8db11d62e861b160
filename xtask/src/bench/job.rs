//! A program that measures and prints a JSON object a case: ours, or a script of another engine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Arguments, Built};
use crate::{
    process::{shown, status},
    workspace::{self, Metadata},
};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// A script of the folder.
    Script(&'static str),
    /// The script that runs llama-bench, on the GGUF file of this name.
    LlamaBench(&'static str),
    /// candle-bench.
    Candle,
    /// candle-bench on the GGUF file of this name.
    CandleGguf(&'static str),
    /// Ours, with random weights of the preset of this name.
    Preset(&'static str),
    /// Ours, on the GGUF file of this name.
    Gguf(&'static str),
    /// The product or the training step.
    Benches(&'static str),
}

/// A program, its arguments and its environment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// Name of the engine.
    pub(super) engine: &'static str,
    pub(super) program: Program,
    pub(super) arguments: &'static [&'static str],
    pub(super) environment: &'static [(&'static str, &'static str)],
}

/// Where the programs are.
pub(super) struct Places<'a> {
    arguments: &'a Arguments,
    scripts: PathBuf,
    gguf: PathBuf,
    built: Built,
}

impl<'a> Places<'a> {
    pub(super) fn new(arguments: &'a Arguments, scripts: &Path, built: Built) -> Result<Self> {
        // Jobs run in folders of their own.
        let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        let gguf = match &arguments.gguf {
            Some(folder) => absolute(folder)?,
            None => Metadata::read()?.target()?.join("bench/gguf"),
        };
        Ok(Self { arguments, scripts: absolute(scripts)?, gguf, built })
    }

    /// The objects that a job prints.
    ///
    /// # Errors
    /// A program that is not there, or that fails: one line.
    pub(super) fn run(&self, job: &Job) -> Result<Vec<Value>> {
        let mut command = self.command(job)?;
        eprintln!("  $ {}", shown(&command));
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot start {}", job.engine))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            bail!("{} ended with {}: {}", job.engine, output.status, last.trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for line in &lines {
            if let (Some(case), Some(median)) = (line["case"].as_str(), line["median"].as_f64()) {
                let disturbed = if line["clean"] == true { "" } else { "   (disturbed)" };
                let (engine, unit) = (line["engine"].as_str().unwrap_or(job.engine), line["unit"].as_str());
                eprintln!("    {engine:20} {case:32} {median:>12.2} {}{disturbed}", unit.unwrap_or_default());
            }
        }
        Ok(lines)
    }

    fn command(&self, job: &Job) -> Result<Command> {
        let mut command = match job.program {
            Program::Script(script) => self.script(script)?,
            Program::LlamaBench(model) => {
                let bench = self.arguments.llama_bench.as_deref();
                let bench = present(bench, "llama-bench", "--llama-bench or CONSORT_LLAMA_BENCH")?;
                let mut command = self.script("llamacpp_bench.py")?;
                command.arg(bench).arg(self.model(model)?);
                command
            }
            Program::Candle | Program::CandleGguf(_) => {
                let bench = self.arguments.candle_bench.as_deref();
                let bench = present(bench, "candle-bench", "--candle-bench or CONSORT_CANDLE_BENCH")?;
                let mut command = Command::new(bench);
                if let Program::CandleGguf(model) = job.program {
                    command.arg("gguf").arg(self.model(model)?);
                }
                command
            }
            Program::Preset(name) => {
                let mut command = Command::new(&self.built.consort);
                command.args(["bench", "--json", "--random-config"]).arg(format!("configs/{name}.toml"));
                command.current_dir(workspace::root());
                command
            }
            Program::Gguf(model) => {
                let mut command = Command::new(&self.built.consort);
                command.args(["bench", "--json", "--model"]).arg(self.model(model)?);
                command
            }
            Program::Benches(what) => {
                let mut command = Command::new(&self.built.benches);
                command.arg(what).current_dir(workspace::root());
                command
            }
        };
        command.args(job.arguments);
        let patience = if self.arguments.quick { 0 } else { self.arguments.patience };
        if matches!(job.program, Program::Preset(_) | Program::Gguf(_) | Program::Benches(_)) {
            command.args(["--patience", &patience.to_string()]);
            if self.arguments.quick {
                command.args(["--repetitions", "1", "--block", "0"]);
            }
        }
        command.env("PEERS_PATIENCE", patience.to_string());
        command.env("PEERS_MAX_SECONDS", if self.arguments.quick { "1" } else { "20" });
        command.env("RAYON_NUM_THREADS", "2").env("OPENBLAS_NUM_THREADS", "2");
        command.envs(job.environment.iter().copied());
        Ok(command)
    }

    fn script(&self, name: &str) -> Result<Command> {
        let python = self.arguments.peers_python.as_deref();
        let python = present(python, "python", "--peers-python or CONSORT_PEERS_PYTHON")?;
        let script = self.scripts.join(name);
        if !script.is_file() {
            bail!("{} is not there", script.display());
        }
        let mut command = Command::new(python);
        command.arg(script).current_dir(&self.scripts);
        // The folder of the scripts is not ours to write in.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }

    /// A GGUF file, made by the scripts where it is not there yet.
    fn model(&self, name: &str) -> Result<PathBuf> {
        let path = self.gguf.join(format!("{name}.gguf"));
        if !path.is_file() {
            let mut command = self.script("make_gguf.py")?;
            command.arg(&self.gguf).arg(name);
            eprintln!("  $ {}", shown(&command));
            if !status(&mut command)?.success() || !path.is_file() {
                bail!("{} could not be made", path.display());
            }
        }
        Ok(path)
    }
}

fn present<'a>(path: Option<&'a Path>, what: &str, how: &str) -> Result<&'a Path> {
    match path {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => bail!("{what}: {} is not there", path.display()),
        None => bail!("{what} is not given: {how}"),
    }
}
