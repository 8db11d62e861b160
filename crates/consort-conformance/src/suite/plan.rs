//! What is to be run: columns of backends, and jobs in order.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use consort_core::WeightDType;
use serde_json::{Value, json};

use super::{
    arguments::{Arguments, Asked, chosen, operations},
    candidate::Candidate,
    child::{self, ModelRequest},
    work::{Job, Settings, Work},
};
use crate::{
    case_file::{self, CaseFile},
    golden::{Golden, goldens},
    models, ops,
    problem::Problem,
    report::{Direction, Source, place},
    sweep::{self, Depth},
};

/// Draws for each operation and direction.
const DRAWS: u32 = 48;
/// The same where it has to be quick.
const QUICK_DRAWS: u32 = 4;

/// Goldens that are run where it has to be quick: one of each shape of transformer.
const QUICK_MODELS: [&str; 3] = ["llama", "bert", "t5"];

/// Columns and jobs.
pub(crate) struct Plan {
    pub(crate) columns: Vec<Planned>,
    pub(crate) jobs: Vec<Job>,
    /// Whether every case of each operation that has any is among them, so that an expected failure would be.
    pub(crate) whole: bool,
}

/// A backend as it will be run.
pub(crate) struct Planned {
    pub(crate) candidate: usize,
    pub(crate) threads: Option<usize>,
}

impl Planned {
    pub(crate) fn settings(&self, candidates: &[Candidate], arguments: &Arguments) -> Settings {
        Settings {
            backend: candidates.get(self.candidate).map(|own| own.name().to_owned()).unwrap_or_default(),
            threads: self.threads,
            fallback: arguments.fallback.clone(),
        }
    }
}

/// A case that is the same for every backend.
struct Item {
    op: String,
    direction: Direction,
    source: Source,
    case: Value,
}

impl Plan {
    /// What `arguments` ask for, or what is wrong with them.
    pub(crate) fn make(candidates: &[Candidate], arguments: &Arguments, asked: &Asked) -> Result<Self, String> {
        let everything = !arguments.names_something();
        let sweeps = (everything || !asked.ops.is_empty()) && asked.case.is_none();
        let mut items = Vec::new();
        if let Some(case) = &asked.case {
            let (problem, _) = child::problem(case).map_err(|error| format!("--case: {error}"))?;
            let direction = direction(&problem);
            items.push(Item { op: problem.op, direction, source: Source::Given, case: case.clone() });
        }
        if sweeps {
            items.extend(swept(asked, arguments.quick));
        }
        let mut folders: Vec<Item> = Vec::new();
        for folder in &arguments.cases {
            folders.extend(read(folder)?);
        }
        if sweeps
            && let Some(vectors) =
                arguments.root.as_deref().map(|root| root.join("tests/vectors")).filter(|path| path.is_dir())
        {
            folders.extend(read(&vectors)?);
        }
        folders.retain(|item| chosen(&asked.ops, &item.op));
        let models = models(arguments, asked)?;
        if items.is_empty() && folders.is_empty() && models.is_empty() {
            return Err("nothing is left to compare: no case is of these operations".to_owned());
        }

        let (mut columns, mut jobs) = (Vec::new(), Vec::new());
        for (index, candidate) in candidates.iter().enumerate() {
            let named = asked.backends.is_empty() || asked.backends.iter().any(|name| name == candidate.name());
            if candidate.is_oracle() {
                // Cases that others made are what judges it.
                if folders.is_empty() {
                    continue;
                }
            } else if !named {
                continue;
            }
            let threads = if candidate.is_oracle() { &[None][..] } else { &asked.threads };
            for &threads in threads {
                let column = columns.len();
                columns.push(Planned { candidate: index, threads });
                let own = items.iter().filter(|_| !candidate.is_oracle()).chain(&folders);
                jobs.extend(own.map(|item| Job {
                    column,
                    op: item.op.clone(),
                    direction: item.direction,
                    work: Work::Case(item.source, item.case.clone()),
                }));
                if sweeps && !candidate.is_oracle() {
                    jobs.extend(draws(column, asked, arguments.quick));
                }
            }
        }
        // Operations first.
        for (column, planned) in columns.iter().enumerate() {
            if candidates.get(planned.candidate).is_some_and(Candidate::is_oracle) {
                continue;
            }
            jobs.extend(models.iter().map(|(name, request)| Job {
                column,
                op: name.clone(),
                direction: Direction::Forward,
                work: Work::Model(json!(request), time_for(&request.model, asked.limit)),
            }));
        }
        Ok(Self { columns, jobs, whole: sweeps })
    }
}

