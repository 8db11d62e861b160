//! T5, T5 1.1 and Flan-T5, and their encoders alone. A file says neither what the feed-forward network computes nor
//! whether the head is scaled: a gate means GELU and no gate ReLU, and the original, whose head is the embedding, scales.

use super::{
    ALL, Absent, Architecture, Constant, IN_SEQUENCE, Key, NO_LINEAR_BIAS, Rotary, Switch, USUAL, count, number,
};
use crate::gguf::names::{Name, same};

pub(super) const T5: Architecture = Architecture {
    name: "t5",
    model_type: "t5",
    keys: &[KEYS],
    constants: &[("relative_attention_max_distance", Constant::Count(128))],
    switches: &[
        FEED_FORWARD,
        Switch {
            tensor: "output.weight",
            json: "tie_word_embeddings",
            present: Constant::Flag(false),
            absent: Constant::Flag(true),
        },
    ],
    only: USUAL,
    derived: None,
    rotary: Rotary::None,
    window_pattern: None,
    norms_plus_one: false,
    tensors: &[ENCODER, DECODER, GATED, PLAIN],
    without: Some((GATE, &[ENCODER, DECODER, PLAIN])),
    needed: &[],
};

pub(super) const T5_ENCODER: Architecture = Architecture {
    name: "t5encoder",
    only: &[ALL, NO_LINEAR_BIAS, IN_SEQUENCE],
    constants: &[
        ("relative_attention_max_distance", Constant::Count(128)),
        ("architectures", Constant::List("T5EncoderModel")),
    ],
    ..T5
};

const GATE: &str = "enc.blk.0.ffn_gate.weight";

const FEED_FORWARD: Switch = Switch {
    tensor: GATE,
    json: "feed_forward_proj",
    present: Constant::Text("gated-gelu"),
    absent: Constant::Text("relu"),
};

const KEYS: &[Key] = &[
    count(".embedding_length", "d_model", Absent::Refused),
    count(".block_count", "num_layers", Absent::Refused),
    count(".decoder_block_count", "num_decoder_layers", Absent::As("num_layers")),
    count(".feed_forward_length", "d_ff", Absent::Refused),
    count(".attention.head_count", "num_heads", Absent::Refused),
    count(".attention.key_length", "d_kv", Absent::Refused),
    count(".attention.relative_buckets_count", "relative_attention_num_buckets", Absent::Refused),
    number(".attention.layer_norm_rms_epsilon", "layer_norm_epsilon", Absent::Refused),
];

const ENCODER: &[Name] = &[
    same("token_embd.weight", "shared.weight"),
    same("output.weight", "lm_head.weight"),
    same("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
    same("enc.blk.*.attn_rel_b.weight", "encoder.block.*.layer.0.SelfAttention.relative_attention_bias.weight"),
    same("enc.blk.*.attn_norm.weight", "encoder.block.*.layer.0.layer_norm.weight"),
    same("enc.blk.*.attn_q.weight", "encoder.block.*.layer.0.SelfAttention.q.weight"),
    same("enc.blk.*.attn_k.weight", "encoder.block.*.layer.0.SelfAttention.k.weight"),
    same("enc.blk.*.attn_v.weight", "encoder.block.*.layer.0.SelfAttention.v.weight"),
    same("enc.blk.*.attn_o.weight", "encoder.block.*.layer.0.SelfAttention.o.weight"),
    same("enc.blk.*.ffn_norm.weight", "encoder.block.*.layer.1.layer_norm.weight"),
    same("enc.blk.*.ffn_down.weight", "encoder.block.*.layer.1.DenseReluDense.wo.weight"),
];

const DECODER: &[Name] = &[
    same("dec.output_norm.weight", "decoder.final_layer_norm.weight"),
    same("dec.blk.*.attn_rel_b.weight", "decoder.block.*.layer.0.SelfAttention.relative_attention_bias.weight"),
    same("dec.blk.*.attn_norm.weight", "decoder.block.*.layer.0.layer_norm.weight"),
    same("dec.blk.*.attn_q.weight", "decoder.block.*.layer.0.SelfAttention.q.weight"),
    same("dec.blk.*.attn_k.weight", "decoder.block.*.layer.0.SelfAttention.k.weight"),
    same("dec.blk.*.attn_v.weight", "decoder.block.*.layer.0.SelfAttention.v.weight"),
    same("dec.blk.*.attn_o.weight", "decoder.block.*.layer.0.SelfAttention.o.weight"),
    same("dec.blk.*.cross_attn_norm.weight", "decoder.block.*.layer.1.layer_norm.weight"),
    same("dec.blk.*.cross_attn_q.weight", "decoder.block.*.layer.1.EncDecAttention.q.weight"),
    same("dec.blk.*.cross_attn_k.weight", "decoder.block.*.layer.1.EncDecAttention.k.weight"),
    same("dec.blk.*.cross_attn_v.weight", "decoder.block.*.layer.1.EncDecAttention.v.weight"),
    same("dec.blk.*.cross_attn_o.weight", "decoder.block.*.layer.1.EncDecAttention.o.weight"),
    same("dec.blk.*.cross_attn_rel_b.weight", "decoder.block.*.layer.1.EncDecAttention.relative_attention_bias.weight"),
    same("dec.blk.*.ffn_norm.weight", "decoder.block.*.layer.2.layer_norm.weight"),
    same("dec.blk.*.ffn_down.weight", "decoder.block.*.layer.2.DenseReluDense.wo.weight"),
];

const PLAIN: &[Name] = &[
    same("enc.blk.*.ffn_up.weight", "encoder.block.*.layer.1.DenseReluDense.wi.weight"),
    same("dec.blk.*.ffn_up.weight", "decoder.block.*.layer.2.DenseReluDense.wi.weight"),
];

const GATED: &[Name] = &[
    same("enc.blk.*.ffn_gate.weight", "encoder.block.*.layer.1.DenseReluDense.wi_0.weight"),
    same("enc.blk.*.ffn_up.weight", "encoder.block.*.layer.1.DenseReluDense.wi_1.weight"),
    same("dec.blk.*.ffn_gate.weight", "decoder.block.*.layer.2.DenseReluDense.wi_0.weight"),
    same("dec.blk.*.ffn_up.weight", "decoder.block.*.layer.2.DenseReluDense.wi_1.weight"),
];
