//! What a backend may be called, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use toml_edit::DocumentMut;

use super::{COMMAND, RUNNER, TEMPLATE};

/// So that no line of the template, filled in, needs breaking.
const LONGEST: usize = 20;

/// Keywords of Rust 2024, those kept for later included.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Types of Rust's prelude that a type of the same name would hide.
const PRELUDE: [&str; 16] = [
    "AsMut", "AsRef", "Box", "Clone", "Copy", "Debug", "Default", "Drop", "Err", "Fn", "From", "Into", "Ok", "Option",
    "String", "Vec",
];

/// A name that can be used.
pub(super) struct Name {
    /// As it was given: `my-gpu`.
    pub(super) kebab: String,
    /// As in the crate's name: `my_gpu`.
    snake: String,
    /// As a type: `MyGpu`.
    camel: String,
}

/// What names there are in a workspace.
#[derive(Default)]
pub(super) struct Taken {
    /// Packages, with where they are.
    packages: BTreeMap<String, PathBuf>,
    /// Features and dependencies, with the manifest that has them.
    features: BTreeMap<String, PathBuf>,
    /// Types that the template or the contract use.
    types: BTreeSet<String>,
}

impl Taken {
    /// Those of the workspace at `root`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut taken = Self::default();
        for member in members(root)? {
            if let Some(name) = manifest(root, &member)?["package"]["name"].as_str() {
                taken.packages.insert(name.to_owned(), member);
            }
        }
        for package in [COMMAND, RUNNER].map(Path::new) {
            let manifest = manifest(root, package)?;
            for table in ["features", "dependencies"] {
                let names = manifest.get(table).and_then(|item| item.as_table()).into_iter().flatten();
                taken.features.extend(names.map(|(name, _)| (name.to_owned(), package.join("Cargo.toml"))));
            }
        }
        for file in ["crates/consort-core/src/lib.rs".into(), format!("{TEMPLATE}/src/lib.rs")] {
            let text = fs::read_to_string(root.join(&file)).context(file)?;
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let words = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()));
            let types = words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
            taken.types.extend(types.map(str::to_owned));
        }
        Ok(taken)
    }
}

impl Name {
    /// `text` as a name, or one line about why it cannot be one.
    pub(super) fn new(text: &str, taken: &Taken) -> Result<Self, String> {
        Self::valid(text, taken).map_err(|wrong| match suggestion(text, taken) {
            Some(other) => format!("{wrong}; `{other}` would do"),
            None => wrong,
        })
    }

    fn valid(text: &str, taken: &Taken) -> Result<Self, String> {
        let kebab = text.to_owned();
        let of_letters = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let parts_are_there = text.split('-').all(|part| !part.is_empty());
        if !(of_letters && parts_are_there && text.starts_with(|c: char| c.is_ascii_lowercase())) {
            return Err(format!(
                "{text:?} cannot name a backend: expected lower-case letters, digits and '-' in between, a letter first"
            ));
        }
        if text.len() > LONGEST {
            return Err(format!("'{text}' cannot name a backend: {} characters, at most {LONGEST}", text.len()));
        }
        if text == "consort" || text.starts_with("consort-") {
            return Err(format!("'{text}' cannot name a backend: its package gets 'consort-' in front already"));
        }
        if KEYWORDS.contains(&text) {
            return Err(format!("'{text}' cannot name a backend: it is a keyword of Rust"));
        }
        if let Some(place) = taken.packages.get(&format!("consort-{text}")) {
            return Err(format!("'{text}' cannot name a backend: there is {} already", place.display()));
        }
        if let Some(manifest) = taken.features.get(text) {
            return Err(format!("'{text}' cannot name a backend: {} has a name '{text}' already", manifest.display()));
        }
        let capital = |part: &str| part.get(..1).unwrap_or("").to_ascii_uppercase() + part.get(1..).unwrap_or("");
        let camel: String = text.split('-').map(capital).collect();
        if taken.types.contains(&camel) || PRELUDE.contains(&camel.as_str()) {
            return Err(format!(
                "'{text}' cannot name a backend: its type would be `{camel}`, which means something else"
            ));
        }
        Ok(Self { snake: text.replace('-', "_"), camel, kebab })
    }

    /// A text of the template with this name for the template's.
    pub(super) fn instead_of_template(&self, text: &str) -> String {
        text.replace("consort_template", &format!("consort_{}", self.snake))
            .replace("Template", &self.camel)
            .replace("template", &self.kebab)
    }

    /// What opens it: `consort_my_gpu::MyGpu::new()`.
    pub(super) fn constructor(&self) -> String {
        format!("consort_{}::{}::new()", self.snake, self.camel)
    }
}

