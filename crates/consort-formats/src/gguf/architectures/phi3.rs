//! Phi-3: query, key and value in one tensor, gate and up in another, as in a directory.

use super::{Absent, Architecture, Constant, Key, Kind, RMS_NORM, ROTARY_DECODER, Rotary, USUAL};
use crate::gguf::names::{Name, same};

pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    model_type: "phi3",
    keys: &[ROTARY_DECODER, RMS_NORM, KEYS],
    constants: &[("hidden_act", Constant::Text("silu"))],
    switches: &[],
    only: USUAL,
    derived: None,
    rotary: Rotary::Part("partial_rotary_factor"),
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS],
    without: None,
    needed: &[],
};

/// llama.cpp itself does not use the window, which conversion writes.
const KEYS: &[Key] =
    &[Key { gguf: ".attention.sliding_window", json: "sliding_window", kind: Kind::Window, absent: Absent::Null }];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "model.embed_tokens.weight"),
    same("output_norm.weight", "model.norm.weight"),
    same("output.weight", "lm_head.weight"),
    same("blk.*.attn_norm.weight", "model.layers.*.input_layernorm.weight"),
    same("blk.*.attn_qkv.weight", "model.layers.*.self_attn.qkv_proj.weight"),
    same("blk.*.attn_output.weight", "model.layers.*.self_attn.o_proj.weight"),
    same("blk.*.ffn_norm.weight", "model.layers.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_up.weight", "model.layers.*.mlp.gate_up_proj.weight"),
    same("blk.*.ffn_down.weight", "model.layers.*.mlp.down_proj.weight"),
];
