//! Where things are, and what cargo knows about them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{cargo, shown};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // As cargo says at run time, so that a moved checkout works; as it was at build time when started without cargo.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    own.parent().map_or(own.clone(), Path::to_owned)
}

/// `cargo metadata` of the workspace's own packages.
pub(crate) struct Metadata(Value);

impl Metadata {
    pub(crate) fn read() -> Result<Self> {
        let mut command = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
        let output = command.output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("`{}` failed: {}", shown(&command), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self(serde_json::from_slice(&output.stdout).context("the output of cargo metadata")?))
    }

    /// Where cargo builds.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let path = self.0["target_directory"].as_str().context("cargo metadata has no target_directory")?;
        Ok(PathBuf::from(path))
    }

    /// Cargo features of a package in alphabetical order, `default` left out.
    pub(crate) fn features(&self, package: &str) -> Result<Vec<String>> {
        let packages = self.0["packages"].as_array().context("cargo metadata has no packages")?;
        let found = packages.iter().find(|candidate| candidate["name"] == package);
        let features = found.and_then(|package| package["features"].as_object());
        let features = features.with_context(|| format!("no package {package} in the workspace"))?;
        let mut names: Vec<String> = features.keys().filter(|name| *name != "default").cloned().collect();
        names.sort();
        Ok(names)
    }
}
