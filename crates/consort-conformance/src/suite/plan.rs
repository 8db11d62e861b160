//! What is to be run: columns of backends, and jobs in order.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    arguments::{Arguments, Asked, chosen, operations},
    candidate::Candidate,
    child,
    work::{Job, Settings, Work},
};
use crate::{
    case_file,
    report::{Direction, Source, place},
    sweep::{self, Depth},
};

/// Draws for each operation and direction.
const DRAWS: u32 = 48;
/// The same where it has to be quick.
const QUICK_DRAWS: u32 = 4;

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
            let direction = if problem.backward.is_some() { Direction::Backward } else { Direction::Forward };
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
        let models: Vec<PathBuf> = Vec::new();
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
        Direction::ALL.into_iter().filter_map(move |direction| {
            (direction == Direction::Forward || sweep::has_gradient(op)).then(|| Job {
                column,
                op: op.to_owned(),
                direction,
                work: Work::Draws(count),
            })
        })
    })
}

/// The cases of a folder.
fn read(folder: &Path) -> Result<Vec<Item>, String> {
    let cases = case_file::cases(folder).map_err(|error| error.to_string())?;
    let item = |case: case_file::CaseFile| Item {
        op: case.problem.op.clone(),
        direction: if case.problem.backward.is_some() { Direction::Backward } else { Direction::Forward },
        source: Source::Folder,
        case: json!(case.directory.display().to_string()),
    };
    Ok(cases.into_iter().map(item).collect())
}
