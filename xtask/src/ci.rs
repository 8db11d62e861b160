//! Everything that must pass, the cheap checks first; the first that fails ends it.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    Outcome, compare,
    process::{cargo, shown, status},
    rehearsal,
    workspace::{self, Metadata},
};

/// The command whose features are checked one set at a time.
const COMMAND: &str = "consort";
/// README's test command; `.ci/run` relies on `ci` running exactly this.
const TEST: [&str; 2] = ["test", "--workspace"];

/// One check.
enum Step {
    /// A command that must succeed.
    Run(Command),
    /// A fuzz package, whose own dependencies need a C++ compiler.
    Fuzz(PathBuf),
    /// `cargo xtask compare --quick`.
    Compare,
    /// A backend made, built and used in a copy of the workspace.
    NewBackend,
    /// The crate outside the workspace.
    Outside,
}

/// How a check ended.
enum Ended {
    Well,
    Badly,
    /// With the reason.
    Skipped(String),
}

/// `cargo xtask test`.
pub(crate) fn test() -> Result<Outcome> {
    let passed = status(&mut cargo(&TEST))?.success();
    Ok(if passed { Outcome::Done } else { Outcome::Failed })
}

/// `cargo xtask ci`.
pub(crate) fn run() -> Result<Outcome> {
    let steps = steps(&Metadata::read()?)?;
    let start = Instant::now();
    let mut skipped = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let name = step.name();
        eprintln!("\n[{}/{}] {name}", index + 1, steps.len());
        let begun = Instant::now();
        match step.run()? {
            Ended::Well => eprintln!("ok in {}", seconds(begun.elapsed())),
            Ended::Skipped(reason) => {
                eprintln!("SKIPPED: {reason}");
                skipped.push(name);
            }
            Ended::Badly => {
                eprintln!("FAILED in {}", seconds(begun.elapsed()));
                eprintln!("\nci: FAILED at `{name}`, check {} of {}", index + 1, steps.len());
                return Ok(Outcome::Failed);
            }
        }
    }
    let not_run = if skipped.is_empty() { String::new() } else { format!(", skipped: {}", skipped.join("; ")) };
    eprintln!(
        "\nci: {} of {} checks ok in {}{not_run}",
        steps.len() - skipped.len(),
        steps.len(),
        seconds(start.elapsed())
    );
    Ok(Outcome::Done)
}

fn steps(metadata: &Metadata) -> Result<Vec<Step>> {
    let run = |arguments: &[&str]| Step::Run(cargo(arguments));
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    let mut steps = vec![
        run(&["fmt", "--all", "--check"]),
        run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Step::Run(documentation),
    ];
    for set in subsets(&metadata.features(COMMAND)?) {
        let mut arguments = vec!["check", "--package", COMMAND, "--no-default-features"];
        let set = set.join(",");
        if !set.is_empty() {
            arguments.extend(["--features", &set]);
        }
        steps.push(run(&arguments));
    }
    steps.extend(fuzz_packages()?.into_iter().map(Step::Fuzz));
    steps.push(run(&TEST));
    steps.extend([Step::Compare, Step::Outside, Step::NewBackend]);
    Ok(steps)
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Run(command) => shown(command),
            Self::Fuzz(manifest) => shown(&check_fuzz(manifest, &[])),
            Self::Compare => "cargo xtask compare --quick".to_owned(),
            Self::NewBackend => "cargo xtask new-backend, in a copy".to_owned(),
            Self::Outside => format!("cargo test --manifest-path {}/Cargo.toml", rehearsal::OUTSIDE),
        }
    }

    fn run(&self) -> Result<Ended> {
        let passed = match self {
            Self::Run(command) => {
                let mut again = Command::new(command.get_program());
                again.args(command.get_args()).current_dir(workspace::root());
                again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                status(&mut again)?.success()
            }
            Self::Fuzz(manifest) => {
                // First what is not ours: where that cannot be built, nothing is known about the targets.
                let mut library = check_fuzz(manifest, &["--package", "libfuzzer-sys"]);
                let output = library.output().with_context(|| format!("cannot start `{}`", shown(&library)))?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr);
                    let reason = said.lines().find(|line| line.starts_with("error")).unwrap_or("no reason given");
                    return Ok(Ended::Skipped(format!("libfuzzer-sys cannot be built here: {reason}")));
                }
                status(&mut check_fuzz(manifest, &[]))?.success()
            }
            Self::Compare => matches!(compare::quick()?, Outcome::Done),
            Self::NewBackend if !rehearsal::has_git() => {
                return Ok(Ended::Skipped("git cannot say which files make this workspace".to_owned()));
            }
            Self::NewBackend => told(rehearsal::new_backend()),
            Self::Outside => told(rehearsal::outside()),
        };
        Ok(if passed { Ended::Well } else { Ended::Badly })
    }
}

/// Whether it went well; if not, why is said.
fn told(result: Result<()>) -> bool {
    result.inspect_err(|error| eprintln!("error: {error:#}")).is_ok()
}

fn check_fuzz(manifest: &std::path::Path, more: &[&str]) -> Command {
    let mut command = cargo(&["check", "--manifest-path"]);
    command.arg(manifest).args(more);
    command
}

/// `crates/*/fuzz/Cargo.toml`, relative to the root, in alphabetical order. They are workspaces of their own, because
/// fuzzing needs a nightly compiler; checking does not.
fn fuzz_packages() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(workspace::root().join("crates")).context("crates")? {
        let manifest = PathBuf::from("crates").join(entry.context("crates")?.file_name()).join("fuzz/Cargo.toml");
        if workspace::root().join(&manifest).is_file() {
            found.push(manifest);
        }
    }
    found.sort();
    Ok(found)
}

/// Every subset, the empty one first.
fn subsets(features: &[String]) -> Vec<Vec<&str>> {
    let mut sets = vec![Vec::new()];
    for feature in features {
        let with: Vec<Vec<&str>> = sets.iter().map(|set| [set.as_slice(), &[feature.as_str()]].concat()).collect();
        sets.extend(with);
    }
    sets
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::subsets;

    #[test]
    fn every_set_of_features_once() {
        let features = ["a", "b", "c"].map(str::to_owned);
        let sets: Vec<String> = subsets(&features).iter().map(|set| set.join("+")).collect();
        assert_eq!(sets, ["", "a", "b", "a+b", "c", "a+c", "b+c", "a+b+c"]);
        assert_eq!(subsets(&[]), [Vec::<&str>::new()]);
    }
}
