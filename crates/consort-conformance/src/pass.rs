//! The ways of running a golden's model: looking inside, in steps, without a cache, beside others.

use std::collections::BTreeMap;

use consort_core::{
    Backend, Device, SlotId, TensorOf, Transformer,
    model::{AttentionKind, Observer, SourceId, StackKind, State, Tokens},
};
use serde::Serialize;

use crate::{
    error::Error,
    golden::Golden,
    measure::{OtherBits, Values, other_bits},
};

/// Sizes of the steps of a prompt that is cut unevenly.
const ODD_CHUNKS: [usize; 4] = [3, 1, 7, 5];

/// The tensor that a model is for: `logits`, or `last_hidden_state` of a model without a head.
pub fn output_name<B: Backend>(model: &Transformer<B>) -> &'static str {
    if model.config().head.is_some() { "logits" } else { "last_hidden_state" }
}

/// What one pass over the prompt computes, under the names of the goldens: `hidden.i` after the embedding (0) and each
/// layer, `encoder_hidden.i` and `encoder_last_hidden_state` of an encoder that a decoder reads, `attention.i`,
/// `encoder_attention.i` and `cross_attention.i` if `attention` is set, and the [output](output_name).
///
/// # Errors
/// What the pass meets; [`Error::Elements`] when a download is not as long as its shape says.
pub fn observe<B: Backend>(
    golden: &Golden,
    model: &Transformer<B>,
    attention: bool,
) -> Result<BTreeMap<String, Values>, Error> {
    let mut shown = Shown { device: model.device(), prefix: "", attention, tensors: Vec::new() };
    let source: &[u32] = &golden.case.tokens;
    let hidden = match (&model.config().encoder, &model.config().decoder) {
        (_, None) => model.encode(&[source], Some(&mut shown))?,
        (encoder, Some(_)) => {
            let mut state = model.state()?;
            let mut kept = None;
            if encoder.is_some() {
                shown.prefix = "encoder_";
                let encoded = model.encode(&[source], Some(&mut shown))?;
                shown.tensors.push((
                    "encoder_last_hidden_state".into(),
                    encoded.sizes().to_vec(),
                    download(model, &encoded)?,
                ));
                shown.prefix = "";
                kept = model.keep_sources(&mut state, &encoded, &[source])?.pop();
            }
            let tokens = golden.prompt();
            let slot = state.open(tokens.len(), kept);
            model.step(&mut state, &vec![slot; tokens.len()], Tokens::Host(tokens), Some(&mut shown))?
        }
    };
    let last = output(model, &hidden)?;
    shown.tensors.push((output_name(model).into(), last.sizes().to_vec(), download(model, &last)?));
    shown.tensors.into_iter().map(|(name, sizes, data)| Ok((name.clone(), Values::new(&name, sizes, data)?))).collect()
}

/// The output for every row of the prompt, taken in steps of these sizes, over and over until it ends.
///
/// # Errors
/// What a step meets; [`consort_core::Error::Input`] for an encoder-only model.
pub fn in_steps<B: Backend>(golden: &Golden, model: &Transformer<B>, sizes: &[usize]) -> Result<Vec<f64>, Error> {
    let (mut state, slot) = open(golden, model)?;
    let mut outputs = Vec::new();
    let mut rest = golden.prompt();
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(size.clamp(1, rest.len()));
        let hidden = model.step(&mut state, &vec![slot; now.len()], Tokens::Host(now), None)?;
        outputs.extend(download(model, &output(model, &hidden)?)?);
        rest = later;
    }
    Ok(outputs)
}

/// A state with the golden's source in it, where there is one, and an empty sequence for its prompt.
///
/// # Errors
/// What encoding meets; [`consort_core::Error::Input`] for an encoder-only model.
pub fn open<B: Backend>(golden: &Golden, model: &Transformer<B>) -> Result<(State<B>, SlotId), Error> {
    let mut state = model.state()?;
    let source: Option<SourceId> = match model.config().encoder {
        Some(_) => model.add_sources(&mut state, &[&golden.case.tokens])?.pop(),
        None => None,
    };
    let slot = state.open(golden.prompt().len(), source);
    Ok((state, slot))
}

/// Another way of running the same rows, and whether it gives the same bits as one pass does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cut {
    /// `token by token`, `odd chunks`, `without a cache`, `beside others`.
    pub way: &'static str,
    /// Where its output differs from that of one pass, if it does.
    pub differs: Option<OtherBits>,
}

