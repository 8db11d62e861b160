//! A backend that can be tested: how it is opened, and what is promised about it.

use consort_core::{Backend, Compute, DType, Device, Policy};

use super::check::{self, Checked};
use crate::{
    bounds::{Bounded, Profile},
    models::Tested,
    problem::Problem,
};

/// Opens a backend with a number of threads and a policy, or says why it does not work here.
type Open = dyn Fn(Option<usize>, Policy) -> Result<Box<dyn Opened>, String> + Send + Sync;

/// A backend to be tested.
pub struct Candidate {
    name: String,
    open: Box<Open>,
    profile: Option<Profile>,
    profiles: Vec<(String, Profile)>,
    computes: Vec<(Compute, Profile)>,
    known: Vec<(String, String)>,
    oracle: bool,
}

impl Candidate {
    /// The backend that `open` opens, called `name`. An `Err` says why it does not work on this machine: it is then skipped,
    /// with that reason.
    pub fn new<B: Backend>(
        name: impl Into<String>,
        open: impl Fn() -> Result<B, String> + Send + Sync + 'static,
    ) -> Self {
        Self::with_threads(name, move |_| open())
    }

    /// As [`new`](Self::new), for a backend that can be told how many threads to use; `None` leaves it to the backend.
    pub fn with_threads<B: Backend>(
        name: impl Into<String>,
        open: impl Fn(Option<usize>) -> Result<B, String> + Send + Sync + 'static,
    ) -> Self {
        let open = move |threads, policy| {
            open(threads).map(|backend| Box::new(Device::with_policy(backend, policy)) as Box<dyn Opened>)
        };
        let (profile, profiles, computes, known) = (None, Vec::new(), Vec::new(), Vec::new());
        Self { name: name.into(), open: Box::new(open), profile, profiles, computes, known, oracle: false }
    }

    /// What its arithmetic promises; [`Profile::ieee`], or [`Profile::f64`] for a backend that computes in f64, unless said.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// What its arithmetic promises for one operation.
    pub fn profile_of(mut self, op: impl Into<String>, profile: Profile) -> Self {
        self.profiles.push((op.into(), profile));
        self
    }

    /// What its arithmetic promises for products of operands that are taken as `compute` says.
    pub fn profile_in(mut self, compute: Compute, profile: Profile) -> Self {
        self.computes.push((compute, profile));
        self
    }

    /// A trial that is known to fail, `softmax` or `softmax backward`, and why. When it passes, that is a failure.
    pub fn expect_failure(mut self, trial: impl Into<String>, reason: impl Into<String>) -> Self {
        self.known.push((trial.into(), reason.into()));
        self
    }

    /// Judged by cases from outside only: it is what everything else is judged by.
    pub(crate) fn for_oracle(mut self) -> Self {
        self.oracle = true;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_oracle(&self) -> bool {
        self.oracle
    }

    /// Trials that are known to fail, with the reasons.
    pub(crate) fn known(&self) -> &[(String, String)] {
        &self.known
    }

    pub(crate) fn open(&self, threads: Option<usize>, policy: Policy) -> Result<Box<dyn Opened>, String> {
        (self.open)(threads, policy)
    }

    /// The profile of an operation, with what its products are computed in, on a device that computes in `float`.
    pub(crate) fn profile_for(&self, op: Option<(&str, Compute)>, float: DType) -> Profile {
        let computed = self.computes.iter().find(|(compute, _)| op.is_some_and(|(_, of)| of == *compute));
        let own = self.profiles.iter().find(|(name, _)| op.is_some_and(|(of, _)| of == name));
        let own = own.map(|(_, profile)| profile).or(computed.map(|(_, profile)| profile));
        own.or(self.profile.as_ref()).cloned().unwrap_or_else(|| match float {
            DType::F64 => Profile::f64(),
            _ => Profile::ieee(),
        })
    }
}

/// An open backend, whichever it is.
pub(crate) trait Opened {
    fn title(&self) -> &'static str;
    fn float(&self) -> DType;
    fn warnings(&self) -> Vec<&'static str>;
    fn check(&self, problem: &Problem, expected: &[Bounded], derived: Option<&Profile>) -> Checked;
    fn tested(&self) -> &dyn Tested;
}

impl<B: Backend> Opened for Device<B> {
    fn title(&self) -> &'static str {
        self.backend().name()
    }

    fn float(&self) -> DType {
        Device::float(self)
    }

    fn warnings(&self) -> Vec<&'static str> {
        Device::warnings(self)
    }

    fn check(&self, problem: &Problem, expected: &[Bounded], derived: Option<&Profile>) -> Checked {
        check::check(self, problem, expected, derived)
    }

    fn tested(&self) -> &dyn Tested {
        self
    }
}
