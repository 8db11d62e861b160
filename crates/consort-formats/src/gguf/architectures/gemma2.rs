//! Gemma 2: norms on both sides, kept with the 1 that a directory leaves out.

use serde_json::Value;

use super::{
    Absent, Architecture, Constant, Key, RMS_NORM, ROTARY_DECODER, Rotary, USUAL, count, llama::HALVES, number,
};
use crate::gguf::{
    config::{Config, head_width},
    names::{Name, same},
};

pub(super) const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_type: "gemma2",
    keys: &[ROTARY_DECODER, RMS_NORM, KEYS],
    constants: &[("hidden_activation", Constant::Text("gelu_pytorch_tanh"))],
    switches: &[],
    only: USUAL,
    derived: Some(("query_pre_attn_scalar", |config| score_scalar(config, 46))),
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: true,
    tensors: &[HALVES, TENSORS],
    without: None,
    needed: &[],
};

/// What scores are scaled by the root of, which no key has: the model of 27 billion parameters, known by its layers, takes
/// D/H where the others take C (llama.cpp, `LLM_TYPE_27B`).
pub(super) fn score_scalar(config: &Config, layers_of_27b: usize) -> Option<Value> {
    let scalar = match config.count("num_hidden_layers") == Some(layers_of_27b) {
        true => config.count("hidden_size")?.checked_div(config.count("num_attention_heads")?),
        false => head_width(config),
    };
    scalar.map(Value::from)
}

const KEYS: &[Key] = &[
    count(".attention.sliding_window", "sliding_window", Absent::Left),
    number(".attn_logit_softcapping", "attn_logit_softcapping", Absent::Left),
    number(".final_logit_softcapping", "final_logit_softcapping", Absent::Left),
];

pub(super) const TENSORS: &[Name] = &[
    same("token_embd.weight", "model.embed_tokens.weight"),
    same("output_norm.weight", "model.norm.weight"),
    same("output.weight", "lm_head.weight"),
    same("blk.*.attn_norm.weight", "model.layers.*.input_layernorm.weight"),
    same("blk.*.attn_v.weight", "model.layers.*.self_attn.v_proj.weight"),
    same("blk.*.attn_v.bias", "model.layers.*.self_attn.v_proj.bias"),
    same("blk.*.attn_output.weight", "model.layers.*.self_attn.o_proj.weight"),
    same("blk.*.attn_output.bias", "model.layers.*.self_attn.o_proj.bias"),
    same("blk.*.post_attention_norm.weight", "model.layers.*.post_attention_layernorm.weight"),
    same("blk.*.ffn_norm.weight", "model.layers.*.pre_feedforward_layernorm.weight"),
    same("blk.*.ffn_gate.weight", "model.layers.*.mlp.gate_proj.weight"),
    same("blk.*.ffn_up.weight", "model.layers.*.mlp.up_proj.weight"),
    same("blk.*.ffn_down.weight", "model.layers.*.mlp.down_proj.weight"),
    same("blk.*.post_ffw_norm.weight", "model.layers.*.post_feedforward_layernorm.weight"),
];
