//! Qwen 2, 2.5 and 3: Llama's names, rows of heads in halves as in a directory.

use super::{
    Architecture, Constant, RMS_NORM, ROTARY_DECODER, Rotary, USUAL,
    llama::{DECODER_BLOCKS, ENDS, HALVES, HEAD_NORMS},
};

/// Files say nothing of a sliding window, and llama.cpp uses none.
const FULL: (&str, Constant) = ("use_sliding_window", Constant::Flag(false));

pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_type: "qwen2",
    keys: &[ROTARY_DECODER, RMS_NORM],
    constants: &[("hidden_act", Constant::Text("silu")), FULL],
    switches: &[],
    only: USUAL,
    derived: None,
    rotary: Rotary::Whole,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[HALVES, ENDS, DECODER_BLOCKS],
    without: None,
    needed: &[],
};

pub(super) const QWEN3: Architecture =
    Architecture { name: "qwen3", model_type: "qwen3", tensors: &[HALVES, HEAD_NORMS, ENDS, DECODER_BLOCKS], ..QWEN2 };
