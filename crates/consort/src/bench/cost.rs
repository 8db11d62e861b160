//! Multiplications, additions and bytes of a pass, counted from a configuration.
//!
//! ```text
//! projections   2 · Σ outputs · inputs   a row
//! attention     4 · H · C · keys         a query and layer; keys that a window or the future hides count for nothing
//! ```
//!
//! Embeddings, norms, softmax and rotations are left out, as is usual: they are some per cent.

use consort_core::{
    BLOCK, TransformerConfig, WeightDType,
    config::{AttentionConfig, StackConfig},
};

/// What passes of a model cost.
#[derive(Clone, Debug)]
pub struct Cost {
    config: TransformerConfig,
    encoder: Matrices,
    /// Without what is applied to a source.
    decoder: Matrices,
    /// Keys and values of the source.
    source: Matrices,
    head: Matrices,
    resident: u64,
}

/// Matrices that are multiplied with.
#[derive(Clone, Copy, Debug, Default)]
struct Matrices {
    elements: u64,
    bytes: u64,
}

/// A pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Multiplications and additions.
    pub operations: f64,
    /// Bytes of weights that are read, each weight once a step.
    pub bytes: f64,
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, bytes: self.bytes + other.bytes }
    }
}

impl Matrices {
    fn add(&mut self, elements: u64, bytes: u64) {
        self.elements += elements;
        self.bytes += bytes;
    }

    fn applied(self, rows: usize) -> Work {
        Work { operations: 2.0 * self.elements as f64 * rows as f64, bytes: self.bytes as f64 }
    }
}

impl Cost {
    /// That of `config`, whose slots are stored as `stored` says and kept as `keep`, or as stored.
    pub fn new(
        config: &TransformerConfig,
        keep: Option<WeightDType>,
        stored: &dyn Fn(&str) -> Option<WeightDType>,
    ) -> Self {
        let mut cost = Self {
            config: config.clone(),
            encoder: Matrices::default(),
            decoder: Matrices::default(),
            source: Matrices::default(),
            head: Matrices::default(),
            resident: 0,
        };
        let head = config.head.as_ref().map(|_| config.head_slot());
        for slot in config.slots() {
            let name = slot.name.as_str();
            let [outputs, inputs] = slot.shape;
            let elements = outputs as u64 * inputs as u64;
            let vector = outputs == 1 || name.ends_with(".positions.weight") || name.ends_with("relative_bias.weight");
            let dtype = match keep {
                _ if vector => WeightDType::F32,
                Some(keep) => keep.mixed(head == Some(name), inputs),
                None => stored(name).unwrap_or(WeightDType::F32),
            };
            let bytes = elements / dtype.block() as u64 * dtype.block_bytes() as u64;
            cost.resident += bytes;
            if head == Some(name) {
                cost.head.add(elements, bytes);
            }
            if vector || name.contains(".embedding.") || name == "head.output.weight" {
                continue;
            }
            let of_source = name.contains(".cross_attention.key.") || name.contains(".cross_attention.value.");
            let matrices = match name.split('.').next() {
                _ if of_source => &mut cost.source,
                Some("encoder") => &mut cost.encoder,
                Some("decoder") => &mut cost.decoder,
                _ => &mut cost.head,
            };
            matrices.add(elements, bytes);
        }
        cost
    }

    /// Bytes of all weights as they are kept.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// Bytes of keys and values in singles, of sequences of `tokens` each over a source of `source`.
    pub fn cache(&self, sequences: usize, tokens: usize, source: usize) -> u64 {
        let Some(stack) = &self.config.decoder else { return 0 };
        let row = 2 * stack.layers * stack.attention.key_value_heads * stack.attention.head_width * size_of::<f32>();
        let rows = tokens.next_multiple_of(BLOCK) + source.next_multiple_of(BLOCK);
        (sequences * rows * row) as u64
    }

    /// `batch` prompts of `tokens` read, with logits of the last token of each; or as many sequences encoded, where there is
    /// no decoder.
    pub fn prefill(&self, batch: usize, tokens: usize) -> Work {
        match &self.config.decoder {
            Some(stack) => {
                let attention = batch as f64 * (1..=tokens).map(|keys| attention(stack, keys)).sum::<f64>();
                self.decoder.applied(batch * tokens) + self.head.applied(batch) + operations(attention)
            }
            None => self.encode(batch, tokens),
        }
    }

