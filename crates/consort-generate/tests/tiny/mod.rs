//! Small transformers with random weights.

use consort_core::{
    Backend, Device, StoredTensor, Transformer, TransformerConfig,
    config::{
        Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig,
        NormKind, Placement, Positions, StackConfig,
    },
    model::{LoadOptions, WeightMap},
    philox::normal,
};

/// Tokens of a tiny model.
pub(crate) const VOCABULARY: usize = 19;
/// Tokens that its decoder is defined for.
pub(crate) const CONTEXT: usize = 48;

/// A decoder-only model.
pub(crate) fn decoder_only() -> TransformerConfig {
    TransformerConfig {
        width: 12,
        encoder: None,
        decoder: Some(stack(true, false)),
        shared_embedding: false,
        head: Some(head()),
    }
}

/// An encoder-decoder model.
pub(crate) fn encoder_decoder() -> TransformerConfig {
    TransformerConfig {
        encoder: Some(stack(false, false)),
        decoder: Some(stack(true, true)),
        shared_embedding: true,
        ..decoder_only()
    }
}

fn head() -> HeadConfig {
    HeadConfig { tied: false, bias: true, scale: 1.0, soft_cap: None, transform: None }
}

fn stack(causal: bool, cross_attention: bool) -> StackConfig {
    StackConfig {
        vocabulary: VOCABULARY,
        context: Some(CONTEXT),
        layers: 2,
        causal,
        embedding: EmbeddingConfig {
            positions: Positions::Learned { count: CONTEXT, offset: 0 },
            ..EmbeddingConfig::default()
        },
        attention: AttentionConfig {
            heads: 3,
            key_value_heads: 1,
            head_width: 4,
            scale: 0.5,
            inverse_layer_scale: false,
            input_bias: true,
            output_bias: true,
            query_key_norm: false,
            soft_cap: None,
            windows: Vec::new(),
            window_rotary: None,
            positions: AttentionPositions::None,
        },
        cross_attention,
        feed_forward: FeedForwardConfig { width: 20, activation: Activation::Gelu, gated: false, bias: true },
        norm: NormConfig { kind: NormKind::Layer, epsilon: 1e-5, bias: true, unit_offset: false },
        placement: Placement::Pre,
        final_norm: true,
    }
}

/// Random weights; lively enough that text varies.
pub(crate) fn weights(config: &TransformerConfig, seed: u64) -> WeightMap {
    config
        .slots()
        .into_iter()
        .enumerate()
        .map(|(stream, slot)| {
            let (offset, spread) = if slot.name.contains("norm.weight") { (1.0, 0.2) } else { (0.0, 0.6) };
            let values: Vec<f64> = (0..slot.shape[0] * slot.shape[1])
                .map(|index| f64::from((offset + spread * normal(seed, stream as u64, index as u64)) as f32))
                .collect();
            let tensor = StoredTensor::from_values(&slot.name, &values, slot.shape).unwrap();
            (slot.name, tensor)
        })
        .collect()
}

/// A model with random weights.
pub(crate) fn model<B: Backend>(backend: B, config: &TransformerConfig, seed: u64) -> Transformer<B> {
    with_weights(backend, config, &weights(config, seed))
}

/// A model with these weights.
pub(crate) fn with_weights<B: Backend>(backend: B, config: &TransformerConfig, weights: &WeightMap) -> Transformer<B> {
    Transformer::load(&Device::new(backend), config, weights, LoadOptions::default()).unwrap()
}
