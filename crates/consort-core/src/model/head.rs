//! Hidden states to logits.

use super::{load::Loader, norm::Norm};
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
    output: WeightOf<B>,
    bias: Option<TensorOf<B>>,
    soft_cap: Option<f64>,
}

struct Transform<B: Backend> {
    weight: WeightOf<B>,
    bias: TensorOf<B>,
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
                weight: loader.weight(&["head.transform.weight"])?,
                bias: loader.vector(&["head.transform.bias"])?,
                activation,
                norm: Norm::load(loader, "head.norm", &stack.norm)?,
            }),
            None => None,
        };
        let output = if config.tied { tokens.clone() } else { loader.weight(&["head.output.weight"])? };
        let bias = if config.bias { Some(loader.vector(&["head.output.bias"])?) } else { None };
        Ok(Self { transform, scale: config.scale, output, bias, soft_cap: config.soft_cap })
    }

    /// `[R, D] → [R, V]`.
    pub(super) fn run(&self, device: &Device<B>, mut x: TensorOf<B>) -> Result<TensorOf<B>> {
        let _scope = scope::enter("head");
        if let Some(Transform { weight, bias, activation, norm }) = &self.transform {
            x = norm.run(device, device.linear(x, weight, Some(bias), Some(*activation), None)?)?;
        }
        x = device.scale(x, self.scale)?;
        let logits = device.linear(x, &self.output, self.bias.as_ref(), None, None)?;
        match self.soft_cap {
            Some(cap) => device.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}
