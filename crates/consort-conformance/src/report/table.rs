//! The report on a terminal: operations × backends, whole models, what is wrong, and how many of each.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Cell, Outcome, Report, budget, time, what, words};

/// Columns of one backend in the table of operations.
const COLUMNS: [&str; 6] = ["level", "pass", "fail", "skip", "budget", "time"];
/// Columns of the table of models; `crate::compare` defines them.
const MODELS: [&str; 10] =
    ["model", "weights", "backend", "error", "× floor", "KL", "top-1", "cuts", "native/composed/host", "verdict"];
/// Columns of the table of training; `crate::training` defines them.
const TRAINING: [&str; 9] =
    ["training", "weights", "backend", "gradients", "error", "bar", "losses", "steps", "verdict"];
/// Columns of the table of runs in lockstep; `crate::lockstep` defines them.
const LOCKSTEP: [&str; 8] = ["lockstep", "weights", "backend", "judged", "vague", "budget", "where", "verdict"];
/// How many failures of one operation on one backend are shown.
const SHOWN: usize = 3;

/// All of it, one line each.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let mut out = operations(report);
    let models = models(report);
    if !models.is_empty() {
        out.extend(blank(&out));
        out.extend(models);
    }
    for failure in report.failures(SHOWN) {
        out.extend(blank(&out));
        out.push(format!("FAILED {}", failure.title));
        out.extend(failure.lines.iter().map(|line| format!("  {line}")));
        if !failure.replay.is_empty() {
            out.push(format!("  again: {}", failure.replay));
        }
    }
    let notes = notes(report);
    out.extend(blank(&out).filter(|_| !notes.is_empty()));
    out.extend(notes);
    out.extend(blank(&out));
    out.push(totals(report));
    out
}

/// An empty line, unless it would be the first.
fn blank(out: &[String]) -> impl Iterator<Item = String> + use<> {
    (!out.is_empty()).then(String::new).into_iter()
}

fn operations(report: &Report) -> Vec<String> {
    let cells = report.cells();
    let mut columns: Vec<usize> = cells.iter().map(|cell| cell.column).collect();
    columns.sort_unstable();
    columns.dedup();
    if columns.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<(String, Vec<Option<&Cell>>)> = Vec::new();
    for cell in &cells {
        let name = what(&cell.op, cell.direction);
        if rows.last().is_none_or(|(last, _)| *last != name) {
            rows.push((name, vec![None; columns.len()]));
        }
        if let Some((_, row)) = rows.last_mut()
            && let Some(at) = columns.iter().position(|&column| column == cell.column)
            && let Some(place) = row.get_mut(at)
        {
            *place = Some(cell);
        }
    }
    let mut head = vec!["operation".to_owned()];
    head.extend(columns.iter().flat_map(|_| COLUMNS.map(str::to_owned)));
    let mut table = vec![head];
    for (name, row) in &rows {
        let mut line = vec![name.clone()];
        line.extend(row.iter().flat_map(|cell| cell.map_or([const { String::new() }; 6], columns_of)));
        table.push(line);
    }
    let widths = widths(&table);
    let mut out = Vec::new();
    // Which backend each group of columns is.
    let mut title = pad("", widths.first().copied().unwrap_or(0), false);
    for (group, &column) in columns.iter().enumerate() {
        let from = 1 + group * COLUMNS.len();
        let group = widths.get(from..from + COLUMNS.len()).unwrap_or_default();
        let width = group.iter().sum::<usize>() + 2 * group.len().saturating_sub(1);
        title.push_str(if columns.len() > 1 { "   " } else { "  " });
        title.push_str(&pad(&heading(report, column), width, false));
    }
    out.push(title.trim_end().to_owned());
    for line in &table {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (text, &width))| {
            let first = at > 0 && (at - 1) % COLUMNS.len() == 0;
            let gap = if at == 0 {
                ""
            } else if first && columns.len() > 1 {
                " │ "
            } else {
                "  "
            };
            format!("{gap}{}", pad(text, width, at > 0 && !first))
        });
        out.push(cells.collect::<String>().trim_end().to_owned());
    }
    out.push(String::new());
    out.push(
        "budget: greatest error ÷ derived bound, 0 is exact, above 1 fails; time: one run of each case".to_owned(),
    );
    out.extend(columns.iter().flat_map(|&column| profile(report, column, &cells)));
    out
}