    /// One step of `rows` sequences, each with a token at `position` (from 0), over sources of `source` tokens.
    pub fn step(&self, rows: usize, position: usize, source: usize) -> Work {
        let Some(stack) = &self.config.decoder else { return Work::default() };
        let cross = stack.layers as f64 * scores(&stack.attention, source);
        let attention = rows as f64 * (attention(stack, position + 1) + cross);
        self.decoder.applied(rows) + self.head.applied(rows) + operations(attention)
    }

    /// `batch` sources of `tokens` encoded, and made ready for a decoder where there is one.
    pub fn encode(&self, batch: usize, tokens: usize) -> Work {
        let Some(stack) = &self.config.encoder else { return Work::default() };
        let attention = (batch * tokens) as f64 * attention(stack, tokens);
        self.encoder.applied(batch * tokens) + self.source.applied(batch * tokens) + operations(attention)
    }
}

fn operations(operations: f64) -> Work {
    Work { operations, bytes: 0.0 }
}

/// Of one query that has `keys` before and at its place, in all layers.
fn attention(stack: &StackConfig, keys: usize) -> f64 {
    let seen = |layer| stack.window(layer).map_or(keys, |window| keys.min(window));
    (0..stack.layers).map(|layer| scores(&stack.attention, seen(layer))).sum()
}

/// Of one query over `keys`.
fn scores(attention: &AttentionConfig, keys: usize) -> f64 {
    4.0 * (attention.heads * attention.head_width * keys) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(text: &str) -> TransformerConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn llama_by_hand() {
        // 22 layers of 2·2048² + 2·2048·256 + 3·2048·5632, and a head of 2048·32000.
        let config = preset(include_str!("../../../../configs/llama-1.1b.toml"));
        let layers = 22.0 * (2.0 * 2048.0 * 2048.0 + 2.0 * 2048.0 * 256.0 + 3.0 * 2048.0 * 5632.0);
        let head = 2048.0 * 32000.0;
        let cost = Cost::new(&config, Some(WeightDType::BF16), &|_| None);
        let attention = |keys: f64| 22.0 * 4.0 * 2048.0 * keys;
        let step = cost.step(1, 128, 0);
        assert_eq!(step.bytes, 2.0 * (layers + head));
        assert_eq!(step.operations, 2.0 * (layers + head) + attention(129.0));
        let prefill = cost.prefill(1, 128);
        assert_eq!(prefill.operations, 2.0 * (layers * 128.0 + head) + attention(128.0 * 129.0 / 2.0));
        let tables_and_norms = 2.0 * head + 4.0 * 2048.0 * 45.0;
        assert_eq!(cost.resident() as f64, 2.0 * (layers + head) + tables_and_norms);
        // 22 layers, keys and values of 4 heads of 64, blocks of 32 rows.
        assert_eq!(cost.cache(3, 33, 0), 3 * 64 * 22 * 2 * 4 * 64 * 4);
        // Few bits leave more to the head.
        let few = Cost::new(&config, Some(WeightDType::Q4_0), &|_| None);
        assert_eq!(few.step(1, 0, 0).bytes, layers / 32.0 * 18.0 + head / 256.0 * 210.0);
    }

    #[test]
    fn a_translator_by_hand() {
        // One matrix of the vocabulary serves both embeddings and the head.
        let config = preset(include_str!("../../../../configs/marian-base.toml"));
        let cost = Cost::new(&config, None, &|_| Some(WeightDType::F32));
        let (square, head) = (512.0 * 512.0, 512.0 * 32000.0);
        let feed_forward = 2.0 * 512.0 * 2048.0;
        let step = cost.step(4, 9, 32);
        assert_eq!(step.bytes, 4.0 * (6.0 * (6.0 * square + feed_forward) + head));
        let matrices = step.bytes / 4.0;
        assert_eq!(step.operations, 4.0 * (2.0 * matrices + 6.0 * 4.0 * 512.0 * (10.0 + 32.0)));
        let encode = cost.encode(2, 32);
        assert_eq!(encode.bytes, 4.0 * (6.0 * (4.0 * square + feed_forward) + 6.0 * 2.0 * square));
        // One matrix for both embeddings and the output.
        assert!((cost.resident() as f64 - (step.bytes + encode.bytes)).abs() < 1e6);
    }
}
