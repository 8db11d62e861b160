//! The cache of many sequences: contents after forks, windows, truncations, exports, and after memory ran out.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{Draws, assert_bits, elements};
use consort_core::{
    Backend, CacheSpec, DType, Device, Error, Fused, FusedOf, HostData, KvCache, Nothing, Outputs, PrimitiveOf, Ready,
    Result, SlotId, Spec, StepPlan, TensorOf,
    cache::{CachePlan, PlanRow, PlanSequence},
    operation::{AttentionAttributes, Mask, ScoreBias},
};
use consort_scalar::{Oracle, Single};

const K: usize = 2;
const C: usize = 3;
const ROW: usize = K * C;

/// The key or value (`which`) of token `token` at `position`.
fn row(which: u64, token: u64, position: usize) -> Vec<f64> {
    Draws::new(1 + which + 2 * (token + 1000 * position as u64)).values(ROW)
}

/// Writes one token per entry of `slots` in every layer.
fn write<B: Backend>(
    device: &Device<B>,
    cache: &mut KvCache<B>,
    layers: usize,
    slots: &[SlotId],
    tokens: &[u64],
) -> Result<StepPlan<B>> {
    let (step, positions) = cache.append(slots)?;
    for index in 0..layers {
        let (cache, layer, plan) = step.layer(index);
        let rows = |which: u64| {
            let each = tokens.iter().zip(&positions);
            let all: Vec<f64> =
                each.flat_map(|(&token, &position)| row(which, token + index as u64, position)).collect();
            device.upload_floats(&all, &[slots.len(), K, C])
        };
        let (cache, plan, key, value) = (cache.clone(), plan.clone(), rows(0)?, rows(1)?);
        device.fused(Fused::CacheWrite { cache, key, value, layer, plan })?;
    }
    Ok(step)
}

/// Attention of each row of the step with one query for all, per layer.
fn attend<B: Backend>(device: &Device<B>, step: &StepPlan<B>, windows: &[Option<usize>]) -> Result<Vec<Vec<f64>>> {
    let layers = windows.iter().enumerate().map(|(index, &window)| {
        let (cache, layer, plan) = step.layer(index);
        let query = device.upload_floats(&Draws::new(9).values(ROW), &[1, K, C])?;
        let query = query.broadcast_to(&[plan.rows.len(), K, C])?;
        let attributes =
            AttentionAttributes { scale: 0.7, soft_cap: None, mask: Mask::Causal { window }, bias: ScoreBias::None };
        let (cache, plan) = (cache.clone(), plan.clone());
        let out = device.one(Fused::CachedAttention { query, cache, bias: None, layer, plan, attributes })?;
        Ok(elements(device, &out))
    });
    layers.collect()
}

/// Checks that a sequence holds exactly these tokens.
#[track_caller]
fn holds<B: Backend>(device: &Device<B>, cache: &KvCache<B>, slot: SlotId, tokens: &[u64]) {
    assert_eq!(cache.length(slot).unwrap(), tokens.len());
    let step = cache.read(&[slot]).unwrap();
    let (cache, layer, plan) = step.layer(0);
    let rows: Vec<u32> = (0..tokens.len()).map(|position| plan.physical(0, position)).collect();
    let found = device.cache_read(cache, layer, &rows).unwrap();
    for (which, found) in found.iter().enumerate() {
        let expected: Vec<f64> =
            tokens.iter().enumerate().flat_map(|(position, &token)| row(which as u64, token, position)).collect();
        assert_bits("contents", &elements(device, found), &expected);
    }
}

