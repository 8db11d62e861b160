//! Instructions a token, held against committed counts: a change that makes a kernel slower is seen on any machine and under any
//! load, where seconds would say nothing.
//!
//! A count is the difference of two runs that differ in tokens alone, so that loading falls out of it. One thread, AVX2 and a
//! fixed small model: the same work wherever it is counted. By `perf stat` where the processor's counters can be read, else by
//! valgrind, which knows no AVX-512.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Arguments, Built, build};
use crate::{Outcome, process::shown, workspace};

/// Where the counts are committed, by backend.
const COUNTS: &str = "xtask/instructions.json";
/// The model.
const MODEL: &str = "xtask/guard.toml";
/// A count may differ by this share: compilers change.
const TOLERANCE: f64 = 0.10;
/// The level that every counting tool knows.
const LEVEL: &str = "avx2";

/// What is counted: the name, types of weights and products, and the arguments of the shorter and the longer run with their
/// tokens.
struct Count {
    name: &'static str,
    types: [&'static str; 2],
    short: [&'static str; 2],
    long: [&'static str; 2],
}

const CASES: [Count; 6] = [
    decode("decode in f32", ["f32", "f32"]),
    decode("decode in bf16", ["bf16", "bf16"]),
    decode("decode in q8_0", ["q8_0", "int8"]),
    prefill("prefill in f32", ["f32", "f32"]),
    prefill("prefill in bf16", ["bf16", "bf16"]),
    prefill("prefill in q8_0", ["q8_0", "int8"]),
];

const fn decode(name: &'static str, types: [&'static str; 2]) -> Count {
    Count { name, types, short: ["32", "4"], long: ["32", "12"] }
}

const fn prefill(name: &'static str, types: [&'static str; 2]) -> Count {
    Count { name, types, short: ["32", "0"], long: ["96", "0"] }
}

#[derive(Clone, Copy)]
enum Tool {
    Perf,
    Valgrind,
}

/// `cargo xtask bench --guard`.
pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some(tool) = tool() else {
        eprintln!("NOT GUARDED: neither `perf stat -e instructions:u` nor valgrind works here, so nothing was counted");
        return Ok(Outcome::Done);
    };
    if !cfg!(target_arch = "x86_64") {
        eprintln!("NOT GUARDED: the counts are of x86-64, and this is {}", std::env::consts::ARCH);
        return Ok(Outcome::Done);
    }
    let Some(built) = build(&arguments.features)? else { return Ok(Outcome::Failed) };
    let backend = arguments.features.split(',').next().unwrap_or_default();
    let path = workspace::root().join(COUNTS);
    let mut committed = read(&path)?;
    let mut found = BTreeMap::new();
    for case in &CASES {
        let count = per_token(tool, &built, backend, case)?;
        found.insert(case.name, count.round());
        let before = committed[backend][case.name].as_f64();
        println!("{:18} {count:>14.0} instructions a token{}", case.name, verdict(count, before));
    }
    if arguments.write {
        committed[backend] = json!(found);
        fs::write(&path, format!("{committed:#}\n")).with_context(|| COUNTS.to_owned())?;
        eprintln!("wrote {COUNTS}");
        return Ok(Outcome::Done);
    }
    let kept = found.iter().all(|(name, count)| within(*count, committed[backend][*name].as_f64()));
    if !kept {
        eprintln!(
            "error: counts differ from {COUNTS}: if that is meant, `cargo xtask bench --guard --write` commits to them"
        );
    }
    Ok(if kept { Outcome::Done } else { Outcome::Failed })
}

fn read(path: &Path) -> Result<Value> {
    match path.is_file() {
        true => serde_json::from_slice(&fs::read(path).context(COUNTS)?).context(COUNTS),
        false => Ok(json!({})),
    }
}

fn within(count: f64, committed: Option<f64>) -> bool {
    committed.is_some_and(|committed| (count / committed - 1.0).abs() <= TOLERANCE)
}

