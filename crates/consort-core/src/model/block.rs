//! A block: sub-layers, each with its norm and its residual where the stack's placement puts them.

use super::{
    attention::Attention, feed_forward::FeedForward, load::Loader, norm::Norm, observe::AttentionKind, stack::Layer,
};
use crate::{
    backend::{Backend, TensorOf},
    config::{Placement, StackConfig},
    device::Device,
    error::Result,
    scope,
};

pub(super) struct Block<B: Backend> {
    attention: Attention<B>,
    attention_norms: Norms<B>,
    pub(super) cross_attention: Option<(Attention<B>, Norms<B>)>,
    feed_forward: FeedForward<B>,
    /// `None` where the attention's serves both.
    feed_forward_norms: Option<Norms<B>>,
}

/// The norms around one sub-layer.
pub(super) struct Norms<B: Backend> {
    placement: Placement,
    norm: Norm<B>,
    /// In sandwich placement.
    post_norm: Option<Norm<B>>,
}

impl<B: Backend> Block<B> {
    pub(super) fn load(loader: &mut Loader<'_, B>, stack: &str, config: &StackConfig, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("{stack}.{layer}.{part}");
        let attention = Attention::load(loader, &name("attention"), config, layer, AttentionKind::Own)?;
        let attention_norms = Norms::load(loader, &name("attention"), config)?;
        let cross_attention = if config.cross_attention {
            let cross = Attention::load(loader, &name("cross_attention"), config, layer, AttentionKind::Cross)?;
            Some((cross, Norms::load(loader, &name("cross_attention"), config)?))
        } else {
            None
        };
        let feed_forward = FeedForward::load(loader, &name("feed_forward"), &config.feed_forward)?;
        let feed_forward_norms = match config.placement {
            Placement::ParallelSharedNorm => None,
            _ => Some(Norms::load(loader, &name("feed_forward"), config)?),
        };
        Ok(Self { attention, attention_norms, cross_attention, feed_forward, feed_forward_norms })
    }

    /// `[T, D] → [T, D]`.
    pub(super) fn run(&self, layer: &mut Layer<'_, '_, B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
        if self.attention_norms.placement.is_parallel() {
            return self.run_parallel(layer, x);
        }
        let device = layer.device;
        let mut x = {
            let _scope = scope::enter("attention");
            self.attention_norms.around(device, x, |x, residual| self.attention.run_own(layer, x, residual))?
        };
        if let Some((attention, norms)) = &self.cross_attention {
            let _scope = scope::enter("cross_attention");
            x = norms.around(device, x, |x, residual| attention.run_cross(layer, x, residual))?;
        }
        let _scope = scope::enter("feed_forward");
        let norms = self.feed_forward_norms.as_ref().unwrap_or(&self.attention_norms);
        norms.around(device, x, |x, residual| self.feed_forward.run(device, x, residual))
    }

    /// Both sub-layers read `x`; the attention's sum is the feed-forward network's residual.
    fn run_parallel(&self, layer: &mut Layer<'_, '_, B>, x: TensorOf<B>) -> Result<TensorOf<B>> {
        let device = layer.device;
        let (mut normed, sum) = {
            let _scope = scope::enter("attention");
            let normed = self.attention_norms.norm.run(device, x.clone())?;
            let sum = self.attention.run_own(layer, normed.clone(), Some(x.clone()))?;
            (normed, sum)
        };
        let _scope = scope::enter("feed_forward");
        if let Some(norms) = &self.feed_forward_norms {
            normed = norms.norm.run(device, x)?;
        }
        self.feed_forward.run(device, normed, Some(sum))
    }
}

impl<B: Backend> Norms<B> {
    fn load(loader: &mut Loader<'_, B>, name: &str, config: &StackConfig) -> Result<Self> {
        let norm = Norm::load(loader, &format!("{name}.norm"), &config.norm)?;
        let post_norm = if config.placement == Placement::Sandwich {
            Some(Norm::load(loader, &format!("{name}.post_norm"), &config.norm)?)
        } else {
            None
        };
        Ok(Self { placement: config.placement, norm, post_norm })
    }

    /// Runs `sublayer(x, residual)`, which adds `residual` to its result, between the norms.
    fn around(
        &self,
        device: &Device<B>,
        x: TensorOf<B>,
        sublayer: impl FnOnce(TensorOf<B>, Option<TensorOf<B>>) -> Result<TensorOf<B>>,
    ) -> Result<TensorOf<B>> {
        match (self.placement, &self.post_norm) {
            (Placement::Post, _) => self.norm.run(device, sublayer(x.clone(), Some(x))?),
            (Placement::Sandwich, Some(post_norm)) => {
                let y = sublayer(self.norm.run(device, x.clone())?, None)?;
                device.add(x, post_norm.run(device, y)?)
            }
            (Placement::Pre | Placement::Sandwich | Placement::Parallel | Placement::ParallelSharedNorm, _) => {
                let normed = self.norm.run(device, x.clone())?;
                sublayer(normed, Some(x))
            }
        }
    }
}