fn heading(report: &Report, column: usize) -> String {
    report.columns.get(column).map_or_else(String::new, |column| format!("{} ({})", column.label(), column.float))
}

fn columns_of(cell: &Cell) -> [String; 6] {
    let count = |count: usize| if count == 0 { "·".to_owned() } else { count.to_string() };
    let ran = cell.passed + cell.failed + cell.known > 0;
    [
        cell.level(),
        count(cell.passed),
        if cell.known > 0 { format!("{}+{} known", cell.failed, cell.known) } else { count(cell.failed) },
        count(cell.skipped),
        if ran { budget(cell.budget) } else { "-".to_owned() },
        if ran { time(cell.seconds) } else { "-".to_owned() },
    ]
}

/// What the bounds of a column are from, and how each weight type did.
fn profile(report: &Report, index: usize, cells: &[Cell]) -> Vec<String> {
    let Some(column) = report.columns.get(index) else { return Vec::new() };
    let mut profiles: Vec<&str> = Vec::new();
    for case in report.cases.iter().filter(|case| case.column == index && case.outcome != Outcome::Skipped) {
        if !case.profile.is_empty() && !profiles.contains(&case.profile.as_str()) {
            profiles.push(&case.profile);
        }
    }
    let mut weights: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.column == index) {
        for (name, (cases, most)) in &cell.weights {
            let entry = weights.entry(name).or_default();
            entry.0 += cases;
            entry.1 = super::greater(entry.1, most.0);
        }
    }
    let weights: Vec<String> =
        weights.iter().map(|(name, (cases, most))| format!("{name} {} in {cases}", budget(*most))).collect();
    let mut out = vec![format!("{}: profile {}", column.label(), profiles.join(", "))];
    if let Some(figures) = column.profile.as_object() {
        let figures: Vec<String> = figures
            .iter()
            .filter(|(key, _)| *key != "name" && *key != "weight")
            .map(|(key, value)| figure(key, value))
            .collect();
        out.push(format!("  {}", figures.join(", ")));
    }
    out.push(format!("  budget by weights: {}", weights.join(", ")));
    out
}

