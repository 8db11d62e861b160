//! Falcon (Almazrouei et al. 2023): rotary positions, attention and feed-forward network side by side, few heads of keys
//! and values, fused with their queries group by group.

use consort_core::config::{
    AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig, NormKind,
    Placement, StackConfig, TransformerConfig,
};

use super::{
    activation, head_width, headless, query_key_value, refuse,
    rotary::{Rotary, WHOLE, rotary},
    score_scale, tied,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const PREFIX: &str = "transformer.";
const EMBEDDING: &str = "transformer.word_embeddings.weight";
const HEAD: &str = "lm_head.weight";

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    // The reference rounds these slopes to bf16 and scales them with the scores: another scheme than BLOOM's.
    refuse(config, "alibi")?;
    let width = config.size(if config.has("n_embed") { "n_embed" } else { "hidden_size" }, 4544)?;
    let heads = config.size("num_attention_heads", 71)?;
    let head_width = head_width(config, width, heads, "num_attention_heads")?;
    let context = config.size("max_position_embeddings", 2048)?;
    let Rotary { all: rotary, window: window_rotary, context } = rotary(config, WHOLE, head_width, context)?;
    let bias = config.flag("bias", false)?;
    let placement = placement(config)?;
    let stack = StackConfig {
        vocabulary: config.size("vocab_size", 65024)?,
        context,
        layers: config.layers(&["num_hidden_layers"], 32)?,
        causal: true,
        embedding: EmbeddingConfig::default(),
        attention: AttentionConfig {
            heads,
            key_value_heads: key_value_heads(config, heads)?,
            head_width,
            scale: score_scale(head_width),
            inverse_layer_scale: false,
            input_bias: bias,
            output_bias: bias,
            query_key_norm: false,
            soft_cap: None,
            windows: Vec::new(),
            positions: AttentionPositions::Rotary(rotary),
            window_rotary,
        },
        cross_attention: false,
        feed_forward: FeedForwardConfig {
            width: config.optional_size("ffn_hidden_size", None)?.unwrap_or(width.saturating_mul(4)),
            activation: activation(config, "activation", config.text("activation", "gelu")?)?,
            gated: false,
            bias,
        },
        norm: NormConfig {
            kind: NormKind::Layer,
            epsilon: config.number("layer_norm_epsilon", 1e-5)?,
            bias: true,
            unit_offset: false,
        },
        placement,
        final_norm: true,
    };

    let tied = tied(tensors, config.flag("tie_word_embeddings", true)?, PREFIX, &[EMBEDDING], HEAD);
    let has_head = tied || tensors.find("", HEAD).is_some() || !headless(config)?;
    let mut rows = TABLE.to_vec();
    rows.extend_from_slice(if placement == Placement::Parallel { TWO_NORMS } else { NORMS });
    rows.extend(query_key_value(&stack.attention, stack.attention.key_value_heads, [WEIGHT, BIAS]));
    rows.push(row("decoder.embedding.tokens.weight", if tied { &[EMBEDDING, HEAD] } else { &[EMBEDDING] }));
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: None,
            decoder: Some(stack),
            shared_embedding: false,
            head: has_head.then_some(HeadConfig { tied, bias: false, scale: 1.0, soft_cap: None, transform: None }),
        },
        prefix: PREFIX,
        rows,
        silent: vec!["transformer.h.*.self_attention.rotary_emb.inv_freq"],
    })
}

/// The 40B and 180B have a head of keys and values a group of queries, the 7B one for all.
fn key_value_heads(config: &Reader<'_>, heads: usize) -> Result<usize, Error> {
    let given = config.optional_size("num_kv_heads", None)?.unwrap_or(heads);
    if config.flag("new_decoder_architecture", false)? {
        Ok(given)
    } else if config.flag("multi_query", true)? {
        Ok(1)
    } else if given == heads {
        Ok(heads)
    } else {
        let what = format!("expected {heads}, one a head, without new_decoder_architecture, found {given}");
        Err(config.error("num_kv_heads", what))
    }
}

fn placement(config: &Reader<'_>) -> Result<Placement, Error> {
    const NORMS: &str = "num_ln_in_parallel_attn";
    let new = config.flag("new_decoder_architecture", false)?;
    let norms = config.optional_size(NORMS, None)?.unwrap_or(if new { 2 } else { 1 });
    match (config.flag("parallel_attn", true)?, norms) {
        (true, 1) => Ok(Placement::ParallelSharedNorm),
        (true, 2) if new => Ok(Placement::Parallel),
        (true, other) if new => Err(config.error(NORMS, format!("expected 1 or 2, found {other}"))),
        (true, other) => {
            Err(config.error(NORMS, format!("expected 1 without new_decoder_architecture, found {other}")))
        }
        (false, _) if !new => Ok(Placement::Pre),
        (false, _) => Err(config.error("parallel_attn", "false is not defined with new_decoder_architecture")),
    }
}

const WEIGHT: &[&str] = &["transformer.h.*.self_attention.query_key_value.weight"];
const BIAS: &[&str] = &["transformer.h.*.self_attention.query_key_value.bias"];

const TABLE: &[Row] = &[
    row("decoder.*.attention.output.weight", &["transformer.h.*.self_attention.dense.weight"]),
    row("decoder.*.attention.output.bias", &["transformer.h.*.self_attention.dense.bias"]),
    row("decoder.*.feed_forward.up.weight", &["transformer.h.*.mlp.dense_h_to_4h.weight"]),
    row("decoder.*.feed_forward.up.bias", &["transformer.h.*.mlp.dense_h_to_4h.bias"]),
    row("decoder.*.feed_forward.down.weight", &["transformer.h.*.mlp.dense_4h_to_h.weight"]),
    row("decoder.*.feed_forward.down.bias", &["transformer.h.*.mlp.dense_4h_to_h.bias"]),
    row("decoder.norm.weight", &["transformer.ln_f.weight"]),
    row("decoder.norm.bias", &["transformer.ln_f.bias"]),
    row("head.output.weight", &[HEAD]),
];

/// The second norm is there in sequence only.
const NORMS: &[Row] = &[
    row("decoder.*.attention.norm.weight", &["transformer.h.*.input_layernorm.weight"]),
    row("decoder.*.attention.norm.bias", &["transformer.h.*.input_layernorm.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["transformer.h.*.post_attention_layernorm.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["transformer.h.*.post_attention_layernorm.bias"]),
];

const TWO_NORMS: &[Row] = &[
    row("decoder.*.attention.norm.weight", &["transformer.h.*.ln_attn.weight"]),
    row("decoder.*.attention.norm.bias", &["transformer.h.*.ln_attn.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["transformer.h.*.ln_mlp.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["transformer.h.*.ln_mlp.bias"]),
];