fn verdict(count: f64, committed: Option<f64>) -> String {
    match committed {
        Some(before) if within(count, committed) => format!(", {:+.1} %", 100.0 * (count / before - 1.0)),
        Some(before) => format!(", {:+.1} %: MORE THAN {:.0} % OFF", 100.0 * (count / before - 1.0), 100.0 * TOLERANCE),
        None => ", NO COUNT COMMITTED".to_owned(),
    }
}

fn tool() -> Option<Tool> {
    let counted = |tool| count(tool, &mut Command::new("true")).is_ok();
    [Tool::Perf, Tool::Valgrind].into_iter().find(|tool| counted(*tool))
}

fn per_token(tool: Tool, built: &Built, backend: &str, case: &Count) -> Result<f64> {
    let run = |[prompt, new]: [&str; 2]| {
        let mut command = Command::new(&built.consort);
        command.current_dir(workspace::root()).env("CONSORT_SIMD", LEVEL).env("RAYON_NUM_THREADS", "1");
        command.args(["bench", "--random-config", MODEL, "--backend", backend, "--threads", "1"]);
        command.args(["--dtype", case.types[0], "--compute", case.types[1]]);
        command.args(["--prompt-tokens", prompt, "--new-tokens", new]);
        command.args(["--repetitions", "1", "--block", "0", "--no-limits", "--json"]);
        count(tool, &mut command)
    };
    let (short, long) = (run(case.short)?, run(case.long)?);
    let tokens = |[prompt, new]: [&str; 2]| {
        let number = |text: &str| text.parse::<f64>().with_context(|| text.to_owned());
        // Once for the first token and once to warm up, and once timed: prompts in each run of the three, tokens in the last two.
        anyhow::Ok(if new == "0" { 3.0 * number(prompt)? } else { 2.0 * number(new)? })
    };
    Ok((long - short) / (tokens(case.long)? - tokens(case.short)?))
}

/// Instructions of the user's part of a program.
fn count(tool: Tool, program: &mut Command) -> Result<f64> {
    let mut command = match tool {
        Tool::Perf => {
            let mut command = Command::new("perf");
            command.args(["stat", "-x", ",", "-e", "instructions:u", "--"]);
            command
        }
        Tool::Valgrind => {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--"]);
            command
        }
    };
    command.arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = program.get_current_dir() {
        command.current_dir(folder);
    }
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last = said.lines().last().unwrap_or_default();
        bail!("`{}` ended with {}: {last}", shown(&command), output.status);
    }
    counted(tool, &said).with_context(|| format!("`{}` counted nothing", shown(&command)))
}

/// The count among what the tool says.
fn counted(tool: Tool, said: &str) -> Option<f64> {
    match tool {
        // 12345,,instructions:u,…
        Tool::Perf => said.lines().find(|line| line.contains("instructions"))?.split(',').next()?.trim().parse().ok(),
        // ==7== Collected : 12345
        Tool::Valgrind => said.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_among_words() {
        assert_eq!(counted(Tool::Perf, "# started\n\n123456,,instructions:u,100,100.00,,\n"), Some(123_456.0));
        assert_eq!(counted(Tool::Perf, "<not supported>,,instructions:u,0,100.00,,\n"), None);
        assert_eq!(counted(Tool::Valgrind, "==9== Events    : Ir\n==9== Collected : 987\n"), Some(987.0));
        assert_eq!(counted(Tool::Valgrind, ""), None);
    }

    #[test]
    fn a_tenth_is_let_pass() {
        assert!(within(109.0, Some(100.0)) && within(91.0, Some(100.0)));
        assert!(!within(111.0, Some(100.0)) && !within(89.0, Some(100.0)) && !within(1.0, None));
        assert_eq!(verdict(120.0, Some(100.0)), ", +20.0 %: MORE THAN 10 % OFF");
    }
}
