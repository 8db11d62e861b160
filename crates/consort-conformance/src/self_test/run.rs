//! Plants every fault and looks who finds it.

use std::{collections::HashMap, path::Path, time::Instant};

use consort_core::{Backend, Device};
use serde::Serialize;

use super::{Fault, Faulty};
use crate::{
    bounds::{self, Bounded, Profile},
    case_file::{self, CaseFile},
    error::Error,
    judge,
    oracle::{Oracle, Single, fault as source},
    problem::{How, Problem},
    recipe::Recipe,
    suite,
    sweep::{self, Depth},
};

/// Who found a fault, or that nobody did.
#[derive(Clone, Debug, Serialize)]
pub struct Hunt {
    /// Name of the fault.
    pub fault: &'static str,
    /// What is wrong.
    pub about: &'static str,
    /// Where it was planted.
    pub planted: Planted,
    /// What found it first: names of checks, or `vector`.
    pub caught_by: Option<String>,
    /// The case that showed it.
    pub case: Option<String>,
    /// Cases that were looked at until then.
    pub looked_at: usize,
}

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Planted {
    /// In an f32 backend beside a right oracle.
    Backend,
    /// In a formula that f32 and oracle share: only vectors of other implementations can tell.
    Formula,
    /// In the source of the scalar backend, which f32 and oracle share.
    Source,
}

impl Planted {
    /// As the table writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Formula => "formula",
            Self::Source => "source",
        }
    }
}

/// Plants every fault, one at a time, and tells `each` what came of it. `vectors` is the folder of committed vectors.
///
/// Cases of the operations that a fault is in come first; then all others, until one shows it.
///
/// # Errors
/// Where the vectors cannot be read, or a case without a fault fails: then nothing is known about the faults.
pub fn hunt(vectors: &Path, each: &mut dyn FnMut(&Hunt)) -> Result<Vec<Hunt>, Error> {
    let recipes = Recipes::read()?;
    let vectors = Vectors::read(vectors)?;
    let mut hunts = Vec::new();
    let mut found = |hunt: Hunt| {
        each(&hunt);
        hunts.push(hunt);
    };
    source::plant(None);
    for &fault in Fault::ALL {
        found(recipes.hunt(fault));
    }
    for &fault in Fault::ALL.iter().filter(|fault| fault.is_formula()) {
        let device = Device::new(Faulty::new(Oracle::new(), fault));
        let (caught, looked_at) = vectors.first_miss(&device, fault.operations());
        let (name, about, planted) = (fault.name(), fault.about(), Planted::Formula);
        let caught_by = caught.as_ref().map(|_| "vector".to_owned());
        found(Hunt { fault: name, about, planted, caught_by, case: caught, looked_at });
    }
    for &fault in source::Fault::ALL {
        source::plant(Some(fault));
        let (caught, looked_at) = vectors.first_miss(&Device::new(Oracle::new()), &[]);
        source::plant(None);
        let (name, about, planted) = (fault.name(), fault.about(), Planted::Source);
        let caught_by = caught.as_ref().map(|_| "vector".to_owned());
        found(Hunt { fault: name, about, planted, caught_by, case: caught, looked_at });
    }
    Ok(hunts)
}

/// The quick recipes with what is expected of them.
struct Recipes(Vec<(Recipe, Problem, Vec<Bounded>)>);

impl Recipes {
    fn read() -> Result<Self, Error> {
        let profile = Profile::ieee();
        let mut all = Vec::new();
        let right = Device::new(Single::new());
        for recipe in sweep::recipes(Depth::Quick) {
            let problem = recipe.problem()?;
            if problem.attributes.get("dtype").is_some_and(|dtype| dtype == "f64") {
                continue;
            }
            let expected = bounds::expected(&problem, &profile)?;
            // What is not right without a fault tells nothing about one.
            let judgement = judge::judge(&problem.run(&right, How::AsAsked)?, &expected);
            if judgement.passed() {
                all.push((recipe, problem, expected));
            }
        }
        Ok(Self(all))
    }