/// The nearest name that can be used, if one is near.
fn suggestion(text: &str, taken: &Taken) -> Option<String> {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty() && *part != "consort").collect();
    let near = parts.join("-").trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
    (near != text && Name::valid(&near, taken).is_ok()).then_some(near)
}

fn manifest(root: &Path, folder: &Path) -> Result<DocumentMut> {
    let path = folder.join("Cargo.toml");
    let shown = || path.display().to_string();
    fs::read_to_string(root.join(&path)).with_context(shown)?.parse().map_err(super::edit::one_line).with_context(shown)
}

/// Folders of the workspace's packages, relative to `root`.
fn members(root: &Path) -> Result<Vec<PathBuf>> {
    let workspace = manifest(root, Path::new(""))?;
    let patterns = workspace["workspace"]["members"].as_array().context("Cargo.toml: no workspace.members")?;
    let mut found = Vec::new();
    for pattern in patterns.iter().filter_map(|pattern| pattern.as_str()) {
        match pattern.strip_suffix("/*") {
            Some(folder) => {
                for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
                    found.push(Path::new(folder).join(entry.with_context(|| folder.to_owned())?.file_name()));
                }
            }
            None => found.push(pattern.into()),
        }
    }
    found.retain(|folder| root.join(folder).join("Cargo.toml").is_file());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn a_name_has_three_forms() {
        let name = Name::new("my-gpu2", &Taken::default()).ok().unwrap();
        assert_eq!((&*name.kebab, &*name.snake, &*name.camel), ("my-gpu2", "my_gpu2", "MyGpu2"));
        assert_eq!(name.constructor(), "consort_my_gpu2::MyGpu2::new()");
        assert_eq!(
            name.instead_of_template("consort-template consort_template::Template \"template\""),
            "consort-my-gpu2 consort_my_gpu2::MyGpu2 \"my-gpu2\""
        );
    }

    #[test]
    fn what_cannot_be_a_name_is_said_in_one_line() {
        let taken = Taken::read(&workspace::root()).unwrap();
        let letters = "expected lower-case letters, digits and '-' in between, a letter first";
        for (text, expected) in [
            ("Foo", format!("\"Foo\" cannot name a backend: {letters}; `foo` would do")),
            ("my_gpu", format!("\"my_gpu\" cannot name a backend: {letters}; `my-gpu` would do")),
            ("../x\n", format!("\"../x\\n\" cannot name a backend: {letters}; `x` would do")),
            ("-a", format!("\"-a\" cannot name a backend: {letters}; `a` would do")),
            ("a--b-", format!("\"a--b-\" cannot name a backend: {letters}; `a-b` would do")),
            ("3d", format!("\"3d\" cannot name a backend: {letters}; `d` would do")),
            ("größe", format!("\"größe\" cannot name a backend: {letters}; `gr-e` would do")),
            ("", format!("\"\" cannot name a backend: {letters}")),
            ("_", format!("\"_\" cannot name a backend: {letters}")),
            (
                "a-name-of-21-letters1",
                "'a-name-of-21-letters1' cannot name a backend: 21 characters, at most 20".into(),
            ),
            ("scalar", "'scalar' cannot name a backend: there is backends/consort-scalar already".into()),
            ("template", "'template' cannot name a backend: there is backends/consort-template already".into()),
            ("core", "'core' cannot name a backend: there is crates/consort-core already".into()),
            ("runner", "'runner' cannot name a backend: there is xtask/runner already".into()),
            ("default", "'default' cannot name a backend: xtask/runner/Cargo.toml has a name 'default' already".into()),
            ("clap", "'clap' cannot name a backend: crates/consort/Cargo.toml has a name 'clap' already".into()),
            ("match", "'match' cannot name a backend: it is a keyword of Rust".into()),
            ("self", "'self' cannot name a backend: it is a keyword of Rust".into()),
            (
                "backend",
                "'backend' cannot name a backend: its type would be `Backend`, which means something else".into(),
            ),
            (
                "host-data",
                "'host-data' cannot name a backend: its type would be `HostData`, which means something else".into(),
            ),
            ("vec", "'vec' cannot name a backend: its type would be `Vec`, which means something else".into()),
            (
                "consort-fpga",
                "'consort-fpga' cannot name a backend: its package gets 'consort-' in front already; `fpga` would do"
                    .into(),
            ),
            (
                "consort-scalar",
                "'consort-scalar' cannot name a backend: its package gets 'consort-' in front already".into(),
            ),
        ] {
            let wrong = Name::new(text, &taken).err().unwrap_or_else(|| panic!("{text:?} was taken"));
            assert_eq!(wrong, expected);
            assert_eq!(wrong.lines().count(), 1);
        }
        for text in ["a", "my-gpu", "fpga2", "a-1", "twenty-characters-xx"] {
            assert!(Name::new(text, &taken).is_ok(), "{text}");
        }
    }
}