/// The sweep's cases of the operations asked for.
fn swept(asked: &Asked, quick: bool) -> Vec<Item> {
    let depth = if quick { Depth::Quick } else { Depth::Full };
    let mut recipes = sweep::recipes(depth);
    recipes.retain(|recipe| chosen(&asked.ops, &recipe.op));
    recipes.sort_by_key(|recipe| (place(&recipe.op), recipe.backward));
    recipes
        .into_iter()
        .filter_map(|recipe| {
            Some(Item {
                direction: if recipe.backward { Direction::Backward } else { Direction::Forward },
                op: recipe.op.clone(),
                source: Source::Sweep,
                case: serde_json::to_value(&recipe).ok()?,
            })
        })
        .collect()
}

fn draws(column: usize, asked: &Asked, quick: bool) -> impl Iterator<Item = Job> {
    let count = if quick { QUICK_DRAWS } else { DRAWS };
    let ops = operations().into_iter().filter(|op| chosen(&asked.ops, op));
    ops.flat_map(move |op| {
        let wanted = move |direction: &Direction| *direction == Direction::Forward || sweep::has_gradient(op);
        Direction::ALL.into_iter().filter(wanted).map(move |direction| Job {
            column,
            op: op.to_owned(),
            direction,
            work: Work::Draws(count),
        })
    })
}

/// The models asked for, by name and with what is asked of them.
fn models(arguments: &Arguments, asked: &Asked) -> Result<Vec<(String, ModelRequest)>, String> {
    let mut folders = arguments.goldens.clone();
    let own = || arguments.root.as_deref().map(|root| root.join("tests/golden")).filter(|path| path.is_dir());
    let mut quick = false;
    if !arguments.names_something() && asked.ops.is_empty() || folders.is_empty() && arguments.only.is_some() {
        folders.extend(own());
        quick = arguments.quick && arguments.only.is_none();
    }
    let mut found: Vec<Golden> = Vec::new();
    for folder in folders {
        found.extend(goldens(&folder).map_err(|error| error.to_string())?);
    }
    if let Some(only) = &arguments.only {
        let all: Vec<String> = found.iter().map(|golden| golden.name.clone()).collect();
        found.retain(|golden| golden.name.contains(only));
        if found.is_empty() {
            let nearest = ops::nearest(only, all.iter().map(String::as_str)).unwrap_or("none");
            return Err(format!("no golden has '{only}' in its name, the nearest is '{nearest}'"));
        }
    }
    if quick {
        found.retain(|golden| QUICK_MODELS.contains(&golden.name.as_str()));
    }
    for path in &arguments.models {
        found.push(Golden::of_model(path).map_err(|error| error.to_string())?);
    }
    let dtypes = if arguments.quick { vec![WeightDType::F32] } else { models::DTYPES.to_vec() };
    let lockstep = arguments.lockstep.then(cases_folder);
    let request = |golden: Golden| {
        let request = ModelRequest {
            model: golden.directory.canonicalize().unwrap_or(golden.directory),
            dtypes: dtypes.clone(),
            compute: asked.compute,
            training: true,
            lockstep: lockstep.clone(),
        };
        (golden.name, request)
    };
    Ok(found.into_iter().map(request).collect())
}

/// How long a step of a model may take: thirty times a case, and four seconds more for each megabyte of its files, for
/// the oracle computes in plain loops.
fn time_for(directory: &Path, limit: Duration) -> Duration {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes: u64 = files.filter_map(|file| fs::metadata(file.path()).ok()).map(|file| file.len()).sum();
    limit * 30 + Duration::from_secs(4 * (bytes >> 20))
}

/// Where cases of guilty operations are written: beside what cargo builds.
fn cases_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let target = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_owned).join("compare-cases")
}

/// The cases of a folder: itself if it is one, else those in it. One that cannot be read is among them, and fails.
fn read(folder: &Path) -> Result<Vec<Item>, String> {
    let wrong = |error: crate::Error| error.to_string();
    let item = |directory: PathBuf| {
        let (op, direction) = match CaseFile::read(&directory) {
            Ok(CaseFile { problem, .. }) => (problem.op.clone(), direction(&problem)),
            Err(_) => (directory.file_name().unwrap_or_default().to_string_lossy().into_owned(), Direction::Forward),
        };
        Item { op, direction, source: Source::Folder, case: json!(directory.display().to_string()) }
    };
    Ok(case_file::folders(folder).map_err(wrong)?.into_iter().map(item).collect())
}

fn direction(problem: &Problem) -> Direction {
    if problem.backward.is_some() { Direction::Backward } else { Direction::Forward }
}
