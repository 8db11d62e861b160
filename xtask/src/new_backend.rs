//! `cargo xtask new-backend NAME`: a backend of three methods, wired into everything that knows backends.
//!
//! The files of `backends/consort-template` are copied under the new name; the workspace gets a dependency; the command and
//! the runner of `compare` each get a feature and a line in their lists. Tests and CI find it by themselves: members of the
//! workspace are `backends/*`, and each set of features is checked.
//!
//! Every edit is made in memory first, and all are written or none.

mod edit;
mod name;
mod write;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::{
    name::{Name, Taken},
    write::Change,
};
use crate::{Outcome, workspace};

#[derive(clap::Args)]
#[command(override_usage = "cargo xtask new-backend NAME")]
pub(crate) struct Arguments {
    /// What `--backend` will take: lower-case letters, digits and '-'. The package will be consort-NAME.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

const TEMPLATE: &str = "backends/consort-template";
/// Where features and lists of backends are, relative to the root.
const COMMAND: &str = "crates/consort";
const RUNNER: &str = "xtask/runner";

/// `cargo xtask new-backend`.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let root = workspace::root();
    let Some(name) = &arguments.name else {
        eprintln!("error: a backend needs a name: `cargo xtask new-backend my-gpu`");
        return Ok(Outcome::WrongUsage);
    };
    let name = match Name::new(name, &Taken::read(&root)?) {
        Ok(name) => name,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return Ok(Outcome::WrongUsage);
        }
    };
    let changes = changes(&root, &name).context("nothing was changed")?;
    write::all_or_nothing(&root, &changes).context("nothing was changed")?;
    for change in &changes {
        let what = if change.before.is_some() { "changed" } else { "made" };
        println!("{what:<7}  {}", change.path.display());
    }
    let name = &name.kebab;
    println!(
        "\nnext:\n  \
         cargo test --package consort-{name}\n  \
         cargo xtask compare --features {name} --quick\n  \
         cargo run --no-default-features --features {name} -- backends\n\
         docs/adding-a-backend.md goes on from here."
    );
    Ok(Outcome::Done)
}

/// Everything that a backend of this name adds to the workspace at `root`.
fn changes(root: &Path, name: &Name) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let template = root.join(TEMPLATE);
    for path in files(&template)? {
        let text =
            fs::read_to_string(template.join(&path)).with_context(|| format!("{TEMPLATE}/{}", path.display()))?;
        let path = Path::new("backends").join(format!("consort-{}", name.kebab)).join(path);
        changes.push(Change { path, before: None, after: name.instead_of_template(&text) });
    }
    let mut change = |path: PathBuf, edit: &dyn Fn(&str) -> Result<String>| {
        let before = fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
        let after = edit(&before).with_context(|| path.display().to_string())?;
        changes.push(Change { path, before: Some(before), after });
        anyhow::Ok(())
    };
    change("Cargo.toml".into(), &|text| edit::workspace(text, name))?;
    for package in [COMMAND, RUNNER].map(Path::new) {
        let by_default = package == Path::new(RUNNER);
        change(package.join("Cargo.toml"), &|text| edit::package(text, name, by_default))?;
    }
    change(Path::new(COMMAND).join("src/backends.rs"), &|text| edit::command(text, name))?;
    change(Path::new(RUNNER).join("src/backends.rs"), &|text| edit::runner(text, name))?;
    Ok(changes)
}

/// Files under a folder, relative to it, in alphabetical order; what cargo would build there is none of them.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let entry = entry.with_context(|| path.display().to_string())?;
            let relative = inner.join(entry.file_name());
            if entry.path().is_dir() {
                folders.extend(Some(relative).filter(|path| path != Path::new("target")));
            } else {
                found.push(relative);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text, &Taken::default()).unwrap()
    }

    #[test]
    fn the_workspace_can_take_a_backend() {
        let root = workspace::root();
        let found = changes(&root, &name("a-long-name-for-one1")).unwrap();
        let made: Vec<String> = found
            .iter()
            .filter(|change| change.before.is_none())
            .map(|change| change.path.display().to_string())
            .collect();
        assert_eq!(
            made,
            ["Cargo.toml", "src/lib.rs", "tests/conformance.rs"]
                .map(|file| format!("backends/consort-a-long-name-for-one1/{file}"))
        );
        for Change { path, before, after } in &found {
            let text = format!("{}:\n{after}", path.display());
            assert!(!after.to_lowercase().contains("template") || before.is_some(), "{text}");
            assert!(after.lines().all(|line| line.chars().count() <= 120), "{text}");
            if let Some(before) = before {
                // What was there is still there, in order: lines were added, and one list of defaults grew.
                let mut rest = after.lines();
                for line in before.lines().filter(|line| !line.starts_with("default = ")) {
                    assert!(rest.any(|new| new == line), "{line:?} is gone from {text}");
                }
            }
        }
    }

    #[test]
    fn a_workspace_without_a_list_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = workspace::root();
        let wanted = changes(&root, &name("abacus")).unwrap();
        for path in wanted.iter().filter(|change| change.before.is_some()).map(|change| &change.path) {
            fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
            fs::copy(root.join(path), folder.path().join(path)).unwrap();
        }
        for path in files(&root.join(TEMPLATE)).unwrap() {
            let to = folder.path().join(TEMPLATE).join(&path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(root.join(TEMPLATE).join(&path), to).unwrap();
        }
        assert_eq!(changes(folder.path(), &name("abacus")).unwrap().len(), wanted.len());
        for (path, text, expected) in [
            ("crates/consort/src/backends.rs", "fn main() {}\n", "no list `backends! { … }`"),
            ("xtask/runner/src/backends.rs", "fn main() {}\n", "no list `candidates! { … }`"),
            ("crates/consort/Cargo.toml", "[package]\n", "no [features]"),
            ("Cargo.toml", "[workspace\n", "TOML parse error"),
        ] {
            let kept = fs::read_to_string(folder.path().join(path)).unwrap();
            fs::write(folder.path().join(path), text).unwrap();
            let error = format!("{:#}", changes(folder.path(), &name("abacus")).err().unwrap());
            assert!(error.starts_with(path) && error.contains(expected) && error.lines().count() == 1, "{error:?}");
            fs::write(folder.path().join(path), kept).unwrap();
        }
    }
}
