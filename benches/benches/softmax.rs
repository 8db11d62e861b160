//! `softmax` of rows of logits, and its backward.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device, Fused};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

struct Softmax<'a>(&'a mut Criterion);

impl OnBackend for Softmax<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let mut group = self.0.benchmark_group(format!("{name}/softmax"));
        for (rows, width) in [(1, 32_000), (512, 512)] {
            let (x, d_y) = (drawn(device, &[rows, width], 1)?, drawn(device, &[rows, width], 2)?);
            let y = device.softmax(x.clone())?;
            group.throughput(Throughput::Elements((rows * width) as u64));
            let shape = format!("{rows}x{width}");
            group.bench_function(BenchmarkId::new("forward", &shape), |bencher| {
                bencher.iter(|| device.softmax(x.clone()).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("backward", &shape), |bencher| {
                bencher
                    .iter(|| device.one(Fused::SoftmaxBackward { y: y.clone(), d_y: d_y.clone() }).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut Softmax(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
