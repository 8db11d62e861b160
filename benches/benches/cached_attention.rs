//! `cached_attention`: a step of one token, and a prompt, over the blocks of a cache.

use std::sync::Arc;

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each};
use consort_core::{
    Backend, Device, Fused, KvCache,
    operation::{AttentionAttributes, Mask, ScoreBias},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// H, K and C: grouped heads.
const HEADS: [usize; 3] = [32, 4, 64];

struct CachedAttention<'a>(&'a mut Criterion);

impl OnBackend for CachedAttention<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let [heads, key_value_heads, width] = HEADS;
        let attributes = AttentionAttributes {
            scale: (width as f64).powf(-0.5),
            soft_cap: None,
            mask: Mask::Causal { window: None },
            bias: ScoreBias::None,
        };
        let mut group = self.0.benchmark_group(format!("{name}/cached_attention"));
        for (rows, keys) in [(1, 128), (1, 1024), (128, 128)] {
            let mut cache = KvCache::new(device, &[None], key_value_heads, width)?;
            let slot = cache.open();
            if keys > rows {
                cache.append(&vec![slot; keys - rows])?;
            }
            let (step, _) = cache.append(&vec![slot; rows])?;
            let (store, layer, plan) = step.layer(0);
            let query = drawn(device, &[rows, heads, width], 1)?;
            let key = drawn(device, &[rows, key_value_heads, width], 2)?;
            let (value, write) = (key.clone(), (store.clone(), Arc::clone(plan)));
            device.fused(Fused::CacheWrite { cache: write.0, key, value, layer, plan: write.1 })?;
            let operation = || Fused::CachedAttention {
                query: query.clone(),
                cache: store.clone(),
                bias: None,
                layer,
                plan: Arc::clone(plan),
                attributes,
            };
            device.fused(operation())?;
            group.throughput(Throughput::Bytes((8 * key_value_heads * width * keys) as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{keys}")), |bencher| {
                bencher.iter(|| device.fused(operation()).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut CachedAttention(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
