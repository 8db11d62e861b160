//! A layer of a decoding step allocates nothing once it has run: outputs come from the pool, and a thread keeps its scratch.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use consort_core::{
    Compute, Device, Fused, HostData, KvCache, StoredTensor, Tensor, WeightDType,
    config::{Activation, RotaryPairing},
    operation::{AttentionAttributes, Mask, ScoreBias},
};
use consort_simd::{Buffer, Level, Simd};

/// Counts what is asked for, on all threads.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WIDTH: usize = 256;
const HEADS: usize = 4;
const FEED_FORWARD: usize = 512;

type Result<T> = consort_core::Result<T>;

struct Layer {
    device: Device<Simd>,
    norm: Tensor<Buffer>,
    rotary: [Tensor<Buffer>; 2],
    weights: [consort_core::WeightOf<Simd>; 4],
    embedding: consort_core::WeightOf<Simd>,
    compute: Compute,
}

impl Layer {
    fn new(level: Level, dtype: WeightDType, compute: Compute) -> Result<Self> {
        let device = Device::new(Simd::new(level, 2));
        let weight = |outputs: usize, inputs: usize| {
            let values: Vec<f64> = (0..outputs * inputs).map(|i| (i * 37 % 101) as f64 / 1000.0 - 0.05).collect();
            device.pack(&[StoredTensor::from_values("w", &values, [outputs, inputs])?], dtype)
        };
        let weights = [
            weight(3 * WIDTH, WIDTH)?,
            weight(WIDTH, WIDTH)?,
            weight(2 * FEED_FORWARD, WIDTH)?,
            weight(WIDTH, FEED_FORWARD)?,
        ];
        let pairs = WIDTH / HEADS / 2;
        let table = |value: f32| device.upload(HostData::F32(vec![value; pairs]), &[1, pairs]);
        Ok(Self {
            norm: device.upload(HostData::F32(vec![1.0; WIDTH]), &[WIDTH])?,
            rotary: [table(0.8)?, table(0.6)?],
            weights,
            embedding: weight(64, WIDTH)?,
            compute,
            device,
        })
    }

    /// What a Llama asks for in a layer, for one row.
    fn step(&self, cache: &mut KvCache<Simd>, slot: consort_core::SlotId, ids: &Tensor<Buffer>) -> Result<usize> {
        let (plan, _) = cache.append(&[slot])?;
        let (cache, index, plan) = plan.layer(0);
        let device = &self.device;
        let before = COUNT.load(Ordering::Relaxed);
        let x = device.embedding(&self.embedding, ids)?;
        let normed = device.rms_norm(x.clone(), &self.norm, 1e-5, false)?;
        let y = device.linear(normed, &self.weights[0], None, None, None, self.compute)?;
        let part = |which: usize| y.slice(1, which * WIDTH, WIDTH)?.view(&[1, HEADS, WIDTH / HEADS]);
        let query = device.rotary(part(0)?, &self.rotary, ids, RotaryPairing::Halves)?;
        let key = device.rotary(part(1)?, &self.rotary, ids, RotaryPairing::Halves)?;
        let (written, value) = (Arc::clone(plan), part(2)?);
        device.fused(Fused::CacheWrite { cache: cache.clone(), key, value, layer: index, plan: written })?;
        let mask = Mask::Causal { window: None };
        let attributes = AttentionAttributes { scale: 0.125, soft_cap: None, mask, bias: ScoreBias::None };
        let attention = Fused::CachedAttention {
            query,
            cache: cache.clone(),
            bias: None,
            layer: index,
            plan: Arc::clone(plan),
            attributes,
        };
        let out = device.one(attention)?.view(&[1, WIDTH])?;
        let x = device.linear(out, &self.weights[1], None, None, Some(x), self.compute)?;
        let normed = device.rms_norm(x.clone(), &self.norm, 1e-5, false)?;
        let both = device.linear(normed, &self.weights[2], None, None, None, self.compute)?;
        let (gate, up) = (both.slice(1, 0, FEED_FORWARD)?, both.slice(1, FEED_FORWARD, FEED_FORWARD)?);
        let inner = device.gated(gate, up, Activation::Silu)?;
        drop(device.linear(inner, &self.weights[3], None, None, Some(x), self.compute)?);
        Ok(COUNT.load(Ordering::Relaxed) - before)
    }
}

/// The only test here: the count is the process's.
#[test]
fn a_decoding_layer_allocates_nothing() {
    for level in Level::available() {
        for (dtype, compute) in [
            (WeightDType::F32, Compute::F32),
            (WeightDType::BF16, Compute::BF16),
            (WeightDType::BF16, Compute::F32),
            (WeightDType::Q8_0, Compute::Int8),
            (WeightDType::Q4_K, Compute::Int8),
            (WeightDType::Q6_K, Compute::F32),
        ] {
            // Products in f32 are matrixmultiply's there, which packs into memory of its own.
            if level.name() == "portable" && compute == Compute::F32 {
                continue;
            }
            let layer = Layer::new(level, dtype, compute).unwrap();
            let mut cache = KvCache::new(&layer.device, &[None], HEADS, WIDTH / HEADS).unwrap();
            let slot = cache.open();
            let ids = layer.device.upload_ids(vec![0]).unwrap();
            let counts: Vec<usize> = (0..40).map(|_| layer.step(&mut cache, slot, &ids).unwrap()).collect();
            // Threads come late to their first tasks: the last steps count.
            assert_eq!(counts[20..], [0; 20], "{level:?} {dtype} {compute}: {counts:?}");
        }
    }
}
