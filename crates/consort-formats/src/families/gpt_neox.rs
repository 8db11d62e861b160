//! GPT-NeoX (Black et al. 2022): rotary positions in a part of each head, attention and feed-forward network side by side,
//! one fused projection whose query, key and value alternate head by head.

use consort_core::config::{HeadConfig, NormKind, Placement, TransformerConfig};

use super::{
    headless,
    llama::{Defaults, stack},
    query_key_value,
    rotary::{Keys, WHOLE},
    tied,
};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const PREFIX: &str = "gpt_neox.";
const EMBEDDING: &str = "gpt_neox.embed_in.weight";
/// `transformers` 5 calls it by the second name once it is read.
const HEAD: &[&str] = &["embed_out.weight", "lm_head.weight"];

const DEFAULTS: Defaults = Defaults {
    vocabulary: 50432,
    width: 6144,
    inner: 24576,
    layers: 44,
    heads: 64,
    key_value_heads: None,
    head_width: None,
    context: 2048,
    rotary: Keys { theta: ("rotary_emb_base", 1e4), part: Some(("rotary_pct", 0.25)), ..WHOLE },
    epsilon: ("layer_norm_eps", 1e-5),
    activation: ("hidden_act", "gelu"),
    tied: false,
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let (width, mut stack) = stack(config, &DEFAULTS)?;
    stack.attention.key_value_heads = stack.attention.heads;
    stack.attention.input_bias = config.flag("attention_bias", true)?;
    stack.attention.output_bias = stack.attention.input_bias;
    stack.feed_forward.gated = false;
    stack.feed_forward.bias = true;
    stack.norm.kind = NormKind::Layer;
    stack.norm.bias = true;
    if config.flag("use_parallel_residual", true)? {
        stack.placement = Placement::Parallel;
    }

    let stored = HEAD.iter().copied().find(|head| tensors.find("", head).is_some());
    let says = config.flag("tie_word_embeddings", DEFAULTS.tied)?;
    let tied = tied(tensors, says, PREFIX, &[EMBEDDING], stored.unwrap_or("embed_out.weight"));
    let has_head = tied || stored.is_some() || !headless(config)?;
    let mut rows = TABLE.to_vec();
    rows.extend(query_key_value(&stack.attention, stack.attention.heads, [WEIGHT, BIAS]));
    rows.push(row(
        "decoder.embedding.tokens.weight",
        if tied { &[EMBEDDING, "embed_out.weight", "lm_head.weight"] } else { &[EMBEDDING] },
    ));
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
        // Causal masks and frequencies that old versions saved with the weights.
        silent: vec![
            "gpt_neox.layers.*.attention.bias",
            "gpt_neox.layers.*.attention.masked_bias",
            "gpt_neox.layers.*.attention.rotary_emb.inv_freq",
        ],
    })
}

const WEIGHT: &[&str] = &["gpt_neox.layers.*.attention.query_key_value.weight"];
const BIAS: &[&str] = &["gpt_neox.layers.*.attention.query_key_value.bias"];

const TABLE: &[Row] = &[
    row("decoder.*.attention.norm.weight", &["gpt_neox.layers.*.input_layernorm.weight"]),
    row("decoder.*.attention.norm.bias", &["gpt_neox.layers.*.input_layernorm.bias"]),
    row("decoder.*.attention.output.weight", &["gpt_neox.layers.*.attention.dense.weight"]),
    row("decoder.*.attention.output.bias", &["gpt_neox.layers.*.attention.dense.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["gpt_neox.layers.*.post_attention_layernorm.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["gpt_neox.layers.*.post_attention_layernorm.bias"]),
    row("decoder.*.feed_forward.up.weight", &["gpt_neox.layers.*.mlp.dense_h_to_4h.weight"]),
    row("decoder.*.feed_forward.up.bias", &["gpt_neox.layers.*.mlp.dense_h_to_4h.bias"]),
    row("decoder.*.feed_forward.down.weight", &["gpt_neox.layers.*.mlp.dense_4h_to_h.weight"]),
    row("decoder.*.feed_forward.down.bias", &["gpt_neox.layers.*.mlp.dense_4h_to_h.bias"]),
    row("decoder.norm.weight", &["gpt_neox.final_layer_norm.weight"]),
    row("decoder.norm.bias", &["gpt_neox.final_layer_norm.bias"]),
    row("head.output.weight", HEAD),
];