#[test]
fn forks_copy_only_when_one_of_them_writes() {
    let device = Device::new(Oracle::new());
    let mut cache = KvCache::new(&device, &[None], K, C).unwrap();
    let first = cache.open();
    let beginning: Vec<u64> = (0..40).collect();
    write(&device, &mut cache, 1, &[first; 40], &beginning).unwrap();
    let forks = [first, cache.fork(first).unwrap(), cache.fork(first).unwrap()];
    for &fork in &forks {
        holds(&device, &cache, fork, &beginning);
    }
    // All three write in the same step; then they go on in other orders, and one is forked again.
    write(&device, &mut cache, 1, &forks, &[100, 200, 300]).unwrap();
    write(&device, &mut cache, 1, &[forks[2], forks[0]], &[301, 101]).unwrap();
    let again = cache.fork(forks[1]).unwrap();
    cache.close(forks[1]);
    write(&device, &mut cache, 1, &[again], &[201]).unwrap();
    let with = |end: [u64; 2]| beginning.iter().copied().chain(end).collect::<Vec<_>>();
    holds(&device, &cache, forks[0], &with([100, 101]));
    holds(&device, &cache, forks[2], &with([300, 301]));
    holds(&device, &cache, again, &with([200, 201]));
    assert!(matches!(cache.length(forks[1]), Err(Error::Input(_))));
}

#[test]
fn windows_free_blocks_and_change_no_bit() {
    let device = Device::new(Oracle::new());
    for window in [1, 2, 5, 31, 32, 33, 64, 65] {
        let windows = [Some(window), None];
        let mut freeing = KvCache::new(&device, &windows, K, C).unwrap();
        let mut keeping = KvCache::new(&device, &[None, None], K, C).unwrap();
        let slots = [freeing.open(), keeping.open()];
        let mut next = 0;
        let mut released = false;
        for count in [70, 1, 1, 30, 1, 57, 1, 1] {
            let tokens: Vec<u64> = (next..next + count).collect();
            next += count;
            let [freed, kept] = [(&mut freeing, slots[0]), (&mut keeping, slots[1])].map(|(cache, slot)| {
                let step = write(&device, cache, 2, &vec![slot; tokens.len()], &tokens).unwrap();
                released |= step.layer(0).2.sequences[0].blocks[0] == consort_core::cache::FREED;
                attend(&device, &step, &windows).unwrap()
            });
            for (freed, kept) in freed.iter().zip(&kept) {
                assert_bits(&format!("window {window} after {next}"), freed, kept);
            }
        }
        assert!(released, "a window of {window} never let a block go");
        assert!(freeing.export(slots[0]).is_err());
    }
}

#[test]
fn a_window_that_sees_nothing_is_no_panic() {
    let device = Device::new(Oracle::new());
    let mut cache = KvCache::new(&device, &[Some(0)], K, C).unwrap();
    let slot = cache.open();
    for position in 0..70 {
        let step = write(&device, &mut cache, 1, &[slot], &[position]).unwrap();
        assert_eq!(attend(&device, &step, &[Some(0)]).unwrap(), [[0.0; ROW]]);
    }
}

#[test]
fn what_is_truncated_and_written_again_has_the_same_bits() {
    let device = Device::new(Oracle::new());
    for windows in [[None, None], [Some(1), Some(1)], [None, Some(1)], [None, Some(20)]] {
        let mut cache = KvCache::new(&device, &windows, K, C).unwrap();
        let slot = cache.open();
        let run = |cache: &mut KvCache<Oracle>, from: u64, to: u64| -> Vec<Vec<Vec<f64>>> {
            let step =
                |token| attend(&device, &write(&device, cache, 2, &[slot], &[token]).unwrap(), &windows).unwrap();
            (from..to).map(step).collect()
        };
        let whole = run(&mut cache, 0, 100);
        for length in [100, 99, 70, 37, 32, 5, 0] {
            let held = cache.length(slot).unwrap();
            match cache.truncate(slot, length) {
                Ok(()) => {
                    assert_eq!(cache.length(slot).unwrap(), length);
                    assert_eq!(run(&mut cache, length as u64, 100), whole[length..], "{windows:?} from {length}");
                }
                // Refused for one layer, it is refused for all.
                Err(error) => {
                    assert!(windows.contains(&Some(20)) && (1..80).contains(&length), "{windows:?} {length}: {error}");
                    assert_eq!(cache.length(slot).unwrap(), held);
                    assert_eq!(run(&mut cache, 100, 101).len(), 1);
                    cache.truncate(slot, 100).unwrap();
                }
            }
        }
        cache.truncate(slot, 200).unwrap();
        assert_eq!(cache.length(slot).unwrap(), 100);
    }
}

