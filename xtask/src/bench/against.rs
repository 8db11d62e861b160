//! Ours and theirs in turn: A B A B. Each program warms up, waits for a quiet machine and repeats what others disturbed; a
//! round's ratio is of two rates minutes apart, and the median of the rounds counts.

use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    Arguments, build, date, document,
    job::{Job, Places},
    machine,
    results::{Measured, Results},
    rows::{Group, Row, TABLE},
};
use crate::{Outcome, workspace};

/// `cargo xtask bench --against DIR`.
pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some(scripts) = &arguments.against else { bail!("--against DIR") };
    if !scripts.is_dir() {
        eprintln!("error: --against {}: no such folder", scripts.display());
        return Ok(Outcome::WrongUsage);
    }
    let wanted = |row: &Row| {
        arguments.rows.is_empty() || arguments.rows.iter().any(|prefix| row.name.starts_with(prefix.as_str()))
    };
    if !TABLE.iter().flat_map(|group| group.rows).any(wanted) {
        eprintln!("error: no row begins with {}: `cargo xtask bench --list`", arguments.rows.join(" or "));
        return Ok(Outcome::WrongUsage);
    }
    let Some(built) = build(&arguments.features)? else { return Ok(Outcome::Failed) };
    let places = Places::new(arguments, scripts, built)?;
    let mut results = Results::read()?;
    let mut measured_all = true;
    for group in TABLE {
        let rows: Vec<&Row> = group.rows.iter().filter(|row| wanted(row)).collect();
        if rows.is_empty() {
            continue;
        }
        eprintln!("\n{}", rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", "));
        let rounds = measure(&places, group, arguments.rounds);
        for row in rows {
            let measured = of_row(row, &rounds);
            say(row, &measured);
            measured_all &= !measured.rounds.is_empty();
            // Short runs show that everything runs, and are no results.
            if !arguments.quick {
                results.keep(row.name, measured)?;
            }
        }
    }
    if !arguments.quick {
        document::write(arguments)?;
    }
    Ok(if measured_all { Outcome::Done } else { Outcome::Failed })
}

/// What the programs printed, round by round, and what went wrong.
#[derive(Default)]
struct Rounds {
    rounds: Vec<(Vec<Value>, Vec<Value>)>,
    missing: Vec<String>,
}

fn measure(places: &Places<'_>, group: &Group, rounds: u32) -> Rounds {
    let mut found = Rounds::default();
    // What cannot run once is not tried again.
    let mut broken = Vec::new();
    for _ in 0..rounds {
        let mut lines = |jobs: &'static [Job]| {
            let mut lines = Vec::new();
            for job in jobs {
                let key = format!("{job:?}");
                if broken.contains(&key) {
                    continue;
                }
                match places.run(job) {
                    Ok(more) => lines.extend(more),
                    Err(error) => {
                        eprintln!("  MISSING: {error:#}");
                        found.missing.push(format!("{error:#}"));
                        broken.push(key);
                    }
                }
            }
            lines
        };
        let theirs = lines(group.peers);
        let ours = lines(group.ours);
        found.rounds.push((ours, theirs));
    }
    found
}

/// The lines of a row, of rounds in which ours was measured.
fn of_row(row: &Row, rounds: &Rounds) -> Measured {
    let is = |line: &Value, cases: &[&str]| {
        // Scripts that measure at one thread and at two are compared at two.
        let threads = line["threads"].as_u64().is_none_or(|threads| threads == 2);
        threads && line["case"].as_str().is_some_and(|case| cases.contains(&case))
    };
    let of_round = |(ours, theirs): &(Vec<Value>, Vec<Value>)| {
        let ours = ours.iter().find(|line| is(line, &[row.case]))?.clone();
        Some((ours, theirs.iter().filter(|line| is(line, row.theirs)).cloned().collect::<Vec<Value>>()))
    };
    Measured {
        date: date::today(),
        commit: commit(),
        processor: machine::processor(),
        rounds: rounds.rounds.iter().filter_map(of_round).collect(),
        missing: rounds.missing.clone(),
    }
}

fn say(row: &Row, measured: &Measured) {
    if measured.rounds.is_empty() {
        eprintln!("  {}: NOT MEASURED: {}", row.name, measured.missing.join("; "));
        return;
    }
    for (bar, reached) in measured.against(row) {
        let verdict = match reached {
            Some((reached, true)) => format!("{reached}, as asked"),
            Some((reached, false)) => format!("{reached}, SHORT"),
            None => "NOT MEASURED".to_owned(),
        };
        let noise = if measured.clean() { "" } else { " (the machine was not quiet)" };
        eprintln!("  {}: {}: {verdict}{noise}", row.name, bar.text());
    }
}

/// The commit that is measured, and whether something was changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(workspace::root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changed| !changed.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_the_lines_of_its_cases() {
        let row = Row { name: "r", title: "t", case: "a", theirs: &["b", "c"], asked: &[] };
        let line = |case: &str, threads: Option<u32>| json!({ "case": case, "threads": threads, "median": 1.0 });
        let rounds = Rounds {
            rounds: vec![
                (
                    vec![line("x", None), line("a", Some(2))],
                    vec![line("b", Some(1)), line("b", Some(2)), line("c", None)],
                ),
                // Ours failed.
                (vec![], vec![line("b", Some(2))]),
                (vec![line("a", None)], vec![line("a", Some(2))]),
            ],
            missing: vec!["it was not there".to_owned()],
        };
        let measured = of_row(&row, &rounds);
        let counts: Vec<usize> = measured.rounds.iter().map(|(_, theirs)| theirs.len()).collect();
        assert_eq!(counts, [2, 0]);
        assert_eq!(measured.missing, ["it was not there"]);
    }
}
