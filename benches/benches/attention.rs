//! `attention` over packed sequences, and its backward.

use std::sync::Arc;

use anyhow::{Context, Result};
use consort_benches::{OnBackend, drawn, each};
use consort_core::{
    Backend, Device, Fused,
    operation::{AttentionAttributes, Mask, ScoreBias, Segments},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// H, K and C.
const HEADS: [usize; 3] = [12, 12, 64];

struct Attention<'a>(&'a mut Criterion);

impl OnBackend for Attention<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let [heads, key_value_heads, width] = HEADS;
        let attributes = AttentionAttributes {
            scale: (width as f64).powf(-0.5),
            soft_cap: None,
            mask: Mask::Causal { window: None },
            bias: ScoreBias::None,
        };
        for (sequences, tokens) in [(1, 512), (8, 256)] {
            let rows = sequences * tokens;
            let query = drawn(device, &[rows, heads, width], 1)?;
            let key = drawn(device, &[rows, key_value_heads, width], 2)?;
            let value = drawn(device, &[rows, key_value_heads, width], 3)?;
            let d_y = drawn(device, &[rows, heads, width], 4)?;
            let segments = Arc::new(Segments::within(vec![tokens; sequences]));
            let forward = || Fused::Attention {
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                bias: None,
                segments: Arc::clone(&segments),
                attributes,
            };
            let outputs = device.fused(forward())?;
            let [y, log_sum] = [0, 1].map(|at| outputs.get(at).cloned().context("attention has two outputs"));
            let (y, log_sum) = (y?, log_sum?);
            let backward = || Fused::AttentionBackward {
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                bias: None,
                y: y.clone(),
                log_sum: log_sum.clone(),
                d_y: d_y.clone(),
                segments: Arc::clone(&segments),
                attributes,
            };
            let mut group = self.0.benchmark_group(format!("{name}/attention"));
            let operations = sequences * 4 * heads * width * tokens * (tokens + 1) / 2;
            let shape = format!("{sequences}x{tokens}");
            group.throughput(Throughput::Elements(operations as u64));
            group.bench_function(BenchmarkId::new("forward", &shape), |bencher| {
                bencher.iter(|| device.fused(forward()).expect("it runs"));
            });
            group.throughput(Throughput::Elements(operations as u64 * 5 / 2));
            group.bench_function(BenchmarkId::new("backward", &shape), |bencher| {
                bencher.iter(|| device.fused(backward()).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut Attention(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
