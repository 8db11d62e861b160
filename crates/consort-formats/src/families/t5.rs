//! T5 (Raffel et al. 2020), T5 1.1 and Flan-T5: relative positions, RMS norms before, no biases, unscaled scores.
//!
//! The original multiplies the last hidden state by `1/√D` before its tied head; 1.1 does not. What tells them apart
//! is `tie_word_embeddings`, false in 1.1, which since `transformers` 5 says nothing else: the head is tied exactly
//! when no other is stored. Files that version 5 wrote say `scale_decoder_outputs` instead.

use consort_core::config::{
    Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig,
    NormKind, Placement, StackConfig, TransformerConfig,
};

use super::{activation, tied};
use crate::{
    error::{Error, printable},
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const SHARED: &[&str] = &["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
const HEAD: &str = "lm_head.weight";

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let width = config.size_of(&["d_model", "hidden_size"], 512)?;
    let layers = config.layers(&["num_layers", "num_hidden_layers"], 6)?;
    let decoder_layers =
        if config.has("num_decoder_layers") { config.layers(&["num_decoder_layers"], layers)? } else { layers };
    let (activation, gated) = feed_forward(config)?;
    let encoder = StackConfig {
        vocabulary: config.size("vocab_size", 32128)?,
        context: None,
        layers,
        causal: false,
        embedding: EmbeddingConfig::default(),
        attention: AttentionConfig {
            heads: config.size_of(&["num_heads", "num_attention_heads"], 8)?,
            key_value_heads: config.size_of(&["num_heads", "num_attention_heads"], 8)?,
            head_width: config.size_of(&["d_kv", "head_dim"], 64)?,
            scale: 1.0,
            inverse_layer_scale: false,
            input_bias: false,
            output_bias: false,
            query_key_norm: false,
            soft_cap: None,
            windows: Vec::new(),
            window_rotary: None,
            positions: AttentionPositions::Relative {
                buckets: config.size("relative_attention_num_buckets", 32)?,
                max_distance: config.size("relative_attention_max_distance", 128)?,
            },
        },
        cross_attention: false,
        feed_forward: FeedForwardConfig { width: config.size("d_ff", 2048)?, activation, gated, bias: false },
        norm: NormConfig {
            kind: NormKind::Rms,
            epsilon: config.number("layer_norm_epsilon", 1e-6)?,
            bias: false,
            unit_offset: false,
        },
        placement: Placement::Pre,
        final_norm: true,
    };
    same_embedding(config, tensors, "", SHARED)?;
    let encoder_only = config
        .texts("architectures")?
        .is_some_and(|classes| !classes.is_empty() && classes.iter().all(|class| class.ends_with("EncoderModel")));
    let scaled = config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", true)?)?;
    let tied = tied(tensors, true, "", SHARED, HEAD);
    let decoder = StackConfig { layers: decoder_layers, causal: true, cross_attention: true, ..encoder.clone() };
    let head = HeadConfig {
        tied,
        bias: false,
        scale: if scaled { (width as f64).powf(-0.5) } else { 1.0 },
        soft_cap: None,
        transform: None,
    };

    let mut rows = TABLE.to_vec();
    rows.extend_from_slice(if gated { GATED } else { PLAIN });
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: Some(encoder),
            shared_embedding: !encoder_only,
            decoder: (!encoder_only).then_some(decoder),
            head: (!encoder_only).then_some(head),
        },
        prefix: "",
        rows,
        silent: vec![
            "shared.weight",
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            // A relic of the first conversion; cross-attention has no positions.
            "decoder.block.*.layer.*.EncDecAttention.relative_attention_bias.weight",
        ],
    })
}

/// The names of one embedding must hold one embedding; the graph has no other.
pub(super) fn same_embedding(
    config: &Reader<'_>,
    tensors: &Tensors,
    prefix: &str,
    names: &[&str],
) -> Result<(), Error> {
    let mut present = names.iter().filter_map(|name| tensors.find(prefix, name));
    let Some((first, embedding)) = present.next() else { return Ok(()) };
    for (name, other) in present {
        if !tensors.same(embedding, other) {
            let what =
                format!("{first} and {name} are to be one embedding, but the files have different values for them");
            return Err(config.error("tie_word_embeddings", what));
        }
    }
    Ok(())
}

