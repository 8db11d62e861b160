//! What a transformer is, as data.
//!
//! A [`TransformerConfig`] says which stacks there are (decoder-only, encoder-only, encoder-decoder) and, for each,
//! every choice in which published transformers differ. The graph reads these fields and nothing else: no model
//! family has code of its own. Files in `configs/` hold presets in TOML; the formats crate maps other people's
//! configuration files to this type.

use serde::{Deserialize, Serialize};

use crate::{error::Error, positions::relative_buckets_fit};

/// A whole transformer.
///
/// | encoder | decoder | shape |
/// |---|---|---|
/// | – | yes | decoder-only (GPT, Llama) |
/// | yes | – | encoder-only (BERT) |
/// | yes | yes | encoder-decoder (the original paper, T5, BART) |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// D, the model width: numbers per token between blocks.
    pub width: usize,
    /// The stack that reads the source, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<StackConfig>,
    /// The stack that writes, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<StackConfig>,
    /// One token embedding serves encoder and decoder (slot `encoder.embedding.tokens`).
    #[serde(default)]
    pub shared_embedding: bool,
    /// The language-model head; without it the model ends in hidden states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
}

/// A stack of equal blocks with its embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// V, rows of the token embedding.
    pub vocabulary: usize,
    /// Longest sequence that the model is defined for; `None` where nothing bounds it (relative positions).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// L, number of blocks.
    pub layers: usize,
    /// A position sees itself and what came before it, not what follows.
    pub causal: bool,
    /// Tokens and positions to vectors.
    #[serde(default)]
    pub embedding: EmbeddingConfig,
    /// Self-attention.
    pub attention: AttentionConfig,
    /// Each block also attends to the encoder's output, with the same head counts and width and without positions.
    #[serde(default)]
    pub cross_attention: bool,
    /// The position-wise network.
    pub feed_forward: FeedForwardConfig,
    /// Every norm of this stack.
    pub norm: NormConfig,
    /// Where a block's norms stand.
    pub placement: Placement,
    /// A norm after the last block.
    #[serde(default)]
    pub final_norm: bool,
}

/// Tokens to vectors: `scale · tokens[id] + positions[p] (+ token_types[0])`, then a norm if asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingConfig {
    /// Factor on the token embedding (√D in the original paper and in Gemma).
    pub scale: f64,
    /// Absolute positions that are added; rotary, relative and linear-bias positions belong to the attention.
    pub positions: Positions,
    /// Rows of the token-type embedding; 0 for none. Type 0 is used throughout.
    pub token_types: usize,
    /// A norm over the sum.
    pub norm: bool,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self { scale: 1.0, positions: Positions::None, token_types: 0, norm: false }
    }
}

/// Absolute positions added to the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Positions {
    /// None are added.
    #[default]
    None,
    /// A trained table of `count` rows; position `p` reads row `p + offset`.
    Learned {
        /// Rows of the table, the offset included.
        count: usize,
        /// First row used (BART: 2, RoBERTa: padding id + 1).
        #[serde(default)]
        offset: usize,
    },
    /// sin and cos of `p / 10000^(2i/D)`, computed in f64 (Vaswani et al. 2017, section 3.5).
    Sinusoidal {
        /// How sines and cosines share the D columns.
        layout: SinusoidLayout,
    },
}

/// How a sinusoidal table lays out its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinusoidLayout {
    /// Columns `2i` sine, `2i + 1` cosine: as the paper writes it.
    Interleaved,
    /// All sines first, then all cosines (Marian, fairseq).
    Halves,
}

/// Multi-head attention, scores `scale · q·k`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// H, query heads.
    pub heads: usize,
    /// K, key and value heads; divides H. Query head h reads key/value head `h / (H / K)`.
    pub key_value_heads: usize,
    /// C, width of a head; `H·C` need not be D.
    pub head_width: usize,
    /// Factor on the scores (usually `1/√C`; 1 in T5).
    pub scale: f64,
    /// Divide the scale of layer i (from 0) by `i + 1` as well (GPT-2's `scale_attn_by_inverse_layer_idx`).
    #[serde(default)]
    pub inverse_layer_scale: bool,
    /// Bias on the query, key and value projections.
    #[serde(default)]
    pub input_bias: bool,
    /// Bias on the output projection.
    #[serde(default)]
    pub output_bias: bool,
    /// Norms over each head's query and key (Qwen 3), of the stack's norm kind without bias.
    #[serde(default)]
    pub query_key_norm: bool,
    /// Scores become `cap · tanh(score / cap)` (Gemma 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_cap: Option<f64>,
    /// Per layer, how many latest positions (the own one included) are seen; 0 means all. Empty: all layers see all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<usize>,
    /// Positions that enter through the scores.
    #[serde(default)]
    pub positions: AttentionPositions,
    /// Rotary positions of the layers that have a window, where they differ from the others' (Gemma 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_rotary: Option<RotaryConfig>,
}

