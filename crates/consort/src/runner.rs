//! The one place where the choice of a backend is erased.

use std::collections::BTreeMap;

use consort_core::{Backend, Counts, Device, HostData, Result, Transformer};
use consort_generate::{Event, Flow, Output, Request, Timings};

use crate::forward::{ForwardInput, NamedTensor, forward};

/// A loaded transformer, whatever runs it.
pub(crate) trait Runner: Send + Sync {
    fn generate(
        &self,
        requests: &[Request],
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<(Vec<Output>, Timings)>;

    fn forward(&self, input: &ForwardInput) -> Result<Vec<NamedTensor>>;

    /// The last hidden states of sequences that an encoder reads, on the host.
    fn encode(&self, sequences: &[&[u32]]) -> Result<HostData>;

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
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<(Vec<Output>, Timings)> {
        consort_generate::generate(&self.model, requests, on_event)
    }

    fn forward(&self, input: &ForwardInput) -> Result<Vec<NamedTensor>> {
        forward(&self.model, input)
    }

    fn encode(&self, sequences: &[&[u32]]) -> Result<HostData> {
        self.device.download(&self.model.encode(sequences, None)?)
    }

    fn report(&self) -> BTreeMap<&'static str, Counts> {
        self.device.report()
    }
}
