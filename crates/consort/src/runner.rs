//! The one place where the choice of a backend is erased.

use consort_core::{Backend, Counts, Device, Result, Transformer};
use consort_generate::{Flow, Output, Request, Timings, TokenEvent};
use std::collections::BTreeMap;

use crate::forward::{ForwardInput, NamedTensor, forward};

/// A loaded transformer, whatever runs it.
pub(crate) trait Runner: Send + Sync {
    fn generate(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(TokenEvent<'_>) -> Flow,
    ) -> Result<(Vec<Output>, Timings)>;

    fn forward(&self, input: &ForwardInput) -> Result<Vec<NamedTensor>>;

    fn report(&self) -> BTreeMap<&'static str, Counts>;
}

pub(crate) struct Loaded<B: Backend> {
    pub(crate) device: Device<B>,
    pub(crate) model: Transformer<B>,
}

impl<B: Backend> Runner for Loaded<B> {
    fn generate(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(TokenEvent<'_>) -> Flow,
    ) -> Result<(Vec<Output>, Timings)> {
        consort_generate::generate(&self.model, requests, on_token)
    }

    fn forward(&self, input: &ForwardInput) -> Result<Vec<NamedTensor>> {
        forward(&self.model, input)
    }

    fn report(&self) -> BTreeMap<&'static str, Counts> {
        self.device.report()
    }
}
