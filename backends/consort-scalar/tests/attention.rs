//! Attention in f64 against its formula written out; attention over a cache against attention without, bit by bit.

mod common;

use std::sync::Arc;

use common::{Draws, assert_bits, assert_close, elements};
use consort_core::{
    Device, Fused, KvCache, SlotId, TensorOf,
    operation::{AttentionAttributes, Mask, ScoreBias, Segments},
    positions::relative_bucket,
};
use consort_scalar::{Element, Oracle, Scalar};

const C: usize = 5;
const BUCKETS: usize = 8;
const DISTANCE: usize = 16;
const RELATIVE: ScoreBias = ScoreBias::Relative { bidirectional: true, buckets: BUCKETS, max_distance: DISTANCE };
const ONE_SIDED: ScoreBias = ScoreBias::Relative { bidirectional: false, buckets: BUCKETS, max_distance: DISTANCE };

/// Operands of attention, row-major.
#[derive(Clone)]
struct Operands {
    /// H and K.
    heads: [usize; 2],
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    /// Long enough for a table and for slopes.
    bias: Vec<f64>,
}

impl Operands {
    fn new(seed: u64, [queries, keys]: [usize; 2], heads: [usize; 2]) -> Self {
        let mut draws = Draws::new(seed);
        Self {
            heads,
            query: draws.values(queries * heads[0] * C),
            key: draws.values(keys * heads[1] * C),
            value: draws.values(keys * heads[1] * C),
            bias: draws.values(BUCKETS * heads[0]),
        }
    }

    fn bias_tensor<E: Element>(&self, device: &Device<Scalar<E>>, kind: ScoreBias) -> Option<TensorOf<Scalar<E>>> {
        let upload = |count, sizes: &[usize]| Some(device.upload_floats(&self.bias[..count], sizes).unwrap());
        match kind {
            ScoreBias::None => None,
            ScoreBias::Relative { .. } => upload(BUCKETS * self.heads[0], &[BUCKETS, self.heads[0]]),
            ScoreBias::Linear => upload(self.heads[0], &[self.heads[0]]),
        }
    }

    /// Rows of queries, keys and values as tensors.
    fn rows<E: Element>(&self, device: &Device<Scalar<E>>, first: usize, count: usize) -> [TensorOf<Scalar<E>>; 3] {
        [(&self.query, self.heads[0]), (&self.key, self.heads[1]), (&self.value, self.heads[1])].map(|(all, heads)| {
            let rows = &all[first * heads * C..(first + count) * heads * C];
            device.upload_floats(rows, &[count, heads, C]).unwrap()
        })
    }

    fn attention<E: Element>(&self, segments: Segments, attributes: AttentionAttributes) -> Vec<f64> {
        let device = Device::new(Scalar::<E>::new());
        let upload = |all: &[f64], heads: usize| device.upload_floats(all, &[all.len() / heads / C, heads, C]).unwrap();
        let out = device
            .one(Fused::Attention {
                query: upload(&self.query, self.heads[0]),
                key: upload(&self.key, self.heads[1]),
                value: upload(&self.value, self.heads[1]),
                bias: self.bias_tensor(&device, attributes.bias),
                segments: Arc::new(segments),
                attributes,
            })
            .unwrap();
        elements(&device, &out)
    }

