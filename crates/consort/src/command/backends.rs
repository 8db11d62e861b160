//! `consort backends`: what this build can run on.

use std::io::{Write, stdout};

use anyhow::{Result, bail};

use crate::backends::BackendInfo;

pub(super) fn run() -> Result<()> {
    let compiled = crate::backends::compiled();
    let mut out = stdout().lock();
    for (place, backend) in compiled.iter().enumerate() {
        let default = if place == 0 { " (default)" } else { "" };
        let (dtypes, computes) = (backend.dtypes.join(", "), backend.computes.join(", "));
        let BackendInfo { name, description, .. } = backend;
        writeln!(out, "{name}{default}: {description}; weights as {dtypes}; products in {computes}")?;
    }
    if compiled.is_empty() {
        bail!("no backend is in this build: build with a feature that has one, `--features simd`");
    }
    Ok(())
}
