//! What a comparison found: every case, and what the cases of an operation come to on a backend.
//!
//! `table` shows it on a terminal, `json` keeps everything, `html` is one page to look at.

#![allow(clippy::indexing_slicing, reason = "a JSON value indexed by a key gives null where there is none")]

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod table;

use std::{collections::BTreeMap, fmt, time::Duration};

use consort_core::{Fused, Primitive, WeightDType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{judge::Worst, number};

/// Which way an operation was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// For its outputs.
    Forward,
    /// For the gradients of its operands.
    Backward,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Backward];

    /// `forward` or `backward`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        }
    }
}

/// How an operation ran, as [`consort_core::Level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// By the backend's own form.
    Native,
    /// Through its decomposition.
    Composed,
    /// At least partly on the host.
    Host,
}

impl Level {
    /// All, from best to worst.
    pub const ALL: [Self; 3] = [Self::Native, Self::Composed, Self::Host];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "Native",
            Self::Composed => "Composed",
            Self::Host => "Host",
        }
    }
}

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every check that applies was made and held.
    Passed,
    /// A check did not hold, or the case did not come to its end.
    Failed,
    /// It failed, as the backend's author said it would.
    Known,
    /// It was not judged, for a reason that is said.
    Skipped,
}

/// Where a case is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The sweep over shapes, types and special values.
    Sweep,
    /// Drawn from a fixed seed.
    Draw,
    /// A folder in the case format.
    Folder,
    /// Given on the command line.
    Given,
}

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, as in the kit's README: `values`, `rows`, `again` …
    pub check: String,
    /// What was found and what was expected, in one line.
    pub message: String,
    /// The worst element, where there is one.
    pub worst: Option<Worst>,
}

/// One case on one backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// Snake-case name of the operation.
    pub op: String,
    /// Which way it was run.
    pub direction: Direction,
    /// Where it is from.
    pub source: Source,
    /// The recipe, or the folder's path as text.
    pub case: Value,
    /// Index of the [`Column`] that it belongs to.
    #[serde(default)]
    pub column: usize,
    /// What it came to.
    pub outcome: Outcome,
    /// Why it was skipped, or was known to fail.
    pub reason: Option<String>,
    /// Its operands: names and sizes.
    pub shapes: String,
    /// How the operation ran; `None` where nothing was left to run.
    pub level: Option<Level>,
    /// Name of the profile that its bounds are from.
    pub profile: String,
    /// What operands that are weights were kept as.
    pub weight: WeightDType,
    /// Greatest error over its bound, of all elements.
    #[serde(serialize_with = "number::one", deserialize_with = "number::read")]
    pub budget: f64,
    /// The element with that error.
    pub worst: Option<Worst>,
    /// Names of the checks that were made.
    pub checks: Vec<String>,
    /// Those that did not hold.
    pub findings: Vec<Finding>,
    /// Seconds that the first run took on the backend.
    pub seconds: f64,
    /// Hash of the bits of all outputs.
    pub bits: Option<String>,
    /// The command that runs exactly this case again.
    #[serde(default)]
    pub replay: String,
}

/// A backend as it was run: a column of the tables.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Column {
    /// Its name, as `--backend` takes it.
    pub backend: String,
    /// How many threads it was given, where that was asked for.
    pub threads: Option<usize>,
    /// What it calls itself.
    pub title: String,
    /// The type that it computes in.
    pub float: String,
    /// The profile that its bounds are from, with all its figures.
    pub profile: Value,
    /// Why it does not work here.
    pub unavailable: Option<String>,
    /// Primitives that fell back to the host, under `--fallback warn`.
    pub warnings: Vec<String>,
    /// Expected failures that did not happen: operation and what was said about it.
    pub unexpected: Vec<(String, String)>,
    /// What went wrong apart from any case.
    pub troubles: Vec<String>,
}

