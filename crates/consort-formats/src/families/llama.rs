//! Llama (Touvron et al. 2023), and what the families that began from it share: rotary positions, RMS norms before,
//! grouped heads, a gated feed-forward network.

use consort_core::config::{
    AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig, NormKind,
    Placement, StackConfig, TransformerConfig,
};

use super::{
    activation, head_width, headless,
    rotary::{Keys, Rotary, WHOLE, rotary},
    score_scale, tied,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// What a configuration class says where a file says nothing.
pub(super) struct Defaults {
    pub(super) vocabulary: usize,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// `None`: as many as query heads.
    pub(super) key_value_heads: Option<usize>,
    /// `None`: D / H.
    pub(super) head_width: Option<usize>,
    pub(super) context: usize,
    pub(super) rotary: Keys,
    /// Key and default of the epsilon of norms.
    pub(super) epsilon: (&'static str, f64),
    /// Key and default of the activation.
    pub(super) activation: (&'static str, &'static str),
    pub(super) tied: bool,
}

pub(super) const EPSILON: (&str, f64) = ("rms_norm_eps", 1e-6);

const DEFAULTS: Defaults = Defaults {
    vocabulary: 32000,
    width: 4096,
    inner: 11008,
    layers: 32,
    heads: 32,
    key_value_heads: None,
    head_width: None,
    context: 2048,
    rotary: WHOLE,
    epsilon: EPSILON,
    activation: ("hidden_act", "silu"),
    tied: false,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    decoder(config, tensors, &DEFAULTS, |stack| {
        stack.attention.input_bias = config.flag("attention_bias", false)?;
        stack.attention.output_bias = stack.attention.input_bias;
        stack.feed_forward.bias = config.flag("mlp_bias", false)?;
        Ok(())
    })
}

/// A decoder like Llama's, with `change` for what a family does otherwise.
pub(super) fn decoder(
    config: &Reader<'_>,
    tensors: &Tensors,
    defaults: &Defaults,
    change: impl FnOnce(&mut StackConfig) -> Result<(), Error>,
) -> Result<Mapping, Error> {
    let (width, mut stack) = stack(config, defaults)?;
    change(&mut stack)?;

    let tied = tied(tensors, config.flag("tie_word_embeddings", defaults.tied)?, "model.", &[EMBEDDING], HEAD);
    let has_head = tied || tensors.find("", HEAD).is_some() || !headless(config)?;
    let mut rows = TABLE.to_vec();
    rows.push(row("decoder.embedding.tokens.weight", if tied { &[EMBEDDING, HEAD] } else { &[EMBEDDING] }));
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: None,
            decoder: Some(stack),
            shared_embedding: false,
            head: has_head.then_some(HeadConfig { tied, bias: false, scale: 1.0, soft_cap: None, transform: None }),
        },
        prefix: "model.",
        rows,
        // Frequencies that old versions saved with the weights.
        silent: vec!["model.layers.*.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"],
    })
}

/// The stack of a decoder like Llama's, and its width.
pub(super) fn stack(config: &Reader<'_>, defaults: &Defaults) -> Result<(usize, StackConfig), Error> {
    let width = config.size("hidden_size", defaults.width)?;
    let heads = config.size("num_attention_heads", defaults.heads)?;
    let head_width = match config.optional_size("head_dim", defaults.head_width)? {
        Some(given) => given,
        None => head_width(config, width, heads, "num_attention_heads")?,
    };
    let context = config.size("max_position_embeddings", defaults.context)?;
    let Rotary { all: rotary, window: window_rotary, context } = rotary(config, defaults.rotary, head_width, context)?;
    let (epsilon_key, default_epsilon) = defaults.epsilon;
    let (activation_key, default_activation) = defaults.activation;
    let stack = StackConfig {
        vocabulary: config.size("vocab_size", defaults.vocabulary)?,
        context,
        layers: config.layers(&["num_hidden_layers"], defaults.layers)?,
        causal: true,
        embedding: EmbeddingConfig::default(),
        attention: AttentionConfig {
            heads,
            key_value_heads: config.optional_size("num_key_value_heads", defaults.key_value_heads)?.unwrap_or(heads),
            head_width,
            scale: score_scale(head_width),
            inverse_layer_scale: false,
            input_bias: false,
            output_bias: false,
            query_key_norm: false,
            soft_cap: None,
            windows: Vec::new(),
            window_rotary,
            positions: AttentionPositions::Rotary(rotary),
        },
        cross_attention: false,
        feed_forward: FeedForwardConfig {
            width: config.size("intermediate_size", defaults.inner)?,
            activation: activation(config, activation_key, config.text(activation_key, default_activation)?)?,
            gated: true,
            bias: false,
        },
        norm: NormConfig {
            kind: NormKind::Rms,
            epsilon: config.number(epsilon_key, default_epsilon)?,
            bias: false,
            unit_offset: false,
        },
        placement: Placement::Pre,
        final_norm: true,
    };
    Ok((width, stack))
}

const TABLE: &[Row] = &[
    row("decoder.*.attention.norm.weight", &["model.layers.*.input_layernorm.weight"]),
    row("decoder.*.attention.query.weight", &["model.layers.*.self_attn.q_proj.weight"]),
    row("decoder.*.attention.query.bias", &["model.layers.*.self_attn.q_proj.bias"]),
    row("decoder.*.attention.key.weight", &["model.layers.*.self_attn.k_proj.weight"]),
    row("decoder.*.attention.key.bias", &["model.layers.*.self_attn.k_proj.bias"]),
    row("decoder.*.attention.value.weight", &["model.layers.*.self_attn.v_proj.weight"]),
    row("decoder.*.attention.value.bias", &["model.layers.*.self_attn.v_proj.bias"]),
    row("decoder.*.attention.query_norm.weight", &["model.layers.*.self_attn.q_norm.weight"]),
    row("decoder.*.attention.key_norm.weight", &["model.layers.*.self_attn.k_norm.weight"]),
    row("decoder.*.attention.output.weight", &["model.layers.*.self_attn.o_proj.weight"]),
    row("decoder.*.attention.output.bias", &["model.layers.*.self_attn.o_proj.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["model.layers.*.post_attention_layernorm.weight"]),
    row("decoder.*.feed_forward.gate.weight", &["model.layers.*.mlp.gate_proj.weight"]),
    row("decoder.*.feed_forward.gate.bias", &["model.layers.*.mlp.gate_proj.bias"]),
    row("decoder.*.feed_forward.up.weight", &["model.layers.*.mlp.up_proj.weight"]),
    row("decoder.*.feed_forward.up.bias", &["model.layers.*.mlp.up_proj.bias"]),
    row("decoder.*.feed_forward.down.weight", &["model.layers.*.mlp.down_proj.weight"]),
    row("decoder.*.feed_forward.down.bias", &["model.layers.*.mlp.down_proj.bias"]),
    row("decoder.norm.weight", &["model.norm.weight"]),
    row("head.output.weight", &[HEAD]),
];
