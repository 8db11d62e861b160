//! Gemma: Llama's names, norms kept with the 1 that a directory leaves out, and always the embedding for a head.

use super::{
    Architecture, Constant, RMS_NORM, ROTARY_DECODER, Rotary, USUAL,
    llama::{DECODER_BLOCKS, HALVES},
};
use crate::gguf::names::{Name, same};

pub(super) const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    keys: &[ROTARY_DECODER, RMS_NORM],
    constants: &[("hidden_act", Constant::Text("gelu_pytorch_tanh"))],
    switches: &[],
    only: USUAL,
    derived: None,
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: true,
    tensors: &[HALVES, ENDS, DECODER_BLOCKS],
    without: None,
    needed: &[],
};

const ENDS: &[Name] =
    &[same("token_embd.weight", "model.embed_tokens.weight"), same("output_norm.weight", "model.norm.weight")];