    /// The definition: for every query, over all keys, with the unseen ones skipped.
    fn formula(&self, segments: &Segments, attributes: AttentionAttributes) -> Vec<f64> {
        let [heads, groups] = self.heads;
        let mut out = Vec::new();
        let (mut first_query, mut first_key) = (0, 0);
        for (&queries, &keys) in segments.queries.iter().zip(&segments.keys) {
            for query in 0..queries {
                for head in 0..heads {
                    let group = head / (heads / groups);
                    let q = &self.query[((first_query + query) * heads + head) * C..][..C];
                    let (mut total, mut sums) = (0.0, [0.0; C]);
                    for key in 0..keys {
                        let seen = match attributes.mask {
                            Mask::All => true,
                            Mask::Causal { window } => key <= query && window.is_none_or(|w| query - key < w),
                        };
                        if !seen {
                            continue;
                        }
                        let at = ((first_key + key) * groups + group) * C;
                        let product: f64 = q.iter().zip(&self.key[at..]).map(|(q, k)| q * k).sum();
                        let mut score = product * attributes.scale;
                        if let Some(cap) = attributes.soft_cap {
                            score = cap * (score / cap).tanh();
                        }
                        let distance = key as i64 - query as i64;
                        score += match attributes.bias {
                            ScoreBias::None => 0.0,
                            ScoreBias::Linear => self.bias[head] * distance as f64,
                            ScoreBias::Relative { bidirectional, buckets, max_distance } => {
                                self.bias
                                    [relative_bucket(distance, bidirectional, buckets, max_distance) * heads + head]
                            }
                        };
                        // Scores here are far below 700, where exp overflows: no maximum is needed.
                        total += score.exp();
                        for (sum, value) in sums.iter_mut().zip(&self.value[at..]) {
                            *sum += score.exp() * value;
                        }
                    }
                    out.extend(sums.map(|sum| if total == 0.0 { 0.0 } else { sum / total }));
                }
            }
            first_query += queries;
            first_key += keys;
        }
        out
    }
}

fn plain(mask: Mask) -> AttentionAttributes {
    AttentionAttributes { scale: 0.45, soft_cap: None, mask, bias: ScoreBias::None }
}

const CAUSAL: Mask = Mask::Causal { window: None };

#[test]
fn attention_is_its_formula() {
    let within = |lengths: &[usize]| Segments::within(lengths.to_vec());
    let crossed = Segments { queries: vec![2, 3, 0, 4], keys: vec![6, 0, 3, 1] };
    for heads in [[4, 4], [4, 2], [4, 1], [1, 1]] {
        for soft_cap in [None, Some(2.0)] {
            for bias in [ScoreBias::None, RELATIVE, ONE_SIDED, ScoreBias::Linear] {
                let check = |segments: Segments, mask| {
                    let rows = [segments.queries.iter().sum(), segments.keys.iter().sum()];
                    let operands = Operands::new(7, rows, heads);
                    let attributes = AttentionAttributes { soft_cap, bias, ..plain(mask) };
                    let expected = operands.formula(&segments, attributes);
                    let name = format!("{heads:?} {segments:?} {attributes:?}");
                    assert_close(&name, &operands.attention::<f64>(segments, attributes), &expected);
                };
                for mask in [Mask::All, CAUSAL, Mask::Causal { window: Some(3) }, Mask::Causal { window: Some(1) }] {
                    check(within(&[9]), mask);
                    check(within(&[3, 0, 1, 5]), mask);
                }
                check(crossed.clone(), Mask::All);
            }
        }
    }
}

#[test]
fn what_is_not_seen_leaves_no_trace() {
    let operands = Operands::new(8, [10, 10], [4, 2]);
    let row = 2 * C;
    let mut broken = operands.clone();
    broken.key[4 * row..5 * row].fill(f64::NAN);
    broken.value[4 * row..5 * row].fill(f64::INFINITY);
    // Row 4 is in the second of the segments 0..3, 3..8, 8..10.
    for (mask, affected) in [(Mask::All, 3..8), (CAUSAL, 4..8), (Mask::Causal { window: Some(2) }, 4..6)] {
        let run = |operands: &Operands| operands.attention::<f64>(Segments::within(vec![3, 5, 2]), plain(mask));
        let (clean, dirty) = (run(&operands), run(&broken));
        for query in 0..10 {
            let own = query * 4 * C..(query + 1) * 4 * C;
            if affected.contains(&query) {
                assert!(dirty[own].iter().all(|value| value.is_nan()), "row {query} sees it under {mask:?}");
            } else {
                assert_bits(&format!("row {query} under {mask:?}"), &dirty[own.clone()], &clean[own]);
            }
        }
    }
}

