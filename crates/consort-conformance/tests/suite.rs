//! The suite on a backend that aborts on one case, sleeps forever on one, is wrong on one, beside one that does not work here:
//! its report names exactly these, and everything else passes.
//!
//! This executable is started again with [`ROLE`] set: as the runner that people use, as a backend's own tests, and as the
//! processes that backends run in.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, ExitCode, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use consort_conformance::{
    oracle::Single,
    problem::{Elements, Problem},
    recipe::Recipe,
    suite::{self, Candidate},
    sweep::{Depth, recipes},
};
use consort_core::{
    Backend, Device, Fused, FusedOf, HostData, Nothing, Outputs, PrimitiveOf, Ready, Result, Spec, TensorOf,
};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// What this executable is to be: `runner`, `tests` or `known`.
const ROLE: &str = "CONSORT_SUITE_ROLE";

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("runner") => return suite::run(candidates(), std::env::args_os()),
        Ok("tests") => return Candidate::new("broken", || Ok(Broken(Device::new(Single::new())))).main(),
        Ok("known") => {
            return Candidate::new("broken", || Ok(Broken(Device::new(Single::new()))))
                .expect_failure("activation", "its author knows")
                .expect_failure("softmax", "its author is wrong")
                .main();
        }
        Ok("absent") => return Candidate::new("absent", || Err::<Single, _>("no such device".to_owned())).main(),
        _ => {}
    }
    let trials = vec![
        Trial::test("exactly_the_faults_are_named", exactly_the_faults),
        Trial::test("a_failure_replays", replays),
        Trial::test("nothing_to_run_is_a_failure", nothing),
        Trial::test("threads_need_the_same_bits", threads),
        Trial::test("denied_fallback_is_a_failure", denied),
        #[cfg(target_os = "linux")]
        Trial::test("ctrl_c_ends_with_a_report", interrupted),
        Trial::test("tests_of_a_backend", tests),
        Trial::test("tests_of_a_backend_that_is_absent", absent),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Right but for one case each of three operations.
struct Broken(Device<Single>);

/// The case of an operation that something is wrong with.
fn victim(op: &str) -> &'static Recipe {
    victims().iter().find(|recipe| recipe.op == op).expect("one for each")
}

/// Its first element.
fn mark(op: &str) -> f32 {
    static MARKS: OnceLock<Vec<f32>> = OnceLock::new();
    let marks =
        MARKS.get_or_init(|| victims().iter().map(|recipe| first(&recipe.problem().expect("a problem"))).collect());
    let at = victims().iter().position(|recipe| recipe.op == op).expect("one for each");
    marks[at]
}

/// One plain case of each of three operations.
fn victims() -> &'static [Recipe] {
    static VICTIMS: OnceLock<Vec<Recipe>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        let recipes = recipes(Depth::Quick);
        ["soft_cap", "gated", "activation"]
            .into_iter()
            .map(|op| {
                let all: Vec<(&Recipe, f32)> = recipes
                    .iter()
                    .filter(|recipe| recipe.op == op)
                    .map(|recipe| (recipe, recipe.problem().map_or(0.0, |problem| first(&problem))))
                    .collect();
                // Others may begin with the same numbers: gradients, and operations that it is a part of.
                let with_it =
                    |recipe: &&Recipe| recipe.op == op || (op == "activation" && recipe.op.starts_with("gated"));
                let firsts: Vec<f32> =
                    recipes.iter().filter(with_it).filter_map(|recipe| Some(first(&recipe.problem().ok()?))).collect();
                let once = |value: f32| firsts.iter().filter(|other| **other == value).count() == 1;
                let plain = |(recipe, value): &&(&Recipe, f32)| !recipe.backward && value.abs() > 0.01 && once(*value);
                all.iter().find(plain).expect("a plain case").0.clone()
            })
            .collect()
    })
}

fn first(problem: &Problem) -> f32 {
    match problem.operands.first().map(|(_, operand)| (&operand.elements, operand.layout.offset())) {
        Some((Elements::Float(values), at)) => values.get(at).map_or(0.0, |value| *value as f32),
        _ => 0.0,
    }
}

impl Broken {
    fn meets(&self, x: &TensorOf<Single>, op: &str) -> Result<bool> {
        let HostData::F32(data) = self.0.download(x)? else { return Ok(false) };
        Ok(data.first().is_some_and(|first| first.to_bits() == mark(op).to_bits()))
    }
}

impl Backend for Broken {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: consort_core::DType, elements: usize) -> Result<Self::Buffer> {
        self.0.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.0.backend().upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        self.0.backend().download(buffer)
    }

    fn name(&self) -> &'static str {
        "broken"
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        self.0.backend().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        match operation {
            Fused::SoftCap { x, .. } if self.meets(x, "soft_cap")? => std::process::abort(),
            Fused::Gated { gate, .. } if self.meets(gate, "gated")? => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            Fused::Activation { x, .. } if self.meets(x, "activation")? => {
                let wrong = self.0.scale(x.clone(), 1.5)?;
                Ok(Outputs::from_iter([self.0.contiguous(&wrong)?.buffer]))
            }
            _ => Err(consort_core::unsupported(self, operation.name())),
        }
    }
}

