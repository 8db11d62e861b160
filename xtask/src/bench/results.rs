//! What was measured, kept in the target folder from run to run: a row is replaced when it is measured again.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::rows::{Bar, Row};
use crate::workspace::Metadata;

/// All rows that were measured.
#[derive(Default)]
pub(super) struct Results {
    path: PathBuf,
    rows: BTreeMap<String, Measured>,
}

/// A row as it was measured, or why it was not.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) processor: String,
    /// Each round's lines, ours first.
    pub(super) rounds: Vec<(Value, Vec<Value>)>,
    /// Peers that could not be run, and anything else that went wrong.
    pub(super) missing: Vec<String>,
}

impl Results {
    /// Those that are there.
    pub(super) fn read() -> Result<Self> {
        let path = Metadata::read()?.target()?.join("bench/results.json");
        if !path.is_file() {
            return Ok(Self { path, rows: BTreeMap::new() });
        }
        let shown = || path.display().to_string();
        let value: Value = serde_json::from_slice(&fs::read(&path).with_context(shown)?).with_context(shown)?;
        let rows = value.as_object().into_iter().flatten().map(|(name, row)| (name.clone(), Measured::from_json(row)));
        Ok(Self { rows: rows.collect(), path })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Measured> {
        self.rows.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &Measured)> {
        self.rows.iter()
    }

    /// Keeps a row, on disk at once.
    pub(super) fn keep(&mut self, name: &str, measured: Measured) -> Result<()> {
        self.rows.insert(name.to_owned(), measured);
        let all: serde_json::Map<String, Value> =
            self.rows.iter().map(|(name, row)| (name.clone(), row.to_json())).collect();
        let shown = || self.path.display().to_string();
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).with_context(shown)?;
        }
        fs::write(&self.path, format!("{:#}\n", Value::Object(all))).with_context(shown)
    }
}

impl Measured {
    fn from_json(row: &Value) -> Self {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Self {
            date: text("date"),
            commit: text("commit"),
            processor: text("processor"),
            rounds: list(&row["rounds"]).iter().map(|round| (round["ours"].clone(), list(&round["theirs"]))).collect(),
            missing: list(&row["missing"]).iter().filter_map(|line| Some(line.as_str()?.to_owned())).collect(),
        }
    }

    fn to_json(&self) -> Value {
        let rounds = self.rounds.iter().map(|(ours, theirs)| json!({ "ours": ours, "theirs": theirs }));
        json!({
            "date": self.date,
            "commit": self.commit,
            "processor": self.processor,
            "rounds": rounds.collect::<Vec<Value>>(),
            "missing": self.missing,
        })
    }

    /// Our rate over the best peer's, in the median of the rounds in which there was one.
    pub(super) fn ratio(&self) -> Option<f64> {
        let ratio = |(ours, theirs): &(Value, Vec<Value>)| Some(rate(ours)? / rate(best(theirs)?)?);
        median(self.rounds.iter().filter_map(ratio).collect())
    }

    /// A number of our line, in the median of the rounds.
    pub(super) fn ours(&self, key: &str) -> Option<f64> {
        median(self.rounds.iter().filter_map(|(ours, _)| ours[key].as_f64()).collect())
    }

    /// The peer that was best in the last round, its type of weights where it says one, and the median of the best rates.
    pub(super) fn best(&self) -> Option<(String, f64)> {
        let bests: Vec<&Value> = self.rounds.iter().filter_map(|(_, theirs)| best(theirs)).collect();
        let engine = bests.last()?["engine"].as_str()?.to_owned();
        Some((engine, median(bests.iter().filter_map(|line| rate(line)).collect())?))
    }

    /// Whether other processes kept out of all that counts.
    pub(super) fn clean(&self) -> bool {
        let lines = self.rounds.iter().flat_map(|(ours, theirs)| theirs.iter().chain([ours]));
        self.rounds.iter().all(|(ours, _)| rate(ours).is_some()) && lines.into_iter().all(|line| line["clean"] == true)
    }

