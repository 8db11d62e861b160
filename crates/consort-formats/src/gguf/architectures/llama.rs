//! Llama, and Mistral, whose files say `llama` as well and nothing of a window. llama.cpp turns neighbouring components
//! together where `transformers` turns the halves of a head, so the rows of query and key are interleaved in the file,
//! and so are their biases.

use super::{Architecture, Constant, RMS_NORM, ROTARY_DECODER, Rotary, Switch, USUAL};
use crate::gguf::names::{Kept, Name, kept, same};

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    keys: &[ROTARY_DECODER, RMS_NORM],
    constants: &[("hidden_act", Constant::Text("silu"))],
    switches: &[flag("blk.0.attn_q.bias", "attention_bias"), flag("blk.0.ffn_up.bias", "mlp_bias")],
    only: USUAL,
    derived: None,
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[INTERLEAVED, ENDS, DECODER_BLOCKS],
    without: None,
    needed: &[],
};

/// True where the tensor is there.
const fn flag(tensor: &'static str, json: &'static str) -> Switch {
    Switch { tensor, json, present: Constant::Flag(true), absent: Constant::Flag(false) }
}

const INTERLEAVED: &[Name] = &[
    kept(Kept::QueryRows, "blk.*.attn_q.weight", "model.layers.*.self_attn.q_proj.weight"),
    kept(Kept::QueryRows, "blk.*.attn_q.bias", "model.layers.*.self_attn.q_proj.bias"),
    kept(Kept::KeyRows, "blk.*.attn_k.weight", "model.layers.*.self_attn.k_proj.weight"),
    kept(Kept::KeyRows, "blk.*.attn_k.bias", "model.layers.*.self_attn.k_proj.bias"),
];

/// Query and key of architectures whose rows stay as they are.
pub(super) const HALVES: &[Name] = &[
    same("blk.*.attn_q.weight", "model.layers.*.self_attn.q_proj.weight"),
    same("blk.*.attn_q.bias", "model.layers.*.self_attn.q_proj.bias"),
    same("blk.*.attn_k.weight", "model.layers.*.self_attn.k_proj.weight"),
    same("blk.*.attn_k.bias", "model.layers.*.self_attn.k_proj.bias"),
];

/// Norms over heads.
pub(super) const HEAD_NORMS: &[Name] = &[
    same("blk.*.attn_q_norm.weight", "model.layers.*.self_attn.q_norm.weight"),
    same("blk.*.attn_k_norm.weight", "model.layers.*.self_attn.k_norm.weight"),
];

/// What a decoder like Llama's has outside of its blocks.
pub(super) const ENDS: &[Name] = &[
    same("token_embd.weight", "model.embed_tokens.weight"),
    same("output_norm.weight", "model.norm.weight"),
    same("output.weight", "lm_head.weight"),
];

/// All else of it.
pub(super) const DECODER_BLOCKS: &[Name] = &[
    same("blk.*.attn_norm.weight", "model.layers.*.input_layernorm.weight"),
    same("blk.*.attn_v.weight", "model.layers.*.self_attn.v_proj.weight"),
    same("blk.*.attn_v.bias", "model.layers.*.self_attn.v_proj.bias"),
    same("blk.*.attn_output.weight", "model.layers.*.self_attn.o_proj.weight"),
    same("blk.*.attn_output.bias", "model.layers.*.self_attn.o_proj.bias"),
    same("blk.*.ffn_norm.weight", "model.layers.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_gate.weight", "model.layers.*.mlp.gate_proj.weight"),
    same("blk.*.ffn_gate.bias", "model.layers.*.mlp.gate_proj.bias"),
    same("blk.*.ffn_up.weight", "model.layers.*.mlp.up_proj.weight"),
    same("blk.*.ffn_up.bias", "model.layers.*.mlp.up_proj.bias"),
    same("blk.*.ffn_down.weight", "model.layers.*.mlp.down_proj.weight"),
    same("blk.*.ffn_down.bias", "model.layers.*.mlp.down_proj.bias"),
];