fn candidates() -> Vec<Candidate> {
    vec![
        Candidate::new("broken", || Ok(Broken(Device::new(Single::new())))),
        Candidate::new("absent", || Err::<Single, _>("no such device".to_owned())),
        Candidate::with_threads("uneven", |threads| Ok(Uneven(Device::new(Single::new()), threads.unwrap_or(1)))),
    ]
}

/// Softmax has other bits with more than one thread.
struct Uneven(Device<Single>, usize);

impl Backend for Uneven {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: consort_core::DType, elements: usize) -> Result<Self::Buffer> {
        self.0.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.0.backend().upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        self.0.backend().download(buffer)
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        match operation {
            consort_core::Primitive::MatMul { .. } => Err(consort_core::unsupported(self, operation.name())),
            _ => self.0.backend().primitive(operation, out),
        }
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        match operation {
            Fused::Softmax { x } if self.1 > 1 => {
                // As accurate, in another order.
                let exponentials = self.0.unary(x.clone(), consort_core::operation::UnaryKind::Exp)?;
                let last = exponentials.shape().rank() - 1;
                let sum = self.0.reduce(&exponentials, last, consort_core::operation::ReduceKind::Sum)?;
                Ok(Outputs::from_iter([self.0.divide(exponentials, sum)?.buffer]))
            }
            _ => Err(consort_core::unsupported(self, operation.name())),
        }
    }
}