/// Appends rows `first .. first + count` of `operands` to one sequence and attends: `[count, H, C]`.
fn step<E: Element>(
    device: &Device<Scalar<E>>,
    cache: &mut KvCache<Scalar<E>>,
    slot: SlotId,
    operands: &Operands,
    [first, count]: [usize; 2],
    layers: &[AttentionAttributes],
) -> Vec<Vec<f64>> {
    let (plan, positions) = cache.append(&vec![slot; count]).unwrap();
    assert_eq!(positions, (first..first + count).collect::<Vec<_>>());
    let each = layers.iter().enumerate().map(|(layer, &attributes)| {
        let (cache, layer, plan) = plan.layer(layer);
        let [query, key, value] = operands.rows(device, first, count);
        let write = Fused::CacheWrite { cache: cache.clone(), key, value, layer, plan: plan.clone() };
        assert!(device.fused(write).unwrap().is_empty());
        let bias = operands.bias_tensor(device, attributes.bias);
        let (cache, plan) = (cache.clone(), plan.clone());
        let out = device.one(Fused::CachedAttention { query, cache, bias, layer, plan, attributes }).unwrap();
        elements(device, &out)
    });
    each.collect()
}

/// Full and windowed layers, with every kind of bias.
fn layers() -> [AttentionAttributes; 4] {
    [
        plain(CAUSAL),
        AttentionAttributes { soft_cap: Some(3.0), bias: ScoreBias::Linear, ..plain(CAUSAL) },
        plain(Mask::Causal { window: Some(7) }),
        AttentionAttributes { bias: ONE_SIDED, ..plain(Mask::Causal { window: Some(40) }) },
    ]
}

fn windows() -> [Option<usize>; 4] {
    layers().map(|layer| match layer.mask {
        Mask::All => None,
        Mask::Causal { window } => window,
    })
}

fn check_chunks<E: Element>() {
    const ROWS: usize = 75;
    let device = Device::new(Scalar::<E>::new());
    let operands = Operands::new(9, [ROWS, ROWS], [4, 2]);
    let whole = layers().map(|layer| operands.attention::<E>(Segments::within(vec![ROWS]), layer));
    // Blocks have 32 rows: chunks within, across and at their ends.
    for chunks in [vec![ROWS], vec![1; ROWS], vec![32, 32, 11], vec![31, 1, 1, 42], vec![10, 60, 5]] {
        let mut cache = KvCache::new(&device, &windows(), 2, C).unwrap();
        let slot = cache.open();
        let mut found = vec![Vec::new(); 4];
        let mut first = 0;
        for &count in &chunks {
            let out = step(&device, &mut cache, slot, &operands, [first, count], &layers());
            found.iter_mut().zip(out).for_each(|(all, rows)| all.extend(rows));
            first += count;
        }
        for (layer, (found, whole)) in found.iter().zip(&whole).enumerate() {
            assert_bits(&format!("layer {layer} in {chunks:?}"), found, whole);
        }
    }
}

#[test]
fn chunks_of_a_sequence_have_the_bits_of_the_whole() {
    check_chunks::<f32>();
    check_chunks::<f64>();
}

#[test]
fn rows_of_many_sequences_in_one_step_have_the_bits_of_each_alone() {
    let device = Device::new(Oracle::new());
    let operands = [11, 12].map(|seed| Operands::new(seed, [40, 40], [4, 2]));
    let alone = operands.clone().map(|each| each.attention::<f64>(Segments::within(vec![40]), plain(CAUSAL)));
    let mut cache = KvCache::new(&device, &[None], 2, C).unwrap();
    let slots = [cache.open(), cache.open()];
    let row = 4 * C;
    for position in 0..40 {
        // One row each, in alternating order.
        let order = if position % 2 == 0 { [0, 1] } else { [1, 0] };
        let (plan, _) = cache.append(&order.map(|which| slots[which])).unwrap();
        let (cache, layer, plan) = plan.layer(0);
        let rows = order.map(|which| operands[which].rows(&device, position, 1));
        let stack = |which: usize| {
            let heads = rows[0][which].size(1);
            let both = device.zeros(consort_core::Shape::new(&[2, heads, C]).unwrap(), device.float()).unwrap();
            let both = device.write(both, rows[0][which].clone(), &[0, 0, 0]).unwrap();
            device.write(both, rows[1][which].clone(), &[1, 0, 0]).unwrap()
        };
        let (query, key, value) = (stack(0), stack(1), stack(2));
        device.fused(Fused::CacheWrite { cache: cache.clone(), key, value, layer, plan: plan.clone() }).unwrap();
        let (cache, plan) = (cache.clone(), plan.clone());
        let attributes = plain(CAUSAL);
        let out = device.one(Fused::CachedAttention { query, cache, bias: None, layer, plan, attributes }).unwrap();
        for (out, which) in elements(&device, &out).chunks(row).zip(order) {
            assert_bits("row", out, &alone[which][position * row..(position + 1) * row]);
        }
    }
}

