//! One pass with everything that it computes, under the names that other tools use.

use consort_core::{
    Backend, Error, HostData, Result, TensorOf, Transformer,
    model::{AttentionKind, Observer, StackKind, Tokens},
};

/// What a pass runs over.
#[derive(Clone, Debug, Default)]
pub struct ForwardInput {
    /// The tokens; of an encoder-decoder model, its source.
    pub tokens: Vec<u32>,
    /// The target so far, start token included (encoder-decoder models only).
    pub decoder_tokens: Vec<u32>,
    /// Attention probabilities too.
    pub attention: bool,
}

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// `logits`, `hidden.3`, `encoder_attention.0` …
    pub name: String,
    /// Sizes, outermost first.
    pub sizes: Vec<usize>,
    /// Elements, row-major; f64 from the oracle, f32 otherwise.
    pub data: HostData,
}

/// Collects what a pass shows.
struct Collector<'a, B: Backend> {
    model: &'a Transformer<B>,
    attention: bool,
    /// Whether the stack is an encoder that a decoder reads.
    prefix: &'static str,
    tensors: Vec<NamedTensor>,
}

impl<B: Backend> Collector<'_, B> {
    fn keep(&mut self, name: String, tensor: &TensorOf<B>) -> Result<()> {
        let data = self.model.device().download(tensor)?;
        self.tensors.push(NamedTensor { name, sizes: tensor.sizes().to_vec(), data });
        Ok(())
    }
}

impl<B: Backend> Observer<B> for Collector<'_, B> {
    fn hidden(&mut self, _: StackKind, index: usize, hidden: &TensorOf<B>) -> Result<()> {
        self.keep(format!("{}hidden.{index}", self.prefix), hidden)
    }

    fn wants_attention(&self) -> bool {
        self.attention
    }

    fn attention(&mut self, _: StackKind, kind: AttentionKind, layer: usize, p: &TensorOf<B>) -> Result<()> {
        let prefix = if kind == AttentionKind::Cross { "cross_" } else { self.prefix };
        self.keep(format!("{prefix}attention.{layer}"), p)
    }
}

/// Runs `model` over `input`.
///
/// # Errors
/// [`Error::Input`] for tokens that the model is not defined for.
pub(crate) fn forward<B: Backend>(model: &Transformer<B>, input: &ForwardInput) -> Result<Vec<NamedTensor>> {
    let mut collector = Collector { model, attention: input.attention, prefix: "", tensors: Vec::new() };
    let hidden = match (&model.config().encoder, &model.config().decoder) {
        (Some(_), None) => model.encode(&[&input.tokens], Some(&mut collector))?,
        (None, _) => {
            let mut state = model.state()?;
            decode(model, &mut state, &input.tokens, None, &mut collector)?
        }
        (Some(_), Some(_)) => {
            collector.prefix = "encoder_";
            let encoded = model.encode(&[&input.tokens], Some(&mut collector))?;
            collector.keep("encoder_last_hidden_state".into(), &encoded)?;
            collector.prefix = "";
            let mut state = model.state()?;
            let source = model.keep_sources(&mut state, &encoded, &[&input.tokens])?.pop();
            decode(model, &mut state, &input.decoder_tokens, source, &mut collector)?
        }
    };
    let (name, last) = match &model.config().head {
        Some(_) => ("logits", model.logits(&hidden, None)?),
        None => ("last_hidden_state", hidden),
    };
    collector.keep(name.into(), &last)?;
    Ok(collector.tensors)
}

fn decode<B: Backend>(
    model: &Transformer<B>,
    state: &mut consort_core::model::State<B>,
    tokens: &[u32],
    source: Option<consort_core::model::SourceId>,
    collector: &mut Collector<'_, B>,
) -> Result<TensorOf<B>> {
    if tokens.is_empty() {
        return Err(Error::Input("no tokens: there is nothing to compute from".into()));
    }
    let slot = state.open(tokens.len(), source);
    model.step(state, &vec![slot; tokens.len()], Tokens::Host(tokens), Some(collector))
}
