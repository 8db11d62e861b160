//! A norm as a stack is configured to have it.

use super::load::Loader;
use crate::{
    backend::{Backend, TensorOf},
    config::{NormConfig, NormKind},
    device::Device,
    error::Result,
};

pub(super) struct Norm<B: Backend> {
    config: NormConfig,
    weight: TensorOf<B>,
    bias: Option<TensorOf<B>>,
}

impl<B: Backend> Norm<B> {
    pub(super) fn load(loader: &mut Loader<'_, B>, name: &str, config: &NormConfig) -> Result<Self> {
        let biased = config.kind == NormKind::Layer && config.bias;
        Self::load_with(loader, name, config, biased)
    }

    /// A norm over a head's components, which never has a bias.
    pub(super) fn load_unbiased(loader: &mut Loader<'_, B>, name: &str, config: &NormConfig) -> Result<Self> {
        Self::load_with(loader, name, config, false)
    }

    fn load_with(loader: &mut Loader<'_, B>, name: &str, config: &NormConfig, biased: bool) -> Result<Self> {
        let weight = loader.vector(&[&format!("{name}.weight")])?;
        let bias = if biased { Some(loader.vector(&[&format!("{name}.bias")])?) } else { None };
        Ok(Self { config: *config, weight, bias })
    }

    pub(super) fn run(&self, device: &Device<B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
        let NormConfig { kind, epsilon, unit_offset, .. } = self.config;
        match kind {
            NormKind::Rms => device.rms_norm(x, &self.weight, epsilon, unit_offset),
            NormKind::Layer => device.layer_norm(x, &self.weight, self.bias.as_ref(), epsilon),
        }
    }
}
