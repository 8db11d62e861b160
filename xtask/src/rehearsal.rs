//! What authors of backends do, done as they do it: a new backend inside the workspace, and a crate outside of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

use crate::{
    process::{cargo, shown, status},
    workspace::{self, Metadata},
};

/// The crate outside, relative to the root.
pub(crate) const OUTSIDE: &str = "tests/outside";
/// A backend that nobody has.
const NAME: &str = "abacus";
/// Continues token ids with a model of the tests.
const GENERATE: [&str; 6] = ["generate", "--model", "tests/golden/llama", "--tokens", "11,36,27,5", "--raw-tokens"];

/// Makes a backend with `new-backend` in a copy of the workspace and uses it: its tests pass, the command lists it and runs
/// a model on it, the runner of `compare` has it.
///
/// The copy lies always in the same place and builds into the target directory of this workspace: cargo takes what is
/// the same for the same.
pub(crate) fn new_backend() -> Result<()> {
    let target = Metadata::read()?.target()?;
    let root = target.join("rehearsal");
    copy(&root)?;
    let here = |mut command: Command| {
        command.current_dir(&root).env("CARGO_TARGET_DIR", &target);
        command
    };
    let xtask = |name: &str| {
        let mut command = here(Command::new(std::env::current_exe().context("this program's own path")?));
        command.env("CARGO_MANIFEST_DIR", root.join("xtask")).args(["new-backend", name]);
        anyhow::Ok(command)
    };

    succeed(&mut xtask(NAME)?)?;
    // Once is enough, and what cannot be is refused without a trace.
    let before = changed(&root)?;
    for wrong in [NAME, "Foo", "scalar"] {
        let output = output(&mut xtask(wrong)?)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(2) || said.lines().count() != 1 || changed(&root)? != before {
            bail!("`new-backend {wrong}` gave {}, said {said:?} and left {:?}", output.status, changed(&root)?);
        }
    }

    succeed(&mut here(cargo(&["fmt", "--all", "--check"])))?;
    let package = format!("consort-{NAME}");
    succeed(&mut here(cargo(&["test", "--package", &package])))?;
    // As its tests were built, so that what they share is built once.
    let built = |package, arguments: &[&str]| {
        let feature = ["--profile", "test", "--no-default-features", "--features", NAME];
        let mut command = here(cargo(&["run", "--quiet", "--package", package]));
        command.args(feature).arg("--").args(arguments);
        said(&mut command)
    };
    let listed = built("consort", &["backends"])?;
    if !listed.starts_with(&format!("{NAME} (default): ")) || listed.lines().count() != 1 {
        bail!("`consort backends` with the feature {NAME} alone printed {listed:?}");
    }
    let tokens = built("consort", &GENERATE)?;
    let scalar = cargo(&["run", "--quiet", "--package", "consort", "--profile", "test", "--"]);
    let expected = said(here(scalar).args(GENERATE))?;
    if tokens != expected {
        bail!("{NAME} continues with {tokens:?}, scalar with {expected:?}");
    }
    built("consort-runner", &["--backend", NAME, "--ops", "softmax", "--quick"])?;
    Ok(())
}

/// Builds and tests the crate outside the workspace, with the versions of crates that the workspace has.
pub(crate) fn outside() -> Result<()> {
    let root = workspace::root();
    let lock = Path::new(OUTSIDE).join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), root.join(&lock)).with_context(|| lock.display().to_string())?;
    let target = Metadata::read()?.target()?;
    let manifest = format!("{OUTSIDE}/Cargo.toml");
    for (arguments, more) in [
        (["fmt", "--check"], &[][..]),
        (["clippy", "--all-targets"], &["--", "-D", "warnings"]),
        (["test", "--all-targets"], &[]),
    ] {
        succeed(cargo(&arguments).args(["--manifest-path", &manifest]).args(more).env("CARGO_TARGET_DIR", &target))?;
    }
    Ok(())
}

/// Whether git can say which files make this workspace.
pub(crate) fn has_git() -> bool {
    files(&workspace::root()).is_ok()
}

/// Makes `to` a copy of the workspace's files, those that git does not ignore, with their times.
fn copy(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    let root = workspace::root();
    for path in files(&root)? {
        let (from, to) = (root.join(&path), to.join(&path));
        let shown = || path.display().to_string();
        fs::create_dir_all(to.parent().unwrap_or(&to)).with_context(shown)?;
        fs::copy(&from, &to).with_context(shown)?;
        let time = fs::metadata(&from).and_then(|metadata| metadata.modified()).with_context(shown)?;
        fs::File::options().write(true).open(&to).and_then(|file| file.set_modified(time)).with_context(shown)?;
    }
    Ok(())
}

/// Files of the workspace, relative to its root.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let names = said(&mut git)?;
    let names = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    // What was deleted and not yet committed is listed and not there.
    Ok(names.filter(|path| root.join(path).is_file()).collect())
}

/// Every file of the copy with its text's length, to see whether something was changed.
fn changed(root: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => found.push((entry.path(), metadata.len())),
                Err(error) => bail!("{}: {error}", entry.path().display()),
            }
        }
    }
    found.sort();
    Ok(found)
}

fn succeed(command: &mut Command) -> Result<()> {
    let ended = status(command)?;
    if !ended.success() {
        bail!("`{}` failed: {ended}", shown(command));
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Standard output of a command that succeeds.
fn said(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no text", shown(command)))
}
