//! Gemma 3: Gemma 2 with norms over heads, and a window in all layers but every sixth, which rotate otherwise.

use super::{
    Absent, Architecture, Constant, Key, RMS_NORM, ROTARY_DECODER, Rotary, USUAL,
    gemma2::{TENSORS, score_scalar},
    llama::{HALVES, HEAD_NORMS},
    number,
};

pub(super) const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_type: "gemma3_text",
    keys: &[ROTARY_DECODER, RMS_NORM, KEYS],
    constants: &[("hidden_activation", Constant::Text("gelu_pytorch_tanh"))],
    switches: &[],
    only: USUAL,
    derived: Some(("query_pre_attn_scalar", |config| score_scalar(config, 62))),
    rotary: Rotary::Whole,
    window_pattern: Some(6),
    norms_plus_one: true,
    tensors: &[HALVES, HEAD_NORMS, TENSORS],
    without: None,
    needed: &[],
};

const KEYS: &[Key] = &[
    number(".rope.freq_base_swa", "rope_local_base_freq", Absent::Left),
    number(".final_logit_softcapping", "final_logit_softcapping", Absent::Left),
];
