//! Whole models on any number of backends, event by event: what `cargo xtask compare` runs after the operations.
//!
//! An [`Event`] is a JSON object, told apart by `event`; each names backend, model, its directory, what weights are kept as
//! and what products are computed in:
//!
//! ```text
//! report     agrees, failures, report     one comparison: crate::compare::ModelReport
//! training   agrees, failures, report     gradients and steps of a golden that has training: crate::training::TrainingReport
//! lockstep   agrees, failures, report     operation by operation, where asked for: crate::lockstep::LockstepReport
//! skipped    reason                       a type that the weights cannot be kept as, a model that is too large here
//! error      agrees: false, error         a comparison that could not be finished
//! ```

use std::path::Path;

use consort_core::{Backend, Compute, Device, WeightDType};
use serde::Serialize;

use crate::{
    bounds::Profile,
    compare::{Exact, ModelReport, Reference},
    error::Error,
    golden::Golden,
    lockstep::{self, LockstepReport, Settings},
    training::{TrainingReference, TrainingReport},
};

/// Types that weights are kept as, in the order in which they are compared.
pub const DTYPES: [WeightDType; 13] = [
    WeightDType::F32,
    WeightDType::F16,
    WeightDType::BF16,
    WeightDType::Q8_0,
    WeightDType::Q6_K,
    WeightDType::Q5_K,
    WeightDType::Q4_K,
    WeightDType::Q4_0,
    WeightDType::Q5_1,
    WeightDType::Q5_0,
    WeightDType::Q4_1,
    WeightDType::Q3_K,
    WeightDType::Q2_K,
];

/// An open backend, whichever it is.
pub trait Tested {
    /// See [`Reference::compare`].
    ///
    /// # Errors
    /// As there.
    fn compare(&self, reference: &Reference<'_>, profile: &Profile) -> Result<ModelReport, Error>;

    /// See [`TrainingReference::train`].
    ///
    /// # Errors
    /// As there.
    fn train(&self, reference: &TrainingReference<'_>, profile: &Profile) -> Result<TrainingReport, Error>;

    /// See [`lockstep::lockstep`].
    ///
    /// # Errors
    /// As there.
    fn lockstep(&self, golden: &Golden, settings: &Settings<'_>) -> Result<LockstepReport, Error>;
}

impl<B: Backend> Tested for Device<B> {
    fn compare(&self, reference: &Reference<'_>, profile: &Profile) -> Result<ModelReport, Error> {
        reference.compare(self, &profile.name)
    }

    fn train(&self, reference: &TrainingReference<'_>, profile: &Profile) -> Result<TrainingReport, Error> {
        reference.train(self, &profile.name)
    }

    fn lockstep(&self, golden: &Golden, settings: &Settings<'_>) -> Result<LockstepReport, Error> {
        lockstep::lockstep(golden, self, settings)
    }
}

/// A backend to be compared.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// What `--backend` calls it.
    pub name: &'a str,
    /// The backend.
    pub device: &'a dyn Tested,
    /// What its arithmetic promises.
    pub profile: &'a Profile,
}

/// What is run of a model.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What weights are kept as, one after the other.
    pub dtypes: &'a [WeightDType],
    /// What products are computed in.
    pub compute: Compute,
    /// Whether models that have training are trained; in f32 alone.
    pub training: bool,
    /// Runs in lockstep instead of comparing; guilty operations are written to this folder as cases.
    pub lockstep: Option<&'a Path>,
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// What `--backend` calls the backend.
    pub backend: String,
    /// Name of the model.
    pub model: String,
    /// Its directory.
    pub directory: String,
    /// What its weights were kept as.
    pub weight_dtype: WeightDType,
    /// What its products were computed in.
    pub compute: Compute,
    /// What it is about.
    #[serde(flatten)]
    pub found: Found,
}

/// What an [`Event`] is about.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Found {
    /// A comparison.
    Report {
        /// Whether everything is as it should be.
        agrees: bool,
        /// What is wrong, one line each.
        failures: Vec<String>,
        /// The figures.
        report: Box<ModelReport>,
    },
    /// Gradients and steps of training.
    Training {
        /// Whether everything is as it should be.
        agrees: bool,
        /// What is wrong, one line each.
        failures: Vec<String>,
        /// The figures.
        report: Box<TrainingReport>,
    },
    /// Operation by operation.
    Lockstep {
        /// Whether everything is as it should be.
        agrees: bool,
        /// What is wrong, one line each.
        failures: Vec<String>,
        /// The figures.
        report: Box<LockstepReport>,
    },
    /// Not compared, and nobody's fault.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Not finished; counts as a disagreement.
    Error {
        /// Always false.
        agrees: bool,
        /// What went wrong.
        error: String,
    },
}

