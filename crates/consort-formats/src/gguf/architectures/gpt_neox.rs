//! GPT-NeoX: query, key and value one after the other, where a directory has them head by head.

use serde_json::Value;

use super::{ALL, Absent, Architecture, CAUSAL, Constant, Key, NO_LINEAR_BIAS, Rotary, Switch, count, flag, number};
use crate::gguf::{
    config::Config,
    names::{Kept, Name, kept, same},
};

pub(super) const GPT_NEOX: Architecture = Architecture {
    name: "gptneox",
    model_type: "gpt_neox",
    keys: &[KEYS],
    constants: &[],
    switches: &[Switch {
        tensor: BIAS,
        json: "attention_bias",
        present: Constant::Flag(true),
        absent: Constant::Flag(false),
    }],
    only: &[ALL, CAUSAL, NO_LINEAR_BIAS],
    derived: Some(("hidden_act", activation)),
    rotary: Rotary::Part("rotary_pct"),
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS],
    without: None,
    needed: &["output.weight", BIAS],
};

const BIAS: &str = "blk.0.attn_qkv.bias";

/// Which no key has: GPT-NeoX-20B, known by its 44 layers, was trained with the tanh form of GELU, and Pythia with GELU.
fn activation(config: &Config) -> Option<Value> {
    let layers = config.count("num_hidden_layers")?;
    Some(Value::from(if layers == 44 { "gelu_fast" } else { "gelu" }))
}

const KEYS: &[Key] = &[
    count(".context_length", "max_position_embeddings", Absent::Refused),
    count(".embedding_length", "hidden_size", Absent::Refused),
    count(".block_count", "num_hidden_layers", Absent::Refused),
    count(".feed_forward_length", "intermediate_size", Absent::Refused),
    count(".attention.head_count", "num_attention_heads", Absent::Refused),
    number(".attention.layer_norm_epsilon", "layer_norm_eps", Absent::Refused),
    number(".rope.freq_base", "rotary_emb_base", Absent::Left),
    flag(".use_parallel_residual", "use_parallel_residual", Absent::Refused),
];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "gpt_neox.embed_in.weight"),
    same("output_norm.weight", "gpt_neox.final_layer_norm.weight"),
    same("output_norm.bias", "gpt_neox.final_layer_norm.bias"),
    same("output.weight", "embed_out.weight"),
    same("blk.*.attn_norm.weight", "gpt_neox.layers.*.input_layernorm.weight"),
    same("blk.*.attn_norm.bias", "gpt_neox.layers.*.input_layernorm.bias"),
    kept(Kept::Parts, "blk.*.attn_qkv.weight", "gpt_neox.layers.*.attention.query_key_value.weight"),
    kept(Kept::Parts, "blk.*.attn_qkv.bias", "gpt_neox.layers.*.attention.query_key_value.bias"),
    same("blk.*.attn_output.weight", "gpt_neox.layers.*.attention.dense.weight"),
    same("blk.*.attn_output.bias", "gpt_neox.layers.*.attention.dense.bias"),
    same("blk.*.ffn_norm.weight", "gpt_neox.layers.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_norm.bias", "gpt_neox.layers.*.post_attention_layernorm.bias"),
    same("blk.*.ffn_up.weight", "gpt_neox.layers.*.mlp.dense_h_to_4h.weight"),
    same("blk.*.ffn_up.bias", "gpt_neox.layers.*.mlp.dense_h_to_4h.bias"),
    same("blk.*.ffn_down.weight", "gpt_neox.layers.*.mlp.dense_4h_to_h.weight"),
    same("blk.*.ffn_down.bias", "gpt_neox.layers.*.mlp.dense_4h_to_h.bias"),
];