impl Column {
    /// Its name, with the number of threads where that was asked for.
    pub fn label(&self) -> String {
        match self.threads {
            Some(threads) => format!("{}×{threads}", self.backend),
            None => self.backend.clone(),
        }
    }
}

/// Everything that a comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The command that was given.
    pub command: String,
    /// Whether only the quick part was run.
    pub quick: bool,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was ended before everything was run.
    pub interrupted: bool,
    /// The backends.
    pub columns: Vec<Column>,
    /// The cases, in the order in which they were planned.
    pub cases: Vec<Case>,
    /// Events of whole models, as they came.
    pub models: Vec<Value>,
}

/// The cases of one operation, direction and column together.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The operation.
    pub op: String,
    /// Which way.
    pub direction: Direction,
    /// Index of the column.
    pub column: usize,
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that failed as expected.
    pub known: usize,
    /// Cases that were skipped.
    pub skipped: usize,
    /// Cases that ran at each level, from native to host.
    pub levels: [usize; 3],
    /// Greatest budget used; of those that passed, where any did.
    #[serde(serialize_with = "number::one")]
    pub budget: f64,
    /// Index of the case that is worst, among the report's.
    pub worst: Option<usize>,
    /// Seconds on the backend.
    pub seconds: f64,
    /// Why cases were skipped, and how many.
    pub skips: BTreeMap<String, usize>,
    /// How often each check was made, and how often it did not hold.
    pub checks: BTreeMap<String, [usize; 2]>,
    /// By weight's type: cases, and the greatest budget used.
    pub weights: BTreeMap<String, (usize, Figure)>,
    /// Cases by budget used: none at all, then four bins a decade from 1e-4 on, the last open.
    pub histogram: Vec<usize>,
}

/// A number that JSON may not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figure(#[serde(serialize_with = "number::one")] pub f64);

/// Bins of [`Cell::histogram`].
const BINS: usize = 26;

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that failed as expected.
    pub known: usize,
    /// Cases that were skipped.
    pub skipped: usize,
    /// Comparisons of models that agree.
    pub models_agree: usize,
    /// Comparisons of models that do not.
    pub models_disagree: usize,
    /// Backends that do not work here.
    pub unavailable: usize,
    /// What else went wrong: expected failures that passed, processes that ended badly.
    pub troubles: usize,
}

/// A failure as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// What failed, where, and by which checks.
    pub title: String,
    /// The figures.
    pub lines: Vec<String>,
    /// The command that does it again.
    pub replay: String,
    /// Operation, direction and column, where it belongs to a cell.
    pub cell: Option<(String, Direction, usize)>,
}