#[test]
fn forks_of_windowed_sequences_go_on_apart() {
    let device = Device::new(Oracle::new());
    let windows = [Some(5), None];
    let mut cache = KvCache::new(&device, &windows, K, C).unwrap();
    let first = cache.open();
    write(&device, &mut cache, 2, &[first; 45], &(0..45).collect::<Vec<_>>()).unwrap();
    let fork = cache.fork(first).unwrap();
    cache.truncate(fork, 41).unwrap();
    let mut alone = KvCache::new(&device, &windows, K, C).unwrap();
    let copies = [alone.open(), alone.open()];
    write(&device, &mut alone, 2, &[copies[0]; 45], &(0..45).collect::<Vec<_>>()).unwrap();
    write(&device, &mut alone, 2, &[copies[1]; 41], &(0..41).collect::<Vec<_>>()).unwrap();
    for token in 0..60 {
        let both = write(&device, &mut cache, 2, &[fork, first], &[500 + token, 700 + token]).unwrap();
        let both = attend(&device, &both, &windows).unwrap();
        let second = write(&device, &mut alone, 2, &[copies[1]], &[500 + token]).unwrap();
        let second = attend(&device, &second, &windows).unwrap();
        let original = write(&device, &mut alone, 2, &[copies[0]], &[700 + token]).unwrap();
        let original = attend(&device, &original, &windows).unwrap();
        for layer in 0..2 {
            assert_bits("fork", &both[layer][..ROW], &second[layer]);
            assert_bits("original", &both[layer][ROW..], &original[layer]);
        }
    }
}

#[test]
fn ragged_sequences_in_one_step_have_the_bits_of_each_alone() {
    let device = Device::new(Single::new());
    let windows = [None, Some(9)];
    let lengths = [1, 33, 7, 64, 20];
    let mut cache = KvCache::new(&device, &windows, K, C).unwrap();
    let slots = lengths.map(|_| cache.open());
    // Rows of all sequences, shuffled but in order within each.
    let mut rows: Vec<usize> = (0..5).flat_map(|which| vec![which; lengths[which]]).collect();
    let mut draws = Draws::new(5);
    (1..rows.len()).rev().for_each(|last| rows.swap(last, draws.below(last + 1)));
    let mut positions = [0; 5];
    let tokens: Vec<u64> = rows
        .iter()
        .map(|&which| {
            positions[which] += 1;
            100 * which as u64 + positions[which]
        })
        .collect();
    let step = write(&device, &mut cache, 2, &rows.iter().map(|&which| slots[which]).collect::<Vec<_>>(), &tokens);
    let together = attend(&device, &step.unwrap(), &windows).unwrap();
    for (which, &length) in lengths.iter().enumerate() {
        let mut cache = KvCache::new(&device, &windows, K, C).unwrap();
        let slot = cache.open();
        let own: Vec<u64> = (1..=length as u64).map(|position| 100 * which as u64 + position).collect();
        let step = write(&device, &mut cache, 2, &vec![slot; own.len()], &own).unwrap();
        for (alone, together) in attend(&device, &step, &windows).unwrap().iter().zip(&together) {
            let of_this = together.chunks(ROW).zip(&rows).filter(|(_, row)| **row == which);
            let of_this: Vec<f64> = of_this.flat_map(|(values, _)| values.to_vec()).collect();
            assert_bits("sequence", &of_this, alone);
        }
    }
}

#[test]
fn exports_move_between_float_types_and_leave_nothing_open_where_they_do_not_fit() {
    let (single, oracle) = (Device::new(Single::new()), Device::new(Oracle::new()));
    let mut from = KvCache::new(&single, &[None, None], K, C).unwrap();
    let slot = from.open();
    write(&single, &mut from, 2, &[slot; 37], &(0..37).collect::<Vec<_>>()).unwrap();
    let exported = from.export(slot).unwrap();
    let mut to = KvCache::new(&oracle, &[None, None], K, C).unwrap();
    let there = to.import(exported.clone()).unwrap();
    let back = from.import(to.export(there).unwrap()).unwrap();
    assert_eq!(from.export(back).unwrap(), exported);

    for (layers, heads, width) in [(1, K, C), (3, K, C), (2, K + 1, C), (2, K, C - 1)] {
        let mut wrong = KvCache::new(&oracle, &vec![None; layers], heads, width).unwrap();
        assert!(wrong.import(exported.clone()).is_err());
        assert_eq!(wrong.open(), SlotId(0), "nothing was left open");
    }
    let empty = from.open();
    let empty = from.export(empty).unwrap();
    let slot = to.import(empty).unwrap();
    assert_eq!(to.length(slot).unwrap(), 0);
}

