//! `cargo xtask compare`: builds the runner with the backends asked for, shows what it finds.
//!
//! Columns: error of the output (logits, or the last hidden state of a model without a head) over the spread of the
//! oracle's, the same as a multiple of what scalar f32 gets, greatest KL divergence of a row in nats, rows with the same
//! top choice of those where the oracle's is clear, ways of cutting the sequence that give the same bits, operations that
//! ran natively, composed and on the host. consort-conformance defines them all.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    Outcome,
    process::{cargo, shown},
    table,
    workspace::{self, Metadata},
};

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Cargo features of the runner, one for each backend, separated by commas; all by default.
    #[arg(long, value_name = "LIST")]
    features: Option<String>,
    /// A golden, or a folder of goldens; tests/golden by default.
    #[arg(long = "golden", value_name = "DIR")]
    goldens: Vec<PathBuf>,
    /// Backends, separated by commas; all that are compiled in by default.
    #[arg(long = "backend", value_name = "NAMES")]
    backends: Option<String>,
    /// Only goldens whose name contains this.
    #[arg(long, value_name = "FILTER")]
    model: Option<String>,
    /// Also writes every report to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const HEAD: [&str; 9] =
    ["model", "backend", "error", "× floor", "KL", "top-1", "cuts", "native/composed/host", "verdict"];

/// The package that links the backends.
const RUNNER: &str = "consort-runner";

/// `cargo xtask compare`.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let mut file = match &arguments.json {
        Some(path) => Some(File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    if let Some(features) = &arguments.features {
        let known = Metadata::read()?.features(RUNNER)?;
        if let Some(unknown) = features.split(',').find(|name| !known.iter().any(|known| known == name)) {
            eprintln!("error: there is no backend feature '{unknown}' (there are: {})", known.join(", "));
            return Ok(Outcome::WrongUsage);
        }
    }
    let Some(runner) = build(arguments.features.as_deref())? else { return Ok(Outcome::Failed) };
    let mut command = Command::new(&runner);
    if arguments.goldens.is_empty() {
        command.arg("--golden").arg(workspace::root().join("tests/golden"));
    }
    for folder in &arguments.goldens {
        command.arg("--golden").arg(folder);
    }
    if let Some(backends) = &arguments.backends {
        command.args(["--backend", backends]);
    }
    if let Some(model) = &arguments.model {
        command.args(["--model", model]);
    }

    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", runner.display()))?;
    let lines = child.stdout.take().context("the runner has no standard output")?;
    let mut found = Found::default();
    for line in BufReader::new(lines).lines() {
        let line = line.context("the runner's output")?;
        if let Some(file) = &mut file {
            writeln!(file, "{line}").context("--json")?;
        }
        found.take(&serde_json::from_str(&line).with_context(|| format!("the runner's line {line:?}"))?);
        found.progress();
    }
    let status = child.wait().context("the runner")?;
    if status.code() == Some(2) {
        // The runner has said what is wrong.
        return Ok(Outcome::WrongUsage);
    }
    found.show();
    match status.code() {
        Some(0) if found.disagree == 0 && found.agree > 0 => Ok(Outcome::Done),
        Some(0 | 1) => Ok(Outcome::Failed),
        _ => bail!("the runner ended with {status}: what it was comparing then is missing above"),
    }
}

/// The runner's executable; `None` when it does not compile, which cargo has said.
fn build(features: Option<&str>) -> Result<Option<PathBuf>> {
    // The profile of tests is optimised, and shares what `cargo test --workspace` has built.
    let mut command = cargo(&["build", "--quiet", "--package", RUNNER, "--profile", "test"]);
    command.arg("--message-format=json-render-diagnostics");
    match features {
        Some(features) => command.args(["--no-default-features", "--features", features]),
        None => command.arg("--all-features"),
    };
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        return Ok(None);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == RUNNER)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.with_context(|| format!("`{}` named no executable", shown(&command))).map(Some)
}

/// What the runner has said so far.
#[derive(Default)]
struct Found {
    planned: usize,
    agree: usize,
    disagree: usize,
    rows: Vec<Vec<String>>,
    /// Under the table, one paragraph for each disagreement.
    failures: Vec<Vec<String>>,
    skipped: BTreeMap<String, String>,
    models: usize,
}

impl Found {
    fn take(&mut self, line: &Value) {
        let backend = text(&line["backend"]);
        match line["event"].as_str() {
            Some("plan") => {
                let count = |list: &Value| list.as_array().map_or(0, Vec::len);
                self.models = count(&line["models"]);
                self.planned = self.models * count(&line["backends"]);
            }
            Some("skipped") => {
                self.planned -= self.models.min(self.planned);
                self.skipped.insert(backend, text(&line["reason"]));
            }
            Some("report") => {
                let report = &line["report"];
                let agrees = line["agrees"] == true;
                self.rows.push(row(&backend, report, agrees));
                let failures = line["failures"].as_array().map(|all| all.iter().map(text).collect());
                self.judge(agrees, &text(&report["model"]), &backend, line, failures.unwrap_or_default());
            }
            Some("error") => {
                let model = text(&line["model"]);
                let mut row = vec!["-".to_owned(); HEAD.len()];
                row[..2].clone_from_slice(&[model.clone(), backend.clone()]);
                row[HEAD.len() - 1] = "ERROR".to_owned();
                self.rows.push(row);
                self.judge(false, &model, &backend, line, vec![text(&line["error"])]);
            }
            _ => {}
        }
    }