/// Positions that act inside self-attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AttentionPositions {
    /// None here.
    #[default]
    None,
    /// Queries and keys are rotated by their position (Su et al. 2021).
    Rotary(RotaryConfig),
    /// A trained bias per head and bucket of distance, shared by all layers of the stack (Raffel et al. 2020).
    Relative {
        /// Rows of the bias table.
        buckets: usize,
        /// Distances from here on share the last bucket.
        max_distance: usize,
    },
    /// `−slope(h) · distance` per head (Press et al. 2022), slopes as the paper gives them.
    LinearBias,
}

/// Rotary positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotaryConfig {
    /// How many leading components of a head are rotated; even, at most C.
    pub width: usize,
    /// Base of the frequencies, `theta^(−2i/width)`.
    pub theta: f64,
    /// Which components form a pair.
    pub pairing: RotaryPairing,
    /// How frequencies are stretched for long contexts.
    #[serde(default)]
    pub scaling: RotaryScaling,
}

/// Which two components of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryPairing {
    /// `i` with `i + width/2` (GPT-NeoX, Hugging Face's Llama).
    Halves,
    /// `2i` with `2i + 1` (the paper, GPT-J).
    Interleaved,
}

/// Context-extension schemes of rotary frequencies. `original` is the context that the model was first trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RotaryScaling {
    /// As they are.
    #[default]
    None,
    /// Positions divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than `original`:
    /// `theta · (factor·n/original − (factor − 1))^(width/(width − 2))`.
    Dynamic {
        /// Stretch.
        factor: f64,
        /// Original context.
        original: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, a linear blend between (Llama 3.1).
    Llama3 {
        /// Stretch.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// Original context.
        original: usize,
    },
    /// YaRN (Peng et al. 2023): a ramp over dimensions between `beta_fast` and `beta_slow` turns.
    Yarn {
        /// Stretch.
        factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which a frequency is divided.
        beta_slow: f64,
        /// Original context.
        original: usize,
        /// Factor on sine and cosine.
        attention_factor: f64,
        /// Round the ramp's ends to whole dimensions.
        truncate: bool,
    },
}

/// `down(act(up(x)))`, or `down(act(gate(x)) · up(x))` when gated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedForwardConfig {
    /// F, the inner width.
    pub width: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether a second projection gates the first.
    #[serde(default)]
    pub gated: bool,
    /// Biases on the projections.
    #[serde(default)]
    pub bias: bool,
}

/// Element-wise non-linearities, by their formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x · ½(1 + erf(x/√2))`.
    Gelu,
    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    GeluTanh,
    /// `x · σ(1.702x)`.
    QuickGelu,
    /// `x · σ(x)`, also called swish.
    Silu,
    /// `tanh(x)`.
    Tanh,
}

/// A normalisation over the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormConfig {
    /// Which statistic.
    pub kind: NormKind,
    /// Added to the variance or mean square, inside the root.
    pub epsilon: f64,
    /// A trained bias (layer norms only).
    #[serde(default)]
    pub bias: bool,
    /// The weight is stored as its difference from one: `1 + w` (Gemma).
    #[serde(default)]
    pub unit_offset: bool,
}

/// The two norms in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `(x − mean) / √(var + ε)` (Ba et al. 2016).
    Layer,
    /// `x / √(mean(x²) + ε)` (Zhang & Sennrich 2019).
    Rms,
}

/// Where a block's norms stand around a sub-layer `f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// `x + f(norm(x))`.
    Pre,
    /// `norm(x + f(x))`, as in the original paper.
    Post,
    /// `x + post_norm(f(norm(x)))` (Gemma 2).
    Sandwich,
    /// Attention and feed-forward side by side, each with its norm: `x + attention(norm(x)) + feed_forward(norm'(x))`
    /// (GPT-NeoX).
    Parallel,
    /// The same with one norm for both, the attention's (Falcon 7B).
    ParallelSharedNorm,
}

impl Placement {
    /// Whether attention and feed-forward read the same `x`.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelSharedNorm)
    }
}

/// Hidden state to logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// The output weight is the token embedding.
    pub tied: bool,
    /// A bias over the vocabulary.
    #[serde(default)]
    pub bias: bool,
    /// Factor on the hidden state before the projection (T5 with a tied head: `1/√D`).
    #[serde(default = "one")]
    pub scale: f64,
    /// Logits become `cap · tanh(logit / cap)` (Gemma 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_cap: Option<f64>,
    /// A dense layer with this activation, then a norm, before the projection (BERT's masked-token head).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Activation>,
}

fn one() -> f64 {
    1.0
}

