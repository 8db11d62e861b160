//! `matmul` of tensors that no one packed, as they lie and turned.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

struct MatMul<'a>(&'a mut Criterion);

impl OnBackend for MatMul<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let mut group = self.0.benchmark_group(format!("{name}/matmul"));
        for size in [64, 256, 1024] {
            let (a, b) = (drawn(device, &[size, size], 1)?, drawn(device, &[size, size], 2)?);
            let turned = b.permute(&[1, 0])?;
            group.throughput(Throughput::Elements(2 * (size as u64).pow(3)));
            group.bench_function(BenchmarkId::new("as it lies", size), |bencher| {
                bencher.iter(|| device.matmul(&a, &b).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("turned", size), |bencher| {
                bencher.iter(|| device.matmul(&a, &turned).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut MatMul(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