/// Starts this executable again.
fn start(role: &str, arguments: &[&str]) -> Result<Output, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.env(ROLE, role).args(arguments).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self, Failed> {
        let path = std::env::temp_dir().join(format!("consort-suite-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(right: bool, what: impl Into<String>) -> Result<(), Failed> {
    if right { Ok(()) } else { Err(what.into().into()) }
}

fn exactly_the_faults() -> Result<(), Failed> {
    let scratch = Scratch::new("faults")?;
    let (json, html) = (scratch.file("report.json"), scratch.file("report.html"));
    let ops = "soft_cap,gated,activation,softmax";
    let arguments =
        ["--quick", "--backend", "broken,absent", "--ops", ops, "--limit", "3", "--json", &json, "--html", &html];
    let output = start("runner", &arguments)?;
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    check(output.status.code() == Some(1), format!("{:?}: {printed}{errors}", output.status))?;
    check(errors.is_empty(), format!("not quiet: {errors}"))?;

    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let cases = report["cases"].as_array().ok_or("no cases")?;
    let mut found = BTreeSet::new();
    for case in cases.iter().filter(|case| case["outcome"] != "passed") {
        let check = case["findings"][0]["check"].as_str().unwrap_or_default().to_owned();
        found.insert((case["case"].to_string(), check));
    }
    let mut expected = BTreeSet::new();
    for (recipe, check) in victims().iter().zip(["CRASHED", "TIMED OUT", "values"]) {
        expected.insert((serde_json::to_value(recipe)?.to_string(), check.to_owned()));
    }
    check(found == expected, format!("found {found:#?}\nexpected {expected:#?}"))?;
    check(cases.len() > 100, format!("{} cases", cases.len()))?;
    check(report["totals"]["unavailable"] == 1, "the absent backend is not counted")?;

    let page = std::fs::read_to_string(&html)?;
    for shown in [&printed, &page] {
        for word in ["CRASHED", "signal 6", "TIMED OUT", "values", "no such device", "soft_cap", "gated", "activation"]
        {
            check(shown.contains(word), format!("no {word:?} in\n{shown}"))?;
        }
    }
    check(printed.contains("absent was SKIPPED: no such device"), printed.clone())?;
    check(
        !page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count(),
        "the page loads something",
    )?;
    let embedded = page
        .split(r#"<script id="data" type="application/json">"#)
        .nth(1)
        .and_then(|rest| rest.split("</script>").next());
    let embedded: Value = serde_json::from_str(embedded.ok_or("no data in the page")?)?;
    check(embedded["totals"] == report["totals"], "the page has other totals")
}

/// The command that a failure prints does exactly that case again.
fn replays() -> Result<(), Failed> {
    let recipe = victim("activation");
    let output = start("runner", &["--quick", "--backend", "broken", "--ops", "activation"])?;
    let printed = text(&output.stdout);
    let again = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("again: cargo xtask compare "))
        .ok_or(printed.clone())?;
    let words = shell(again)?;
    check(words.last().is_some_and(|last| *last == recipe.to_string()), format!("{words:?} of {recipe}"))?;
    let output = start("runner", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let printed = text(&output.stdout);
    check(output.status.code() == Some(1), printed.clone())?;
    check(printed.contains("0 cases passed, 1 failed"), printed)
}

/// Words as a shell splits them.
fn shell(line: &str) -> Result<Vec<String>, Failed> {
    let output = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {line}")).output()?;
    Ok(text(&output.stdout).lines().map(str::to_owned).collect())
}

fn nothing() -> Result<(), Failed> {
    let output = start("runner", &["--backend", "absent", "--quick", "--ops", "softmax"])?;
    let printed = text(&output.stdout);
    check(output.status.code() == Some(1), printed.clone())?;
    check(printed.contains("nothing was compared"), printed)?;
    for (arguments, said) in [
        (["--backend", "brokn"], "nearest is 'broken'"),
        (["--ops", "sofmax"], "nearest is 'softmax'"),
        (["--cases", "/nowhere"], "/nowhere"),
    ] {
        let output = start("runner", &arguments)?;
        let errors = text(&output.stderr);
        check(output.status.code() == Some(2) && errors.contains(said) && errors.lines().count() == 1, errors)?;
    }
    Ok(())
}

fn threads() -> Result<(), Failed> {
    let arguments = ["--quick", "--backend", "uneven", "--ops", "softmax,soft_cap", "--threads", "1,2"];
    let output = start("runner", &arguments)?;
    let printed = text(&output.stdout);
    check(output.status.code() == Some(1), printed.clone())?;
    check(printed.contains("threads: other bits with 2 threads than with 1"), printed.clone())?;
    check(printed.contains("--threads 1,2 --case"), printed.clone())?;
    check(!printed.contains("FAILED soft_cap"), printed)
}

fn denied() -> Result<(), Failed> {
    let arguments = ["--quick", "--backend", "uneven", "--ops", "matmul,binary", "--fallback"];
    let output = start("runner", &[&arguments[..], &["deny"]].concat())?;
    let printed = text(&output.stdout);
    check(output.status.code() == Some(1), printed.clone())?;
    check(printed.contains("FAILED matmul on uneven: policy") && !printed.contains("FAILED binary"), printed)?;
    let output = start("runner", &[&arguments[..], &["warn"]].concat())?;
    let printed = text(&output.stdout);
    check(output.status.code() == Some(0), printed.clone())?;
    check(printed.contains("uneven fell back to the host for matmul"), printed)
}

/// Ctrl-C while a case hangs: the report of what was done until then, and no process is left.
#[cfg(target_os = "linux")]
fn interrupted() -> Result<(), Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, "runner").args(["--quick", "--backend", "broken", "--ops", "gated,softmax", "--limit", "600"]);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Long enough to come to the case that hangs.
    std::thread::sleep(Duration::from_secs(4));
    let children = children(process.id())?;
    check(!children.is_empty(), "no process for the backend")?;
    Command::new("sh").args(["-c", &format!("kill -INT {}", process.id())]).status()?;
    let asked = Instant::now();
    let output = process.wait_with_output()?;
    let printed = text(&output.stdout);
    check(asked.elapsed() < Duration::from_secs(10), "it goes on")?;
    check(output.status.code() == Some(1) && printed.contains("INTERRUPTED"), printed.clone())?;
    check(printed.contains("softmax"), printed)?;
    let left: Vec<&PathBuf> = children.iter().filter(|process| process.exists()).collect();
    check(left.is_empty(), format!("left behind: {left:?}"))
}

/// Folders in /proc of the processes that a process has started.
#[cfg(target_os = "linux")]
fn children(of: u32) -> Result<Vec<PathBuf>, Failed> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // "pid (name) state parent": the name may have anything in it.
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(of) {
            found.push(path);
        }
    }
    Ok(found)
}

/// `main` of a backend's own tests, as cargo and nextest call it.
fn tests() -> Result<(), Failed> {
    let output = start("tests", &["--list", "--format", "terse"])?;
    let listed = text(&output.stdout);
    for name in ["softmax::forward: test", "softmax::backward: test", "fill::forward: test"] {
        check(listed.lines().any(|line| line == name), listed.clone())?;
    }
    let output = start("tests", &["--exact", "softmax::forward", "--nocapture"])?;
    check(output.status.success(), text(&output.stdout))?;
    let output = start("tests", &["activation::forward"])?;
    let printed = text(&output.stdout);
    check(!output.status.success() && printed.contains("1 failed"), printed.clone())?;
    check(printed.contains("--case '{\"op\":\"activation\""), printed)?;

    let output = start("known", &["activation::forward"])?;
    check(output.status.success(), text(&output.stdout))?;
    let output = start("known", &["softmax::forward"])?;
    let printed = text(&output.stdout);
    check(!output.status.success() && printed.contains("was expected to fail and passed"), printed)
}

fn absent() -> Result<(), Failed> {
    let start_of = Instant::now();
    let output = start("absent", &[])?;
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    check(output.status.success() && printed.contains("0 passed") && !printed.contains("0 ignored"), printed)?;
    check(errors.contains("no such device"), errors)?;
    check(start_of.elapsed() < Duration::from_secs(60), "it takes its time")
}