#[test]
fn forks_share_a_beginning_and_nothing_else() {
    let device = Device::new(Oracle::new());
    let first = Operands::new(13, [70, 70], [4, 2]);
    // The other sequence differs from row 40 on, inside a block.
    let mut second = Operands::new(14, [70, 70], [4, 2]);
    second.bias = first.bias.clone();
    for (own, shared, heads) in
        [(&mut second.query, &first.query, 4), (&mut second.key, &first.key, 2), (&mut second.value, &first.value, 2)]
    {
        own[..40 * heads * C].copy_from_slice(&shared[..40 * heads * C]);
    }
    let mut cache = KvCache::new(&device, &windows(), 2, C).unwrap();
    let original = cache.open();
    step(&device, &mut cache, original, &first, [0, 40], &layers());
    let fork = cache.fork(original).unwrap();
    let sequences = [(fork, &second), (original, &first)];
    let whole = sequences
        .map(|(_, operands)| layers().map(|layer| operands.attention::<f64>(Segments::within(vec![70]), layer)));
    let row = 4 * C;
    for position in (40..70).step_by(3) {
        for ((slot, operands), whole) in sequences.iter().zip(&whole) {
            let out = step(&device, &mut cache, *slot, operands, [position, 3], &layers());
            for (layer, (out, whole)) in out.iter().zip(whole).enumerate() {
                assert_bits(&format!("layer {layer}"), out, &whole[position * row..(position + 3) * row]);
            }
        }
    }
}

#[test]
fn what_a_cache_held_before_leaves_no_trace() {
    let device = Device::new(Oracle::new());
    let operands = Operands::new(15, [50, 50], [4, 2]);
    let mut broken = operands.clone();
    broken.key.fill(f64::NAN);
    broken.value.fill(f64::NAN);
    let whole = layers().map(|layer| operands.attention::<f64>(Segments::within(vec![50]), layer));
    let mut cache = KvCache::new(&device, &windows(), 2, C).unwrap();
    // A neighbour, and a sequence whose blocks are taken over.
    for closed in [false, true] {
        let slot = cache.open();
        step(&device, &mut cache, slot, &broken, [0, 50], &layers());
        if closed {
            cache.close(slot);
        }
    }
    let slot = cache.open();
    step(&device, &mut cache, slot, &operands, [0, 45], &layers());
    // Rows that are forgotten, within the narrowest window of 7.
    step(&device, &mut cache, slot, &broken, [45, 1], &layers());
    cache.truncate(slot, 45).unwrap();
    let out = step(&device, &mut cache, slot, &operands, [45, 5], &layers());
    for (layer, (out, whole)) in out.iter().zip(&whole).enumerate() {
        assert_bits(&format!("layer {layer}"), out, &whole[45 * 4 * C..]);
    }
}

#[test]
fn an_exported_sequence_goes_on_elsewhere() {
    let device = Device::new(Oracle::new());
    let operands = Operands::new(16, [40, 40], [4, 2]);
    let layers = [plain(CAUSAL)];
    let whole = operands.attention::<f64>(Segments::within(vec![40]), layers[0]);
    let mut cache = KvCache::new(&device, &[None], 2, C).unwrap();
    let slot = cache.open();
    step(&device, &mut cache, slot, &operands, [0, 35], &layers);
    let exported = cache.export(slot).unwrap();
    let mut other = KvCache::new(&device, &[None], 2, C).unwrap();
    let neighbour = other.open();
    step(&device, &mut other, neighbour, &operands, [0, 3], &layers);
    let slot = other.import(exported).unwrap();
    let out = step(&device, &mut other, slot, &operands, [35, 5], &layers);
    assert_bits("continued", &out[0], &whole[35 * 4 * C..]);
}
