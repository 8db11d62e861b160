//! Multi-head attention with its projections, over a stack's own sequence or over the encoder's output.

use std::sync::Arc;

use super::{
    load::Loader,
    norm::Norm,
    observe::AttentionKind,
    projection::Projection,
    stack::{Keys, Layer, Source},
};
use crate::{
    backend::{Backend, CacheOf, TensorOf},
    cache::CachePlan,
    config::{RotaryConfig, RotaryPairing, StackConfig},
    decompose,
    device::Device,
    error::{Error, Result},
    operation::{AttentionAttributes, Fused, Mask, ScoreBias},
    positions::rotary_table,
    scope,
};

/// Rotary tables of a pass: `[T, P]` cosines and sines, and the row of each token.
pub(super) struct Rotary<B: Backend> {
    pub(super) tables: [TensorOf<B>; 2],
    pub(super) ids: TensorOf<B>,
    pub(super) pairing: RotaryPairing,
}

impl<B: Backend> Rotary<B> {
    pub(super) fn new(
        device: &Device<B>,
        config: &RotaryConfig,
        positions: &[usize],
        lengths: &[usize],
    ) -> Result<Self> {
        let sizes = [positions.len(), config.width / 2];
        let [cos, sin] = rotary_table(config, positions, lengths);
        Ok(Self {
            tables: [device.upload_floats(&cos, &sizes)?, device.upload_floats(&sin, &sizes)?],
            ids: device.upload_ids((0..positions.len() as u32).collect())?,
            pairing: config.pairing,
        })
    }
}

pub(super) struct Attention<B: Backend> {
    heads: usize,
    key_value_heads: usize,
    head_width: usize,
    attributes: AttentionAttributes,
    /// Query, key and value `[(H + 2K)·C, D]`; query alone `[H·C, D]` in cross-attention.
    input: Projection<B>,
    /// Key and value `[2K·C, D]` of the encoder's output.
    source: Option<Projection<B>>,
    query_key_norm: Option<[Norm<B>; 2]>,
    output: Projection<B>,
}