impl TransformerConfig {
    /// The stack whose hidden states feed the head: the decoder where there is one.
    ///
    /// # Errors
    /// [`Error::Config`] when the config has no stack at all.
    pub fn output_stack(&self) -> Result<&StackConfig, Error> {
        self.decoder
            .as_ref()
            .or(self.encoder.as_ref())
            .ok_or_else(|| Error::config("decoder", "neither an encoder nor a decoder is configured"))
    }

    /// Checks every field against every other, so that the graph can rely on them.
    ///
    /// # Errors
    /// [`Error::Config`] names the first field that cannot be and says why.
    pub fn validate(&self) -> Result<(), Error> {
        self.output_stack()?;
        positive("width", self.width)?;
        at_most("width", self.width, MAX_SIZE)?;
        if let Some(encoder) = &self.encoder {
            encoder.validate("encoder", self.width)?;
            if encoder.cross_attention {
                return Err(Error::config("encoder.cross_attention", "an encoder has nothing to attend to but itself"));
            }
        }
        if let Some(decoder) = &self.decoder {
            decoder.validate("decoder", self.width)?;
            if !decoder.causal {
                return Err(Error::config(
                    "decoder.causal",
                    "a decoder writes one token after the other: it is causal",
                ));
            }
            if decoder.cross_attention != self.encoder.is_some() {
                return Err(Error::config(
                    "decoder.cross_attention",
                    "cross-attention needs an encoder, and an encoder needs cross-attention to be read",
                ));
            }
        }
        if self.shared_embedding {
            match (&self.encoder, &self.decoder) {
                (Some(encoder), Some(decoder)) if encoder.vocabulary == decoder.vocabulary => {}
                _ => {
                    return Err(Error::config(
                        "shared_embedding",
                        "needs an encoder and a decoder with the same vocabulary",
                    ));
                }
            }
        }
        if let Some(head) = &self.head {
            finite("head.scale", head.scale)?;
            positive_cap("head.soft_cap", head.soft_cap)?;
        }
        Ok(())
    }
}

impl StackConfig {
    /// The window of `layer` (positions seen, the own one included), or `None` for all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.attention.windows.get(layer).copied().filter(|&window| window > 0)
    }

    /// The factor on the scores of `layer`.
    pub fn score_scale(&self, layer: usize) -> f64 {
        let divisor = if self.attention.inverse_layer_scale { (layer + 1) as f64 } else { 1.0 };
        self.attention.scale / divisor
    }

    fn validate(&self, stack: &str, width: usize) -> Result<(), Error> {
        let at = |field: &str| format!("{stack}.{field}");
        let attention = &self.attention;
        positive(&at("vocabulary"), self.vocabulary)?;
        positive(&at("attention.heads"), attention.heads)?;
        positive(&at("attention.key_value_heads"), attention.key_value_heads)?;
        positive(&at("attention.head_width"), attention.head_width)?;
        positive(&at("feed_forward.width"), self.feed_forward.width)?;
        if let Some(context) = self.context {
            positive(&at("context"), context)?;
        }
        if !attention.heads.is_multiple_of(attention.key_value_heads) {
            return Err(Error::config(
                at("attention.key_value_heads"),
                format!("{} does not divide the {} query heads", attention.key_value_heads, attention.heads),
            ));
        }
        // Every size that is multiplied below or in the graph stays far from overflow.
        for (field, value) in [
            ("vocabulary", self.vocabulary),
            ("attention.heads", attention.heads),
            ("attention.head_width", attention.head_width),
            ("feed_forward.width", self.feed_forward.width),
            ("embedding.token_types", self.embedding.token_types),
        ] {
            at_most(&at(field), value, MAX_SIZE)?;
        }
        at_most(&at("layers"), self.layers, MAX_LAYERS)?;
        finite(&at("attention.scale"), attention.scale)?;
        finite(&at("embedding.scale"), self.embedding.scale)?;
        positive_cap(&at("attention.soft_cap"), attention.soft_cap)?;
        if !(self.norm.epsilon >= 0.0 && self.norm.epsilon.is_finite()) {
            return Err(Error::config(at("norm.epsilon"), format!("{} is not a number from 0 up", self.norm.epsilon)));
        }
        if self.norm.kind == NormKind::Rms && self.norm.bias {
            return Err(Error::config(at("norm.bias"), "an rms norm has no bias"));
        }
        if !attention.windows.is_empty() && attention.windows.len() != self.layers {
            return Err(Error::config(
                at("attention.windows"),
                format!("{} windows for {} layers", attention.windows.len(), self.layers),
            ));
        }
        if !self.causal && attention.windows.iter().any(|&window| window > 0) {
            return Err(Error::config(at("attention.windows"), "windows are defined for causal attention only"));
        }
        if let Positions::Learned { count, offset } = self.embedding.positions {
            if count > MAX_SIZE || count <= offset {
                return Err(Error::config(
                    at("embedding.positions.count"),
                    format!("a table of {count} rows has none left after an offset of {offset}"),
                ));
            }
            if self.context.is_none_or(|context| context > count - offset) {
                return Err(Error::config(
                    at("context"),
                    format!("{:?} is longer than the {} learned positions", self.context, count - offset),
                ));
            }
        }
        if matches!(self.embedding.positions, Positions::Sinusoidal { .. }) && !width.is_multiple_of(2) {
            return Err(Error::config("width", format!("sinusoidal positions need an even width, not {width}")));
        }
        match attention.positions {
            AttentionPositions::Rotary(rotary) => {
                rotary.validate(&at("attention.positions"), attention.head_width)?;
            }
            AttentionPositions::Relative { buckets, max_distance } => {
                if buckets > MAX_SIZE || !relative_buckets_fit(!self.causal, buckets, max_distance) {
                    return Err(Error::config(
                        at("attention.positions"),
                        format!("{buckets} relative buckets cannot cover a distance of {max_distance}"),
                    ));
                }
            }
            AttentionPositions::None | AttentionPositions::LinearBias => {}
        }
        if let Some(rotary) = attention.window_rotary {
            if !matches!(attention.positions, AttentionPositions::Rotary(_)) {
                return Err(Error::config(at("attention.window_rotary"), "needs rotary positions in the other layers"));
            }
            rotary.validate(&at("attention.window_rotary"), attention.head_width)?;
        }
        if self.placement.is_parallel() && self.cross_attention {
            return Err(Error::config(at("placement"), "cross-attention has no place in a parallel block"));
        }
        Ok(())
    }
}

