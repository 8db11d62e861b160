//! The position-wise network: `down(act(up(x)))` or `down(act(gate(x)) · up(x))`.

use super::{load::Loader, projection::Projection};
use crate::{
    backend::{Backend, TensorOf},
    config::FeedForwardConfig,
    device::Device,
    error::Result,
};

pub(super) struct FeedForward<B: Backend> {
    config: FeedForwardConfig,
    /// `[F, D]`, or gate and up `[2F, D]`.
    up: Projection<B>,
    down: Projection<B>,
}

impl<B: Backend> FeedForward<B> {
    pub(super) fn load(loader: &mut Loader<'_, B>, name: &str, config: &FeedForwardConfig) -> Result<Self> {
        let inner: &[&str] = if config.gated { &["gate", "up"] } else { &["up"] };
        let inner: Vec<String> = inner.iter().map(|part| format!("{name}.{part}")).collect();
        let up = loader.projection(&inner, config.bias)?;
        let down = loader.projection(&[format!("{name}.down")], config.bias)?;
        Ok(Self { config: *config, up, down })
    }

    /// `[T, D] → [T, D]`, plus `residual`.
    pub(super) fn run(&self, device: &Device<B>, x: TensorOf<B>, residual: Option<TensorOf<B>>) -> Result<TensorOf<B>> {
        let FeedForwardConfig { width, activation, gated, .. } = self.config;
        let inner = if gated {
            let both = self.up.run(device, x, None, None)?; // [T, 2F]
            device.gated(both.slice(1, 0, width)?, both.slice(1, width, width)?, activation)?
        } else {
            self.up.run(device, x, Some(activation), None)?
        };
        self.down.run(device, inner, None, residual)
    }
}
