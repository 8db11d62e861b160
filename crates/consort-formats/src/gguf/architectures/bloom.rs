//! BLOOM: query, key and value one after the other, where a directory has them head by head.

use super::{ALL, Absent, Architecture, CAUSAL, IN_SEQUENCE, Key, Only, Rotary, count, number};
use crate::gguf::names::{Kept, Name, kept, same};

pub(super) const BLOOM: Architecture = Architecture {
    name: "bloom",
    model_type: "bloom",
    keys: &[KEYS],
    constants: &[],
    switches: &[],
    only: &[ALL, CAUSAL, LINEAR_BIAS, IN_SEQUENCE],
    derived: None,
    rotary: Rotary::None,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS],
    without: None,
    needed: &[],
};

/// The exponent of the paper's slopes, which is also what llama.cpp takes without the key.
const LINEAR_BIAS: &[(&str, Only)] = &[(".attention.max_alibi_bias", Only::Number(8.0))];

/// The feed-forward network is four times as wide as the model, whatever a key says; a length of context means nothing
/// here.
const KEYS: &[Key] = &[
    count(".embedding_length", "hidden_size", Absent::Refused),
    count(".block_count", "n_layer", Absent::Refused),
    count(".feed_forward_length", "n_inner", Absent::Left),
    count(".attention.head_count", "n_head", Absent::Refused),
    number(".attention.layer_norm_epsilon", "layer_norm_epsilon", Absent::Refused),
];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "transformer.word_embeddings.weight"),
    same("token_embd_norm.weight", "transformer.word_embeddings_layernorm.weight"),
    same("token_embd_norm.bias", "transformer.word_embeddings_layernorm.bias"),
    same("output_norm.weight", "transformer.ln_f.weight"),
    same("output_norm.bias", "transformer.ln_f.bias"),
    same("output.weight", "lm_head.weight"),
    same("blk.*.attn_norm.weight", "transformer.h.*.input_layernorm.weight"),
    same("blk.*.attn_norm.bias", "transformer.h.*.input_layernorm.bias"),
    kept(Kept::Parts, "blk.*.attn_qkv.weight", "transformer.h.*.self_attention.query_key_value.weight"),
    kept(Kept::Parts, "blk.*.attn_qkv.bias", "transformer.h.*.self_attention.query_key_value.bias"),
    same("blk.*.attn_output.weight", "transformer.h.*.self_attention.dense.weight"),
    same("blk.*.attn_output.bias", "transformer.h.*.self_attention.dense.bias"),
    same("blk.*.ffn_norm.weight", "transformer.h.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_norm.bias", "transformer.h.*.post_attention_layernorm.bias"),
    same("blk.*.ffn_up.weight", "transformer.h.*.mlp.dense_h_to_4h.weight"),
    same("blk.*.ffn_up.bias", "transformer.h.*.mlp.dense_h_to_4h.bias"),
    same("blk.*.ffn_down.weight", "transformer.h.*.mlp.dense_4h_to_h.weight"),
    same("blk.*.ffn_down.bias", "transformer.h.*.mlp.dense_4h_to_h.bias"),
];
