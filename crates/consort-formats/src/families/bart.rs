//! BART (Lewis et al. 2020), and the encoder-decoder that Marian shares with it: norms after, biases everywhere.

use consort_core::config::{HeadConfig, Placement, Positions, TransformerConfig};

use super::{Classic, activation, head_width, headless, t5::same_embedding, tied};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const PREFIX: &str = "model.";
const ENCODER: &str = "model.encoder.embed_tokens.weight";
const DECODER: &str = "model.decoder.embed_tokens.weight";
const SHARED: &[&str] = &["model.shared.weight", ENCODER, DECODER];
const HEAD: &str = "lm_head.weight";
const HEAD_BIAS: &str = "final_logits_bias";

/// What BART and Marian do differently.
pub(super) struct Choices {
    pub(super) vocabulary: usize,
    pub(super) decoder_vocabulary: usize,
    /// Encoder and decoder are meant to have one embedding.
    pub(super) shared: bool,
    pub(super) embedding_norm: bool,
    pub(super) positions: fn(usize) -> Positions,
    /// Names besides second names of the embedding that hold nothing of their own.
    pub(super) silent: &'static [&'static str],
}

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let vocabulary = config.size("vocab_size", 50265)?;
    let choices = Choices {
        vocabulary,
        decoder_vocabulary: vocabulary,
        shared: true,
        embedding_norm: true,
        // The first two rows belonged to padding in fairseq and were never taken out.
        positions: |context| Positions::Learned { count: context.saturating_add(2), offset: 2 },
        silent: &[],
    };
    encoder_decoder(config, tensors, &choices)
}

pub(super) fn encoder_decoder(config: &Reader<'_>, tensors: &Tensors, choices: &Choices) -> Result<Mapping, Error> {
    let width = config.size_of(&["d_model", "hidden_size"], 1024)?;
    let context = config.size("max_position_embeddings", 1024)?;
    let scaled = config.flag("scale_embedding", false)?;
    let activation = activation(config, "activation_function", config.text("activation_function", "gelu")?)?;
    let stack = |vocabulary, layers: &[&str], heads_key: &'static str, inner: &str, causal| {
        let heads = config.size(heads_key, 16)?;
        let mut stack = Classic {
            vocabulary,
            context: Some(context),
            layers: config.layers(layers, 12)?,
            heads,
            head_width: head_width(config, width, heads, heads_key)?,
            inner: config.size(inner, 4096)?,
            activation,
            epsilon: 1e-5, // PyTorch's default; no key
            placement: Placement::Post,
            positions: (choices.positions)(context),
        }
        .stack(causal);
        stack.embedding.norm = choices.embedding_norm;
        stack.embedding.scale = if scaled { (width as f64).sqrt() } else { 1.0 };
        stack.cross_attention = causal;
        Ok::<_, Error>(stack)
    };
    let encoder_layers = ["encoder_layers", "num_hidden_layers"];
    let encoder = stack(choices.vocabulary, &encoder_layers, "encoder_attention_heads", "encoder_ffn_dim", false)?;
    let decoder =
        stack(choices.decoder_vocabulary, &["decoder_layers"], "decoder_attention_heads", "decoder_ffn_dim", true)?;

    let ties = config.flag("tie_word_embeddings", true)?;
    // Version 5 unties everything where version 4 untied the head alone; its files have all the copies.
    let untied_copies = !ties && [ENCODER, DECODER].iter().all(|name| tensors.find(PREFIX, name).is_some());
    let shared = choices.shared && !untied_copies;
    let embedding = if shared { SHARED } else { &[DECODER] };
    if shared {
        same_embedding(config, tensors, PREFIX, SHARED)?;
    }
    let tied = tied(tensors, ties, PREFIX, embedding, HEAD);
    let has_head = tied || tensors.find("", HEAD).is_some() || !headless(config)?;

    let mut rows = TABLE.to_vec();
    rows.push(row(
        "encoder.embedding.tokens.weight",
        match (shared, tied) {
            (true, true) => &["model.shared.weight", ENCODER, DECODER, HEAD],
            (true, false) => SHARED,
            (false, _) => &[ENCODER],
        },
    ));
    rows.push(row("decoder.embedding.tokens.weight", if tied { &[DECODER, HEAD] } else { &[DECODER] }));
    let mut silent = vec!["model.encoder.version", "model.decoder.version"];
    silent.extend_from_slice(choices.silent);
    if shared {
        silent.extend_from_slice(SHARED);
    }
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: Some(encoder),
            decoder: Some(decoder),
            shared_embedding: shared,
            head: has_head.then(|| HeadConfig {
                tied,
                bias: tensors.find("", HEAD_BIAS).is_some(),
                scale: 1.0,
                soft_cap: None,
                transform: None,
            }),
        },
        prefix: PREFIX,
        rows,
        silent,
    })
}