    fn hunt(&self, fault: Fault) -> Hunt {
        let (device, profile) = (Device::new(Faulty::new(Single::new(), fault)), Profile::ieee());
        let here = |op: &str| fault.operations().contains(&op);
        let first = self.0.iter().filter(|(recipe, ..)| here(&recipe.op));
        let others = self.0.iter().filter(|(recipe, ..)| !here(&recipe.op));
        let mut looked_at = 0;
        for (recipe, problem, expected) in first.chain(others) {
            looked_at += 1;
            let found = suite::findings(&device, problem, expected, &profile);
            if !found.is_empty() {
                return Hunt {
                    fault: fault.name(),
                    about: fault.about(),
                    planted: Planted::Backend,
                    caught_by: Some(found.join(", ")),
                    case: serde_json::to_string(recipe).ok(),
                    looked_at,
                };
            }
        }
        Hunt {
            fault: fault.name(),
            about: fault.about(),
            planted: Planted::Backend,
            caught_by: None,
            case: None,
            looked_at,
        }
    }
}

/// The committed vectors, each with its bounds in f64.
struct Vectors(Vec<(CaseFile, Vec<Bounded>)>);

impl Vectors {
    fn read(folder: &Path) -> Result<Self, Error> {
        let profile = Profile::f64();
        let right = Device::new(Oracle::new());
        let mut all = Vec::new();
        for case in case_file::cases(folder)? {
            // A type to compute in that the oracle does not have.
            if case.problem.attributes.get("dtype").is_some_and(|dtype| dtype == "f32") {
                continue;
            }
            let expected = case.expected(&profile)?;
            let judgement = judge::judge(&case.problem.run(&right, How::AsAsked)?, &expected);
            if !judgement.passed() {
                let what = format!("the oracle misses this vector without any fault: {:?}", judgement.worst);
                return Err(Error::Malformed { path: case.directory, what });
            }
            all.push((case, expected));
        }
        Ok(Self(all))
    }

    /// The first vector that `device` misses, those of `operations` first; and how many were looked at.
    fn first_miss<B: Backend>(&self, device: &Device<B>, operations: &[&str]) -> (Option<String>, usize) {
        let here = |case: &CaseFile| operations.contains(&case.problem.op.as_str());
        let first = self.0.iter().filter(|(case, _)| here(case));
        let others = self.0.iter().filter(|(case, _)| !here(case));
        for (at, (case, expected)) in first.chain(others).enumerate() {
            let hit = match case.problem.run(device, How::AsAsked) {
                Ok(outputs) => judge::judge(&outputs, expected).passed(),
                Err(_) => false,
            };
            if !hit {
                return (Some(case.name.clone()), at + 1);
            }
        }
        (None, self.0.len())
    }
}

/// The lines of a table of hunts, and whether every fault was caught.
pub fn summary(hunts: &[Hunt], start: Instant) -> (Vec<String>, bool) {
    let mut by_place: HashMap<&str, [usize; 2]> = HashMap::new();
    for hunt in hunts {
        let counts = by_place.entry(hunt.planted.name()).or_default();
        let [caught, all] = counts;
        *all += 1;
        *caught += usize::from(hunt.caught_by.is_some());
    }
    let caught = hunts.iter().filter(|hunt| hunt.caught_by.is_some()).count();
    let mut lines: Vec<String> = ["backend", "formula", "source"]
        .into_iter()
        .filter_map(|place| {
            by_place.get(place).map(|[caught, all]| format!("planted in the {place}: {caught} of {all} caught"))
        })
        .collect();
    for hunt in hunts.iter().filter(|hunt| hunt.caught_by.is_none()) {
        lines.push(format!("MISSED: {} in the {}: {}", hunt.fault, hunt.planted.name(), hunt.about));
    }
    lines.push(format!("{caught} of {} planted faults caught in {:.1} s", hunts.len(), start.elapsed().as_secs_f64()));
    (lines, caught == hunts.len() && !hunts.is_empty())
}