/// `feed_forward_proj` is an activation, or `gated-` and an activation; what version 5 derived from it may follow.
fn feed_forward(config: &Reader<'_>) -> Result<(Activation, bool), Error> {
    const KEY: &str = "feed_forward_proj";
    let text = config.text(KEY, "relu")?;
    let (gated, name) = match text.split_once('-') {
        None => (false, text),
        // Called gelu, but trained with the tanh formula.
        Some(("gated", "gelu")) => (true, "gelu_new"),
        Some(("gated", name)) => (true, name),
        Some(_) => {
            let what = format!("expected an activation or 'gated-' and an activation, found '{}'", printable(text));
            return Err(config.error(KEY, what));
        }
    };
    let (key, name) =
        if config.has("dense_act_fn") { ("dense_act_fn", config.text("dense_act_fn", name)?) } else { (KEY, name) };
    Ok((activation(config, key, name)?, config.flag("is_gated_act", gated)?))
}

const TABLE: &[Row] = &[
    row(
        "encoder.embedding.tokens.weight",
        &["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD],
    ),
    row("encoder.relative_bias.weight", &["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]),
    row("encoder.*.attention.norm.weight", &["encoder.block.*.layer.0.layer_norm.weight"]),
    row("encoder.*.attention.query.weight", &["encoder.block.*.layer.0.SelfAttention.q.weight"]),
    row("encoder.*.attention.key.weight", &["encoder.block.*.layer.0.SelfAttention.k.weight"]),
    row("encoder.*.attention.value.weight", &["encoder.block.*.layer.0.SelfAttention.v.weight"]),
    row("encoder.*.attention.output.weight", &["encoder.block.*.layer.0.SelfAttention.o.weight"]),
    row("encoder.*.feed_forward.norm.weight", &["encoder.block.*.layer.1.layer_norm.weight"]),
    row("encoder.*.feed_forward.down.weight", &["encoder.block.*.layer.1.DenseReluDense.wo.weight"]),
    row("encoder.norm.weight", &["encoder.final_layer_norm.weight"]),
    row("decoder.relative_bias.weight", &["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]),
    row("decoder.*.attention.norm.weight", &["decoder.block.*.layer.0.layer_norm.weight"]),
    row("decoder.*.attention.query.weight", &["decoder.block.*.layer.0.SelfAttention.q.weight"]),
    row("decoder.*.attention.key.weight", &["decoder.block.*.layer.0.SelfAttention.k.weight"]),
    row("decoder.*.attention.value.weight", &["decoder.block.*.layer.0.SelfAttention.v.weight"]),
    row("decoder.*.attention.output.weight", &["decoder.block.*.layer.0.SelfAttention.o.weight"]),
    row("decoder.*.cross_attention.norm.weight", &["decoder.block.*.layer.1.layer_norm.weight"]),
    row("decoder.*.cross_attention.query.weight", &["decoder.block.*.layer.1.EncDecAttention.q.weight"]),
    row("decoder.*.cross_attention.key.weight", &["decoder.block.*.layer.1.EncDecAttention.k.weight"]),
    row("decoder.*.cross_attention.value.weight", &["decoder.block.*.layer.1.EncDecAttention.v.weight"]),
    row("decoder.*.cross_attention.output.weight", &["decoder.block.*.layer.1.EncDecAttention.o.weight"]),
    row("decoder.*.feed_forward.norm.weight", &["decoder.block.*.layer.2.layer_norm.weight"]),
    row("decoder.*.feed_forward.down.weight", &["decoder.block.*.layer.2.DenseReluDense.wo.weight"]),
    row("decoder.norm.weight", &["decoder.final_layer_norm.weight"]),
    row("head.output.weight", &[HEAD]),
];

const PLAIN: &[Row] = &[
    row("encoder.*.feed_forward.up.weight", &["encoder.block.*.layer.1.DenseReluDense.wi.weight"]),
    row("decoder.*.feed_forward.up.weight", &["decoder.block.*.layer.2.DenseReluDense.wi.weight"]),
];

const GATED: &[Row] = &[
    row("encoder.*.feed_forward.gate.weight", &["encoder.block.*.layer.1.DenseReluDense.wi_0.weight"]),
    row("encoder.*.feed_forward.up.weight", &["encoder.block.*.layer.1.DenseReluDense.wi_1.weight"]),
    row("decoder.*.feed_forward.gate.weight", &["decoder.block.*.layer.2.DenseReluDense.wi_0.weight"]),
    row("decoder.*.feed_forward.up.weight", &["decoder.block.*.layer.2.DenseReluDense.wi_1.weight"]),
];
