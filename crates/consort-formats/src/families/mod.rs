//! The families that can be read, one file each: what `config.json` says and leaves out, and what tensors are called.
//!
//! Each file maps the keys of one `model_type` to the choices of a [`TransformerConfig`](consort_core::TransformerConfig)
//! and has a table of names. Keys, defaults and formulas are those of the classes of the same name in `transformers`
//! 5.23 (`models/<family>/configuration_<family>.py`, `modeling_<family>.py`). A default that a comment does not
//! explain is from there.

mod bart;
mod bert;
mod bloom;
pub(crate) mod export;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod marian;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
pub(crate) mod rotary;
mod starcoder2;
mod t5;

use consort_core::config::{
    Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, NormConfig, NormKind,
    Placement, Positions, StackConfig,
};

use crate::{
    error::{Error, printable},
    json::{Reader, found},
    weights::{Layout, Mapping, Row, Tensors},
};

/// One `model_type`.
pub(crate) struct Family {
    pub(crate) model_type: &'static str,
    /// Configuration and names of the tensors that are there, to the graph's choices and the way to its slots.
    pub(crate) map: fn(&Reader<'_>, &Tensors) -> Result<Mapping, Error>,
}

/// All families, in alphabetical order.
pub(crate) const FAMILIES: [Family; 18] = [
    Family { model_type: "bart", map: bart::map },
    Family { model_type: "bert", map: bert::map },
    Family { model_type: "bloom", map: bloom::map },
    Family { model_type: "falcon", map: falcon::map },
    Family { model_type: "gemma", map: gemma::map },
    Family { model_type: "gemma2", map: gemma2::map },
    Family { model_type: "gemma3", map: gemma3::map_with_vision },
    Family { model_type: "gemma3_text", map: gemma3::map },
    Family { model_type: "gpt2", map: gpt2::map },
    Family { model_type: "gpt_neox", map: gpt_neox::map },
    Family { model_type: "llama", map: llama::map },
    Family { model_type: "marian", map: marian::map },
    Family { model_type: "mistral", map: mistral::map },
    Family { model_type: "phi3", map: phi3::map },
    Family { model_type: "qwen2", map: qwen2::map },
    Family { model_type: "qwen3", map: qwen3::map },
    Family { model_type: "starcoder2", map: starcoder2::map },
    Family { model_type: "t5", map: t5::map },
];

/// The family that a configuration names.
///
/// # Errors
/// [`Error::Config`] for a missing or unknown `model_type`, and for weights that were quantised by another tool.
pub(crate) fn family(config: &Reader<'_>) -> Result<&'static Family, Error> {
    let known = || FAMILIES.map(|family| family.model_type).join(", ");
    if !config.has("model_type") {
        return Err(config.error("model_type", format!("missing; Consort reads {}", known())));
    }
    let model_type = config.text("model_type", "")?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let what = format!("'{}' is not a family that Consort reads: {}", printable(model_type), known());
        return Err(config.error("model_type", what));
    };
    if let Some(quantization) = config.object("quantization_config")? {
        let method = quantization.get("quant_method").map(found).unwrap_or_default();
        let what = format!("weights quantised with {method} cannot be read; use the model's original weights");
        return Err(config.error("quantization_config", what));
    }
    Ok(family)
}

/// An activation by its name in `transformers`' `ACT2FN`.
fn activation(config: &Reader<'_>, key: &str, name: &str) -> Result<Activation, Error> {
    const KNOWN: &[(&str, Activation)] = &[
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        // Four ways to compute the same tanh formula.
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_accurate", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_python_tanh", Activation::GeluTanh),
        ("quick_gelu", Activation::QuickGelu),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("tanh", Activation::Tanh),
    ];
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(*activation),
        None => {
            let known: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            let what = format!("'{}' is not an activation that Consort has: {}", printable(name), known.join(", "));
            Err(config.error(key, what))
        }
    }
}

/// D / H, where a configuration gives no width of a head.
fn head_width(config: &Reader<'_>, width: usize, heads: usize, heads_key: &str) -> Result<usize, Error> {
    match width.checked_rem(heads) {
        Some(0) => Ok(width / heads),
        _ => Err(config.error(heads_key, format!("{heads} heads do not divide the model width {width}"))),
    }
}