    /// Most processors that others used while ours ran.
    pub(super) fn others(&self) -> Option<f64> {
        self.rounds.iter().filter_map(|(ours, _)| ours["worst_foreign_cpus"].as_f64()).reduce(f64::max)
    }

    /// Each bar with what was reached and whether that is enough; nothing of what was not measured.
    pub(super) fn against(&self, row: &Row) -> Vec<(Bar, Option<(String, bool)>)> {
        let reached = |bar: &Bar| match *bar {
            Bar::Ratio(asked) => self.ratio().map(|ratio| (format!("{ratio:.2}×"), ratio >= asked)),
            Bar::Time(asked) => {
                self.ratio().map(|ratio| (format!("{:.2}× the time", 1.0 / ratio), 1.0 / ratio <= asked))
            }
            Bar::Rate(asked) => self.ours("median").map(|rate| (format!("{rate:.0} a second"), rate >= asked)),
            Bar::Arithmetic(asked) => self.share("share_of_arithmetic", "of the registers", asked),
            Bar::Reading(asked) => self.share("share_of_reading", "of reading", asked),
        };
        row.asked.iter().map(|bar| (*bar, reached(bar))).collect()
    }

    fn share(&self, key: &str, what: &str, asked: f64) -> Option<(String, bool)> {
        self.ours(key).map(|share| (format!("{:.0} % {what}", 100.0 * share), share >= asked))
    }
}

fn rate(line: &Value) -> Option<f64> {
    line["median"].as_f64().filter(|rate| *rate > 0.0)
}

fn best(lines: &[Value]) -> Option<&Value> {
    lines.iter().filter(|line| rate(line).is_some()).max_by(|a, b| {
        let [a, b] = [a, b].map(|line| rate(line).unwrap_or(0.0));
        a.total_cmp(&b)
    })
}

/// The middle, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(engine: &str, median: f64, clean: bool) -> Value {
        json!({ "engine": engine, "median": median, "clean": clean, "share_of_reading": 0.5 })
    }

    fn measured() -> Measured {
        let rounds = [(10.0, 5.0, 4.0), (12.0, 4.0, 6.0), (9.0, 3.0, 1.0)]
            .map(|(ours, a, b)| (line("consort", ours, true), vec![line("a", a, true), line("b", b, true)]));
        Measured { rounds: rounds.to_vec(), ..Measured::default() }
    }

    #[test]
    fn a_ratio_is_to_the_best_peer_of_each_round() {
        let mut measured = measured();
        assert_eq!(measured.ratio(), Some(2.0)); // of 2, 2 and 3
        assert_eq!(measured.best(), Some(("a".to_owned(), 5.0)));
        assert!(measured.clean());
        measured.rounds[1].1[1]["clean"] = false.into();
        assert!(!measured.clean());
        measured.rounds.iter_mut().for_each(|(_, theirs)| theirs.clear());
        assert_eq!((measured.ratio(), measured.best()), (None, None));
        assert_eq!(measured.ours("share_of_reading"), Some(0.5));
    }

    #[test]
    fn bars_are_held_against_what_was_reached() {
        let row = |asked| Row { name: "a", title: "b", case: "c", theirs: &[], asked };
        let reached = |asked: &'static [Bar]| {
            measured().against(&row(asked)).into_iter().map(|(_, reached)| reached).collect::<Vec<_>>()
        };
        assert_eq!(
            reached(&[Bar::Ratio(2.0), Bar::Ratio(2.1)]),
            [Some(("2.00×".to_owned(), true)), Some(("2.00×".to_owned(), false))]
        );
        assert_eq!(reached(&[Bar::Time(0.5)]), [Some(("0.50× the time".to_owned(), true))]);
        assert_eq!(
            reached(&[Bar::Reading(0.6), Bar::Arithmetic(0.1)]),
            [Some(("50 % of reading".to_owned(), false)), None]
        );
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let measured = Measured { date: "2026-11-25".into(), missing: vec!["b: gone".into()], ..measured() };
        let again = Measured::from_json(&measured.to_json());
        assert_eq!(format!("{again:?}"), format!("{measured:?}"));
    }
}