impl Report {
    /// What the cases come to, in the order of the contract's operations.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells: BTreeMap<(usize, &str, Direction, usize), Cell> = BTreeMap::new();
        for (index, case) in self.cases.iter().enumerate() {
            let key = (place(&case.op), case.op.as_str(), case.direction, case.column);
            cells.entry(key).or_insert_with(|| Cell::new(case)).add(index, case, &self.cases);
        }
        cells.into_values().collect()
    }

    /// How many of each.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for case in &self.cases {
            *match case.outcome {
                Outcome::Passed => &mut totals.passed,
                Outcome::Failed => &mut totals.failed,
                Outcome::Known => &mut totals.known,
                Outcome::Skipped => &mut totals.skipped,
            } += 1;
        }
        for event in &self.models {
            match event.get("agrees").and_then(Value::as_bool) {
                Some(true) => totals.models_agree += 1,
                Some(false) => totals.models_disagree += 1,
                None => {}
            }
        }
        for column in &self.columns {
            totals.unavailable += usize::from(column.unavailable.is_some());
            totals.troubles += column.unexpected.len() + column.troubles.len();
        }
        totals
    }

    /// Whether something was compared, and all of it agrees.
    pub fn agrees(&self) -> bool {
        let totals = self.totals();
        let compared = totals.passed + totals.known + totals.models_agree > 0;
        compared && !self.interrupted && totals.failed + totals.models_disagree + totals.troubles == 0
    }

    /// The backend of an event, as it was run.
    pub(crate) fn whose(&self, event: &Value) -> String {
        let column = event["column"].as_u64().and_then(|index| self.columns.get(index as usize));
        column.map_or_else(|| words(&event["backend"]), Column::label)
    }

    /// Everything that is wrong: at most `each` cases of one operation on one backend, the worst first, then how many more
    /// there are.
    pub fn failures(&self, each: usize) -> Vec<Failure> {
        let mut failures = Vec::new();
        let mut of: BTreeMap<(usize, usize, &str, Direction), Vec<&Case>> = BTreeMap::new();
        for case in self.cases.iter().filter(|case| case.outcome == Outcome::Failed) {
            of.entry((case.column, place(&case.op), &case.op, case.direction)).or_default().push(case);
        }
        for ((index, _, op, direction), mut cases) in of {
            let backend = self.columns.get(index).map(Column::label).unwrap_or_default();
            cases.sort_by(|a, b| rank(b.budget).total_cmp(&rank(a.budget)));
            let more = cases.len().saturating_sub(each);
            let cell = Some((op.to_owned(), direction, index));
            for case in cases.iter().take(each) {
                let mut lines: Vec<String> = Vec::new();
                if !case.shapes.is_empty() {
                    lines.push(case.shapes.clone());
                }
                lines.extend(case.findings.iter().map(Finding::to_string));
                failures.push(Failure {
                    title: format!("{} on {backend}: {}", what(op, direction), case.named()),
                    lines,
                    replay: case.replay.clone(),
                    cell: cell.clone(),
                });
            }
            if more > 0
                && let Some(last) = failures.last_mut()
            {
                last.lines.push(format!("and {more} more cases of {} on {backend}", what(op, direction)));
            }
        }
        for (index, column) in self.columns.iter().enumerate() {
            for (name, reason) in &column.unexpected {
                failures.push(Failure {
                    title: format!("{name} on {}: was expected to fail and passed", column.label()),
                    lines: vec![format!("take it off the list of expected failures ({reason})")],
                    replay: String::new(),
                    cell: Some((name.clone(), Direction::Forward, index)),
                });
            }
            for trouble in &column.troubles {
                let title = format!("{}: {trouble}", column.label());
                failures.push(Failure { title, lines: Vec::new(), replay: String::new(), cell: None });
            }
        }
        failures.extend(self.models.iter().filter(|event| event["agrees"] == false).map(|event| {
            Failure {
                title: format!(
                    "{} with {} weights on {}: {}",
                    words(&event["model"]),
                    words(&event["weight_dtype"]),
                    self.whose(event),
                    match event["event"].as_str() {
                        Some("training") => "training",
                        Some("lockstep") => "lockstep",
                        Some("error") => "error",
                        _ => "the whole model",
                    }
                ),
                lines: event["failures"]
                    .as_array()
                    .map_or_else(|| vec![words(&event["error"])], |failures| failures.iter().map(words).collect()),
                replay: event["replay"].as_str().unwrap_or_default().to_owned(),
                cell: None,
            }
        }));
        failures
    }
}

impl Case {
    /// One that has not come to anything yet.
    pub(crate) fn unknown(op: &str, direction: Direction, source: Source, case: &Value) -> Self {
        Self {
            op: op.to_owned(),
            direction,
            source,
            case: case.clone(),
            column: 0,
            outcome: Outcome::Failed,
            reason: None,
            shapes: String::new(),
            level: None,
            profile: String::new(),
            weight: WeightDType::F32,
            budget: f64::INFINITY,
            worst: None,
            checks: Vec::new(),
            findings: Vec::new(),
            seconds: 0.0,
            bits: None,
            replay: String::new(),
        }
    }

