//! What `cargo xtask compare` takes.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use consort_core::Compute;
use serde_json::Value;

use crate::{ops, report::place};

/// Seconds that one case may take unless it is said.
pub(crate) const LIMIT: &str = "20";

/// Shows that backends compute what the f64 oracle does: operations first, then whole models.
///
/// Without arguments everything runs on every backend that is compiled in and works here. Naming cases, goldens or models
/// runs those; operations as well where --ops says which.
#[derive(Parser, Clone, Debug)]
#[command(name = "compare", bin_name = "cargo xtask compare", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Backends, separated by commas; all that are compiled in by default.
    #[arg(long = "backend", value_name = "NAMES", value_delimiter = ',')]
    pub(crate) backends: Vec<String>,
    /// Only operations whose name contains this or, with * or ?, is this pattern; several separated by commas.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub(crate) ops: Vec<String>,
    /// A part that takes less than a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Runs each backend with each number of threads, and requires the same bits of each case.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) threads: Vec<String>,
    /// What happens when an operation falls back to the host: allow, warn or deny.
    #[arg(long, value_name = "POLICY")]
    pub(crate) fallback: Option<String>,
    /// A model directory to run as a whole; may be given several times.
    #[arg(long = "model", value_name = "PATH")]
    pub(crate) models: Vec<PathBuf>,
    /// A golden (a model directory with expected.safetensors), or a folder of goldens; may be given several times.
    #[arg(long = "golden", value_name = "DIR")]
    pub(crate) goldens: Vec<PathBuf>,
    /// Only goldens whose name contains this.
    #[arg(long, value_name = "FILTER")]
    pub(crate) only: Option<String>,
    /// What products of whole models are computed in: f32, bf16 or int8.
    #[arg(long, value_name = "TYPE")]
    pub(crate) compute: Option<String>,
    /// A case in the format of docs/case-format.md, or a folder of cases; may be given several times.
    #[arg(long = "cases", value_name = "DIR")]
    pub(crate) cases: Vec<PathBuf>,
    /// Runs exactly one case: the JSON that a failure printed.
    #[arg(long, value_name = "JSON")]
    pub(crate) case: Option<String>,
    /// Runs models operation by operation beside the oracle, names the first guilty one and writes a case that replays it.
    #[arg(long)]
    pub(crate) lockstep: bool,
    /// Plants faults, one at a time, in a wrapped backend, in formulas and in the scalar backend's source, and shows what
    /// finds each; nothing else is compared.
    #[arg(long)]
    pub(crate) self_test: bool,
    /// Writes everything that was found to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes one self-contained page to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Seconds that one case may take; a step of a model has longer, by its size.
    #[arg(long, allow_hyphen_values = true, value_name = "SECONDS", default_value = LIMIT)]
    pub(crate) limit: String,
    /// Processes that run cases side by side; times are cleanest with one.
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<String>,
    /// Where tests/golden and tests/vectors are.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) root: Option<PathBuf>,
}

/// What was asked for, checked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) backends: Vec<String>,
    pub(crate) ops: Vec<String>,
    /// Numbers of threads; one `None` where the backend chooses.
    pub(crate) threads: Vec<Option<usize>>,
    pub(crate) case: Option<Value>,
    pub(crate) compute: Compute,
    pub(crate) limit: Duration,
    pub(crate) jobs: usize,
}