impl RotaryConfig {
    fn validate(&self, place: &str, head_width: usize) -> Result<(), Error> {
        let at = |field: &str| format!("{place}.{field}");
        if self.width == 0 || !self.width.is_multiple_of(2) || self.width > head_width {
            return Err(Error::config(
                at("width"),
                format!("{} is not an even number of the head's {head_width} components", self.width),
            ));
        }
        let stretch = |factor: f64| {
            // Far beyond any context, and far below where `factor − (factor − 1)` would lose its 1.
            if (1.0..=1e9).contains(&factor) {
                Ok(())
            } else {
                Err(Error::config(at("scaling.factor"), format!("{factor} is not a number from 1 to 1e9")))
            }
        };
        if !(self.theta > 0.0 && self.theta.is_finite()) {
            return Err(Error::config(at("theta"), format!("{} is not a positive number", self.theta)));
        }
        match self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => stretch(factor),
            RotaryScaling::Dynamic { factor, original } => {
                positive(&at("scaling.original"), original)?;
                if self.width <= 2 {
                    return Err(Error::config(at("width"), "dynamic scaling needs more than two rotated components"));
                }
                stretch(factor)
            }
            RotaryScaling::Llama3 { factor, low, high, original } => {
                positive(&at("scaling.original"), original)?;
                if !(low > 0.0 && high > low && high.is_finite()) {
                    return Err(Error::config(
                        at("scaling.high"),
                        format!("frequency factors {low} (low) and {high} (high) do not satisfy 0 < low < high"),
                    ));
                }
                stretch(factor)
            }
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, .. } => {
                positive(&at("scaling.original"), original)?;
                finite(&at("scaling.attention_factor"), attention_factor)?;
                if !(beta_slow > 0.0 && beta_fast >= beta_slow && beta_fast.is_finite()) {
                    return Err(Error::config(
                        at("scaling.beta_fast"),
                        format!("{beta_fast} (fast) and {beta_slow} (slow) do not satisfy 0 < slow <= fast"),
                    ));
                }
                if self.theta <= 1.0 {
                    return Err(Error::config(at("theta"), "yarn needs a base above 1"));
                }
                stretch(factor)
            }
        }
    }
}

/// No dimension of a real transformer comes near; products of three stay below 2^63.
const MAX_SIZE: usize = 1 << 20;

/// Slots are listed layer by layer: a config of a few bytes must not ask for gigabytes of them.
const MAX_LAYERS: usize = 1 << 12;

fn at_most(field: &str, value: usize, limit: usize) -> Result<(), Error> {
    if value > limit { Err(Error::config(field, format!("{value} is beyond the limit of {limit}"))) } else { Ok(()) }
}

fn positive(field: &str, value: usize) -> Result<(), Error> {
    if value == 0 { Err(Error::config(field, "must be at least 1")) } else { Ok(()) }
}

fn finite(field: &str, value: f64) -> Result<(), Error> {
    if value.is_finite() { Ok(()) } else { Err(Error::config(field, format!("{value} is not a number"))) }
}

fn positive_cap(field: &str, cap: Option<f64>) -> Result<(), Error> {
    match cap {
        Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
            Err(Error::config(field, format!("{cap} is not a positive number")))
        }
        _ => Ok(()),
    }
}
