//! GPT-2 (Radford et al. 2019): learned positions, layer norms before, one fused projection for query, key and value.
//!
//! Projections are stored as `[inputs, outputs]` (the reference's `Conv1D`), so each is transposed, and `c_attn` holds
//! query, key and value side by side.

use consort_core::config::{HeadConfig, Placement, Positions, TransformerConfig};

use super::{Classic, activation, head_width, refuse, tied};
use crate::{
    error::Error,
    json::Reader,
    weights::{Layout, Mapping, Row, Tensors, row},
};

const PREFIX: &str = "transformer.";
const EMBEDDING: &str = "transformer.wte.weight";
const HEAD: &str = "lm_head.weight";

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    refuse(config, "add_cross_attention")?;
    let width = config.size_of(&["n_embd", "hidden_size"], 768)?;
    let heads = config.size_of(&["n_head", "num_attention_heads"], 12)?;
    let context = config.size_of(&["n_positions", "max_position_embeddings"], 1024)?;
    let mut stack = Classic {
        vocabulary: config.size("vocab_size", 50257)?,
        context: Some(context),
        layers: config.layers(&["n_layer", "num_hidden_layers"], 12)?,
        heads,
        head_width: head_width(config, width, heads, "n_head")?,
        inner: config.optional_size("n_inner", None)?.unwrap_or(width.saturating_mul(4)),
        activation: activation(config, "activation_function", config.text("activation_function", "gelu_new")?)?,
        epsilon: config.number("layer_norm_epsilon", 1e-5)?,
        placement: Placement::Pre,
        positions: Positions::Learned { count: context, offset: 0 },
    }
    .stack(true);
    if !config.flag("scale_attn_weights", true)? {
        stack.attention.scale = 1.0;
    }
    stack.attention.inverse_layer_scale = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    stack.final_norm = true;

    let tied = tied(tensors, config.flag("tie_word_embeddings", true)?, PREFIX, &[EMBEDDING], HEAD);
    let mut rows = TABLE.to_vec();
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
        // Causal masks that old versions saved with the weights.
        silent: vec!["transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"],
    })
}

const fn transposed(slot: &'static str, tensors: &'static [&'static str]) -> Row {
    Row { slot, tensors, layout: Layout::Transposed }
}

const fn third(part: usize, slot: &'static str, tensors: &'static [&'static str]) -> Row {
    Row { slot, tensors, layout: Layout::TransposedPart(part, 3) }
}

const TABLE: &[Row] = &[
    row("decoder.embedding.positions.weight", &["transformer.wpe.weight"]),
    row("decoder.*.attention.norm.weight", &["transformer.h.*.ln_1.weight"]),
    row("decoder.*.attention.norm.bias", &["transformer.h.*.ln_1.bias"]),
    third(0, "decoder.*.attention.query.weight", &["transformer.h.*.attn.c_attn.weight"]),
    third(1, "decoder.*.attention.key.weight", &["transformer.h.*.attn.c_attn.weight"]),
    third(2, "decoder.*.attention.value.weight", &["transformer.h.*.attn.c_attn.weight"]),
    third(0, "decoder.*.attention.query.bias", &["transformer.h.*.attn.c_attn.bias"]),
    third(1, "decoder.*.attention.key.bias", &["transformer.h.*.attn.c_attn.bias"]),
    third(2, "decoder.*.attention.value.bias", &["transformer.h.*.attn.c_attn.bias"]),
    transposed("decoder.*.attention.output.weight", &["transformer.h.*.attn.c_proj.weight"]),
    row("decoder.*.attention.output.bias", &["transformer.h.*.attn.c_proj.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["transformer.h.*.ln_2.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["transformer.h.*.ln_2.bias"]),
    transposed("decoder.*.feed_forward.up.weight", &["transformer.h.*.mlp.c_fc.weight"]),
    row("decoder.*.feed_forward.up.bias", &["transformer.h.*.mlp.c_fc.bias"]),
    transposed("decoder.*.feed_forward.down.weight", &["transformer.h.*.mlp.c_proj.weight"]),
    row("decoder.*.feed_forward.down.bias", &["transformer.h.*.mlp.c_proj.bias"]),
    row("decoder.norm.weight", &["transformer.ln_f.weight"]),
    row("decoder.norm.bias", &["transformer.ln_f.bias"]),
    row("head.output.weight", &[HEAD]),
];
