//! `--json FILE`: everything that was found.
//!
//! ```text
//! format     "consort-compare/1"
//! command    what was asked for;  quick, seconds, interrupted, agrees
//! totals     how many of each
//! columns    backends as they were run, with profiles, expected failures that passed, and troubles
//! cells      operation × direction × column: counts, levels, greatest budget used, index of the worst case
//! cases      every case: recipe, outcome, checks, findings, figures of the worst element, replay command
//! models     events of whole models, as they came
//! failures   everything wrong, in words
//! ```
//!
//! Numbers that are not finite are text.

use std::{fs, io::Write, path::Path};

use serde_json::{Value, json};

use super::Report;
use crate::Error;

/// The report as a value; without single cases unless `cases` is set.
pub(crate) fn value(report: &Report) -> Value {
    json!({
        "format": "consort-compare/1",
        "agrees": report.agrees(),
        "totals": report.totals(),
        "cells": report.cells(),
        "failures": report.failures(usize::MAX),
        "command": report.command,
        "quick": report.quick,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
        "columns": report.columns,
        "cases": report.cases,
        "models": report.models,
    })
}

/// Writes `text` to `path` as a whole or not at all: under a temporary name beside it, then renamed.
///
/// # Errors
/// [`Error::Io`] names the file.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // What could not be finished is of no use; that it may not be there is fine.
        let _ = fs::remove_file(&temporary);
        io(source)
    })
}
