//! What is said about a report once everything has run: the same bits for any number of threads, failures that were
//! expected, and the commands that do single cases again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    arguments::{Arguments, Asked},
    candidate::Candidate,
    quoted,
};
use crate::recipe::Recipe;
use crate::report::{Column, Finding, Outcome, Report, Source, what};

pub(crate) struct Finished<'a> {
    pub(crate) candidates: &'a [Candidate],
    /// What people type.
    pub(crate) command: &'a str,
    pub(crate) arguments: &'a Arguments,
    pub(crate) asked: &'a Asked,
    /// Whether all cases of each operation were run.
    pub(crate) whole: bool,
}

impl Finished<'_> {
    /// Says it all.
    pub(crate) fn settle(&self, report: &mut Report) {
        if self.asked.threads.len() > 1 {
            threads(report);
        }
        self.known(report);
        let replays: Vec<String> = report.cases.iter().map(|case| self.replay(case, &report.columns)).collect();
        for (case, replay) in report.cases.iter_mut().zip(replays) {
            case.replay = replay;
        }
    }

    /// Marks failures that were expected, and tells of those that did not happen.
    fn known(&self, report: &mut Report) {
        for (index, column) in report.columns.iter_mut().enumerate() {
            let known =
                self.candidates.iter().find(|own| own.name() == column.backend).map_or(&[][..], Candidate::known);
            for (trial, reason) in known {
                let (mut ran, mut failed) = (false, false);
                let own = report.cases.iter_mut().filter(|case| case.column == index);
                for case in own.filter(|case| what(&case.op, case.direction) == *trial) {
                    ran |= case.outcome != Outcome::Skipped;
                    if case.outcome == Outcome::Failed {
                        failed = true;
                        case.outcome = Outcome::Known;
                        case.reason = Some(reason.clone());
                    }
                }
                if self.whole && !report.interrupted && ran && !failed {
                    column.unexpected.push((trial.clone(), reason.clone()));
                }
            }
        }
    }

    fn replay(&self, case: &crate::report::Case, columns: &[Column]) -> String {
        let mut words = vec![self.command.to_owned()];
        let mut add = |flag: &str, value: &str| words.extend([flag.to_owned(), quoted(value)]);
        let column = columns.get(case.column);
        if let Some(column) = column
            && !self.candidates.iter().any(|own| own.is_oracle() && own.name() == column.backend)
        {
            add("--backend", &column.backend);
        }
        if self.asked.threads.len() > 1 && case.findings.iter().any(|finding| finding.check == "threads") {
            add("--threads", &self.arguments.threads.join(","));
        } else if let Some(threads) = column.and_then(|column| column.threads) {
            add("--threads", &threads.to_string());
        }
        if let Some(fallback) = &self.arguments.fallback {
            add("--fallback", fallback);
        }
        if self.arguments.limit != super::arguments::LIMIT {
            add("--limit", &self.arguments.limit);
        }
        match (&case.case, case.source) {
            (Value::String(folder), Source::Folder) => add("--cases", folder),
            (recipe, _) => match serde_json::from_value::<Recipe>(recipe.clone()) {
                Ok(ordered) => add("--case", &ordered.to_string()),
                Err(_) => add("--case", &recipe.to_string()),
            },
        }
        words.join(" ")
    }
}

/// Requires the same bits of each case for every number of threads.
fn threads(report: &mut Report) {
    let mut first: BTreeMap<(String, String), (usize, String)> = BTreeMap::new();
    for case in &mut report.cases {
        let (Some(bits), Some(column)) = (&case.bits, report.columns.get(case.column)) else { continue };
        let key = (column.backend.clone(), case.case.to_string());
        let threads = column.threads.unwrap_or_default();
        match first.get(&key) {
            None => {
                first.insert(key, (threads, bits.clone()));
            }
            Some((other, expected)) => {
                case.checks.push("threads".to_owned());
                if expected != bits {
                    let message = format!("other bits with {threads} threads than with {other}");
                    case.findings.push(Finding { check: "threads".to_owned(), message, worst: None });
                    if case.outcome == Outcome::Passed {
                        case.outcome = Outcome::Failed;
                    }
                }
            }
        }
    }
}
