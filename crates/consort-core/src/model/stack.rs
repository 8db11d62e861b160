//! A stack of blocks, run over packed sequences or over rows whose keys are cached.

use std::sync::Arc;

use super::{
    attention::Rotary,
    block::Block,
    embedding::Embedding,
    load::Loader,
    norm::Norm,
    observe::{Observer, StackKind},
    state::check_tokens,
};
use crate::{
    backend::{Backend, TensorOf, WeightOf},
    config::{AttentionPositions, StackConfig},
    device::Device,
    error::{Error, Result},
    kv_cache::StepPlan,
    operation::{ScoreBias, Segments},
    positions::linear_bias_slopes,
    scope,
};

pub(super) struct Stack<B: Backend> {
    pub(super) kind: StackKind,
    pub(super) config: StackConfig,
    embedding: Embedding<B>,
    /// Relative table `[buckets, H]` or slopes `[H]`, with how to read them.
    bias: Option<TensorOf<B>>,
    score_bias: ScoreBias,
    pub(super) blocks: Vec<Block<B>>,
    norm: Option<Norm<B>>,
}

/// What differs from pass to pass.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) keys: Keys<B>,
    pub(super) source: Option<Source<B>>,
    pub(super) observer: Option<&'a mut dyn Observer<B>>,
}

/// Where a stack's own keys are.
pub(super) enum Keys<B: Backend> {
    /// In this pass: packed sequences.
    Fresh(Arc<Segments>),
    /// In the cache, this pass's rows included.
    Cached(StepPlan<B>),
}

/// Where the encoder's keys are.
pub(super) enum Source<B: Backend> {
    /// To be computed from its output `[S, D]`.
    Fresh { hidden: TensorOf<B>, segments: Arc<Segments> },
    /// In their cache.
    Cached(StepPlan<B>),
}

/// One layer's view of a pass.
pub(super) struct Layer<'p, 'a, B: Backend> {
    pub(super) device: &'p Device<B>,
    pub(super) stack: StackKind,
    pub(super) index: usize,
    pub(super) rotary: Option<&'p Rotary<B>>,
    pub(super) bias: Option<&'p TensorOf<B>>,
    pub(super) score_bias: ScoreBias,
    pub(super) pass: &'p mut Pass<'a, B>,
}

impl<B: Backend> Stack<B> {
    pub(super) fn load(
        loader: &mut Loader<'_, B>,
        kind: StackKind,
        config: &StackConfig,
        tokens: WeightOf<B>,
    ) -> Result<Self> {
        let name = kind.name();
        let embedding = Embedding::load(loader, name, config, tokens)?;
        let (bias, score_bias) = match config.attention.positions {
            AttentionPositions::Relative { buckets, max_distance } => (
                Some(loader.table(&format!("{name}.relative_bias.weight"))?),
                ScoreBias::Relative { bidirectional: !config.causal, buckets, max_distance },
            ),
            AttentionPositions::LinearBias => {
                let slopes = linear_bias_slopes(config.attention.heads);
                (Some(loader.device.upload_floats(&slopes, &[slopes.len()])?), ScoreBias::Linear)
            }
            AttentionPositions::None | AttentionPositions::Rotary(_) => (None, ScoreBias::None),
        };
        let blocks = (0..config.layers).map(|layer| Block::load(loader, name, config, layer)).collect::<Result<_>>()?;
        let norm =
            if config.final_norm { Some(Norm::load(loader, &format!("{name}.norm"), &config.norm)?) } else { None };
        Ok(Self { kind, config: config.clone(), embedding, bias, score_bias, blocks, norm })
    }

    /// Runs whole sequences without a cache: `[Σ T, D]`.
    pub(super) fn run_packed(
        &self,
        device: &Device<B>,
        sequences: &[&[u32]],
        source: Option<Source<B>>,
        observer: Option<&mut dyn Observer<B>>,
    ) -> Result<TensorOf<B>> {
        let mut ids = Vec::new();
        let (mut positions, mut lengths) = (Vec::new(), Vec::new());
        for sequence in sequences {
            if sequence.is_empty() {
                return Err(Error::Input("a sequence without tokens: there is nothing to compute from".into()));
            }
            check_length(sequence.len(), self.config.context)?;
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len());
            lengths.extend(std::iter::repeat_n(sequence.len(), sequence.len()));
        }
        check_tokens(&ids, self.config.vocabulary)?;
        let segments = Segments::within(sequences.iter().map(|sequence| sequence.len()).collect());
        let ids = device.upload_ids(ids)?;
        let mut pass = Pass { keys: Keys::Fresh(Arc::new(segments)), source, observer };
        self.run(device, ids, &positions, &lengths, &mut pass)
    }

    /// Ids u32 `[T]` at `positions` of sequences of `lengths` tokens to hidden states `[T, D]`.
    pub(super) fn run(
        &self,
        device: &Device<B>,
        ids: TensorOf<B>,
        positions: &[usize],
        lengths: &[usize],
        pass: &mut Pass<'_, B>,
    ) -> Result<TensorOf<B>> {
        let _scope = scope::enter(self.kind.name());
        let mut x = {
            let _scope = scope::enter("embedding");
            self.embedding.run(device, &ids, positions)?
        };
        let rotary = self.rotary(device, positions, lengths)?;
        let window_rotary = self.window_rotary(device, positions, lengths)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let _scope = scope::enter_index(index);
            if let Some(observer) = &mut pass.observer {
                observer.hidden(self.kind, index, &x)?;
            }
            let mut layer = Layer {
                device,
                stack: self.kind,
                index,
                rotary: match &window_rotary {
                    Some(other) if self.config.window(index).is_some() => Some(other),
                    _ => rotary.as_ref(),
                },
                bias: self.bias.as_ref(),
                score_bias: self.score_bias,
                pass,
            };
            x = block.run(&mut layer, x)?;
        }
        if let Some(norm) = &self.norm {
            let _scope = scope::enter("norm");
            x = norm.run(device, x)?;
        }
        if let Some(observer) = &mut pass.observer {
            observer.hidden(self.kind, self.blocks.len(), &x)?;
        }
        Ok(x)
    }

    fn rotary(&self, device: &Device<B>, positions: &[usize], lengths: &[usize]) -> Result<Option<Rotary<B>>> {
        let AttentionPositions::Rotary(config) = self.config.attention.positions else { return Ok(None) };
        Rotary::new(device, &config, positions, lengths).map(Some)
    }

    /// What layers with a window rotate by, where it differs.
    fn window_rotary(&self, device: &Device<B>, positions: &[usize], lengths: &[usize]) -> Result<Option<Rotary<B>>> {
        let Some(config) = self.config.attention.window_rotary else { return Ok(None) };
        Rotary::new(device, &config, positions, lengths).map(Some)
    }
}

/// A sequence of `length` tokens must fit the context.
pub(super) fn check_length(length: usize, context: Option<usize>) -> Result<()> {
    match context {
        Some(context) if length > context => Err(Error::Input(format!(
            "{length} tokens are beyond the model's context of {context}: shorten the prompt or ask for fewer tokens"
        ))),
        _ => Ok(()),
    }
}