const TABLE: &[Row] = &[
    row("encoder.embedding.positions.weight", &["model.encoder.embed_positions.weight"]),
    row("encoder.embedding.norm.weight", &["model.encoder.layernorm_embedding.weight"]),
    row("encoder.embedding.norm.bias", &["model.encoder.layernorm_embedding.bias"]),
    row("encoder.*.attention.query.weight", &["model.encoder.layers.*.self_attn.q_proj.weight"]),
    row("encoder.*.attention.query.bias", &["model.encoder.layers.*.self_attn.q_proj.bias"]),
    row("encoder.*.attention.key.weight", &["model.encoder.layers.*.self_attn.k_proj.weight"]),
    row("encoder.*.attention.key.bias", &["model.encoder.layers.*.self_attn.k_proj.bias"]),
    row("encoder.*.attention.value.weight", &["model.encoder.layers.*.self_attn.v_proj.weight"]),
    row("encoder.*.attention.value.bias", &["model.encoder.layers.*.self_attn.v_proj.bias"]),
    row("encoder.*.attention.output.weight", &["model.encoder.layers.*.self_attn.out_proj.weight"]),
    row("encoder.*.attention.output.bias", &["model.encoder.layers.*.self_attn.out_proj.bias"]),
    row("encoder.*.attention.norm.weight", &["model.encoder.layers.*.self_attn_layer_norm.weight"]),
    row("encoder.*.attention.norm.bias", &["model.encoder.layers.*.self_attn_layer_norm.bias"]),
    row("encoder.*.feed_forward.up.weight", &["model.encoder.layers.*.fc1.weight"]),
    row("encoder.*.feed_forward.up.bias", &["model.encoder.layers.*.fc1.bias"]),
    row("encoder.*.feed_forward.down.weight", &["model.encoder.layers.*.fc2.weight"]),
    row("encoder.*.feed_forward.down.bias", &["model.encoder.layers.*.fc2.bias"]),
    row("encoder.*.feed_forward.norm.weight", &["model.encoder.layers.*.final_layer_norm.weight"]),
    row("encoder.*.feed_forward.norm.bias", &["model.encoder.layers.*.final_layer_norm.bias"]),
    row("decoder.embedding.positions.weight", &["model.decoder.embed_positions.weight"]),
    row("decoder.embedding.norm.weight", &["model.decoder.layernorm_embedding.weight"]),
    row("decoder.embedding.norm.bias", &["model.decoder.layernorm_embedding.bias"]),
    row("decoder.*.attention.query.weight", &["model.decoder.layers.*.self_attn.q_proj.weight"]),
    row("decoder.*.attention.query.bias", &["model.decoder.layers.*.self_attn.q_proj.bias"]),
    row("decoder.*.attention.key.weight", &["model.decoder.layers.*.self_attn.k_proj.weight"]),
    row("decoder.*.attention.key.bias", &["model.decoder.layers.*.self_attn.k_proj.bias"]),
    row("decoder.*.attention.value.weight", &["model.decoder.layers.*.self_attn.v_proj.weight"]),
    row("decoder.*.attention.value.bias", &["model.decoder.layers.*.self_attn.v_proj.bias"]),
    row("decoder.*.attention.output.weight", &["model.decoder.layers.*.self_attn.out_proj.weight"]),
    row("decoder.*.attention.output.bias", &["model.decoder.layers.*.self_attn.out_proj.bias"]),
    row("decoder.*.attention.norm.weight", &["model.decoder.layers.*.self_attn_layer_norm.weight"]),
    row("decoder.*.attention.norm.bias", &["model.decoder.layers.*.self_attn_layer_norm.bias"]),
    row("decoder.*.cross_attention.query.weight", &["model.decoder.layers.*.encoder_attn.q_proj.weight"]),
    row("decoder.*.cross_attention.query.bias", &["model.decoder.layers.*.encoder_attn.q_proj.bias"]),
    row("decoder.*.cross_attention.key.weight", &["model.decoder.layers.*.encoder_attn.k_proj.weight"]),
    row("decoder.*.cross_attention.key.bias", &["model.decoder.layers.*.encoder_attn.k_proj.bias"]),
    row("decoder.*.cross_attention.value.weight", &["model.decoder.layers.*.encoder_attn.v_proj.weight"]),
    row("decoder.*.cross_attention.value.bias", &["model.decoder.layers.*.encoder_attn.v_proj.bias"]),
    row("decoder.*.cross_attention.output.weight", &["model.decoder.layers.*.encoder_attn.out_proj.weight"]),
    row("decoder.*.cross_attention.output.bias", &["model.decoder.layers.*.encoder_attn.out_proj.bias"]),
    row("decoder.*.cross_attention.norm.weight", &["model.decoder.layers.*.encoder_attn_layer_norm.weight"]),
    row("decoder.*.cross_attention.norm.bias", &["model.decoder.layers.*.encoder_attn_layer_norm.bias"]),
    row("decoder.*.feed_forward.up.weight", &["model.decoder.layers.*.fc1.weight"]),
    row("decoder.*.feed_forward.up.bias", &["model.decoder.layers.*.fc1.bias"]),
    row("decoder.*.feed_forward.down.weight", &["model.decoder.layers.*.fc2.weight"]),
    row("decoder.*.feed_forward.down.bias", &["model.decoder.layers.*.fc2.bias"]),
    row("decoder.*.feed_forward.norm.weight", &["model.decoder.layers.*.final_layer_norm.weight"]),
    row("decoder.*.feed_forward.norm.bias", &["model.decoder.layers.*.final_layer_norm.bias"]),
    row("head.output.weight", &[HEAD]),
    row("head.output.bias", &[HEAD_BIAS]),
];
