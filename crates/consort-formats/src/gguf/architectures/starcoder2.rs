//! StarCoder 2: Llama's names with biases. Files say nothing of a sliding window, and llama.cpp uses none.

use super::{Absent, Architecture, Constant, Key, ROTARY_DECODER, Rotary, Switch, USUAL, llama::HALVES, number};
use crate::gguf::names::{Name, same};

pub(super) const STARCODER2: Architecture = Architecture {
    name: "starcoder2",
    model_type: "starcoder2",
    keys: &[ROTARY_DECODER, KEYS],
    constants: &[("hidden_act", Constant::Text("gelu_pytorch_tanh"))],
    switches: &[Switch {
        tensor: BIAS,
        json: "use_bias",
        present: Constant::Flag(true),
        absent: Constant::Flag(false),
    }],
    only: USUAL,
    derived: None,
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[HALVES, TENSORS],
    without: None,
    needed: &[BIAS],
};

const BIAS: &str = "blk.0.attn_output.bias";

const KEYS: &[Key] = &[number(".attention.layer_norm_epsilon", "norm_epsilon", Absent::Refused)];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "model.embed_tokens.weight"),
    same("output_norm.weight", "model.norm.weight"),
    same("output_norm.bias", "model.norm.bias"),
    same("output.weight", "lm_head.weight"),
    same("blk.*.attn_norm.weight", "model.layers.*.input_layernorm.weight"),
    same("blk.*.attn_norm.bias", "model.layers.*.input_layernorm.bias"),
    same("blk.*.attn_v.weight", "model.layers.*.self_attn.v_proj.weight"),
    same("blk.*.attn_v.bias", "model.layers.*.self_attn.v_proj.bias"),
    same("blk.*.attn_output.weight", "model.layers.*.self_attn.o_proj.weight"),
    same("blk.*.attn_output.bias", "model.layers.*.self_attn.o_proj.bias"),
    same("blk.*.ffn_norm.weight", "model.layers.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_norm.bias", "model.layers.*.post_attention_layernorm.bias"),
    same("blk.*.ffn_up.weight", "model.layers.*.mlp.c_fc.weight"),
    same("blk.*.ffn_up.bias", "model.layers.*.mlp.c_fc.bias"),
    same("blk.*.ffn_down.weight", "model.layers.*.mlp.c_proj.weight"),
    same("blk.*.ffn_down.bias", "model.layers.*.mlp.c_proj.bias"),
];
