//! Rules of the fused operations: each saves what its `…Backward` operation declares, and asks for that.

use smallvec::smallvec;

use super::rule::{Found, Rule};
use crate::{
    backend::{Backend, FusedOf},
    compute::Compute,
    device::Device,
    error::{Error, Result},
    operation::{Fused, ReduceKind, UnaryKind},
};

/// The rule of an operation some of whose operands `need` a gradient.
///
/// # Errors
/// [`Error::Input`] where it has none.
pub(super) fn rule<B: Backend>(operation: &FusedOf<B>, needs: &[bool]) -> Result<Rule<B>> {
    Ok(match operation {
        Fused::Softmax { .. } => Rule::of_one([], &[0], |device, saved, d_y| {
            let [y] = exactly(saved)?;
            found(device, Fused::SoftmaxBackward { y, d_y })
        }),
        Fused::LayerNorm { x, weight, bias, epsilon } => {
            let (epsilon, biased) = (*epsilon, bias.is_some());
            Rule::of_one([x.clone(), weight.clone()], &[], move |device, saved, d_y| {
                let [x, weight] = exactly(saved)?;
                let mut all = found(device, Fused::LayerNormBackward { x, weight, d_y, epsilon })?;
                all.truncate(if biased { 3 } else { 2 });
                Ok(all)
            })
        }
        Fused::RmsNorm { x, weight, epsilon, unit_offset } => {
            let (epsilon, unit_offset) = (*epsilon, *unit_offset);
            Rule::of_one([x.clone(), weight.clone()], &[], move |device, saved, d_y| {
                let [x, weight] = exactly(saved)?;
                found(device, Fused::RmsNormBackward { x, weight, d_y, epsilon, unit_offset })
            })
        }
        Fused::Rotary { .. } if needs[1] || needs[2] => return Err(without_gradient("the tables of rotary")),
        Fused::Rotary { cos, sin, ids, pairing, .. } => {
            // The rotation back.
            let pairing = *pairing;
            Rule::of_one([cos.clone(), sin.clone(), ids.clone()], &[], move |device, saved, d_y| {
                let [cos, sin, ids] = exactly(saved)?;
                let sin = device.unary(sin, UnaryKind::Negate)?;
                Ok(smallvec![Some(device.rotary(d_y, &[cos, sin], &ids, pairing)?), None, None, None])
            })
        }
        Fused::Activation { x, kind } => {
            let kind = *kind;
            Rule::of_one([x.clone()], &[], move |device, saved, d_y| {
                let [x] = exactly(saved)?;
                found(device, Fused::ActivationBackward { x, d_y, kind })
            })
        }
        Fused::Gated { gate, up, kind } => {
            let kind = *kind;
            Rule::of_one([gate.clone(), up.clone()], &[], move |device, saved, d_y| {
                let [gate, up] = exactly(saved)?;
                found(device, Fused::GatedBackward { gate, up, d_y, kind })
            })
        }
        Fused::SoftCap { x, cap } => {
            let cap = *cap;
            Rule::of_one([x.clone()], &[], move |device, saved, d_y| {
                let [x] = exactly(saved)?;
                found(device, Fused::SoftCapBackward { x, d_y, cap })
            })
        }
        Fused::Linear { compute: Compute::Int8, .. } => {
            return Err(without_gradient(
                "linear in int8, which rounds its input to few numbers (f32 and bf16 have one)",
            ));
        }
        // With an activation it is recorded as its parts.
        Fused::Linear { activation: Some(_), .. } => return Err(without_gradient("linear with an activation")),
        Fused::Linear { x, weight, bias, activation: None, residual, compute } => {
            let compute = *compute;
            let [need_x, need_weight] = [needs[0], needs[1]];
            let need_bias = bias.as_ref().map(|_| needs[2]);
            let has_residual = residual.is_some();
            let weight = weight.clone();
            Rule::of_one(need_weight.then(|| x.clone()), &[], move |device, saved, d_y| {
                let mut all: Found<B> = smallvec![];
                all.push(match need_x {
                    true => Some(device.one(Fused::LinearBackwardInput { d_y: d_y.clone(), weight, compute })?),
                    false => None,
                });
                all.push(match saved.into_iter().next() {
                    Some(x) => Some(device.one(Fused::LinearBackwardWeight { x, d_y: d_y.clone(), compute })?),
                    None => None,
                });
                if let Some(needed) = need_bias {
                    let sum = || device.reduce(&d_y, 0, ReduceKind::Sum)?.view(&[d_y.size(1)]);
                    all.push(if needed { Some(sum()?) } else { None });
                }
                if has_residual {
                    all.push(Some(d_y));
                }
                Ok(all)
            })
        }
        Fused::Embedding { weight, ids } => {
            let rows = weight.outputs();
            Rule::of_one([ids.clone()], &[], move |device, saved, d_y| {
                let [ids] = exactly(saved)?;
                Ok(smallvec![Some(device.one(Fused::EmbeddingBackward { ids, d_y, rows })?), None])
            })
        }
        Fused::Attention { query, key, value, bias, segments, attributes } => {
            let (segments, attributes, biased) = (segments.clone(), *attributes, bias.is_some());
            let operands = [query, key, value].into_iter().chain(bias).cloned();
            Rule::new(operands, &[0, 1], move |device, saved, mut cotangents| {
                if cotangents.len() > 1 && cotangents[1].is_some() {
                    return Err(without_gradient("the log_sum of attention"));
                }
                let mut saved = saved.into_iter();
                let mut next = || saved.next().ok_or_else(|| Error::shape("attention_backward", "too little saved"));
                let (query, key, value) = (next()?, next()?, next()?);
                let bias = if biased { Some(next()?) } else { None };
                let (y, log_sum) = (next()?, next()?);
                let Some(d_y) = cotangents.swap_remove(0) else { return Ok(smallvec![]) };
                found(
                    device,
                    Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes },
                )
            })
        }
        Fused::CrossEntropy { logits, targets, smoothing } => {
            let smoothing = *smoothing;
            Rule::new([logits.clone(), targets.clone()], &[1], move |device, saved, cotangents| {
                let [logits, targets, log_sum] = exactly(saved)?;
                let mut cotangents = cotangents.into_iter();
                let (d_loss, d_log_sum) = (cotangents.next().flatten(), cotangents.next().flatten());
                let mut sum = None;
                // The log-sum-exp's own gradient is the softmax.
                if let Some(d_log_sum) = d_log_sum {
                    let column = device.reshape(&d_log_sum, &[logits.size(0), 1])?;
                    sum = Some(device.multiply(device.softmax(logits.clone())?, column)?);
                }
                if let Some(d_loss) = d_loss {
                    let d = device.one(Fused::CrossEntropyBackward { logits, targets, log_sum, d_loss, smoothing })?;
                    sum = Some(match sum {
                        Some(sum) => device.add(sum, d)?,
                        None => d,
                    });
                }
                Ok(smallvec![sum, None])
            })
        }
        Fused::QuantizeActivations { .. }
        | Fused::CacheWrite { .. }
        | Fused::CachedAttention { .. }
        | Fused::AdamW { .. }
        | Fused::Sample { .. }
        | Fused::SoftmaxBackward { .. }
        | Fused::LayerNormBackward { .. }
        | Fused::RmsNormBackward { .. }
        | Fused::ActivationBackward { .. }
        | Fused::GatedBackward { .. }
        | Fused::SoftCapBackward { .. }
        | Fused::LinearBackwardInput { .. }
        | Fused::LinearBackwardWeight { .. }
        | Fused::EmbeddingBackward { .. }
        | Fused::AttentionBackward { .. }
        | Fused::CrossEntropyBackward { .. } => return Err(without_gradient(operation.name())),
    })
}

/// Every output of a backward as a gradient.
fn found<B: Backend>(device: &Device<B>, operation: FusedOf<B>) -> Result<Found<B>> {
    Ok(device.fused(operation)?.into_iter().map(Some).collect())
}

fn exactly<T, const N: usize>(saved: impl IntoIterator<Item = T>) -> Result<[T; N]> {
    let saved: Vec<T> = saved.into_iter().collect();
    saved.try_into().map_err(|saved: Vec<T>| Error::shape("backward", format!("{} saved, expected {N}", saved.len())))
}

fn without_gradient(what: &str) -> Error {
    Error::Input(format!("{what}: no gradient goes through this; pause the tape, or compute without it"))
}
