//! Encoders, and encoders with decoders: BERT, T5, BART, Marian.

use consort_core::config::{Activation, AttentionPositions, StackConfig, TransformerConfig};
use serde_json::{Map, Value, json};

use super::{Candidate, activation, object};

pub(super) fn bert(config: &TransformerConfig, stack: &StackConfig) -> Candidate {
    let head = config.head.as_ref();
    let keys = json!({
        "architectures": [if head.is_some() { "BertForMaskedLM" } else { "BertModel" }],
        "hidden_size": config.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.attention.heads,
        "intermediate_size": stack.feed_forward.width,
        "max_position_embeddings": stack.context,
        "vocab_size": stack.vocabulary,
        "type_vocab_size": stack.embedding.token_types,
        "hidden_act": activation(stack.feed_forward.activation),
        "layer_norm_eps": stack.norm.epsilon,
        "tie_word_embeddings": head.is_some_and(|head| head.tied),
    });
    let mut tensors = Vec::new();
    if let Some(head) = head {
        tensors.push("cls.predictions.transform.dense.weight");
        tensors.extend(head.bias.then_some("cls.predictions.bias"));
    }
    ("bert", object(keys), tensors)
}

pub(super) fn t5(config: &TransformerConfig, encoder: &StackConfig, decoder: Option<&StackConfig>) -> Candidate {
    let (buckets, distance) = match encoder.attention.positions {
        AttentionPositions::Relative { buckets, max_distance } => (buckets, max_distance),
        _ => (0, 0),
    };
    let inner = encoder.feed_forward;
    let head = config.head.as_ref();
    let projection = match (inner.gated, inner.activation) {
        (true, Activation::GeluTanh) => "gated-gelu".to_owned(),
        (gated, kind) => format!("{}{}", if gated { "gated-" } else { "" }, activation(kind)),
    };
    let tied = head.is_some_and(|head| head.tied);
    let keys = json!({
        "architectures": [if decoder.is_some() { "T5ForConditionalGeneration" } else { "T5EncoderModel" }],
        "d_model": config.width,
        "num_layers": encoder.layers,
        "num_decoder_layers": decoder.map_or(encoder.layers, |decoder| decoder.layers),
        "num_heads": encoder.attention.heads,
        "d_kv": encoder.attention.head_width,
        "d_ff": inner.width,
        "vocab_size": encoder.vocabulary,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": distance,
        "layer_norm_epsilon": encoder.norm.epsilon,
        "feed_forward_proj": projection,
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": head.is_some_and(|head| head.scale != 1.0),
    });
    ("t5", object(keys), if tied { Vec::new() } else { vec!["shared.weight", "lm_head.weight"] })
}

/// BART's keys, which Marian shares.
fn encoder_decoder(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Map<String, Value> {
    object(json!({
        "d_model": config.width,
        "encoder_layers": encoder.layers,
        "decoder_layers": decoder.layers,
        "encoder_attention_heads": encoder.attention.heads,
        "decoder_attention_heads": decoder.attention.heads,
        "encoder_ffn_dim": encoder.feed_forward.width,
        "decoder_ffn_dim": decoder.feed_forward.width,
        "max_position_embeddings": encoder.context,
        "vocab_size": encoder.vocabulary,
        "activation_function": activation(encoder.feed_forward.activation),
        "scale_embedding": encoder.embedding.scale != 1.0,
        "tie_word_embeddings": config.head.as_ref().is_some_and(|head| head.tied),
    }))
}

pub(super) fn bart(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Candidate {
    let mut keys = encoder_decoder(config, encoder, decoder);
    keys.insert("architectures".to_owned(), json!(["BartForConditionalGeneration"]));
    ("bart", keys, logits_bias(config))
}

pub(super) fn marian(config: &TransformerConfig, encoder: &StackConfig, decoder: &StackConfig) -> Candidate {
    let mut keys = encoder_decoder(config, encoder, decoder);
    keys.insert("architectures".to_owned(), json!(["MarianMTModel"]));
    keys.insert("decoder_vocab_size".to_owned(), decoder.vocabulary.into());
    keys.insert("share_encoder_decoder_embeddings".to_owned(), config.shared_embedding.into());
    ("marian", keys, logits_bias(config))
}

fn logits_bias(config: &TransformerConfig) -> Vec<&'static str> {
    config.head.as_ref().filter(|head| head.bias).map(|_| "final_logits_bias").into_iter().collect()
}