#[test]
fn closed_and_unknown_sequences_are_refused() {
    let device = Device::new(Oracle::new());
    let mut cache = KvCache::new(&device, &[None], K, C).unwrap();
    let (open, closed) = (cache.open(), cache.open());
    cache.close(closed);
    cache.close(closed);
    for bad in [closed, SlotId(7), SlotId(usize::MAX)] {
        assert!(cache.length(bad).is_err());
        assert!(cache.append(&[open, bad]).is_err());
        assert!(cache.read(&[open, bad]).is_err());
        assert!(cache.fork(bad).is_err());
        assert!(cache.truncate(bad, 0).is_err());
        assert!(cache.export(bad).is_err());
        cache.close(bad);
    }
    assert_eq!(cache.length(open).unwrap(), 0);
    let (_, positions) = cache.append(&[]).unwrap();
    assert!(positions.is_empty());
    // Thousands of rows of one sequence in one step.
    let (_, positions) = cache.append(&[open; 20_000]).unwrap();
    assert_eq!(positions.last(), Some(&19_999));
}

#[test]
fn a_stack_without_layers_counts_all_the_same() {
    let device = Device::new(Oracle::new());
    let mut cache = KvCache::new(&device, &[], K, C).unwrap();
    let slot = cache.open();
    assert_eq!(cache.append(&[slot, slot]).unwrap().1, [0, 1]);
    assert_eq!(cache.append(&[slot]).unwrap().1, [2]);
    let fork = cache.fork(slot).unwrap();
    cache.truncate(slot, 1).unwrap();
    assert_eq!([cache.length(slot).unwrap(), cache.length(fork).unwrap()], [1, 3]);
    let exported = cache.export(fork).unwrap();
    let copy = cache.import(exported).unwrap();
    assert_eq!(cache.length(copy).unwrap(), 3);
}

/// The oracle with an end to its memory: an allocation of more elements is refused.
#[derive(Clone)]
struct Limited(Arc<AtomicUsize>);

impl Backend for Limited {
    type Buffer = <Oracle as Backend>::Buffer;
    type Packed = consort_scalar::Packed;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Oracle;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        let limit = self.0.load(Ordering::Relaxed);
        if elements > limit {
            return Err(Error::OutOfMemory { asked: elements as u64, limit: limit as u64 });
        }
        Oracle::new().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        Oracle::new().upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        Oracle::new().download(buffer)
    }

    fn float(&self) -> DType {
        DType::F64
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        Oracle::new().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        Oracle::new().fused(operation, out)
    }
}