/// The usual factor on scores, `1/√C`.
fn score_scale(head_width: usize) -> f64 {
    (head_width as f64).powf(-0.5)
}

/// An error where a configuration switches on something that the graph does not have.
fn refuse(config: &Reader<'_>, key: &str) -> Result<(), Error> {
    if config.flag(key, false)? { Err(config.error(key, "true is not supported")) } else { Ok(()) }
}

/// A slot whose weight is part of a fused one; see [`Layout::Fused`].
fn fused(slot: &'static str, tensors: &'static [&'static str], groups: usize, each: usize, first: usize) -> Row {
    Row { slot, tensors, layout: Layout::Fused { groups, each, first } }
}

/// Rows of query, key and value, weights first, where one tensor has all three: in `groups` equal parts, each with its
/// queries, then its keys, then its values.
fn query_key_value(
    attention: &AttentionConfig,
    groups: usize,
    [weight, bias]: [&'static [&'static str]; 2],
) -> [Row; 6] {
    let of = |heads: usize| (heads / groups.max(1)).saturating_mul(attention.head_width);
    let (queries, keys) = (of(attention.heads), of(attention.key_value_heads));
    let each = queries.saturating_add(keys.saturating_mul(2));
    [
        fused("decoder.*.attention.query.weight", weight, groups, each, 0),
        fused("decoder.*.attention.key.weight", weight, groups, each, queries),
        fused("decoder.*.attention.value.weight", weight, groups, each, queries.saturating_add(keys)),
        fused("decoder.*.attention.query.bias", bias, groups, each, 0),
        fused("decoder.*.attention.key.bias", bias, groups, each, queries),
        fused("decoder.*.attention.value.bias", bias, groups, each, queries.saturating_add(keys)),
    ]
}

/// Whether the head reads the token embedding: the configuration says so, and the files do not keep a different matrix
/// for each. Files that keep both with different values mean both, whatever the configuration says (so does
/// `transformers` 5).
fn tied(tensors: &Tensors, says: bool, prefix: &str, embedding: &[&str], head: &str) -> bool {
    let embedding = embedding.iter().find_map(|name| tensors.find(prefix, name));
    match (embedding, tensors.find(prefix, head)) {
        (Some((_, embedding)), Some((_, head))) => says && tensors.same(embedding, head),
        _ => says,
    }
}

/// Whether a model was saved from a class without a head: it names its classes, and none of them generates.
fn headless(config: &Reader<'_>) -> Result<bool, Error> {
    let classes = config.texts("architectures")?.unwrap_or_default();
    let generates = |class: &&str| {
        ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel"].iter().any(|end| class.ends_with(end))
    };
    Ok(!classes.is_empty() && !classes.iter().any(generates))
}

/// Stacks of the older kind, with absolute positions, layer norms and biases everywhere.
struct Classic {
    vocabulary: usize,
    context: Option<usize>,
    layers: usize,
    heads: usize,
    head_width: usize,
    inner: usize,
    activation: Activation,
    epsilon: f64,
    placement: Placement,
    positions: Positions,
}

impl Classic {
    fn stack(self, causal: bool) -> StackConfig {
        StackConfig {
            vocabulary: self.vocabulary,
            context: self.context,
            layers: self.layers,
            causal,
            embedding: EmbeddingConfig { positions: self.positions, ..EmbeddingConfig::default() },
            attention: AttentionConfig {
                heads: self.heads,
                key_value_heads: self.heads,
                head_width: self.head_width,
                scale: score_scale(self.head_width),
                inverse_layer_scale: false,
                input_bias: true,
                output_bias: true,
                query_key_norm: false,
                soft_cap: None,
                windows: Vec::new(),
                window_rotary: None,
                positions: AttentionPositions::None,
            },
            cross_attention: false,
            feed_forward: FeedForwardConfig {
                width: self.inner,
                activation: self.activation,
                gated: false,
                bias: true,
            },
            norm: NormConfig { kind: NormKind::Layer, epsilon: self.epsilon, bias: true, unit_offset: false },
            placement: self.placement,
            final_norm: false,
        }
    }
}

#[cfg(test)]
mod decoder_tests;
#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
