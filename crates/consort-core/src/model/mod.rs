//! The transformer, once: every model of every shape is this graph with other choices.
//!
//! ```text
//! tokens → embedding → block × L → norm → head → logits
//!                      block: attention [→ cross-attention] → feed-forward, each with norm and residual
//! ```
//!
//! Activations are rows `[T, D]`, without a batch dimension: a prompt, a decoding step, beams, prompts of different
//! lengths side by side are all rows, each belonging to a sequence. In inference a decoder's keys and values live in a
//! [`State`]; in training and in encoders attention runs over packed segments without a cache. Both give the same bits.

mod attention;
mod block;
mod embedding;
mod feed_forward;
mod head;
mod load;
mod norm;
mod observe;
mod projection;
mod random;
mod stack;
mod state;

use std::sync::Arc;

use self::{
    head::Head,
    load::Loader,
    stack::{Keys, Pass, Source, Stack},
};
pub use self::{
    load::{LoadOptions, WeightMap, Weights},
    observe::{AttentionKind, Observer, StackKind},
    random::RandomWeights,
    state::{SourceId, State, Tokens},
};
use crate::{
    backend::{Backend, TensorOf},
    config::TransformerConfig,
    device::Device,
    error::{Error, Result},
    kv_cache::SlotId,
    operation::Segments,
};

/// A transformer on a device, ready to run. Cheap to share: weights are handles.
pub struct Transformer<B: Backend> {
    device: Device<B>,
    config: TransformerConfig,
    encoder: Option<Stack<B>>,
    decoder: Option<Stack<B>>,
    head: Option<Head<B>>,
}

impl<B: Backend> Transformer<B> {
    /// Packs the weights of `config` onto `device`.
    ///
    /// # Errors
    /// [`Error::Config`] when the config contradicts itself; [`Error::Weight`] when a weight is missing, misshapen or
    /// not finite; [`Error::OutOfMemory`].
    pub fn load(
        device: &Device<B>,
        config: &TransformerConfig,
        weights: &dyn Weights,
        mut options: LoadOptions<'_>,
    ) -> Result<Self> {
        config.validate()?;
        let mut loader = Loader::new(device, config, weights, &mut options);
        let tokens =
            |loader: &mut Loader<'_, B>, stack: &str| loader.weight(&[&format!("{stack}.embedding.tokens.weight")]);
        let mut shared = None;
        let encoder = match &config.encoder {
            Some(stack) => {
                let table = tokens(&mut loader, "encoder")?;
                shared = Some(table.clone());
                Some(Stack::load(&mut loader, StackKind::Encoder, stack, table)?)
            }
            None => None,
        };
        let decoder = match &config.decoder {
            Some(stack) => {
                let table = match (&shared, config.shared_embedding) {
                    (Some(shared), true) => shared.clone(),
                    _ => tokens(&mut loader, "decoder")?,
                };
                shared = Some(table.clone());
                Some(Stack::load(&mut loader, StackKind::Decoder, stack, table)?)
            }
            None => None,
        };
        let head = match (&config.head, &shared) {
            (Some(head), Some(table)) => Some(Head::load(&mut loader, head, config.output_stack()?, table)?),
            _ => None,
        };
        Ok(Self { device: device.clone(), config: config.clone(), encoder, decoder, head })
    }