    /// The names of the checks that did not hold.
    fn named(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for finding in &self.findings {
            if !names.contains(&finding.check.as_str()) {
                names.push(&finding.check);
            }
        }
        names.join(", ")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.message)?;
        let Some(worst) = &self.worst else { return Ok(()) };
        if !self.message.is_empty() {
            f.write_str("; ")?;
        }
        write!(
            f,
            "{} {:?} at {:?}: actual {}, expected {}, error {}, bound {}, budget used {}",
            worst.output,
            worst.sizes,
            worst.index,
            exact(worst.actual),
            exact(worst.expected),
            short(worst.error),
            short(worst.bound),
            budget(used(worst))
        )
    }
}

/// Error over bound; 0 over 0 is 0.
pub(crate) fn used(worst: &Worst) -> f64 {
    if worst.error == 0.0 { 0.0 } else { worst.error / worst.bound }
}

impl Cell {
    fn new(case: &Case) -> Self {
        Self {
            op: case.op.clone(),
            direction: case.direction,
            column: case.column,
            passed: 0,
            failed: 0,
            known: 0,
            skipped: 0,
            levels: [0; 3],
            budget: 0.0,
            worst: None,
            seconds: 0.0,
            skips: BTreeMap::new(),
            checks: BTreeMap::new(),
            weights: BTreeMap::new(),
            histogram: vec![0; BINS],
        }
    }

    fn add(&mut self, index: usize, case: &Case, all: &[Case]) {
        *match case.outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed => &mut self.failed,
            Outcome::Known => &mut self.known,
            Outcome::Skipped => &mut self.skipped,
        } += 1;
        if case.outcome == Outcome::Skipped {
            *self.skips.entry(case.reason.clone().unwrap_or_default()).or_default() += 1;
            return;
        }
        if let Some(level) = case.level
            && let Some(count) = self.levels.get_mut(level as usize)
        {
            *count += 1;
        }
        self.seconds += case.seconds;
        for check in &case.checks {
            self.checks.entry(check.clone()).or_default()[0] += 1;
        }
        for finding in &case.findings {
            let [made, broken] = self.checks.entry(finding.check.clone()).or_default();
            *broken += 1;
            *made = (*made).max(*broken);
        }
        let (cases, most) = self.weights.entry(case.weight.name().to_owned()).or_default();
        *cases += 1;
        most.0 = greater(most.0, case.budget);
        self.budget = greater(self.budget, case.budget);
        if let Some(bin) = self.histogram.get_mut(bin(case.budget)) {
            *bin += 1;
        }
        let key = |case: &Case| (case.outcome == Outcome::Failed, rank(case.budget));
        let worst = self.worst.and_then(|index| all.get(index));
        if worst.is_none_or(|worst| key(case).partial_cmp(&key(worst)) == Some(std::cmp::Ordering::Greater)) {
            self.worst = Some(index);
        }
    }

    /// The levels that occurred: `Native`, `Native+Host`; `-` where nothing ran.
    pub fn level(&self) -> String {
        let names =
            Level::ALL.into_iter().zip(self.levels).filter(|(_, count)| *count > 0).map(|(level, _)| level.name());
        let names: Vec<&str> = names.collect();
        if names.is_empty() { "-".to_owned() } else { names.join("+") }
    }
}

/// `softmax`, `softmax backward`.
pub(crate) fn what(op: &str, direction: Direction) -> String {
    match direction {
        Direction::Forward => op.to_owned(),
        Direction::Backward => format!("{op} backward"),
    }
}

/// Place among the operations of the contract; others come last.
pub(crate) fn place(op: &str) -> usize {
    let names = || Primitive::<()>::NAMES.iter().chain(Fused::<(), (), ()>::NAMES);
    names().position(|name| *name == op).unwrap_or_else(|| names().count())
}

/// NaN is the greatest.
fn rank(budget: f64) -> f64 {
    if budget.is_nan() { f64::INFINITY } else { budget }
}

fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

