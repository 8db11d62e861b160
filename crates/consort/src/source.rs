//! A transformer whose weights are not packed yet, wherever they come from.

use consort_core::{Backend, Compute, Device, Transformer, TransformerConfig, WeightDType, model::Weights};

use crate::{
    Error,
    backends::{self, Entry},
    model::LoadOptions,
    runner::{Loaded, Runner},
};

/// What is put on a backend.
pub(crate) struct Source<'a> {
    /// Its file, for messages.
    pub(crate) shown: String,
    pub(crate) config: &'a TransformerConfig,
    pub(crate) weights: &'a dyn Weights,
}

impl Source<'_> {
    /// Packs the weights onto the backend that is asked for, and says its name.
    pub(crate) fn load(&self, mut options: LoadOptions<'_>) -> Result<(&'static str, Box<dyn Runner>), Error> {
        options.dtype = options.dtype.map(|name| name.to_ascii_lowercase());
        let Entry { info: backend, load, .. } = backends::find(options.backend.as_deref(), options.dtype.as_deref())?;
        let dtype = options.dtype.as_deref();
        if let Some(dtype) = dtype
            && !backend.dtypes.contains(&dtype)
        {
            let known = backend.dtypes.join(", ");
            return Err(Error::Choice(format!("weights as '{dtype}' are not available on {} ({known})", backend.name)));
        }
        if let Some(compute) = options.compute.as_deref()
            && !backend.computes.contains(&compute)
        {
            let known = backend.computes.join(", ");
            return Err(Error::Choice(format!(
                "compute in '{compute}' is not available on {} ({known})",
                backend.name
            )));
        }
        Ok((backend.name, load(self, options)?))
    }

    /// Packs the weights onto this very backend.
    #[allow(dead_code, reason = "a build without backends loads nothing")]
    pub(crate) fn load_on<B: Backend>(&self, backend: B, options: LoadOptions<'_>) -> Result<Box<dyn Runner>, Error> {
        let device = Device::with_policy(backend, options.fallback);
        let dtype = options.dtype.as_deref().and_then(WeightDType::from_name);
        let compute = options.compute.as_deref().and_then(Compute::from_name).unwrap_or_default();
        let load = consort_core::model::LoadOptions { dtype, compute, progress: options.progress };
        let model = Transformer::load(&device, self.config, self.weights, load)
            .map_err(|source| Error::Load { path: self.shown.clone(), source: Box::new(source) })?;
        Ok(Box::new(Loaded { device, model }))
    }
}
