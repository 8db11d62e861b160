//! The position-wise network: `down(act(up(x)))` or `down(act(gate(x)) · up(x))`.

use super::load::Loader;
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    config::FeedForwardConfig,
    device::Device,
    error::Result,
};

pub(super) struct FeedForward<B: Backend> {
    config: FeedForwardConfig,
    /// `[F, D]`, or gate and up `[2F, D]`.
    up: WeightOf<B>,
    up_bias: Option<TensorOf<B>>,
    down: WeightOf<B>,
    down_bias: Option<TensorOf<B>>,
}

impl<B: Backend> FeedForward<B> {
    pub(super) fn load(loader: &mut Loader<'_, B>, name: &str, config: &FeedForwardConfig) -> Result<Self> {
        let slots = |leaf: &str| {
            let parts: &[&str] = if config.gated { &["gate", "up"] } else { &["up"] };
            parts.iter().map(|part| format!("{name}.{part}.{leaf}")).collect::<Vec<_>>()
        };
        let (weights, biases) = (slots("weight"), slots("bias"));
        let up = loader.weight(&weights.iter().map(String::as_str).collect::<Vec<_>>())?;
        let up_bias = if config.bias {
            Some(loader.vector(&biases.iter().map(String::as_str).collect::<Vec<_>>())?)
        } else {
            None
        };
        let down = loader.weight(&[&format!("{name}.down.weight")])?;
        let down_bias = if config.bias { Some(loader.vector(&[&format!("{name}.down.bias")])?) } else { None };
        Ok(Self { config: *config, up, up_bias, down, down_bias })
    }

    /// `[T, D] → [T, D]`, plus `residual`.
    pub(super) fn run(&self, device: &Device<B>, x: TensorOf<B>, residual: Option<TensorOf<B>>) -> Result<TensorOf<B>> {
        let FeedForwardConfig { width, activation, gated, .. } = self.config;
        let inner = if gated {
            let both = device.linear(x, &self.up, self.up_bias.as_ref(), None, None)?; // [T, 2F]
            device.gated(both.slice(1, 0, width)?, both.slice(1, width, width)?, activation)?
        } else {
            device.linear(x, &self.up, self.up_bias.as_ref(), Some(activation), None)?
        };
        device.linear(inner, &self.down, self.down_bias.as_ref(), None, residual)
    }
}
