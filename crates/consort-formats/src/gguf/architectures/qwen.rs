//! Qwen 2, 2.5 and 3: Llama's names, rows of heads in halves as in a directory.

use super::{
    Architecture, Constant, ROTARY_DECODER, USUAL,
    llama::{DECODER, HALVES},
};
use crate::gguf::names::{Name, same};

/// Files say nothing of a sliding window, and llama.cpp uses none.
const FULL: (&str, Constant) = ("use_sliding_window", Constant::Flag(false));

pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_type: "qwen2",
    keys: &[ROTARY_DECODER],
    constants: &[("hidden_act", Constant::Text("silu")), FULL],
    switches: &[],
    only: USUAL,
    derived: None,
    rotary: true,
    norms_plus_one: false,
    tensors: &[HALVES, DECODER],
    without: None,
};

pub(super) const QWEN3: Architecture =
    Architecture { name: "qwen3", model_type: "qwen3", tensors: &[HALVES, HEAD_NORMS, DECODER], ..QWEN2 };

const HEAD_NORMS: &[Name] = &[
    same("blk.*.attn_q_norm.weight", "model.layers.*.self_attn.q_norm.weight"),
    same("blk.*.attn_k_norm.weight", "model.layers.*.self_attn.k_norm.weight"),
];