/// Runs the prompt every other way and compares bits with `whole`, the output of one pass.
///
/// Rows of an encoder see each other, so an encoder-only model cannot be cut: what must not matter there is the company
/// of other sequences.
///
/// # Errors
/// What a pass meets; [`Error::Elements`] when an output has another number of elements.
pub fn cuts<B: Backend>(golden: &Golden, model: &Transformer<B>, whole: &[f64]) -> Result<Vec<Cut>, Error> {
    let mut cuts = Vec::new();
    let mut cut = |way, found: Vec<f64>| -> Result<(), Error> {
        cuts.push(Cut { way, differs: other_bits(way, &found, whole)? });
        Ok(())
    };
    if model.config().decoder.is_some() {
        cut("token by token", in_steps(golden, model, &[1])?)?;
        cut("odd chunks", in_steps(golden, model, &ODD_CHUNKS)?)?;
        let sources: &[&[u32]] = if model.config().encoder.is_some() { &[&golden.case.tokens] } else { &[] };
        let hidden = model.forward(sources, &[golden.prompt()], None)?;
        cut("without a cache", download(model, &output(model, &hidden)?)?)?;
        cut("beside others", decode_beside(golden, model)?)?;
    } else {
        cut("beside others", encode_beside(golden, model)?)?;
    }
    Ok(cuts)
}

/// The golden's sequence between two others.
fn encode_beside<B: Backend>(golden: &Golden, model: &Transformer<B>) -> Result<Vec<f64>, Error> {
    let tokens: &[u32] = &golden.case.tokens;
    let (before, after) = tokens.split_at(tokens.len().div_ceil(3));
    let others: Vec<&[u32]> = if after.is_empty() { vec![before, tokens] } else { vec![before, tokens, after] };
    let hidden = model.encode(&others, None)?.slice(0, before.len(), tokens.len())?;
    download(model, &output(model, &hidden)?)
}

/// The golden's rows, each followed by one of another sequence: the same tokens backwards, of another source.
fn decode_beside<B: Backend>(golden: &Golden, model: &Transformer<B>) -> Result<Vec<f64>, Error> {
    let prompt = golden.prompt();
    let source: &[u32] = &golden.case.tokens;
    let (other_source, _) = source.split_at(source.len().div_ceil(3));
    let mut state = model.state()?;
    let mut sources = match model.config().encoder {
        Some(_) => model.add_sources(&mut state, &[other_source, source])?,
        None => Vec::new(),
    };
    let own = state.open(prompt.len(), sources.pop());
    let other = state.open(prompt.len(), sources.pop());
    let slots: Vec<SlotId> = prompt.iter().flat_map(|_| [own, other]).collect();
    let tokens: Vec<u32> = prompt.iter().zip(prompt.iter().rev()).flat_map(|(&own, &other)| [own, other]).collect();
    let hidden = model.step(&mut state, &slots, Tokens::Host(&tokens), None)?;
    let all = output(model, &hidden)?;
    let both = Values::new("beside others", all.sizes().to_vec(), download(model, &all)?)?;
    Ok(both.rows().step_by(2).flatten().copied().collect())
}

/// Logits, or hidden states of a model without a head.
fn output<B: Backend>(model: &Transformer<B>, hidden: &TensorOf<B>) -> Result<TensorOf<B>, Error> {
    Ok(if model.config().head.is_some() { model.logits(hidden, None)? } else { hidden.clone() })
}

fn download<B: Backend>(model: &Transformer<B>, x: &TensorOf<B>) -> Result<Vec<f64>, Error> {
    Ok(model.device().download(x)?.to_f64())
}

/// Collects what a pass shows.
struct Shown<'a, B: Backend> {
    device: &'a Device<B>,
    /// Whether the stack is an encoder that a decoder reads.
    prefix: &'static str,
    attention: bool,
    tensors: Vec<(String, Vec<usize>, Vec<f64>)>,
}

impl<B: Backend> Shown<'_, B> {
    fn keep(&mut self, name: String, x: &TensorOf<B>) -> consort_core::Result<()> {
        self.tensors.push((name, x.sizes().to_vec(), self.device.download(x)?.to_f64()));
        Ok(())
    }
}

impl<B: Backend> Observer<B> for Shown<'_, B> {
    fn hidden(&mut self, _: StackKind, index: usize, hidden: &TensorOf<B>) -> consort_core::Result<()> {
        self.keep(format!("{}hidden.{index}", self.prefix), hidden)
    }

    fn wants_attention(&self) -> bool {
        self.attention
    }

    fn attention(
        &mut self,
        _: StackKind,
        kind: AttentionKind,
        layer: usize,
        probabilities: &TensorOf<B>,
    ) -> consort_core::Result<()> {
        let prefix = if kind == AttentionKind::Cross { "cross_" } else { self.prefix };
        self.keep(format!("{prefix}attention.{layer}"), probabilities)
    }
}