/// `exp 2, log 3` of nested figures; `compute f32` of flat ones.
fn figure(key: &str, value: &Value) -> String {
    match value {
        // How good a function is: zeros say nothing.
        Value::Object(inner) if inner.contains_key("ulps") => {
            let part = |key: &str, unit: &str| {
                inner.get(key).and_then(Value::as_f64).filter(|part| *part != 0.0).map(|part| format!("{part}{unit}"))
            };
            let parts = [part("ulps", " ulp"), part("ulps_by_argument", "·|x| ulp"), part("absolute", "")];
            format!("{key} {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" + "))
        }
        Value::Object(inner) => {
            let inner: Vec<String> = inner.iter().map(|(key, value)| figure(key, value)).collect();
            format!("{key} ({})", inner.join(", "))
        }
        other => format!("{} {}", key.replace('_', " "), words(other)),
    }
}

/// Whole models: comparisons, training, lockstep; each with its head where there are any.
fn models(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    for (head, rows) in model_tables(report) {
        if !rows.is_empty() {
            out.extend(blank(&out));
            out.extend(aligned(&[vec![head], rows].concat(), 3));
        }
    }
    out
}

/// The tables of models: heads and rows.
pub(crate) fn model_tables(report: &Report) -> [(Vec<String>, Vec<Vec<String>>); 3] {
    let of = |kinds: &[&str], row: fn(&Report, &Value) -> Vec<String>| {
        let events = report.models.iter().filter(|event| kinds.iter().any(|kind| event["event"] == *kind));
        events.map(|event| row(report, event)).collect::<Vec<_>>()
    };
    let head = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    [
        (head(&MODELS), of(&["report", "error"], comparison)),
        (head(&TRAINING), of(&["training"], training)),
        (head(&LOCKSTEP), of(&["lockstep"], lockstep)),
    ]
}

/// Model, weights and backend of an event.
fn who(report: &Report, event: &Value) -> Vec<String> {
    let weights = words(&event["weight_dtype"]);
    let weights = match event["compute"].as_str() {
        None | Some("f32") => weights,
        Some(compute) => format!("{weights} in {compute}"),
    };
    vec![words(&event["model"]), weights, report.whose(event)]
}

fn verdict(event: &Value) -> String {
    if event["agrees"] == true { "agrees" } else { "DISAGREES" }.to_owned()
}

fn comparison(report: &Report, event: &Value) -> Vec<String> {
    let mut row = who(report, event);
    let found = &event["report"];
    if found.is_null() {
        row.extend(std::iter::repeat_n("-".to_owned(), MODELS.len() - 4));
        row.push("ERROR".to_owned());
        return row;
    }
    let cuts = found["cuts"].as_array().map_or(&[][..], Vec::as_slice);
    let same = cuts.iter().filter(|cut| cut["differs"].is_null()).count();
    let top = &found["top_choice"];
    let operations = || found["operations"].as_object().into_iter().flat_map(|operations| operations.values());
    let level = |name: &str| operations().filter_map(|levels| levels[name].as_u64()).sum::<u64>();
    row.extend([
        number(&found["output"]["error"], |error| format!("{error:.1e}")),
        number(&found["times_floor"], |times| format!("{times:.1}")),
        match found["divergence_budget"].as_f64() {
            Some(budget) => number(&found["divergence"]["mean"], |nats| format!("{nats:.1e} of {budget:.1e}")),
            None => number(&found["divergence"]["max"], |nats| format!("{nats:.1e}")),
        },
        if top.is_null() { "-".to_owned() } else { format!("{}/{}", words(&top["agreed"]), words(&top["clear"])) },
        format!("{same}/{}", cuts.len()),
        format!("{}/{}/{}", level("native"), level("composed"), level("host")),
        verdict(event),
    ]);
    row
}

fn training(report: &Report, event: &Value) -> Vec<String> {
    let found = &event["report"];
    let share = |gradient: &&Value| {
        let (error, bar) = (gradient["worst"]["error"].as_f64(), gradient["bar"].as_f64());
        error.zip(bar).map_or(f64::INFINITY, |(error, bar)| error / bar)
    };
    let gradients = found["gradients"].as_array().map_or(&[][..], Vec::as_slice);
    let worst = gradients.iter().max_by(|a, b| share(a).total_cmp(&share(b))).unwrap_or(&Value::Null);
    let greatest = |curve: &Value| {
        let errors = curve["errors"].as_array().into_iter().flatten().map(|error| error.as_f64().unwrap_or(f64::NAN));
        format!("{:.1e}", errors.fold(0.0, super::greater))
    };
    let mut row = who(report, event);
    row.extend([
        gradients.len().to_string(),
        number(&worst["worst"]["error"], |error| format!("{error:.1e}")),
        number(&worst["bar"], |bar| format!("{bar:.1e}")),
        greatest(&found["losses"]),
        greatest(&found["steps"]),
        verdict(event),
    ]);
    row
}

fn lockstep(report: &Report, event: &Value) -> Vec<String> {
    let found = &event["report"];
    let operations = found["operations"].as_array().map_or(&[][..], Vec::as_slice);
    let used = |own: &&Value| own["budget"].as_f64().unwrap_or(f64::INFINITY);
    let worst = operations.iter().max_by(|a, b| used(a).total_cmp(&used(b))).unwrap_or(&Value::Null);
    let named = |own: &Value| match (words(&own["place"]), words(&own["operation"])) {
        (place, operation) if place.ends_with(&operation) => place,
        (place, operation) => format!("{place}: {operation}"),
    };
    let guilty = found["guilty"].get(0);
    let mut row = who(report, event);
    row.extend([
        words(&found["judged"]),
        words(&found["vague"]),
        number(&worst["budget"], budget),
        guilty.map_or_else(|| named(worst), |guilty| format!("{}, the first guilty", named(guilty))),
        verdict(event),
    ]);
    row
}

/// A number in its format; `NaN` and `inf` come as text, what does not apply as null.
fn number(value: &Value, format: impl Fn(f64) -> String) -> String {
    value.as_f64().map_or_else(|| words(value), format)
}

fn notes(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    for column in &report.columns {
        if let Some(reason) = &column.unavailable {
            out.push(format!("{} was SKIPPED: {reason}", column.label()));
        }
        if !column.warnings.is_empty() {
            out.push(format!("{} fell back to the host for {}", column.label(), column.warnings.join(", ")));
        }
    }
    let mut skips: BTreeMap<(usize, &str), (usize, Vec<String>)> = BTreeMap::new();
    for case in report.cases.iter().filter(|case| case.outcome == Outcome::Skipped) {
        let (count, of) = skips.entry((case.column, case.reason.as_deref().unwrap_or_default())).or_default();
        *count += 1;
        let name = what(&case.op, case.direction);
        if !of.contains(&name) {
            of.push(name);
        }
    }
    for ((column, reason), (count, of)) in skips {
        let label = report.columns.get(column).map(super::Column::label).unwrap_or_default();
        out.push(format!("{count} skipped on {label} ({}): {reason}", of.join(", ")));
    }
    // What weights cannot be kept as is the same for every backend.
    let mut models: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for event in report.models.iter().filter(|event| event["event"] == "skipped") {
        let own = models.entry(words(&event["weight_dtype"])).or_default();
        let model = words(&event["model"]);
        if !own.iter().any(|(name, _)| *name == model) {
            own.push((model, words(&event["reason"])));
        }
    }
    for (dtype, own) in models {
        let names: Vec<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
        let first = own.first().map(|(_, reason)| reason.as_str()).unwrap_or_default();
        let as_well = if own.len() > 1 { " (the first)" } else { "" };
        out.push(format!(
            "{} skipped with {dtype} weights ({}): {first}{as_well}",
            plural(own.len()),
            names.join(", ")
        ));
    }
    out
}

fn plural(models: usize) -> String {
    if models == 1 { "1 model".to_owned() } else { format!("{models} models") }
}

fn totals(report: &Report) -> String {
    let totals = report.totals();
    let mut parts = Vec::new();
    if report.cases.is_empty() && totals.models_agree + totals.models_disagree == 0 {
        parts.push("nothing was compared".to_owned());
    }
    if !report.cases.is_empty() {
        parts.push(format!("{} cases passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped));
    }
    if totals.known > 0 {
        parts.push(format!("{} failed as expected", totals.known));
    }
    if totals.models_agree + totals.models_disagree > 0 {
        parts.push(format!("{} model runs agree, {} disagree", totals.models_agree, totals.models_disagree));
    }
    if totals.unavailable > 0 {
        parts.push(format!("{} backends skipped", totals.unavailable));
    }
    if totals.troubles > 0 {
        parts.push(format!("{} other failures", totals.troubles));
    }
    let end = if report.interrupted {
        "INTERRUPTED, not everything was compared"
    } else if report.agrees() {
        "all agree"
    } else {
        "NOT all agree"
    };
    format!("{}: {end}, in {}", parts.join("; "), time(report.seconds))
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

fn widths(table: &[Vec<String>]) -> Vec<usize> {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    (0..columns).map(|column| width(column).unwrap_or(0)).collect()
}

/// Columns as wide as their widest entry; those before `names` to the left.
fn aligned(table: &[Vec<String>], names: usize) -> Vec<String> {
    let widths = widths(table);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (text, &width))| pad(text, width, at >= names));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}
