//! BLOOM (BigScience Workshop 2022): linear biases for positions, a norm over the embedding, layer norms before, one fused
//! projection whose query, key and value alternate head by head.

use consort_core::config::{Activation, AttentionPositions, HeadConfig, Placement, Positions, TransformerConfig};

use super::{Classic, head_width, query_key_value, refuse, tied};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const PREFIX: &str = "transformer.";
const EMBEDDING: &str = "transformer.word_embeddings.weight";
const HEAD: &str = "lm_head.weight";

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    refuse(config, "apply_residual_connection_post_layernorm")?;
    if config.count("pretraining_tp", 1)? > 1 {
        // Sums the output projections slice by slice, without their biases.
        refuse(config, "slow_but_exact")?;
    }
    let width_key = if config.has("n_embed") { "n_embed" } else { "hidden_size" };
    let width = config.size(width_key, 64)?;
    let heads = config.size_of(&["n_head", "num_attention_heads"], 8)?;
    let mut stack = Classic {
        vocabulary: config.size("vocab_size", 250_880)?,
        context: None,
        layers: config.layers(&["n_layer", "num_hidden_layers"], 2)?,
        heads,
        head_width: head_width(config, width, heads, "n_head")?,
        inner: width.saturating_mul(4),
        activation: Activation::GeluTanh,
        epsilon: config.number("layer_norm_epsilon", 1e-5)?,
        placement: Placement::Pre,
        positions: Positions::None,
    }
    .stack(true);
    stack.attention.positions = AttentionPositions::LinearBias;
    stack.embedding.norm = true;
    stack.final_norm = true;

    let tied = tied(tensors, config.flag("tie_word_embeddings", true)?, PREFIX, &[EMBEDDING], HEAD);
    let mut rows = TABLE.to_vec();
    rows.extend(query_key_value(&stack.attention, heads, [QUERY_KEY_VALUE_WEIGHT, QUERY_KEY_VALUE_BIAS]));
    rows.push(row("decoder.embedding.tokens.weight", if tied { &[EMBEDDING, HEAD] } else { &[EMBEDDING] }));
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: None,
            decoder: Some(stack),
            shared_embedding: false,
            head: Some(HeadConfig { tied, bias: false, scale: 1.0, soft_cap: None, transform: None }),
        },
        prefix: PREFIX,
        rows,
        silent: Vec::new(),
    })
}

const QUERY_KEY_VALUE_WEIGHT: &[&str] = &["transformer.h.*.self_attention.query_key_value.weight"];
const QUERY_KEY_VALUE_BIAS: &[&str] = &["transformer.h.*.self_attention.query_key_value.bias"];

const TABLE: &[Row] = &[
    row("decoder.embedding.norm.weight", &["transformer.word_embeddings_layernorm.weight"]),
    row("decoder.embedding.norm.bias", &["transformer.word_embeddings_layernorm.bias"]),
    row("decoder.*.attention.norm.weight", &["transformer.h.*.input_layernorm.weight"]),
    row("decoder.*.attention.norm.bias", &["transformer.h.*.input_layernorm.bias"]),
    row("decoder.*.attention.output.weight", &["transformer.h.*.self_attention.dense.weight"]),
    row("decoder.*.attention.output.bias", &["transformer.h.*.self_attention.dense.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["transformer.h.*.post_attention_layernorm.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["transformer.h.*.post_attention_layernorm.bias"]),
    row("decoder.*.feed_forward.up.weight", &["transformer.h.*.mlp.dense_h_to_4h.weight"]),
    row("decoder.*.feed_forward.up.bias", &["transformer.h.*.mlp.dense_h_to_4h.bias"]),
    row("decoder.*.feed_forward.down.weight", &["transformer.h.*.mlp.dense_4h_to_h.weight"]),
    row("decoder.*.feed_forward.down.bias", &["transformer.h.*.mlp.dense_4h_to_h.bias"]),
    row("decoder.norm.weight", &["transformer.ln_f.weight"]),
    row("decoder.norm.bias", &["transformer.ln_f.bias"]),
    row("head.output.weight", &[HEAD]),
];
