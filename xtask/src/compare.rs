//! `cargo xtask compare`: builds the runner with the backends asked for and becomes it.
//!
//! Everything but `--features` is the runner's, which is `consort_conformance::suite::run` with a list of backends; so are
//! output and exit status.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    Outcome,
    process::{cargo, shown, status},
    workspace::{self, Metadata},
};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What the runner takes; --help lists it. --features LIST builds it with these backends only.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    given: Vec<OsString>,
}

/// The package that links the backends.
const RUNNER: &str = "consort-runner";
const FEATURES: &str = "--features";

/// `cargo xtask compare`.
pub(crate) fn run(arguments: Arguments) -> Result<Outcome> {
    let (features, given) = match split(arguments.given).and_then(|split| known(split.0.as_deref()).map(|()| split)) {
        Ok(split) => split,
        Err(wrong) => {
            eprintln!("error: {wrong:#}");
            return Ok(Outcome::WrongUsage);
        }
    };
    let Some(mut command) = runner(features.as_deref(), &given)? else { return Ok(Outcome::Failed) };
    // No process between a terminal's Ctrl-C and the one that ends cleanly.
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(command.exec()).with_context(|| format!("cannot start `{}`", shown(&command)))
    }
    #[cfg(not(unix))]
    outcome(&mut command)
}

/// The quick part, as a step of `cargo xtask ci`.
pub(crate) fn quick() -> Result<Outcome> {
    match runner(None, &["--quick".into()])? {
        Some(mut command) => outcome(&mut command),
        None => Ok(Outcome::Failed),
    }
}

fn outcome(command: &mut Command) -> Result<Outcome> {
    let status = status(command)?;
    match status.code() {
        Some(0) => Ok(Outcome::Done),
        Some(1) => Ok(Outcome::Failed),
        Some(2) => Ok(Outcome::WrongUsage),
        _ => bail!("the runner ended with {status}"),
    }
}

/// The runner, built; `None` when there is none, which has been said.
fn runner(features: Option<&str>, given: &[OsString]) -> Result<Option<Command>> {
    let Some(runner) = build(features)? else { return Ok(None) };
    let mut command = Command::new(runner);
    command.args(given).arg("--root").arg(workspace::root());
    Ok(Some(command))
}

/// Refuses features that the runner does not have.
fn known(features: Option<&str>) -> Result<()> {
    let Some(features) = features else { return Ok(()) };
    let known = Metadata::read()?.features(RUNNER)?;
    match features.split(',').find(|name| !known.iter().any(|known| known == name)) {
        Some(unknown) => bail!("there is no backend feature '{unknown}' (there are: {})", known.join(", ")),
        None => Ok(()),
    }
}

/// `--features` of the arguments, and the others.
fn split(given: Vec<OsString>) -> Result<(Option<String>, Vec<OsString>)> {
    let mut features = None;
    let mut others = Vec::new();
    let mut given = given.into_iter();
    while let Some(word) = given.next() {
        let text = word.to_string_lossy();
        if text == FEATURES {
            let list = given.next().with_context(|| format!("{FEATURES} without a list"))?;
            features = Some(list.to_string_lossy().into_owned());
        } else if let Some(list) = text.strip_prefix(FEATURES).and_then(|rest| rest.strip_prefix('=')) {
            features = Some(list.to_owned());
        } else {
            others.push(word);
        }
    }
    Ok((features, others))
}

/// The runner's executable; `None` when it does not compile, which cargo has said.
fn build(features: Option<&str>) -> Result<Option<PathBuf>> {
    // The profile of tests is optimised, and shares what `cargo test --workspace` has built.
    let mut command = cargo(&["build", "--quiet", "--package", RUNNER, "--profile", "test"]);
    command.arg("--message-format=json-render-diagnostics");
    if let Some(features) = features {
        command.args(["--no-default-features", "--features", features]);
    }
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        return Ok(None);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == RUNNER)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.with_context(|| format!("`{}` named no executable", shown(&command))).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_for_the_build_and_the_rest_for_the_runner() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let (features, others) = split(words("--quick --features scalar,simd --ops softmax")).unwrap();
        assert_eq!((features.as_deref(), others), (Some("scalar,simd"), words("--quick --ops softmax")));
        let (features, others) = split(words("--features=scalar --case {}")).unwrap();
        assert_eq!((features.as_deref(), others), (Some("scalar"), words("--case {}")));
        assert!(split(words("--features")).is_err());
    }
}