#[test]
fn when_memory_runs_out_the_cache_is_as_it_was() {
    let limit = Arc::new(AtomicUsize::new(3 * 32 * ROW));
    let device = Device::new(Limited(Arc::clone(&limit)));
    let mut cache = KvCache::new(&device, &[None, Some(40)], K, C).unwrap();
    let (first, second) = (cache.open(), cache.open());
    let beginning: Vec<u64> = (0..40).collect();
    write(&device, &mut cache, 2, &[first; 40], &beginning).unwrap();
    let fork = cache.fork(first).unwrap();
    // Two more blocks: one for the fork's copy and one for the other sequence.
    let refused = |cache: &mut KvCache<Limited>, slots: &[SlotId]| {
        let error = write(&device, cache, 2, slots, &vec![7; slots.len()]).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    };
    refused(&mut cache, &[fork, first, second]);
    refused(&mut cache, &vec![second; 5000]);
    assert_eq!(cache.length(second).unwrap(), 0);
    holds(&device, &cache, first, &beginning);
    holds(&device, &cache, fork, &beginning);
    // One block is left, which doubling does not fit into: the fork gets it.
    write(&device, &mut cache, 2, &[fork], &[200]).unwrap();
    refused(&mut cache, &[second]);
    write(&device, &mut cache, 2, &[first], &[100]).unwrap();
    let with = |end: u64| beginning.iter().copied().chain([end]).collect::<Vec<_>>();
    holds(&device, &cache, first, &with(100));
    holds(&device, &cache, fork, &with(200));
    // What is closed makes room.
    cache.close(fork);
    write(&device, &mut cache, 2, &[second; 32], &beginning[..32]).unwrap();
    holds(&device, &cache, second, &beginning[..32]);
    limit.store(usize::MAX, Ordering::Relaxed);
    write(&device, &mut cache, 2, &[second], &[32]).unwrap();
    holds(&device, &cache, second, &beginning[..33]);
    holds(&device, &cache, first, &with(100));
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let device = Device::new(Oracle::new());
    let mut cache = KvCache::new(&device, &[None], K, C).unwrap();
    let slot = cache.open();
    let step = write(&device, &mut cache, 1, &[slot; 3], &[1, 2, 3]).unwrap();
    let (cache, layer, plan) = step.layer(0);
    let x = || -> TensorOf<Oracle> { device.upload_floats(&[0.5; 3 * ROW], &[3, K, C]).unwrap() };
    let attributes =
        AttentionAttributes { scale: 1.0, soft_cap: None, mask: Mask::Causal { window: None }, bias: ScoreBias::None };
    let breaks: [fn(&mut consort_core::cache::CachePlan); 4] = [
        |plan| plan.rows[1].sequence = 1,
        |plan| plan.sequences[0].blocks.clear(),
        |plan| plan.sequences[0].length = 33,
        |plan| plan.block = 0,
    ];
    for break_it in breaks {
        let mut plan = (**plan).clone();
        break_it(&mut plan);
        let plan = Arc::new(plan);
        let (cache, plan_too) = (cache.clone(), plan.clone());
        let write = Fused::CacheWrite { cache: cache.clone(), key: x(), value: x(), layer, plan };
        assert!(matches!(device.fused(write), Err(Error::Shape { .. })));
        let read = Fused::CachedAttention { query: x(), cache, bias: None, layer, plan: plan_too, attributes };
        assert!(matches!(device.fused(read), Err(Error::Shape { .. })));
    }
    let mut beyond = (**plan).clone();
    beyond.rows[2].position = 3;
    let write = Fused::CacheWrite { cache: cache.clone(), key: x(), value: x(), layer, plan: Arc::new(beyond) };
    assert!(matches!(device.fused(write), Err(Error::Shape { .. })));
}

#[test]
fn blocks_are_copied_one_after_the_other() {
    let device = Device::new(Oracle::new());
    let spec = CacheSpec { layers: 1, key_value_heads: K, head_width: C, block: 1 };
    let cache = device.cache(spec).unwrap();
    device.cache_reserve(&cache, 4).unwrap();
    let plan = Arc::new(CachePlan {
        block: 1,
        rows: (0..4).map(|position| PlanRow { sequence: 0, position }).collect(),
        sequences: vec![PlanSequence { blocks: (0..4).collect(), length: 4 }],
    });
    let rows: Vec<f64> = (0..4).flat_map(|position| row(0, 0, position)).collect();
    let key = device.upload_floats(&rows, &[4, K, C]).unwrap();
    let (handle, value) = (cache.clone(), key.clone());
    device.fused(Fused::CacheWrite { cache: handle, key, value, layer: 0, plan }).unwrap();
    // The second copy reads what the first wrote; the third replaces what the first read.
    device.cache_copy(&cache, &[(0, 1), (1, 2), (3, 0)]).unwrap();
    let [keys, values] = device.cache_read(&cache, 0, &[0, 1, 2, 3]).unwrap();
    let expected = [3, 0, 0, 3].map(|position| row(0, 0, position)).concat();
    assert_eq!(elements(&device, &keys), expected);
    assert_eq!(elements(&device, &values), expected);
}
