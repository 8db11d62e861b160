//! Tokens and positions to vectors: `scale · tokens[id] + positions[p] + token_types[0]`, then a norm.

use super::{load::Loader, norm::Norm};
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    config::{Positions, StackConfig},
    device::Device,
    error::Result,
    positions::sinusoids,
};

pub(super) struct Embedding<B: Backend> {
    scale: f64,
    width: usize,
    tokens: WeightOf<B>,
    positions: Positions,
    learned: Option<WeightOf<B>>,
    token_type: Option<TensorOf<B>>,
    norm: Option<Norm<B>>,
}

impl<B: Backend> Embedding<B> {
    pub(super) fn load(
        loader: &mut Loader<'_, B>,
        stack: &str,
        config: &StackConfig,
        tokens: WeightOf<B>,
    ) -> Result<Self> {
        let name = format!("{stack}.embedding");
        let embedding = &config.embedding;
        let learned = match embedding.positions {
            Positions::Learned { .. } => Some(loader.weight(&[&format!("{name}.positions.weight")])?),
            Positions::None | Positions::Sinusoidal { .. } => None,
        };
        let token_type = if embedding.token_types > 0 {
            Some(loader.first_row(&format!("{name}.token_types.weight"))?)
        } else {
            None
        };
        let norm = if embedding.norm { Some(Norm::load(loader, &format!("{name}.norm"), &config.norm)?) } else { None };
        let width = tokens.inputs();
        Ok(Self { scale: embedding.scale, width, tokens, positions: embedding.positions, learned, token_type, norm })
    }

    /// Ids u32 `[T]` at `positions` to `[T, D]`.
    pub(super) fn run(&self, device: &Device<B>, ids: &TensorOf<B>, positions: &[usize]) -> Result<TensorOf<B>> {
        let mut x = device.scale(device.embedding(&self.tokens, ids)?, self.scale)?;
        if let Some(token_type) = &self.token_type {
            x = device.add(x, token_type.clone())?;
        }
        match (self.positions, &self.learned) {
            (Positions::Learned { offset, .. }, Some(table)) => {
                let rows = positions.iter().map(|position| (position + offset) as u32).collect();
                x = device.add(x, device.embedding(table, &device.upload_ids(rows)?)?)?;
            }
            (Positions::Sinusoidal { layout }, _) => {
                let waves = sinusoids(self.width, layout, positions);
                x = device.add(x, device.upload_floats(&waves, &[positions.len(), self.width])?)?;
            }
            _ => {}
        }
        match &self.norm {
            Some(norm) => norm.run(device, x),
            None => Ok(x),
        }
    }
}