    fn judge(&mut self, agrees: bool, model: &str, backend: &str, line: &Value, failures: Vec<String>) {
        if agrees {
            self.agree += 1;
            return;
        }
        self.disagree += 1;
        let mut paragraph = vec![format!("{model} on {backend}:")];
        paragraph.extend(failures.iter().map(|failure| format!("  {failure}")));
        paragraph
            .push(format!("  again: cargo xtask compare --golden {} --backend {backend}", text(&line["directory"])));
        self.failures.push(paragraph);
    }

    /// On a terminal only: in a log it would be noise.
    fn progress(&self) {
        let mut terminal = std::io::stderr();
        if terminal.is_terminal() {
            let done = self.agree + self.disagree;
            // A line that cannot be written is no reason to stop comparing.
            let _ = write!(terminal, "\r\x1b[K");
            if done < self.planned {
                let _ = write!(terminal, "{done} of {} compared", self.planned);
            }
            let _ = terminal.flush();
        }
    }

    fn show(&self) {
        for line in table::lines(&HEAD, &self.rows, 2) {
            println!("{line}");
        }
        for paragraph in &self.failures {
            println!("\n{}", paragraph.join("\n"));
        }
        for (backend, reason) in &self.skipped {
            println!("\n{backend} was SKIPPED: {reason}");
        }
        let compared = self.agree + self.disagree;
        println!(
            "\n{compared} compared, {} agree, {} disagree, {} backends skipped",
            self.agree,
            self.disagree,
            self.skipped.len()
        );
    }
}

fn row(backend: &str, report: &Value, agrees: bool) -> Vec<String> {
    let cuts = report["cuts"].as_array().map_or(&[][..], Vec::as_slice);
    let same = cuts.iter().filter(|cut| cut["differs"].is_null()).count();
    let top = &report["top_choice"];
    let operations = || report["operations"].as_object().into_iter().flat_map(|operations| operations.values());
    let level = |name: &str| operations().filter_map(|levels| levels[name].as_u64()).sum::<u64>();
    vec![
        text(&report["model"]),
        backend.to_owned(),
        number(&report["output"]["error"], |error| format!("{error:.1e}")),
        number(&report["times_floor"], |times| format!("{times:.1}")),
        number(&report["divergence"]["max"], |nats| format!("{nats:.1e}")),
        if top.is_null() { "-".to_owned() } else { format!("{}/{}", text(&top["agreed"]), text(&top["clear"])) },
        format!("{same}/{}", cuts.len()),
        format!("{}/{}/{}", level("native"), level("composed"), level("host")),
        if agrees { "agrees" } else { "DISAGREES" }.to_owned(),
    ]
}

/// A number in its format; `NaN` and `inf` come as text, what does not apply as null.
fn number(value: &Value, format: impl Fn(f64) -> String) -> String {
    match value {
        Value::Null => "-".to_owned(),
        value => value.as_f64().map_or_else(|| text(value), format),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_becomes_a_row_and_what_is_wrong_a_paragraph() {
        let mut found = Found::default();
        found.take(&json!({"event": "plan", "models": ["a", "b"], "backends": ["x", "y"]}));
        found.take(&json!({"event": "skipped", "backend": "y", "reason": "no adapter"}));
        found.take(&json!({
            "event": "report", "backend": "x", "directory": "/g/a", "agrees": false, "failures": ["NaN"],
            "report": {
                "model": "a", "output": {"error": "NaN"}, "times_floor": 2.25, "divergence": null, "top_choice": null,
                "cuts": [{"way": "w", "differs": null}, {"way": "v", "differs": {"index": 1}}],
                "operations": {"copy": {"native": 2, "composed": 0, "host": 1}, "fill": {"native": 1}},
            },
        }));
        found.take(&json!({"event": "error", "backend": "x", "model": "b", "directory": "/g/b", "error": "gone"}));
        assert_eq!(found.rows[0], ["a", "x", "NaN", "2.2", "-", "-", "1/2", "3/0/1", "DISAGREES"]);
        assert_eq!(found.rows[1].last().map(String::as_str), Some("ERROR"));
        assert_eq!((found.planned, found.agree, found.disagree, found.skipped.len()), (2, 0, 2, 1));
        assert_eq!(found.failures[0], ["a on x:", "  NaN", "  again: cargo xtask compare --golden /g/a --backend x"]);
    }
}