impl Event {
    /// Whether this is an agreement; `None` where nothing was compared.
    pub fn agrees(&self) -> Option<bool> {
        match &self.found {
            Found::Report { agrees, .. }
            | Found::Training { agrees, .. }
            | Found::Lockstep { agrees, .. }
            | Found::Error { agrees, .. } => Some(*agrees),
            Found::Skipped { .. } => None,
        }
    }
}

/// Runs a model on every candidate and emits what is found as it is found. The oracle runs once for all of them.
pub fn run(golden: &Golden, candidates: &[Candidate<'_>], plan: &Plan<'_>, emit: &mut dyn FnMut(Event)) {
    let mut tell = |candidate: &Candidate<'_>, dtype: WeightDType, found: Found| {
        emit(Event {
            backend: candidate.name.to_owned(),
            model: golden.name.clone(),
            directory: golden.directory.display().to_string(),
            weight_dtype: dtype,
            compute: plan.compute,
            found,
        });
    };
    if let Some(cases) = plan.lockstep {
        for &dtype in plan.dtypes {
            for candidate in candidates {
                let settings = Settings {
                    dtype,
                    compute: plan.compute,
                    profile: candidate.profile,
                    cases: Some((cases, candidate.name)),
                };
                let found = candidate.device.lockstep(golden, &settings);
                tell(candidate, dtype, found.map_or_else(Found::failed, Found::from));
            }
        }
        return;
    }
    match Exact::compute(golden) {
        Ok(exact) => {
            for &dtype in plan.dtypes {
                let reference = exact.computed(dtype, plan.compute);
                for candidate in candidates {
                    let found = match &reference {
                        Ok(reference) => candidate.device.compare(reference, candidate.profile).map(Found::from),
                        Err(error) => Ok(Found::of_oracle(error)),
                    };
                    tell(candidate, dtype, found.unwrap_or_else(Found::failed));
                }
            }
        }
        Err(error) => {
            let dtype = plan.dtypes.first().copied().unwrap_or(WeightDType::F32);
            candidates.iter().for_each(|candidate| tell(candidate, dtype, Found::of_oracle(&error)));
            return;
        }
    }
    if !plan.training || plan.compute != Compute::F32 {
        return;
    }
    let reference = match TrainingReference::compute(golden) {
        Ok(None) => return,
        Ok(Some(reference)) => Ok(reference),
        Err(error) => Err(error),
    };
    for candidate in candidates {
        let found = match &reference {
            Ok(reference) => candidate.device.train(reference, candidate.profile).map(Found::from),
            Err(error) => Ok(Found::of_oracle(error)),
        };
        tell(candidate, WeightDType::F32, found.unwrap_or_else(Found::failed));
    }
}

impl Found {
    fn failed(error: Error) -> Self {
        match error {
            Error::Kept { .. } | Error::TooLarge { .. } => Self::Skipped { reason: error.to_string() },
            error => Self::Error { agrees: false, error: error.to_string() },
        }
    }

    fn of_oracle(error: &Error) -> Self {
        match error {
            Error::Kept { .. } | Error::TooLarge { .. } => Self::Skipped { reason: error.to_string() },
            error => Self::Error { agrees: false, error: format!("oracle: {error}") },
        }
    }
}

impl From<ModelReport> for Found {
    fn from(report: ModelReport) -> Self {
        Self::Report { agrees: report.agrees(), failures: report.failures(), report: Box::new(report) }
    }
}

impl From<TrainingReport> for Found {
    fn from(report: TrainingReport) -> Self {
        Self::Training { agrees: report.agrees(), failures: report.failures(), report: Box::new(report) }
    }
}

impl From<LockstepReport> for Found {
    fn from(report: LockstepReport) -> Self {
        Self::Lockstep { agrees: report.agrees(), failures: report.failures(), report: Box::new(report) }
    }
}