impl Arguments {
    /// What is asked for, or what is wrong with it in one line.
    pub(crate) fn check(&self, known: &[&str]) -> Result<Asked, String> {
        if known.is_empty() {
            return Err("no backend is compiled in: build with a feature that has one, `--features simd`".to_owned());
        }
        for name in &self.backends {
            if !known.contains(&name.as_str()) {
                return Err(unknown("backend", name, known, "compiled in"));
            }
        }
        let names = operations();
        for pattern in &self.ops {
            if !names.iter().any(|name| matches(pattern, name)) {
                return Err(unknown("operation", pattern, &names, "in the contract"));
            }
        }
        let threads =
            self.threads.iter().map(|text| positive("--threads", text).map(Some)).collect::<Result<Vec<_>, _>>()?;
        let policies = ["allow", "warn", "deny"];
        if let Some(other) = self.fallback.as_deref().filter(|given| !policies.contains(given)) {
            return Err(unknown("fall-back policy", other, &policies, "known"));
        }
        let computes = Compute::ALL.map(Compute::name);
        let compute = match self.compute.as_deref() {
            None => Compute::F32,
            Some(name) => {
                Compute::from_name(name).ok_or_else(|| unknown("type to compute in", name, &computes, "known"))?
            }
        };
        let case = match &self.case {
            None => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|error| format!("--case is not JSON: {error}"))?),
        };
        let seconds: f64 = self.limit.parse().unwrap_or(f64::NAN);
        let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero());
        Ok(Asked {
            backends: self.backends.clone(),
            ops: self.ops.clone(),
            threads: if threads.is_empty() { vec![None] } else { threads },
            case,
            compute,
            limit: limit.ok_or_else(|| format!("--limit '{}' is not a time: expected seconds, as 20", self.limit))?,
            jobs: self.jobs.as_deref().map_or(Ok(1), |text| positive("--jobs", text))?,
        })
    }

    /// Whether anything is named that is not an operation, so that not everything is meant.
    pub(crate) fn names_something(&self) -> bool {
        let folders = [&self.cases, &self.goldens, &self.models];
        self.case.is_some() || self.only.is_some() || folders.into_iter().any(|given| !given.is_empty())
    }
}

/// Names of all operations that a case can be of, in the contract's order.
pub(crate) fn operations() -> Vec<&'static str> {
    let mut names: Vec<&str> = ops::OPERATIONS.iter().map(|operation| operation.name).collect();
    names.sort_by_key(|name| place(name));
    names
}

/// Whether `name` is meant by one of the patterns; by none of them where there are none.
pub(crate) fn chosen(patterns: &[String], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, name))
}

/// Whether `name` contains `pattern` or, where that has `*` or `?`, is such a name as a whole.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    if pattern.contains(['*', '?']) { glob(pattern.as_bytes(), name.as_bytes()) } else { name.contains(pattern) }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if glob(rest, name) => true,
        (Some((b'*', _)), Some((_, name))) => glob(pattern, name),
        (Some((b'?', pattern)), Some((_, name))) => glob(pattern, name),
        (Some((a, pattern)), Some((b, name))) if a == b => glob(pattern, name),
        _ => false,
    }
}

fn unknown(kind: &str, given: &str, names: &[&str], place: &str) -> String {
    let nearest = ops::nearest(given, names.iter().copied()).unwrap_or_default();
    if names.len() > 6 {
        return format!("no {kind} '{given}' is {place}, the nearest is '{nearest}'");
    }
    let which = names.join(", ");
    format!("no {kind} '{given}' is {place}, the nearest is '{nearest}' (there are: {which})")
}

fn positive(flag: &str, text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| (1..=1024).contains(number));
    number.ok_or_else(|| format!("{flag} '{text}' is not a number from 1 to 1024"))
}

/// A parser's error in one line: what is wrong, and what it may have been meant to be.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("wrong usage").trim_start_matches("error: ").to_owned();
    let tip = lines.find_map(|line| line.strip_prefix("tip: "));
    match tip {
        Some(tip) => format!("{first}: {tip}"),
        None => format!("{first} (see --help)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_parts_or_globs() {
        assert!(matches("attention", "cached_attention") && !matches("attention*", "cached_attention"));
        assert!(matches("attention*", "attention_backward") && matches("*attention", "cached_attention"));
        assert!(matches("f?ll", "fill") && !matches("f?ll", "fil") && matches("*", "fill"));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_the_nearest() {
        let check = |arguments: &[&str]| {
            let parsed = Arguments::try_parse_from(std::iter::once(&"compare").chain(arguments));
            parsed.map_err(|error| one_line(&error)).and_then(|parsed| parsed.check(&["scalar", "simd"])).map(drop)
        };
        for (arguments, names) in [
            (["--backend", "scaler"], "'scalar'"),
            (["--ops", "sofmax"], "'softmax'"),
            (["--fallback", "denny"], "'deny'"),
            (["--compute", "int4"], "'int8'"),
            (["--threads", "0"], "1 to 1024"),
            (["--limit", "-1"], "seconds"),
            (["--case", "{"], "not JSON"),
            (["--bakend", "scalar"], "--backend"),
        ] {
            let wrong = check(&arguments).unwrap_err();
            assert!(wrong.contains(names) && !wrong.contains('\n'), "{arguments:?}: {wrong}");
        }
        assert_eq!(check(&["--backend", "simd,scalar", "--ops", "norm,attention*", "--threads", "1,2"]), Ok(()));
    }
}
