//! `--html FILE`: one page with everything in it, for looking at.
//!
//! The template is `page.html`; the data are put into it as JSON. The page loads nothing and needs no server.

use consort_core::{Fused, Primitive};
use serde_json::{Value, json};

use super::{Case, Cell, Outcome, Report, json, table, words};
use crate::Error;

const PAGE: &str = include_str!("page.html");
const DATA: &str = "{{data}}";
/// Failing cases of a cell that the page has.
const FAILING: usize = 12;
/// Failures of one operation on one backend that the page lists.
const LISTED: usize = 5;

/// The page.
///
/// # Errors
/// When the report cannot be written as JSON.
pub(crate) fn page(report: &Report) -> Result<String, Error> {
    let text = data(report).to_string();
    // A script element ends at `</script`, wherever that stands; JSON has no `<` outside of strings.
    let text = text.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    let (before, after) = PAGE
        .split_once(DATA)
        .ok_or_else(|| Error::Malformed { path: "page.html".into(), what: format!("no {DATA} in the template") })?;
    Ok(format!("{before}{text}{after}"))
}

fn data(report: &Report) -> Value {
    let mut data = json::value(report);
    let cells = report.cells();
    let Some(fields) = data.as_object_mut() else { return data };
    // Single cases are many: the page has the worst of each cell and some that fail.
    fields.remove("cases");
    fields.insert("cells".to_owned(), cells.iter().map(|cell| self::cell(report, cell)).collect());
    fields.insert("failures".to_owned(), json!(report.failures(LISTED)));
    fields.insert("primitives".to_owned(), json!(Primitive::<()>::NAMES));
    fields.insert("fused".to_owned(), json!(Fused::<(), (), ()>::NAMES));
    fields.insert("weighted".to_owned(), json!(["linear", "embedding", "linear_backward_input"]));
    fields.insert("date".to_owned(), json!(date()));
    fields.insert("tables".to_owned(), json!(table::model_tables(report)));
    fields.insert("curves".to_owned(), json!(curves(report)));
    if let Some(columns) = fields.get_mut("columns").and_then(Value::as_array_mut) {
        for (value, column) in columns.iter_mut().zip(&report.columns) {
            if let Some(fields) = value.as_object_mut() {
                fields.insert("label".to_owned(), json!(column.label()));
            }
        }
    }
    data
}

fn cell(report: &Report, cell: &Cell) -> Value {
    let mut value = json!(cell);
    let own = |case: &&Case| case.column == cell.column && case.op == cell.op && case.direction == cell.direction;
    let failing = report.cases.iter().filter(own).filter(|case| case.outcome == Outcome::Failed);
    if let Some(fields) = value.as_object_mut() {
        let worst = cell.worst.and_then(|index| report.cases.get(index));
        fields.insert("worst".to_owned(), worst.map_or(Value::Null, shown));
        fields.insert("failing".to_owned(), failing.take(FAILING).map(shown).collect());
    }
    value
}

fn shown(case: &Case) -> Value {
    let mut value = json!(case);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("case");
        let findings = case.findings.iter().map(|finding| {
            let text = finding.to_string();
            let text = text.strip_prefix(&format!("{}: ", finding.check)).map_or(text.as_str(), |rest| rest);
            json!({"check": finding.check, "text": text})
        });
        fields.insert("findings".to_owned(), findings.collect());
    }
    value
}

/// Errors by layer: for each model and type of weights a chart, for each backend a curve and, once, what scalar f32 gets;
/// shares of the bounds by place for runs in lockstep.
fn curves(report: &Report) -> Vec<Value> {
    let mut curves: Vec<Value> = Vec::new();
    for event in &report.models {
        let (model, weights) = (words(&event["model"]), words(&event["weight_dtype"]));
        let found = &event["report"];
        let (layers, label, sub) = match event["event"].as_str() {
            Some("report") => (&found["layers"], "name", format!("{weights} weights: error ÷ spread, by layer")),
            Some("lockstep") => (&found["operations"], "place", format!("{weights} weights: budget used, by place")),
            _ => continue,
        };
        let layers = layers.as_array().map_or(&[][..], Vec::as_slice);
        let points = |key: &str| -> Vec<Value> {
            let there = layers.iter().filter(|layer| !layer[key].is_null());
            there.map(|layer| json!([place(layer, label), layer[key]])).collect()
        };
        let mut push = |name: Value, key: &str, floor: bool, bar: &Value| {
            let points = points(key);
            let same = |curve: &Value| curve["title"] == model && curve["sub"] == sub && curve["floor"] == true;
            let shown = floor && curves.iter().any(same);
            if !points.is_empty() && !shown {
                curves.push(json!({
                    "title": model, "sub": sub, "weights": weights, "name": name, "floor": floor, "bar": bar,
                    "points": points, "wrong": event["agrees"] == false,
                }));
            }
        };
        let backend = json!(report.whose(event));
        if event["event"] == "lockstep" {
            push(backend, "budget", false, &json!(1));
        } else {
            push(json!("scalar f32: the floor"), "floor", true, &Value::Null);
            push(backend, "error", false, &found["bar"]);
        }
    }
    curves
}

/// What a point is called: the layer, or the place and the operation where the place does not say it.
fn place(layer: &Value, label: &str) -> String {
    let (place, operation) = (words(&layer[label]), words(&layer["operation"]));
    if layer["operation"].is_null() || place.ends_with(&operation) { place } else { format!("{place}: {operation}") }
}

/// Today as `2026-01-31`, by the days since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let days = (seconds / 86_400) as i64 + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
