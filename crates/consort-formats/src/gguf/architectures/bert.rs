//! BERT: an encoder without pooler and without its masked-token head, which conversion leaves out.

use super::{ALL, Absent, Architecture, Constant, IN_SEQUENCE, Key, NO_LINEAR_BIAS, NOT_CAUSAL, Rotary, count, number};
use crate::gguf::names::{Name, same};

pub(super) const BERT: Architecture = Architecture {
    name: "bert",
    model_type: "bert",
    keys: &[KEYS],
    constants: &[("hidden_act", Constant::Text("gelu"))],
    switches: &[],
    only: &[ALL, NOT_CAUSAL, NO_LINEAR_BIAS, IN_SEQUENCE],
    derived: None,
    rotary: Rotary::None,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS],
    without: None,
    needed: &[],
};

const KEYS: &[Key] = &[
    count(".context_length", "max_position_embeddings", Absent::Refused),
    count(".embedding_length", "hidden_size", Absent::Refused),
    count(".block_count", "num_hidden_layers", Absent::Refused),
    count(".feed_forward_length", "intermediate_size", Absent::Refused),
    count(".attention.head_count", "num_attention_heads", Absent::Refused),
    number(".attention.layer_norm_epsilon", "layer_norm_eps", Absent::Refused),
    count("tokenizer.ggml.token_type_count", "type_vocab_size", Absent::Left),
];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "bert.embeddings.word_embeddings.weight"),
    same("position_embd.weight", "bert.embeddings.position_embeddings.weight"),
    same("token_types.weight", "bert.embeddings.token_type_embeddings.weight"),
    same("token_embd_norm.weight", "bert.embeddings.LayerNorm.weight"),
    same("token_embd_norm.bias", "bert.embeddings.LayerNorm.bias"),
    same("blk.*.attn_q.weight", "bert.encoder.layer.*.attention.self.query.weight"),
    same("blk.*.attn_q.bias", "bert.encoder.layer.*.attention.self.query.bias"),
    same("blk.*.attn_k.weight", "bert.encoder.layer.*.attention.self.key.weight"),
    same("blk.*.attn_k.bias", "bert.encoder.layer.*.attention.self.key.bias"),
    same("blk.*.attn_v.weight", "bert.encoder.layer.*.attention.self.value.weight"),
    same("blk.*.attn_v.bias", "bert.encoder.layer.*.attention.self.value.bias"),
    same("blk.*.attn_output.weight", "bert.encoder.layer.*.attention.output.dense.weight"),
    same("blk.*.attn_output.bias", "bert.encoder.layer.*.attention.output.dense.bias"),
    same("blk.*.attn_output_norm.weight", "bert.encoder.layer.*.attention.output.LayerNorm.weight"),
    same("blk.*.attn_output_norm.bias", "bert.encoder.layer.*.attention.output.LayerNorm.bias"),
    same("blk.*.ffn_up.weight", "bert.encoder.layer.*.intermediate.dense.weight"),
    same("blk.*.ffn_up.bias", "bert.encoder.layer.*.intermediate.dense.bias"),
    same("blk.*.ffn_down.weight", "bert.encoder.layer.*.output.dense.weight"),
    same("blk.*.ffn_down.bias", "bert.encoder.layer.*.output.dense.bias"),
    same("blk.*.layer_output_norm.weight", "bert.encoder.layer.*.output.LayerNorm.weight"),
    same("blk.*.layer_output_norm.bias", "bert.encoder.layer.*.output.LayerNorm.bias"),
];
