//! The backends that were compiled in: one entry for each feature.

use consort_conformance::{
    Error,
    compare::{ModelReport, Reference},
};
use consort_core::{Backend, Device};

/// A backend that can be asked for.
pub(crate) struct Entry {
    /// What `--backend` takes, and the cargo feature.
    pub(crate) name: &'static str,
    /// Opens it, or says why it does not work on this machine.
    pub(crate) open: fn() -> Result<Box<dyn Tested>, String>,
}

/// An open backend, whichever it is.
pub(crate) trait Tested {
    fn compare(&self, reference: &Reference<'_>) -> Result<ModelReport, Error>;
}

impl<B: Backend> Tested for Device<B> {
    fn compare(&self, reference: &Reference<'_>) -> Result<ModelReport, Error> {
        reference.compare(self)
    }
}

pub(crate) fn compiled() -> Vec<Entry> {
    vec![
        #[cfg(feature = "scalar")]
        Entry { name: "scalar", open: || Ok(Box::new(Device::new(consort_scalar::Single::new()))) },
    ]
}
