//! docs/benchmarks.md, made from all results that are there. What stands below [`BY_HAND`] is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Arguments, machine,
    results::{Measured, Results},
    rows::{Row, TABLE},
};
use crate::workspace;

const PATH: &str = "docs/benchmarks.md";
/// Everything from this line on is written by people.
const BY_HAND: &str = "<!-- from here on by hand -->";
/// Memory that may be resident besides weights and cache: this share, or these MiB.
const RESIDENT: (f64, f64) = (0.05, 64.0);

/// Writes the document.
pub(super) fn write(arguments: &Arguments) -> Result<()> {
    let results = Results::read()?;
    let path = workspace::root().join(PATH);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let kept = before.split_once(BY_HAND).map_or("\n", |(_, kept)| kept);
    let text = format!("{}{BY_HAND}{kept}", generated(arguments, &results));
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    eprintln!("wrote {PATH}");
    Ok(())
}

fn generated(arguments: &Arguments, results: &Results) -> String {
    let mut out = String::new();
    let scripts = arguments.against.as_ref().map_or("DIR".into(), |folder| folder.display().to_string());
    let _ = write!(
        out,
        "# Benchmarks\n\n\
         Ours in turn with other engines, on the same files and shapes, with two threads. Written by\n\n\
         ```sh\ncargo xtask bench --against {scripts}\n```\n\n\
         with `CONSORT_PEERS_PYTHON`, `CONSORT_LLAMA_BENCH` and `CONSORT_CANDLE_BENCH` saying where the others are; `--rows NAME,…`\n\
         measures some rows again and keeps the others. A ratio is our rate over the best peer's of the same round, and the median of\n\
         the rounds counts: absolute figures drift on a shared machine by a third from one quarter of an hour to the next. Shares\n\
         are of what the machine was measured to do in the same run. A row is *disturbed* where other processes used more than a\n\
         tenth of a processor while something of it ran, and no quiet moment came: its ratio is then no result.\n\
         **Bold** is what was asked, reached on a quiet machine.\n\n\
         ## Machine\n\n| | |\n|---|---|\n",
    );
    for (part, what) in machine::describe() {
        let _ = writeln!(out, "| {part} | {what} |");
    }
    for (engine, versions) in versions(results) {
        let versions = versions.into_iter().collect::<Vec<_>>().join("; ");
        let _ = writeln!(out, "| {engine} | {versions} |");
    }
    out.push_str("\n## Against others\n\n| row | asked | reached | ours | best peer | of limit | measured |\n|---|---|---|---|---|---|---|\n");
    for row in TABLE.iter().flat_map(|group| group.rows) {
        let _ = writeln!(out, "{}", table_row(row, results.get(row.name)));
    }
    out.push_str(
        "\n`≥ 1.3×` is asked of the ratio of rates; of limit: of arithmetic in registers for products, prompts and training, of \
         reading\nmemory for tokens.\n",
    );
    out.push_str(&memory(results));
    out.push('\n');
    out
}

fn table_row(row: &Row, measured: Option<&Measured>) -> String {
    let asked = row.asked.iter().map(|bar| bar.text()).collect::<Vec<_>>().join("; ");
    let head = format!("| `{}` {} | {asked} |", row.name, row.title);
    let Some(measured) = measured else { return format!("{head} not measured yet | | | | |") };
    let missing = measured.missing.join("; ").replace('|', "/");
    if measured.rounds.is_empty() {
        return format!("{head} not measured: {missing} | | | | {} |", measured.date);
    }
    let reached = measured
        .against(row)
        .into_iter()
        .map(|(_, reached)| match reached {
            // What others disturbed proves nothing.
            Some((reached, true)) if measured.clean() => format!("**{reached}**"),
            Some((reached, true)) => reached,
            Some((reached, false)) => format!("{reached} (short)"),
            None => "not measured".to_owned(),
        })
        .collect::<Vec<_>>()
        .join("; ");
    let unit = measured.rounds[0].0["unit"].as_str().unwrap_or_default();
    let ours = measured.ours("median").map_or(String::new(), |rate| format!("{} {unit}", short(rate)));
    let best = measured.best().map_or("–".to_owned(), |(engine, rate)| format!("{engine} {}", short(rate)));
    let share = |key| measured.ours(key).map(|share| format!("{:.0} %", 100.0 * share));
    let is_step = row.case.starts_with("decode") || row.case.starts_with("translate");
    let share = share(if is_step { "share_of_reading" } else { "share_of_arithmetic" });
    let mut notes = vec![format!("{}, {}, {} rounds", measured.date, measured.commit, measured.rounds.len())];
    if !measured.clean() {
        let others = measured.others().map_or(String::new(), |others| format!(" (up to {others:.1} processors)"));
        notes.push(format!("*disturbed*{others}"));
    }
    if !missing.is_empty() {
        notes.push(format!("missing: {missing}"));
    }
    format!("{head} {reached} | {ours} | {best} | {} | {} |", share.unwrap_or("–".to_owned()), notes.join("; "))
}

/// Memory and the time to the first token, of each model as it was last measured.
fn memory(results: &Results) -> String {
    let mut models: BTreeMap<String, (f64, String)> = BTreeMap::new();
    for (_, measured) in results.all() {
        let Some((ours, _)) = measured.rounds.last() else { continue };
        let number = |key: &str| ours[key].as_f64();
        let (Some(weights), Some(cache), Some(peak)) =
            (number("weights_mib"), number("cache_mib"), number("peak_rss_mib"))
        else {
            continue;
        };
        let allowed = weights + cache + (RESIDENT.0 * (weights + cache)).max(RESIDENT.1);
        let text = |key: &str| ours[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{} in {}", text("model"), text("dtype"));
        let seconds = |key: &str| number(key).map_or("–".to_owned(), |seconds| format!("{seconds:.2} s"));
        let verdict = if peak <= allowed { format!("**{peak:.0}**") } else { format!("{peak:.0} (short)") };
        let line = format!(
            "| {name} | {weights:.0} | {cache:.0} | {allowed:.0} | {verdict} | {} | {} |",
            seconds("load_s"),
            seconds("first_token_s")
        );
        let worse = models.get(&name).is_none_or(|(excess, _)| peak - allowed > *excess);
        if worse {
            models.insert(name, (peak - allowed, line));
        }
    }
    let mut out = "\n## Memory and the first token\n\n".to_owned();
    if models.is_empty() {
        out.push_str("Not measured yet.\n");
        return out;
    }
    let _ = write!(
        out,
        "Resident at most: weights, cache, and of both {:.0} % or {:.0} MiB. Mapped pages of a file count. Of random weights, \
         the time to draw\nthem is in both times.\n\n\
         | model | weights, MiB | cache | allowed | most resident | loaded | first token |\n|---|---|---|---|---|---|---|\n",
        100.0 * RESIDENT.0,
        RESIDENT.1
    );
    for (_, line) in models.into_values() {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// What each engine says of its version.
fn versions(results: &Results) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lines =
        results.all().flat_map(|(_, measured)| &measured.rounds).flat_map(|(ours, theirs)| theirs.iter().chain([ours]));
    for line in lines {
        let text = |key: &str| Some(line.get(key).and_then(Value::as_str)?.to_owned());
        if let (Some(engine), Some(version)) = (text("engine"), text("version")) {
            versions.entry(engine).or_default().insert(version);
        }
    }
    versions
}

/// Three digits or so.
fn short(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}
