//! Decoders without rotary positions: GPT-2, BLOOM.

use consort_core::config::{StackConfig, TransformerConfig};
use serde_json::json;

use super::{Candidate, activation, object};

pub(super) fn gpt2(config: &TransformerConfig, stack: &StackConfig) -> Candidate {
    let attention = &stack.attention;
    let keys = json!({
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": config.width,
        "n_layer": stack.layers,
        "n_head": attention.heads,
        "n_positions": stack.context,
        "n_inner": stack.feed_forward.width,
        "vocab_size": stack.vocabulary,
        "activation_function": activation(stack.feed_forward.activation),
        "layer_norm_epsilon": stack.norm.epsilon,
        "scale_attn_weights": attention.scale != 1.0 || attention.head_width == 1,
        "scale_attn_by_inverse_layer_idx": attention.inverse_layer_scale,
        "tie_word_embeddings": config.head.as_ref().is_some_and(|head| head.tied),
    });
    ("gpt2", object(keys), Vec::new())
}

pub(super) fn bloom(config: &TransformerConfig, stack: &StackConfig) -> Candidate {
    let keys = json!({
        "architectures": ["BloomForCausalLM"],
        "hidden_size": config.width,
        "n_inner": stack.feed_forward.width, // four times the width, which the family knows
        "n_layer": stack.layers,
        "n_head": stack.attention.heads,
        "vocab_size": stack.vocabulary,
        "layer_norm_epsilon": stack.norm.epsilon,
        "tie_word_embeddings": config.head.as_ref().is_some_and(|head| head.tied),
    });
    ("bloom", object(keys), Vec::new())
}
