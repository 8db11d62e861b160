//! Holds docs/adding-a-backend.md to what it says, and runs the backend of each of its steps.
//!
//! - Every fenced block that names a file (` ```rust src/unary.rs `) stands in that file, word for word.
//! - Every `cargo xtask compare` of a step prints the lines that follow it, run on that step's backend: operations with how
//!   they ran and how many cases passed; times, budgets and lines that are left out (`…`) aside.
//! - Its figures are counted.
//!
//! `cargo test --test steps` checks. With `CONSORT_STEPS=write` it puts in the lines as they are printed now; with
//! `CONSORT_STEPS=compare`, its arguments are those of `cargo xtask compare` and the backends are step1 to step8.

#![allow(dead_code, reason = "each step uses its own part of what they share")]
#![allow(clippy::duplicate_mod, unreachable_pub, reason = "each step is a crate's root, with modules of its own")]

#[path = "../src/step1.rs"]
mod step1;
#[path = "../src/step2.rs"]
mod step2;
#[path = "../src/step3.rs"]
mod step3;
#[path = "../src/step4.rs"]
mod step4;
#[path = "../src/step5.rs"]
mod step5;
#[path = "../src/step6.rs"]
mod step6;
#[path = "../src/step7.rs"]
mod step7;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use consort_conformance::{
    oracle::Single,
    suite::{self, Candidate},
};
use consort_core::{Backend, DType, FusedOf, HostData, Nothing, Outputs, PrimitiveOf, Ready, Result as Answer, Spec};

const DOC: &str = "docs/adding-a-backend.md";
const MODE: &str = "CONSORT_STEPS";
/// What stands where lines are left out.
const LEFT_OUT: &str = "…";

fn main() -> ExitCode {
    match env::var(MODE).as_deref() {
        Ok("compare") => suite::run(candidates(), env::args_os()),
        Ok("write") => told(check(true)),
        Ok(other) => told(Err(vec![format!("{MODE} is '{other}', expected write or compare")])),
        Err(_) => told(check(false)),
    }
}

fn candidates() -> Vec<Candidate> {
    vec![
        plain!(step1),
        plain!(step2),
        plain!(step3),
        plain!(step4),
        plain!(step5),
        Candidate::new("step6", || Ok(step6::Vector::new())),
        Candidate::new("step7", || Ok(step7::Vector::new())),
        Candidate::new("step8", || Ok(consort_vector::Vector::new())),
    ]
}

/// The backend of a step that keeps weights and caches as plain tensors. These steps have the same types, so that the suite
/// need be compiled once only for all of them.
struct Plain {
    primitive: RunPrimitive,
    fused: RunFused,
}

type RunPrimitive = fn(&mut PrimitiveOf<Plain>, &Spec) -> Answer<Arc<HostData>>;
type RunFused = fn(&mut FusedOf<Plain>, &[Spec]) -> Answer<Outputs<Arc<HostData>>>;

macro_rules! plain {
    ($step:ident) => {
        Candidate::new(stringify!($step), || {
            Ok(Plain {
                primitive: |operation, out| $step::Vector::new().primitive(operation, out),
                fused: |operation, out| $step::Vector::new().fused(operation, out),
            })
        })
    };
}
use plain;

