//! The weights that a [`TransformerConfig`] needs, by name and shape.
//!
//! A slot's name says its place in the graph: `decoder.3.attention.query.weight`. File formats map their tensor names
//! to slots; every slot must be filled and every tensor of a file used or named as unused.

use crate::config::{AttentionPositions, NormConfig, NormKind, Placement, Positions, StackConfig, TransformerConfig};

/// One weight of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Place in the graph.
    pub name: String,
    /// `[outputs, inputs]` of a projection, `[rows, width]` of a table, `[1, n]` of a vector.
    pub shape: [usize; 2],
}

impl TransformerConfig {
    /// Every slot of this transformer, in the order of the computation.
    ///
    /// | slot | shape |
    /// |---|---|
    /// | `S.embedding.tokens.weight`, `.positions.weight`, `.token_types.weight` | `[V, D]`, `[P, D]`, `[types, D]` |
    /// | `S.embedding.norm.{weight,bias}` | `[1, D]` |
    /// | `S.relative_bias.weight` | `[buckets, H]` |
    /// | `S.i.attention.{query,key,value,output}.{weight,bias}` | `[H·C, D]`, `[K·C, D]`, `[K·C, D]`, `[D, H·C]` |
    /// | `S.i.attention.{query_norm,key_norm}.weight` | `[1, C]` |
    /// | `S.i.cross_attention.…` | as `attention`, without norms of query and key |
    /// | `S.i.feed_forward.{gate,up,down}.{weight,bias}` | `[F, D]`, `[F, D]`, `[D, F]` |
    /// | `S.i.{attention,cross_attention,feed_forward}.{norm,post_norm}.{weight,bias}` | `[1, D]` |
    /// | `S.norm.{weight,bias}` | `[1, D]` |
    /// | `head.transform.{weight,bias}`, `head.norm.{weight,bias}` | `[D, D]`, `[1, D]` |
    /// | `head.output.{weight,bias}` | `[V, D]`, `[1, V]` |
    ///
    /// `S` is `encoder` or `decoder`, `i` a layer from 0. A decoder with a shared embedding has no
    /// `decoder.embedding.tokens.weight`, a tied head no `head.output.weight`. `post_norm` is there in sandwich
    /// placement only; `feed_forward.norm` is not where it shares the attention's.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = Slots(Vec::new());
        if let Some(encoder) = &self.encoder {
            slots.stack("encoder", encoder, self.width, true);
        }
        if let Some(decoder) = &self.decoder {
            slots.stack("decoder", decoder, self.width, !self.shared_embedding);
        }
        if let (Some(head), Some(stack)) = (&self.head, self.decoder.as_ref().or(self.encoder.as_ref())) {
            if head.transform.is_some() {
                slots.projection("head.transform", self.width, self.width, true);
                slots.norm("head.norm", &stack.norm, self.width);
            }
            if !head.tied {
                slots.push("head.output.weight", [stack.vocabulary, self.width]);
            }
            if head.bias {
                slots.push("head.output.bias", [1, stack.vocabulary]);
            }
        }
        slots.0
    }

    /// The slot whose matrix turns hidden states into logits.
    pub fn head_slot(&self) -> &'static str {
        match (&self.head, &self.decoder) {
            (Some(head), _) if !head.tied => "head.output.weight",
            (_, Some(_)) if !self.shared_embedding => "decoder.embedding.tokens.weight",
            _ => "encoder.embedding.tokens.weight",
        }
    }
}

struct Slots(Vec<Slot>);

impl Slots {
    fn push(&mut self, name: impl Into<String>, shape: [usize; 2]) {
        self.0.push(Slot { name: name.into(), shape });
    }

    fn projection(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.push(format!("{name}.weight"), [outputs, inputs]);
        if bias {
            self.push(format!("{name}.bias"), [1, outputs]);
        }
    }

    fn norm(&mut self, name: &str, norm: &NormConfig, width: usize) {
        self.push(format!("{name}.weight"), [1, width]);
        if norm.kind == NormKind::Layer && norm.bias {
            self.push(format!("{name}.bias"), [1, width]);
        }
    }

    fn stack(&mut self, stack: &str, config: &StackConfig, width: usize, own_tokens: bool) {
        if own_tokens {
            self.push(format!("{stack}.embedding.tokens.weight"), [config.vocabulary, width]);
        }
        if let Positions::Learned { count, .. } = config.embedding.positions {
            self.push(format!("{stack}.embedding.positions.weight"), [count, width]);
        }
        if config.embedding.token_types > 0 {
            self.push(format!("{stack}.embedding.token_types.weight"), [config.embedding.token_types, width]);
        }
        if config.embedding.norm {
            self.norm(&format!("{stack}.embedding.norm"), &config.norm, width);
        }
        if let AttentionPositions::Relative { buckets, .. } = config.attention.positions {
            self.push(format!("{stack}.relative_bias.weight"), [buckets, config.attention.heads]);
        }
        for layer in 0..config.layers {
            let place = format!("{stack}.{layer}");
            self.attention(&format!("{place}.attention"), config, width, config.attention.query_key_norm);
            if config.cross_attention {
                self.attention(&format!("{place}.cross_attention"), config, width, false);
            }
            let inner = config.feed_forward;
            let name = format!("{place}.feed_forward");
            if inner.gated {
                self.projection(&format!("{name}.gate"), inner.width, width, inner.bias);
            }
            self.projection(&format!("{name}.up"), inner.width, width, inner.bias);
            self.projection(&format!("{name}.down"), width, inner.width, inner.bias);
            if config.placement != Placement::ParallelSharedNorm {
                self.sublayer_norms(&name, config, width);
            }
        }
        if config.final_norm {
            self.norm(&format!("{stack}.norm"), &config.norm, width);
        }
    }

    fn attention(&mut self, name: &str, config: &StackConfig, width: usize, query_key_norm: bool) {
        let attention = &config.attention;
        let queries = attention.heads * attention.head_width;
        let keys = attention.key_value_heads * attention.head_width;
        self.projection(&format!("{name}.query"), queries, width, attention.input_bias);
        self.projection(&format!("{name}.key"), keys, width, attention.input_bias);
        self.projection(&format!("{name}.value"), keys, width, attention.input_bias);
        if query_key_norm {
            self.push(format!("{name}.query_norm.weight"), [1, attention.head_width]);
            self.push(format!("{name}.key_norm.weight"), [1, attention.head_width]);
        }
        self.projection(&format!("{name}.output"), width, queries, attention.output_bias);
        self.sublayer_norms(name, config, width);
    }

    fn sublayer_norms(&mut self, name: &str, config: &StackConfig, width: usize) {
        self.norm(&format!("{name}.norm"), &config.norm, width);
        if config.placement == Placement::Sandwich {
            self.norm(&format!("{name}.post_norm"), &config.norm, width);
        }
    }
}
