//! The backward of multi-head attention over packed sequences. With scores `s = cap(z) + bias`, `z = scale · q·k`, and p the
//! softmax of s, recomputed as `exp(s − log_sum)` from what the forward saved:
//!
//! `d_v = pᵀ·d_y`, `d_s = p · (d_y·v − δ)` with `δ = Σ_c y·d_y`, `d_z = d_s · (1 − tanh²(z / c))`,
//! `d_q = scale · d_z·k`, `d_k = scale · d_zᵀ·q`; the bias takes the sum of d_s over the pairs that read each of its entries.
//!
//! (Dao et al. 2022, "FlashAttention", appendix B, for δ and the recomputation.) What a query does not see takes no part
//! here either.

use smallvec::SmallVec;

use super::attention::{alike, bucket_ids, key_distances, scores, segment_ranges, visible};
use crate::{
    backend::{Backend, TensorOf},
    device::Device,
    error::{Error, Result},
    operation::{AttentionAttributes, ReduceKind, ScoreBias, Segments, UnaryKind},
};

/// What the forward had and gave.
pub struct SavedAttention<T> {
    /// `[T, H, C]`.
    pub query: T,
    /// `[S, K, C]`.
    pub key: T,
    /// `[S, K, C]`.
    pub value: T,
    /// `[buckets, H]` or `[H]`.
    pub bias: Option<T>,
    /// The output, `[T, H, C]`.
    pub y: T,
    /// `ln Σ exp(score)`, `[T, H]`.
    pub log_sum: T,
}

/// Cotangents of query, key, value and, where there is one, bias.
///
/// # Errors
/// What the primitives meet.
pub fn attention_backward<B: Backend>(
    device: &Device<B>,
    saved: &SavedAttention<TensorOf<B>>,
    d_y: &TensorOf<B>,
    segments: &Segments,
    attributes: &AttentionAttributes,
) -> Result<SmallVec<[TensorOf<B>; 2]>> {
    let SavedAttention { query, key, value, bias, y, log_sum } = saved;
    let [heads, width, groups] = [query.size(1), query.size(2), key.size(1)];
    let per_group = heads / groups;
    let mut d_query = device.fill(query.sizes(), 0.0)?;
    let mut d_key = device.fill(key.sizes(), 0.0)?;
    let mut d_value = device.fill(value.sizes(), 0.0)?;
    let mut d_bias = bias.as_ref().map(|bias| device.fill(bias.sizes(), 0.0)).transpose()?;

    for (queries, keys) in segment_ranges(segments) {
        for rows in alike(queries.len(), |row| visible(attributes.mask, row, keys.len())) {
            let seen = visible(attributes.mask, rows.start, keys.len());
            if seen.is_empty() {
                continue;
            }
            let [n, s] = [rows.len(), seen.len()];
            let (first_query, first_key) = (queries.start + rows.start, keys.start + seen.start);
            let q = query.slice(0, first_query, n)?;
            let k = key.slice(0, first_key, s)?;
            // [n, H, C] → [K, H/K · n, C], and columns [n, H] → [K, H/K, n, 1].
            let by_group = |x: &TensorOf<B>| {
                let x = device.reshape(&x.slice(0, first_query, n)?, &[n, groups, per_group, width])?;
                device.reshape(&x.permute(&[1, 2, 0, 3])?, &[groups, per_group * n, width])
            };
            let column = |x: &TensorOf<B>| device.reshape(&x.permute(&[1, 0])?, &[groups, per_group, n, 1]);
            let flat = |x: &TensorOf<B>| device.reshape(x, &[groups, per_group * n, s]);
            let unflat = |x: TensorOf<B>| device.reshape(&x, &[groups, per_group, n, s]);

            let score = scores(device, &q, &k, bias.as_ref(), rows.clone(), seen.clone(), attributes)?;
            let log_sum = column(&log_sum.slice(0, first_query, n)?)?;
            let p = device.unary(device.subtract(score, log_sum)?, UnaryKind::Exp)?; // [K, H/K, n, S]
            let d_out = by_group(d_y)?; // [K, H/K · n, C]

            let d_v = device.matmul(&flat(&p)?.permute(&[0, 2, 1])?, &d_out)?; // [K, S, C]
            d_value = add_rows(device, d_value, first_key, &d_v.permute(&[1, 0, 2])?)?;

            let product = device.multiply(by_group(y)?, d_out.clone())?;
            let delta = device.reshape(&device.reduce(&product, 2, ReduceKind::Sum)?, &[groups, per_group, n, 1])?;
            let v = value.slice(0, first_key, s)?.permute(&[1, 2, 0])?; // [K, C, S]
            let d_p = unflat(device.matmul(&d_out, &v)?)?;
            let d_score = device.multiply(p, device.subtract(d_p, delta)?)?; // [K, H/K, n, S]

            if let Some(sum) = d_bias.take() {
                let d_score = device.reshape(&d_score, &[heads, n, s])?;
                d_bias = Some(match attributes.bias {
                    ScoreBias::Relative { .. } => {
                        let ids = bucket_ids(device, attributes.bias, rows.clone(), seen.clone())?;
                        let by_pair = d_score.view(&[heads, n * s])?.permute(&[1, 0])?; // [n·S, H]
                        device.scatter_rows(sum, &ids, by_pair, true)?
                    }
                    ScoreBias::Linear => {
                        let weighted = device.multiply(d_score, key_distances(device, rows.clone(), seen.clone())?)?;
                        let slopes = device.reduce(&weighted.view(&[heads, n * s])?, 1, ReduceKind::Sum)?;
                        device.add(sum, slopes.view(&[heads])?)?
                    }
                    ScoreBias::None => return Err(Error::shape("attention_backward", "a bias of no kind")),
                });
            }

            let d_z = match attributes.soft_cap {
                Some(cap) => {
                    let plain = AttentionAttributes { soft_cap: None, bias: ScoreBias::None, ..*attributes };
                    let z = scores(device, &q, &k, None, rows.clone(), seen.clone(), &plain)?;
                    device.soft_cap_backward(z, d_score, cap)?
                }
                None => d_score,
            };
            let d_z = flat(&device.scale(d_z, attributes.scale)?)?; // [K, H/K · n, S]
            let k = k.permute(&[1, 0, 2])?; // [K, S, C]
            let d_q = device.reshape(&device.matmul(&d_z, &k)?, &[groups, per_group, n, width])?;
            let d_q = device.reshape(&d_q.permute(&[2, 0, 1, 3])?, &[n, heads, width])?;
            d_query = device.write(d_query, d_q, &[first_query, 0, 0])?;
            let d_k = device.matmul(&d_z.permute(&[0, 2, 1])?, &by_group(query)?)?; // [K, S, C]
            d_key = add_rows(device, d_key, first_key, &d_k.permute(&[1, 0, 2])?)?;
        }
    }
    Ok([Some(d_query), Some(d_key), Some(d_value), d_bias].into_iter().flatten().collect())
}

/// `into` with `x` added to its rows from `first` on.
fn add_rows<B: Backend>(device: &Device<B>, into: TensorOf<B>, first: usize, x: &TensorOf<B>) -> Result<TensorOf<B>> {
    let sum = device.add(into.slice(0, first, x.size(0))?, x.clone())?;
    device.write(into, sum, &[first, 0, 0])
}
