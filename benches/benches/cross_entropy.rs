//! `cross_entropy` and its backward.

use anyhow::{Context, Result};
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device, Fused};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

struct CrossEntropy<'a>(&'a mut Criterion);

impl OnBackend for CrossEntropy<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let mut group = self.0.benchmark_group(format!("{name}/cross_entropy"));
        for (rows, vocabulary) in [(2048, 65), (128, 32_000)] {
            let logits = drawn(device, &[rows, vocabulary], 1)?;
            let d_loss = drawn(device, &[rows], 2)?;
            let targets = device.upload_ids((0..rows as u32).map(|row| row % vocabulary as u32).collect())?;
            let forward = || Fused::CrossEntropy { logits: logits.clone(), targets: targets.clone(), smoothing: 0.0 };
            let log_sum = device.fused(forward())?.pop().context("cross_entropy has two outputs")?;
            let backward = || Fused::CrossEntropyBackward {
                logits: logits.clone(),
                targets: targets.clone(),
                log_sum: log_sum.clone(),
                d_loss: d_loss.clone(),
                smoothing: 0.0,
            };
            group.throughput(Throughput::Elements((rows * vocabulary) as u64));
            let shape = format!("{rows}x{vocabulary}");
            group.bench_function(BenchmarkId::new("forward", &shape), |bencher| {
                bencher.iter(|| device.fused(forward()).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("backward", &shape), |bencher| {
                bencher.iter(|| device.fused(backward()).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut CrossEntropy(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
