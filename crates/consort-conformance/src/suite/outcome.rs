//! What is said about a report once everything has run: the same bits for any number of threads, failures that were
//! expected, and the commands that do single cases again.

use std::{collections::BTreeMap, path::Path};

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
            models(report);
        }
        self.known(report);
        for event in report.models.iter_mut().filter(|event| event["agrees"] == false) {
            // Of a run in lockstep, the case of the first guilty operation alone.
            let case = event["report"]["guilty"][0]["replay"].as_str().map(str::to_owned);
            let replay = case.unwrap_or_else(|| self.replay_of_model(event, &report.columns));
            event["replay"] = Value::String(replay);
        }
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

    /// The command with what all runs on this column have in common; `together` where all numbers of threads count.
    fn replay_on(&self, column: Option<&Column>, together: bool) -> Vec<String> {
        let mut words = vec![self.command.to_owned()];
        let mut add = |flag: &str, value: &str| words.extend([flag.to_owned(), quoted(value)]);
        if let Some(column) = column
            && !self.candidates.iter().any(|own| own.is_oracle() && own.name() == column.backend)
        {
            add("--backend", &column.backend);
        }
        if self.asked.threads.len() > 1 && together {
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
        words
    }

    fn replay_of_model(&self, event: &Value, columns: &[Column]) -> String {
        let column = event["column"].as_u64().and_then(|index| columns.get(index as usize));
        let mut words =
            self.replay_on(column, event["failures"][0].as_str().is_some_and(|first| first.starts_with("threads: ")));
        let directory = event["directory"].as_str().unwrap_or_default();
        // A model without a reference is no golden.
        let flag = if Path::new(directory).join("expected.safetensors").is_file() { "--golden" } else { "--model" };
        words.extend([flag.to_owned(), quoted(directory)]);
        if event["event"] == "lockstep" {
            words.push("--lockstep".to_owned());
        }
        words.join(" ")
    }

    fn replay(&self, case: &crate::report::Case, columns: &[Column]) -> String {
        let together = case.findings.iter().any(|finding| finding.check == "threads");
        let mut words = self.replay_on(columns.get(case.column), together);
        let mut add = |flag: &str, value: &str| words.extend([flag.to_owned(), quoted(value)]);
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

/// Requires the same figures of each model for every number of threads, to the last digit.
fn models(report: &mut Report) {
    let mut first: BTreeMap<[String; 4], (String, [Value; 4])> = BTreeMap::new();
    let columns = &report.columns;
    let label = |event: &Value| {
        let column = event["column"].as_u64().and_then(|index| columns.get(index as usize));
        column.map(Column::label).unwrap_or_default()
    };
    for event in report.models.iter_mut().filter(|event| event["agrees"] == true) {
        let key = ["event", "backend", "directory", "weight_dtype"].map(|field| event[field].to_string());
        let figures = ["output", "layers", "gradients", "losses"].map(|field| event["report"][field].clone());
        let own = label(event);
        match first.get(&key) {
            None => {
                first.insert(key, (own, figures));
            }
            Some((other, expected)) if *expected != figures => {
                event["agrees"] = Value::Bool(false);
                event["failures"] = Value::from(vec![format!("threads: other figures than {other}")]);
            }
            Some(_) => {}
        }
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
