//! Falcon: queries, keys and values one after the other, where a directory has them group by group. Of two norms the second
//! is the attention's. What llama.cpp runs has no biases, and attention and feed-forward network side by side.

use super::{Absent, Architecture, Constant, Key, Rotary, Switch, USUAL, count, number};
use crate::gguf::names::{Kept, Name, kept, same};

pub(super) const FALCON: Architecture = Architecture {
    name: "falcon",
    model_type: "falcon",
    keys: &[KEYS],
    // The new architecture is the old one as well: of one head of keys, or of as many as there are queries.
    constants: &[("new_decoder_architecture", Constant::Flag(true)), ("activation", Constant::Text("gelu"))],
    switches: &[Switch {
        tensor: SECOND_NORM,
        json: "num_ln_in_parallel_attn",
        present: Constant::Count(2),
        absent: Constant::Count(1),
    }],
    only: USUAL,
    derived: None,
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS, TWO_NORMS, ONE_NORM],
    without: Some((SECOND_NORM, &[TENSORS, ONE_NORM])),
    needed: &[],
};

const SECOND_NORM: &str = "blk.0.attn_norm_2.weight";

const KEYS: &[Key] = &[
    count(".context_length", "max_position_embeddings", Absent::Refused),
    count(".embedding_length", "hidden_size", Absent::Refused),
    count(".block_count", "num_hidden_layers", Absent::Refused),
    count(".feed_forward_length", "ffn_hidden_size", Absent::Refused),
    count(".attention.head_count", "num_attention_heads", Absent::Refused),
    count(".attention.head_count_kv", "num_kv_heads", Absent::As("num_attention_heads")),
    number(".attention.layer_norm_epsilon", "layer_norm_epsilon", Absent::Refused),
    number(".rope.freq_base", "rope_theta", Absent::Left),
];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "transformer.word_embeddings.weight"),
    same("output_norm.weight", "transformer.ln_f.weight"),
    same("output_norm.bias", "transformer.ln_f.bias"),
    same("output.weight", "lm_head.weight"),
    kept(Kept::Parts, "blk.*.attn_qkv.weight", "transformer.h.*.self_attention.query_key_value.weight"),
    same("blk.*.attn_output.weight", "transformer.h.*.self_attention.dense.weight"),
    same("blk.*.ffn_up.weight", "transformer.h.*.mlp.dense_h_to_4h.weight"),
    same("blk.*.ffn_down.weight", "transformer.h.*.mlp.dense_4h_to_h.weight"),
];

const TWO_NORMS: &[Name] = &[
    same("blk.*.attn_norm.weight", "transformer.h.*.ln_mlp.weight"),
    same("blk.*.attn_norm.bias", "transformer.h.*.ln_mlp.bias"),
    same("blk.*.attn_norm_2.weight", "transformer.h.*.ln_attn.weight"),
    same("blk.*.attn_norm_2.bias", "transformer.h.*.ln_attn.bias"),
];

const ONE_NORM: &[Name] = &[
    same("blk.*.attn_norm.weight", "transformer.h.*.input_layernorm.weight"),
    same("blk.*.attn_norm.bias", "transformer.h.*.input_layernorm.bias"),
];
