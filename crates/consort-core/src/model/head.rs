//! Hidden states to logits.

use super::{load::Loader, norm::Norm, projection::Projection};
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    config::{Activation, HeadConfig, StackConfig},
    device::Device,
    error::Result,
    scope,
};

pub(super) struct Head<B: Backend> {
    transform: Option<Transform<B>>,
    scale: f64,
    output: Projection<B>,
    soft_cap: Option<f64>,
}

struct Transform<B: Backend> {
    projection: Projection<B>,
    activation: Activation,
    norm: Norm<B>,
}

impl<B: Backend> Head<B> {
    pub(super) fn load(
        loader: &mut Loader<'_, B>,
        config: &HeadConfig,
        stack: &StackConfig,
        tokens: &WeightOf<B>,
    ) -> Result<Self> {
        let transform = match config.transform {
            Some(activation) => Some(Transform {
                projection: loader.projection(&["head.transform".to_owned()], true)?,
                activation,
                norm: Norm::load(loader, "head.norm", &stack.norm)?,
            }),
            None => None,
        };
        let output = if config.tied { tokens.clone() } else { loader.weight(&["head.output.weight"])? };
        let bias = if config.bias { Some(loader.vector(&["head.output.bias"])?) } else { None };
        let output = loader.projection_of(output, bias);
        Ok(Self { transform, scale: config.scale, output, soft_cap: config.soft_cap })
    }

    /// `[R, D] → [R, V]`.
    pub(super) fn run(&self, device: &Device<B>, mut x: TensorOf<B>) -> Result<TensorOf<B>> {
        let _scope = scope::enter("head");
        if let Some(Transform { projection, activation, norm }) = &self.transform {
            x = norm.run(device, projection.run(device, x, Some(*activation), None)?)?;
        }
        x = device.scale(x, self.scale)?;
        let logits = self.output.run(device, x, None, None)?;
        match self.soft_cap {
            Some(cap) => device.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}
