//! BERT (Devlin et al. 2019): an encoder with learned positions, token types and norms after, with its masked-token
//! head where the files have one. What other classes put on top (pooler, classifiers) is left unused.

use consort_core::config::{HeadConfig, Placement, Positions, TransformerConfig};

use super::{Classic, activation, head_width, refuse, tied};
use crate::{
    error::{Error, printable},
    json::Reader,
    weights::{Mapping, Row, Tensors, row},
};

const PREFIX: &str = "bert.";
const EMBEDDING: &str = "bert.embeddings.word_embeddings.weight";
const HEAD: &str = "cls.predictions.decoder.weight";
const TRANSFORM: &str = "cls.predictions.transform.dense.weight";
/// Two names of one bias; the reference adds the first.
const HEAD_BIAS: &[&str] = &["cls.predictions.decoder.bias", "cls.predictions.bias"];

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    refuse(config, "is_decoder")?;
    refuse(config, "add_cross_attention")?;
    let positions = config.text("position_embedding_type", "absolute")?;
    if positions != "absolute" {
        let what = format!("'{}' is not supported, only 'absolute' is", printable(positions));
        return Err(config.error("position_embedding_type", what));
    }
    let width = config.size("hidden_size", 768)?;
    let heads = config.size("num_attention_heads", 12)?;
    let context = config.size("max_position_embeddings", 512)?;
    let activation = activation(config, "hidden_act", config.text("hidden_act", "gelu")?)?;
    let mut stack = Classic {
        vocabulary: config.size("vocab_size", 30522)?,
        context: Some(context),
        layers: config.layers(&["num_hidden_layers"], 12)?,
        heads,
        head_width: head_width(config, width, heads, "num_attention_heads")?,
        inner: config.size("intermediate_size", 3072)?,
        activation,
        epsilon: config.number("layer_norm_eps", 1e-12)?,
        placement: Placement::Post,
        positions: Positions::Learned { count: context, offset: 0 },
    }
    .stack(false);
    stack.embedding.token_types = config.size("type_vocab_size", 2)?;
    stack.embedding.norm = true;

    let has_head = tensors.find("", TRANSFORM).is_some();
    let tied = tied(tensors, config.flag("tie_word_embeddings", true)?, PREFIX, &[EMBEDDING], HEAD);
    let bias = HEAD_BIAS.iter().any(|name| tensors.find("", name).is_some());
    let mut rows = TABLE.to_vec();
    rows.push(row("encoder.embedding.tokens.weight", if tied { &[EMBEDDING, HEAD] } else { &[EMBEDDING] }));
    Ok(Mapping {
        config: TransformerConfig {
            width,
            encoder: Some(stack),
            decoder: None,
            shared_embedding: false,
            head: has_head.then_some(HeadConfig {
                tied,
                bias,
                scale: 1.0,
                soft_cap: None,
                transform: Some(activation),
            }),
        },
        prefix: PREFIX,
        rows,
        silent: if has_head {
            vec!["bert.embeddings.position_ids", "bert.embeddings.token_type_ids", "cls.predictions.bias"]
        } else {
            vec!["bert.embeddings.position_ids", "bert.embeddings.token_type_ids"]
        },
    })
}

/// Norms of checkpoints converted from TensorFlow have `gamma` and `beta`.
const TABLE: &[Row] = &[
    row("encoder.embedding.positions.weight", &["bert.embeddings.position_embeddings.weight"]),
    row("encoder.embedding.token_types.weight", &["bert.embeddings.token_type_embeddings.weight"]),
    row("encoder.embedding.norm.weight", &["bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"]),
    row("encoder.embedding.norm.bias", &["bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.beta"]),
    row("encoder.*.attention.query.weight", &["bert.encoder.layer.*.attention.self.query.weight"]),
    row("encoder.*.attention.query.bias", &["bert.encoder.layer.*.attention.self.query.bias"]),
    row("encoder.*.attention.key.weight", &["bert.encoder.layer.*.attention.self.key.weight"]),
    row("encoder.*.attention.key.bias", &["bert.encoder.layer.*.attention.self.key.bias"]),
    row("encoder.*.attention.value.weight", &["bert.encoder.layer.*.attention.self.value.weight"]),
    row("encoder.*.attention.value.bias", &["bert.encoder.layer.*.attention.self.value.bias"]),
    row("encoder.*.attention.output.weight", &["bert.encoder.layer.*.attention.output.dense.weight"]),
    row("encoder.*.attention.output.bias", &["bert.encoder.layer.*.attention.output.dense.bias"]),
    row(
        "encoder.*.attention.norm.weight",
        &[
            "bert.encoder.layer.*.attention.output.LayerNorm.weight",
            "bert.encoder.layer.*.attention.output.LayerNorm.gamma",
        ],
    ),
    row(
        "encoder.*.attention.norm.bias",
        &[
            "bert.encoder.layer.*.attention.output.LayerNorm.bias",
            "bert.encoder.layer.*.attention.output.LayerNorm.beta",
        ],
    ),
    row("encoder.*.feed_forward.up.weight", &["bert.encoder.layer.*.intermediate.dense.weight"]),
    row("encoder.*.feed_forward.up.bias", &["bert.encoder.layer.*.intermediate.dense.bias"]),
    row("encoder.*.feed_forward.down.weight", &["bert.encoder.layer.*.output.dense.weight"]),
    row("encoder.*.feed_forward.down.bias", &["bert.encoder.layer.*.output.dense.bias"]),
    row(
        "encoder.*.feed_forward.norm.weight",
        &["bert.encoder.layer.*.output.LayerNorm.weight", "bert.encoder.layer.*.output.LayerNorm.gamma"],
    ),
    row(
        "encoder.*.feed_forward.norm.bias",
        &["bert.encoder.layer.*.output.LayerNorm.bias", "bert.encoder.layer.*.output.LayerNorm.beta"],
    ),
    row("head.transform.weight", &[TRANSFORM]),
    row("head.transform.bias", &["cls.predictions.transform.dense.bias"]),
    row(
        "head.norm.weight",
        &["cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.gamma"],
    ),
    row("head.norm.bias", &["cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.beta"]),
    row("head.output.weight", &[HEAD]),
    row("head.output.bias", HEAD_BIAS),
];
