//! Gemma 3 (Gemma Team 2025): Gemma 2 with norms over each head's query and key instead of soft caps, five layers with a
//! window to one without, and a rotation of its own for each of the two kinds. Of a configuration with a vision part the
//! text part is read.

use consort_core::config::{HeadConfig, Placement, TransformerConfig};

use super::{
    gemma2::cap,
    headless,
    llama::{Defaults, EPSILON, stack},
    refuse,
    rotary::{Keys, WHOLE, windows},
    tied,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const DEFAULTS: Defaults = Defaults {
    vocabulary: 262_208,
    width: 2304,
    inner: 9216,
    layers: 26,
    heads: 8,
    key_value_heads: Some(4),
    head_width: Some(256),
    context: 131_072,
    rotary: Keys { theta: ("rope_theta", 1e6), window_theta: Some(("rope_local_base_freq", 1e4)), ..WHOLE },
    epsilon: EPSILON,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    tied: true,
};

/// The text part of a model that also sees.
pub(super) fn map_with_vision(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let Some(text) = config.object("text_config")? else {
        return Err(config.error("text_config", "missing; of 'gemma3' Consort reads the text part"));
    };
    let says = if config.has("tie_word_embeddings") { config } else { &text };
    map_text(&text, tensors, says.flag("tie_word_embeddings", DEFAULTS.tied)?, false)
}

/// A model of text alone.
pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    map_text(config, tensors, config.flag("tie_word_embeddings", DEFAULTS.tied)?, headless(config)?)
}

fn map_text(config: &Reader<'_>, tensors: &Tensors, says_tied: bool, headless: bool) -> Result<Mapping, Error> {
    refuse(config, "use_bidirectional_attention")?;
    if config.has("attn_logit_softcapping") {
        return Err(config.error("attn_logit_softcapping", "not defined for Gemma 3: the reference does not apply it"));
    }
    let (width, mut stack) = stack(config, &DEFAULTS)?;
    stack.attention.input_bias = config.flag("attention_bias", false)?;
    stack.attention.output_bias = stack.attention.input_bias;
    stack.attention.query_key_norm = true;
    stack.attention.scale = config.positive("query_pre_attn_scalar", 256.0)?.powf(-0.5);
    let pattern = config.size("sliding_window_pattern", 6)?;
    let window = config.optional_size("sliding_window", Some(4096))?;
    stack.attention.windows = windows(config, stack.layers, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    stack.embedding.scale = (width as f64).sqrt();
    stack.norm.unit_offset = true;
    stack.placement = Placement::Sandwich;

    let stored = HEAD.iter().copied().find(|head| tensors.find("", head).is_some());
    let tied = tied(tensors, says_tied, PREFIX, EMBEDDING, stored.unwrap_or("lm_head.weight"));
    let has_head = tied || stored.is_some() || !headless;
    let soft_cap = cap(config, "final_logit_softcapping", None)?;
    let head = HeadConfig { tied, bias: false, scale: 1.0, soft_cap, transform: None };
    let mut rows = TABLE.to_vec();
    rows.push(row("decoder.embedding.tokens.weight", if tied { EMBEDDING_OR_HEAD } else { EMBEDDING }));
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: None,
            decoder: Some(stack),
            shared_embedding: false,
            head: has_head.then_some(head),
        },
        prefix: PREFIX,
        rows,
        silent: Vec::new(),
    })
}

const PREFIX: &str = "model.";

/// A slot and the names of its tensor: in a model of text, beside a vision part as `transformers` 5 writes it, and as 4
/// did.
macro_rules! text {
    ($slot:literal, $name:literal) => {
        row(
            $slot,
            &[
                concat!("model.", $name),
                concat!("model.language_model.", $name),
                concat!("language_model.model.", $name),
            ],
        )
    };
}

const EMBEDDING: &[&str] = &[
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
];
const HEAD: &[&str] = &["lm_head.weight", "language_model.lm_head.weight"];
const EMBEDDING_OR_HEAD: &[&str] = &[
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "lm_head.weight",
    "language_model.lm_head.weight",
];

const TABLE: &[Row] = &[
    text!("decoder.*.attention.norm.weight", "layers.*.input_layernorm.weight"),
    text!("decoder.*.attention.query.weight", "layers.*.self_attn.q_proj.weight"),
    text!("decoder.*.attention.query.bias", "layers.*.self_attn.q_proj.bias"),
    text!("decoder.*.attention.key.weight", "layers.*.self_attn.k_proj.weight"),
    text!("decoder.*.attention.key.bias", "layers.*.self_attn.k_proj.bias"),
    text!("decoder.*.attention.value.weight", "layers.*.self_attn.v_proj.weight"),
    text!("decoder.*.attention.value.bias", "layers.*.self_attn.v_proj.bias"),
    text!("decoder.*.attention.query_norm.weight", "layers.*.self_attn.q_norm.weight"),
    text!("decoder.*.attention.key_norm.weight", "layers.*.self_attn.k_norm.weight"),
    text!("decoder.*.attention.output.weight", "layers.*.self_attn.o_proj.weight"),
    text!("decoder.*.attention.output.bias", "layers.*.self_attn.o_proj.bias"),
    text!("decoder.*.attention.post_norm.weight", "layers.*.post_attention_layernorm.weight"),
    text!("decoder.*.feed_forward.norm.weight", "layers.*.pre_feedforward_layernorm.weight"),
    text!("decoder.*.feed_forward.gate.weight", "layers.*.mlp.gate_proj.weight"),
    text!("decoder.*.feed_forward.up.weight", "layers.*.mlp.up_proj.weight"),
    text!("decoder.*.feed_forward.down.weight", "layers.*.mlp.down_proj.weight"),
    text!("decoder.*.feed_forward.post_norm.weight", "layers.*.post_feedforward_layernorm.weight"),
    text!("decoder.norm.weight", "norm.weight"),
    row("head.output.weight", HEAD),
];