impl Backend for Plain {
    type Buffer = Arc<HostData>;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Answer<Arc<HostData>> {
        step1::Vector::new().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Answer<Arc<HostData>> {
        step1::Vector::new().upload(data)
    }

    fn download(&self, buffer: &Arc<HostData>) -> Answer<Ready> {
        step1::Vector::new().download(buffer)
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Answer<Arc<HostData>> {
        (self.primitive)(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Answer<Outputs<Arc<HostData>>> {
        (self.fused)(operation, out)
    }
}

fn told(result: Result<String, Vec<String>>) -> ExitCode {
    match result {
        Ok(what) => {
            println!("{DOC}: {what}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            wrong.iter().for_each(|line| eprintln!("{line}"));
            ExitCode::FAILURE
        }
    }
}

/// A fenced block.
struct Block {
    /// Line of the text that its fence is on, from 1.
    line: usize,
    /// Number of the step that it belongs to.
    step: usize,
    /// Language, and the file it is from.
    info: String,
    lines: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String, Vec<String>> {
    fs::read_to_string(root().join(path)).map_err(|error| vec![format!("{path}: {error}")])
}

fn check(write: bool) -> Result<String, Vec<String>> {
    let mut text: Vec<String> = read(DOC)?.lines().map(str::to_owned).collect();
    let blocks = blocks(&text);
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    let (mut quoted, mut commands) = (0, 0);
    for block in &blocks {
        if let Some((_, path)) = block.info.split_once(' ') {
            named.insert(path.to_owned());
            quoted += 1;
            if !read(path)?.contains(&block.lines.join("\n")) {
                wrong.push(format!("{DOC}:{}: this does not stand in {path}", block.line));
            }
        }
    }
    for pair in blocks.windows(2) {
        let [asked, printed] = pair else { continue };
        let command = asked.lines.iter().find_map(|line| line.strip_prefix("cargo xtask compare --backend vector "));
        let (Some(arguments), "text") = (command, printed.info.as_str()) else { continue };
        commands += 1;
        let actual = compare(asked.step, arguments)?;
        match pick(&printed.lines, &actual) {
            Ok(lines) if write => {
                for (at, line) in lines.into_iter().enumerate() {
                    text[printed.line + at] = line;
                }
            }
            Ok(lines) => {
                for (at, (said, now)) in printed.lines.iter().zip(&lines).enumerate() {
                    if in_kind(said) != in_kind(now) {
                        let place = printed.line + at + 1;
                        wrong.push(format!("{DOC}:{place}: step {} prints\n  {now}\nnot\n  {said}", asked.step));
                    }
                }
            }
            Err(missing) => wrong.push(format!("{DOC}:{}: step {} prints no {missing}", printed.line, asked.step)),
        }
    }
    wrong.extend(figures(&text.join("\n"))?);
    wrong.extend(whole_files(&named)?);
    if commands < candidates().len() {
        wrong.push(format!("{DOC}: {commands} commands with what they print, expected one for each step at least"));
    }
    if !wrong.is_empty() {
        wrong.push(format!("{DOC} can be brought up to date: {MODE}=write cargo test --test steps"));
        return Err(wrong);
    }
    if write {
        fs::write(root().join(DOC), text.join("\n") + "\n").map_err(|error| vec![format!("{DOC}: {error}")])?;
    }
    Ok(format!("{quoted} quotations and what {commands} commands print hold"))
}

fn blocks(text: &[String]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut step = 0;
    let mut open = false;
    for (index, line) in text.iter().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                blocks.push(Block { line: index + 1, step, info: info.to_owned(), lines: Vec::new() });
            }
            None if open => blocks.last_mut().expect("a block is open").lines.push(line.clone()),
            None => {
                if let Some(heading) = line.strip_prefix("## Step ") {
                    step = heading.split(':').next().and_then(|number| number.parse().ok()).unwrap_or(0);
                }
            }
        }
    }
    blocks
}

/// What `cargo xtask compare` with these arguments prints for the backend of a step.
fn compare(step: usize, arguments: &str) -> Result<Vec<String>, Vec<String>> {
    let fail = |error: String| vec![format!("step {step}, {arguments}: {error}")];
    let mut command = Command::new(env::current_exe().map_err(|error| fail(error.to_string()))?);
    command.env(MODE, "compare").args(["--backend", &format!("step{step}")]).args(arguments.split_whitespace());
    let output = command.current_dir(root()).output().map_err(|error| fail(error.to_string()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if printed.is_empty() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(printed.replace(&format!("step{step}"), "vector").lines().map(str::to_owned).collect())
}

/// For each line that is quoted, the line of `actual` that it quotes: the one that begins alike.
fn pick(quoted: &[String], actual: &[String]) -> Result<Vec<String>, String> {
    let find = |line: &String| {
        if line == LEFT_OUT {
            return Ok(line.clone());
        }
        let name = key(line);
        actual.iter().find(|actual| key(actual) == name).cloned().ok_or(format!("line '{name}'"))
    };
    quoted.iter().map(find).collect()
}

/// What a line is about: an operation with its direction, or what a line of totals counts.
fn key(line: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let first = words.next().unwrap_or_default();
    match words.next() {
        Some("backward") => format!("{first} backward"),
        _ => first.to_owned(),
    }
}

/// The line without what depends on the machine: times and budgets, which have a fraction, and white space.
fn in_kind(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let measured = word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        let unit = matches!(word, "s" | "ms") && words.last().is_some_and(|last| last == "#");
        match (measured, unit) {
            (true, _) => words.push("#".to_owned()),
            (_, true) => {}
            _ => words.push(word.to_owned()),
        }
    }
    words
}

/// The figures that the text states, counted.
fn figures(text: &str) -> Result<Vec<String>, Vec<String>> {
    let lines = |path: &str| Ok::<_, Vec<String>>(read(path)?.lines().count());
    let template = lines("backends/consort-template/src/lib.rs")?;
    let product = ["memory", "matmul"].map(|file| lines(&format!("tests/outside/src/{file}.rs")));
    let [memory, matmul] = product;
    let dispatch = lines("tests/outside/src/step3.rs")? - template;
    let mut wrong = Vec::new();
    for figure in [format!("**{template} lines**"), format!("**{} lines**", memory? + matmul? + dispatch)] {
        if !text.contains(&figure) {
            wrong.push(format!("{DOC}: does not say {figure}, which is what is counted"));
        }
    }
    // What `cargo xtask new-backend vector` makes is step 1, but for where its host is from, and so the order of imports.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let made = read("backends/consort-template/src/lib.rs")?.replace("Template", "Vector");
    let made = made.replace("consort_scalar", "consort_conformance::oracle");
    if sorted(&made) != sorted(&read("tests/outside/src/step1.rs")?) {
        wrong.push("tests/outside/src/step1.rs is not what `cargo xtask new-backend vector` makes".to_owned());
    }
    Ok(wrong)
}

/// Files of the backend that the text never quotes.
fn whole_files(named: &BTreeSet<String>) -> Result<Vec<String>, Vec<String>> {
    let folder = root().join("tests/outside/src");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| vec![error.to_string()])? {
        let name = entry.map_err(|error| vec![error.to_string()])?.file_name().to_string_lossy().into_owned();
        let path = format!("tests/outside/src/{name}");
        if !named.contains(&path) && !["step1.rs", "lib.rs"].contains(&name.as_str()) {
            wrong.push(format!("{DOC}: quotes nothing of {path}"));
        }
    }
    Ok(wrong)
}