impl<B: Backend> Attention<B> {
    pub(super) fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        config: &StackConfig,
        layer: usize,
        kind: AttentionKind,
    ) -> Result<Self> {
        let attention = &config.attention;
        let mut projection = |parts: &[&str], bias: bool| {
            let names: Vec<String> = parts.iter().map(|part| format!("{name}.{part}")).collect();
            loader.projection(&names, bias)
        };
        let cross = kind == AttentionKind::Cross;
        let input = projection(if cross { &["query"] } else { &["query", "key", "value"] }, attention.input_bias)?;
        let source = if cross { Some(projection(&["key", "value"], attention.input_bias)?) } else { None };
        let output = projection(&["output"], attention.output_bias)?;
        let query_key_norm = if attention.query_key_norm && !cross {
            Some([
                Norm::load_unbiased(loader, &format!("{name}.query_norm"), &config.norm)?,
                Norm::load_unbiased(loader, &format!("{name}.key_norm"), &config.norm)?,
            ])
        } else {
            None
        };
        let mask = if config.causal && !cross { Mask::Causal { window: config.window(layer) } } else { Mask::All };
        let attributes = AttentionAttributes {
            scale: config.score_scale(layer),
            soft_cap: attention.soft_cap,
            mask,
            bias: ScoreBias::None,
        };
        Ok(Self {
            heads: attention.heads,
            key_value_heads: attention.key_value_heads,
            head_width: attention.head_width,
            attributes,
            input,
            source,
            query_key_norm,
            output,
        })
    }

    /// Attention of `x` `[T, D]` over its own sequence, plus `residual`.
    pub(super) fn run_own(
        &self,
        layer: &mut Layer<'_, '_, B>,
        x: TensorOf<B>,
        residual: Option<TensorOf<B>>,
    ) -> Result<TensorOf<B>> {
        let device = layer.device;
        let tokens = x.size(0);
        let y = self.input.run(device, x, None, None)?; // [T, (H + 2K)·C]
        let part = |first: usize, heads: usize| {
            y.slice(1, first * self.head_width, heads * self.head_width)?.view(&[tokens, heads, self.head_width])
        };
        let mut query = part(0, self.heads)?;
        let mut key = part(self.heads, self.key_value_heads)?;
        let value = part(self.heads + self.key_value_heads, self.key_value_heads)?;
        if let Some([query_norm, key_norm]) = &self.query_key_norm {
            query = query_norm.run(device, query)?;
            key = key_norm.run(device, key)?;
        }
        if let Some(Rotary { tables, ids, pairing }) = layer.rotary {
            let _scope = scope::enter("rotary");
            query = device.rotary(query, tables, ids, *pairing)?;
            key = device.rotary(key, tables, ids, *pairing)?;
        }
        let attributes = AttentionAttributes { bias: layer.score_bias, ..self.attributes };
        let bias = layer.bias.cloned();
        let out = match layer.pass.keys {
            Keys::Fresh(ref segments) => {
                let segments = Arc::clone(segments);
                if layer.observes_attention() {
                    one_segment(&segments.queries)?;
                    layer.observe_attention(AttentionKind::Own, &query, &key, &attributes)?;
                }
                device.one(Fused::Attention { query, key, value, bias, segments, attributes })?
            }
            Keys::Cached(ref plan) => {
                let (cache, index, plan) = plan.layer(layer.index);
                let (cache, plan) = (cache.clone(), Arc::clone(plan));
                device.fused(Fused::CacheWrite {
                    cache: cache.clone(),
                    key,
                    value,
                    layer: index,
                    plan: Arc::clone(&plan),
                })?;
                if layer.observes_attention() {
                    let key = whole_sequence(device, &cache, index, &plan, tokens)?;
                    layer.observe_attention(AttentionKind::Own, &query, &key, &attributes)?;
                }
                device.one(Fused::CachedAttention { query, cache, bias, layer: index, plan, attributes })?
            }
        };
        self.project(device, out, residual)
    }

    /// Attention of `x` `[T, D]` over the source, plus `residual`.
    pub(super) fn run_cross(
        &self,
        layer: &mut Layer<'_, '_, B>,
        x: TensorOf<B>,
        residual: Option<TensorOf<B>>,
    ) -> Result<TensorOf<B>> {
        let device = layer.device;
        let tokens = x.size(0);
        let query = self.input.run(device, x, None, None)?;
        let query = query.view(&[tokens, self.heads, self.head_width])?;
        let attributes = self.attributes;
        let out = match &layer.pass.source {
            Some(Source::Fresh { hidden, segments }) => {
                let segments = Arc::clone(segments);
                let [key, value] = self.source_keys(device, &hidden.clone())?;
                if layer.observes_attention() {
                    one_segment(&segments.queries)?;
                    layer.observe_attention(AttentionKind::Cross, &query, &key, &attributes)?;
                }
                device.one(Fused::Attention { query, key, value, bias: None, segments, attributes })?
            }
            Some(Source::Cached(plan)) => {
                let (cache, index, plan) = plan.layer(layer.index);
                let (cache, plan) = (cache.clone(), Arc::clone(plan));
                if layer.observes_attention() {
                    let key = whole_sequence(device, &cache, index, &plan, tokens)?;
                    layer.observe_attention(AttentionKind::Cross, &query, &key, &attributes)?;
                }
                device.one(Fused::CachedAttention { query, cache, bias: None, layer: index, plan, attributes })?
            }
            None => return Err(Error::Input("a decoder with cross-attention needs a source".into())),
        };
        self.project(device, out, residual)
    }

    /// Keys and values `[S, K, C]` of the encoder's output `[S, D]`.
    pub(super) fn source_keys(&self, device: &Device<B>, hidden: &TensorOf<B>) -> Result<[TensorOf<B>; 2]> {
        let source = self.source.as_ref().ok_or_else(|| Error::Input("this attention has no source".into()))?;
        let y = source.run(device, hidden.clone(), None, None)?; // [S, 2K·C]
        let width = self.key_value_heads * self.head_width;
        let part = |first| y.slice(1, first, width)?.view(&[y.size(0), self.key_value_heads, self.head_width]);
        Ok([part(0)?, part(width)?])
    }

    fn project(&self, device: &Device<B>, out: TensorOf<B>, residual: Option<TensorOf<B>>) -> Result<TensorOf<B>> {
        let out = device.reshape(&out, &[out.size(0), self.heads * self.head_width])?;
        self.output.run(device, out, None, residual)
    }
}

impl<B: Backend> Layer<'_, '_, B> {
    fn observes_attention(&self) -> bool {
        self.pass.observer.as_ref().is_some_and(|observer| observer.wants_attention())
    }

    fn observe_attention(
        &mut self,
        kind: AttentionKind,
        query: &TensorOf<B>,
        key: &TensorOf<B>,
        attributes: &AttentionAttributes,
    ) -> Result<()> {
        let bias = if kind == AttentionKind::Own { self.bias } else { None };
        let probabilities = decompose::attention_probabilities(self.device, query, key, bias, attributes)?;
        match &mut self.pass.observer {
            Some(observer) => observer.attention(self.stack, kind, self.index, &probabilities),
            None => Ok(()),
        }
    }
}

/// All keys of the one sequence that the step's rows belong to.
fn whole_sequence<B: Backend>(
    device: &Device<B>,
    cache: &CacheOf<B>,
    layer: usize,
    plan: &CachePlan,
    rows: usize,
) -> Result<TensorOf<B>> {
    one_segment(&plan.sequences)?;
    let length = plan.sequences[0].length;
    let from_start =
        plan.rows.iter().enumerate().all(|(row, planned)| planned.position == row || planned.position == 0);
    if !from_start || plan.rows.len() != rows {
        return Err(Error::Input("attention can be observed in a pass over a whole sequence only".into()));
    }
    let physical: Vec<u32> = (0..length).map(|position| plan.physical(0, position)).collect();
    let [key, _] = device.cache_read(cache, layer, &physical)?;
    Ok(key)
}

fn one_segment<T>(segments: &[T]) -> Result<()> {
    if segments.len() == 1 {
        Ok(())
    } else {
        Err(Error::Input(format!("attention can be observed for one sequence at a time, not {}", segments.len())))
    }
}