fn bin(budget: f64) -> usize {
    if budget == 0.0 {
        return 0;
    }
    // The bound itself is the last that is within.
    let at = (((rank(budget).log10() + 4.0) * 4.0).ceil() - 1.0).clamp(0.0, (BINS - 2) as f64);
    at as usize + 1
}

/// All digits that a number has.
pub(crate) fn exact(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) { format!("{x}") } else { format!("{x:e}") }
}

/// Three digits.
pub(crate) fn short(x: f64) -> String {
    if x == 0.0 || !x.is_finite() { format!("{x}") } else { format!("{x:.2e}") }
}

/// A budget used: 0 is exact, 1 is the bound.
pub(crate) fn budget(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        format!("{x}")
    } else if (0.001..1000.0).contains(&x) {
        format!("{x:.3}")
    } else {
        format!("{x:.1e}")
    }
}

/// A time with its unit.
pub(crate) fn time(seconds: f64) -> String {
    if seconds >= 0.1 { format!("{seconds:.1} s") } else { format!("{:.1} ms", seconds * 1e3) }
}

/// Minutes and seconds.
pub(crate) fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

/// Text without its quotes; `-` for null.
pub(crate) fn words(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_fall_into_bins_with_the_bound_between_two() {
        assert_eq!([0.0, 1e-9, 0.99, 1.0, 1.01, 1e9, f64::INFINITY].map(bin), [0, 1, 16, 16, 17, 25, 25]);
        assert_eq!(bin(f64::NAN), 25);
    }

    #[test]
    fn numbers_are_short_and_what_is_none_is_said() {
        assert_eq!([0.0, 0.5, 1234.5, f64::NAN, f64::INFINITY].map(budget), ["0", "0.500", "1.2e3", "NaN", "inf"]);
        assert_eq!([exact(0.1), exact(1e-30), exact(f64::NAN)], ["0.1", "1e-30", "NaN"]);
        assert_eq!([time(0.0123), time(12.0)], ["12.3 ms", "12.0 s"]);
    }

    #[test]
    fn types_of_weights_have_one_name() {
        for dtype in WeightDType::ALL {
            assert_eq!(serde_json::to_value(dtype).unwrap(), dtype.name());
        }
    }

    fn case(outcome: Outcome, budget: f64) -> Case {
        let level = Some(Level::Native);
        let case = Case::unknown("softmax", Direction::Forward, Source::Sweep, &Value::from("x"));
        Case { outcome, budget, level, reason: Some("no room".to_owned()), ..case }
    }

    #[test]
    fn a_cell_counts_skips_apart_and_has_the_worst() {
        let cases = vec![case(Outcome::Passed, 0.5), case(Outcome::Skipped, 9.0), case(Outcome::Failed, f64::NAN)];
        let report = Report { cases, ..Report::default() };
        let [cell] = <[Cell; 1]>::try_from(report.cells()).unwrap();
        assert_eq!((cell.passed, cell.failed, cell.skipped, cell.levels), (1, 1, 1, [2, 0, 0]));
        assert!(cell.budget.is_nan() && cell.worst == Some(2), "{cell:?}");
        assert_eq!(cell.skips.get("no room"), Some(&1));
        assert!(!report.agrees());
        let only = |outcome| Report { cases: vec![case(outcome, 0.0)], ..Report::default() }.agrees();
        assert!(only(Outcome::Passed) && !only(Outcome::Skipped) && !only(Outcome::Failed));
        assert!(!Report::default().agrees(), "nothing is no agreement");
    }

    #[test]
    fn failures_beyond_some_are_counted() {
        let cases = (0..10).map(|at| case(Outcome::Failed, f64::from(at))).collect();
        let failures = Report { cases, ..Report::default() }.failures(3);
        assert_eq!(failures.len(), 3);
        assert!(failures[2].lines.iter().any(|line| line.starts_with("and 7 more")), "{failures:?}");
    }
}