    /// What it was built from.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device<B> {
        &self.device
    }

    /// An empty state: no sequences, no blocks.
    ///
    /// # Errors
    /// [`Error::Input`] for an encoder-only model; [`Error::OutOfMemory`].
    pub fn state(&self) -> Result<State<B>> {
        State::new(&self.device, self.decoder()?)
    }

    /// Encodes token sequences, packed: `[Σ T, D]` in the order given.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no encoder, a sequence is empty or beyond the context, or a token is beyond the
    /// vocabulary.
    pub fn encode(&self, sequences: &[&[u32]], observer: Option<&mut dyn Observer<B>>) -> Result<TensorOf<B>> {
        let encoder = self.encoder.as_ref().ok_or_else(|| Error::Input("this model has no encoder".into()))?;
        encoder.run_packed(&self.device, sequences, None, observer)
    }

    /// Encodes sources and keeps each decoder layer's keys and values of them in `state`, once, for any number of
    /// sequences and beams to attend to.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn add_sources(&self, state: &mut State<B>, sequences: &[&[u32]]) -> Result<Vec<SourceId>> {
        let hidden = self.encode(sequences, None)?;
        self.keep_sources(state, &hidden, sequences)
    }

    /// As [`add_sources`](Self::add_sources), from hidden states that [`encode`](Self::encode) gave for `sequences`.
    ///
    /// # Errors
    /// [`Error::Input`] when the model has no cross-attention; [`Error::OutOfMemory`].
    pub fn keep_sources(
        &self,
        state: &mut State<B>,
        hidden: &TensorOf<B>,
        sequences: &[&[u32]],
    ) -> Result<Vec<SourceId>> {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        state.keep_sources(&self.device, self.decoder()?, hidden, &lengths)
    }

    /// Appends one row per entry of `slots` to its sequence and runs the decoder over all of them: hidden states
    /// `[rows, D]`. Rows may belong to any mix of sequences, at any lengths, several of one sequence in order.
    ///
    /// # Errors
    /// [`Error::Input`] when a sequence is not open or would pass the context, or a token is beyond the vocabulary;
    /// [`Error::OutOfMemory`]; what the observer gives. The sequences are as they were then. Errors that a recording
    /// backend tells later, at a download, come too late for that: close its sequences.
    pub fn step(
        &self,
        state: &mut State<B>,
        slots: &[SlotId],
        tokens: Tokens<'_, B>,
        observer: Option<&mut dyn Observer<B>>,
    ) -> Result<TensorOf<B>> {
        let decoder = self.decoder()?;
        let ids = tokens.upload(&self.device, slots.len(), decoder.config.vocabulary)?;
        let step = state.append(slots, decoder.config.context)?;
        let source = step.sources.map(Source::Cached);
        let mut pass = Pass { keys: Keys::Cached(step.keys), source, observer };
        let hidden = decoder.run(&self.device, ids, &step.positions, &step.lengths, &mut pass);
        if hidden.is_err() {
            state.take_back(slots, &step.positions);
        }
        hidden
    }

    /// Runs whole sequences without a cache, packed: hidden states `[Σ T, D]` of the decoder, or of the encoder where
    /// there is no decoder. For training, and for embeddings.
    ///
    /// `sources` has one sequence per target for an encoder-decoder and is empty otherwise.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn forward(
        &self,
        sources: &[&[u32]],
        targets: &[&[u32]],
        observer: Option<&mut dyn Observer<B>>,
    ) -> Result<TensorOf<B>> {
        let Some(decoder) = &self.decoder else { return self.encode(targets, observer) };
        if sources.len() != if self.encoder.is_some() { targets.len() } else { 0 } {
            return Err(Error::Input(format!("{} sources for {} targets", sources.len(), targets.len())));
        }
        let hidden = if self.encoder.is_some() { Some(self.encode(sources, None)?) } else { None };
        let segments = Arc::new(Segments {
            queries: targets.iter().map(|target| target.len()).collect(),
            keys: sources.iter().map(|source| source.len()).collect(),
        });
        let source = hidden.map(|hidden| Source::Fresh { hidden, segments });
        decoder.run_packed(&self.device, targets, source, observer)
    }

    /// Logits `[R, V]` of rows of hidden states `[T, D]`: those of `rows`, or of all.
    ///
    /// # Errors
    /// [`Error::Input`] for a model without a head, or for a row beyond T.
    pub fn logits(&self, hidden: &TensorOf<B>, rows: Option<&[usize]>) -> Result<TensorOf<B>> {
        let head = self.head.as_ref().ok_or_else(|| {
            Error::Input("this model has no language-model head: it gives hidden states, not text".into())
        })?;
        let hidden = match rows {
            Some(rows) => {
                if let Some(row) = rows.iter().find(|&&row| row >= hidden.size(0)) {
                    return Err(Error::Input(format!("logits of row {row} of hidden states {}", hidden.shape())));
                }
                let ids = self.device.upload_ids(rows.iter().map(|&row| row as u32).collect())?;
                self.device.gather_rows(hidden, &ids)?
            }
            None => hidden.clone(),
        };
        head.run(&self.device, hidden)
    }

    fn decoder(&self) -> Result<&Stack<B>> {
        self.decoder
            .as_ref()
            .ok_or_else(|| Error::Input("this model is encoder-only: it embeds text, it does not write it".into()))
    }
}
