//! Bits: whatever rows come together, however a sequence is cut, with a cache and without, on any number of threads.

use std::sync::Arc;

use consort_core::{
    Device, Fused, HostData, KvCache,
    operation::{AttentionAttributes, Mask, ScoreBias, Segments},
};

use super::{chunk::Staircase, panels::columns};
use crate::{Level, Simd};

const H: usize = 4;
const K: usize = 2;
const C: usize = 40;

fn draws(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| 2.0 * draw()).collect()
}

/// Rows of queries, keys and values.
struct Operands([Vec<f32>; 3]);

impl Operands {
    fn new(rows: usize) -> Self {
        Self([draws(1, rows * H * C), draws(2, rows * K * C), draws(3, rows * K * C)])
    }

    fn rows(&self, device: &Device<Simd>, first: usize, count: usize) -> [consort_core::TensorOf<Simd>; 3] {
        let [query, key, value] = &self.0;
        [(query, H), (key, K), (value, K)].map(|(all, heads)| {
            let rows = all[first * heads * C..(first + count) * heads * C].to_vec();
            device.upload(HostData::F32(rows), &[count, heads, C]).unwrap()
        })
    }

    fn bias(&self, device: &Device<Simd>, kind: ScoreBias) -> Option<consort_core::TensorOf<Simd>> {
        let sizes: &[usize] = match kind {
            ScoreBias::None => return None,
            ScoreBias::Linear => &[H],
            ScoreBias::Relative { buckets, .. } => &[buckets, H],
        };
        let draws = draws(4, sizes.iter().product()).into_iter().map(|x| 0.01 * x).collect();
        Some(device.upload(HostData::F32(draws), sizes).unwrap())
    }

    fn attention(&self, device: &Device<Simd>, rows: usize, attributes: AttentionAttributes) -> Vec<u32> {
        let [query, key, value] = self.rows(device, 0, rows);
        let bias = self.bias(device, attributes.bias);
        let segments = Arc::new(Segments::within(vec![rows]));
        let y = device.fused(Fused::Attention { query, key, value, bias, segments, attributes }).unwrap();
        bits(device, &y[0])
    }

    /// The same over a cache that grows by these counts.
    fn cached(&self, device: &Device<Simd>, counts: &[usize], attributes: AttentionAttributes) -> Vec<u32> {
        let mut cache = KvCache::new(device, &[None], K, C).unwrap();
        let slot = cache.open();
        let mut first = 0;
        let mut all = Vec::new();
        for &count in counts {
            let (plan, _) = cache.append(&vec![slot; count]).unwrap();
            let (cache, layer, plan) = plan.layer(0);
            let [query, key, value] = self.rows(device, first, count);
            let write = Fused::CacheWrite { cache: cache.clone(), key, value, layer, plan: plan.clone() };
            device.fused(write).unwrap();
            let (cache, plan, bias) = (cache.clone(), plan.clone(), self.bias(device, attributes.bias));
            let read = Fused::CachedAttention { query, cache, bias, layer, plan, attributes };
            all.extend(bits(device, &device.one(read).unwrap()));
            first += count;
        }
        all
    }
}

fn bits(device: &Device<Simd>, x: &consort_core::TensorOf<Simd>) -> Vec<u32> {
    match device.download(x).unwrap() {
        HostData::F32(data) => data.into_iter().map(f32::to_bits).collect(),
        other => panic!("{other:?}"),
    }
}

fn choices() -> [AttentionAttributes; 4] {
    let causal = |window| AttentionAttributes {
        scale: 0.15,
        soft_cap: None,
        mask: Mask::Causal { window },
        bias: ScoreBias::None,
    };
    let relative = ScoreBias::Relative { bidirectional: false, buckets: 8, max_distance: 300 };
    [
        causal(None),
        causal(Some(270)),
        AttentionAttributes { bias: ScoreBias::Linear, ..causal(Some(9)) },
        AttentionAttributes { soft_cap: Some(3.0), bias: relative, ..causal(None) },
    ]
}

#[test]
fn cuts_of_a_sequence_have_the_bits_of_the_whole() {
    // Beyond two chunks.
    const ROWS: usize = 530;
    let operands = Operands::new(ROWS);
    for level in Level::available() {
        for attributes in choices() {
            let device = Device::new(Simd::new(level, 1));
            let whole = operands.attention(&device, ROWS, attributes);
            for threads in [1, 3] {
                let device = Device::new(Simd::new(level, threads));
                assert_eq!(operands.attention(&device, ROWS, attributes), whole, "{level:?} {threads} {attributes:?}");
                for counts in [&[ROWS][..], &[100, 1, 255, 1, 1, 150, 1, 1, 1, 1, 15, 1, 1, 1]] {
                    let found = operands.cached(&device, counts, attributes);
                    assert!(found == whole, "{level:?} {threads} {counts:?} {attributes:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_changes_no_bit_of_rows_that_do_not_see_it() {
    const ROWS: usize = 70;
    const BROKEN: usize = 37;
    let operands = Operands::new(ROWS);
    let mut broken = Operands::new(ROWS);
    broken.0[1][BROKEN * K * C..(BROKEN + 1) * K * C].fill(f32::NAN);
    broken.0[2][BROKEN * K * C..(BROKEN + 1) * K * C].fill(f32::INFINITY);
    for level in Level::available() {
        let device = Device::new(Simd::new(level, 2));
        for attributes in choices() {
            let Mask::Causal { window } = attributes.mask else { continue };
            let clean = operands.attention(&device, ROWS, attributes);
            let dirty = broken.attention(&device, ROWS, attributes);
            for (row, (clean, dirty)) in clean.chunks(H * C).zip(dirty.chunks(H * C)).enumerate() {
                let sees = row >= BROKEN && window.is_none_or(|window| row - BROKEN < window);
                let is_nan = dirty.iter().all(|&bits| f32::from_bits(bits).is_nan());
                assert!(if sees { is_nan } else { clean == dirty }, "{level:?} row {row} {attributes:?}");
            }
        }
    }
}

#[test]
fn stairs_are_what_rows_see() {
    for window in [1, 2, 5, 20] {
        for first in [0, 3, 11] {
            for rows in 0..9 {
                let seen: Vec<_> =
                    (first..first + rows).map(|row| (row + 1usize).saturating_sub(window)..row + 1).collect();
                let mut found = vec![[false; 16]; rows];
                let mut stairs = Staircase::new(2..14);
                while let Some((in_rows, keys)) = stairs.next(&seen) {
                    for row in in_rows {
                        keys.clone().for_each(|key| assert!(!std::mem::replace(&mut found[row][key], true)));
                    }
                }
                for (seen, found) in seen.iter().zip(found) {
                    let expected = std::array::from_fn(|key| (2..14).contains(&key) && seen.contains(&key));
                    assert_eq!(found, expected, "window {window}, {rows} rows from {first}");
                }
            }
        }
    }
}

#[test]
fn columns_are_rows_turned() {
    for width in 0..20 {
        for count in 0..9 {
            for place in [0, 1, 7] {
                let rows: Vec<Vec<f32>> = (0..count).map(|row| draws(row as u64, width)).collect();
                let mut panel = vec![0.0; width * 16];
                columns::<16>(&mut panel, place, count, |row| &rows[row]);
                for (channel, column) in panel.chunks(16).enumerate() {
                    let expected =
                        |at: usize| at.checked_sub(place).and_then(|row| rows.get(row)).map_or(0.0, |row| row[channel]);
                    assert!(column.iter().enumerate().all(|(at, &x)| x == expected(at)), "{width} {count} {place}");
                }
            }
        }
    }
}
