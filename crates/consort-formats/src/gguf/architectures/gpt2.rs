//! GPT-2: matrices are `[outputs, inputs]`, where a directory has the transposed ones.

use super::{Absent, Architecture, Constant, Key, Rotary, USUAL, count, number};
use crate::gguf::names::{Kept, Name, kept, same};

pub(super) const GPT2: Architecture = Architecture {
    name: "gpt2",
    model_type: "gpt2",
    keys: &[KEYS],
    constants: &[("activation_function", Constant::Text("gelu_new"))],
    switches: &[],
    only: USUAL,
    derived: None,
    rotary: Rotary::None,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[TENSORS],
    without: None,
    needed: &[],
};

const KEYS: &[Key] = &[
    count(".context_length", "n_positions", Absent::Refused),
    count(".embedding_length", "n_embd", Absent::Refused),
    count(".block_count", "n_layer", Absent::Refused),
    count(".feed_forward_length", "n_inner", Absent::Refused),
    count(".attention.head_count", "n_head", Absent::Refused),
    number(".attention.layer_norm_epsilon", "layer_norm_epsilon", Absent::Refused),
];

const TENSORS: &[Name] = &[
    same("token_embd.weight", "transformer.wte.weight"),
    same("position_embd.weight", "transformer.wpe.weight"),
    same("output_norm.weight", "transformer.ln_f.weight"),
    same("output_norm.bias", "transformer.ln_f.bias"),
    same("output.weight", "lm_head.weight"),
    same("blk.*.attn_norm.weight", "transformer.h.*.ln_1.weight"),
    same("blk.*.attn_norm.bias", "transformer.h.*.ln_1.bias"),
    kept(Kept::Transposed, "blk.*.attn_qkv.weight", "transformer.h.*.attn.c_attn.weight"),
    same("blk.*.attn_qkv.bias", "transformer.h.*.attn.c_attn.bias"),
    kept(Kept::Transposed, "blk.*.attn_output.weight", "transformer.h.*.attn.c_proj.weight"),
    same("blk.*.attn_output.bias", "transformer.h.*.attn.c_proj.bias"),
    same("blk.*.ffn_norm.weight", "transformer.h.*.ln_2.weight"),
    same("blk.*.ffn_norm.bias", "transformer.h.*.ln_2.bias"),
    kept(Kept::Transposed, "blk.*.ffn_up.weight", "transformer.h.*.mlp.c_fc.weight"),
    same("blk.*.ffn_up.bias", "transformer.h.*.mlp.c_fc.bias"),
    kept(Kept::Transposed, "blk.*.ffn_down.weight", "transformer.h.*.mlp.c_proj.weight"),
    same("blk.*.ffn_down.bias", "transformer.h.*.mlp.c_proj.bias"),
];
