//! `activation`, `gated`, and their backwards.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device, Fused, config::Activation};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows and width of a feed-forward layer's inside.
const SIZES: [usize; 2] = [128, 5632];

struct Activations<'a>(&'a mut Criterion);

impl OnBackend for Activations<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let (x, up, d_y) = (drawn(device, &SIZES, 1)?, drawn(device, &SIZES, 2)?, drawn(device, &SIZES, 3)?);
        let mut group = self.0.benchmark_group(format!("{name}/activation"));
        group.throughput(Throughput::Elements((SIZES[0] * SIZES[1]) as u64));
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
            let shown = format!("{kind:?}");
            group.bench_function(BenchmarkId::new("forward", &shown), |bencher| {
                bencher.iter(|| device.activation(x.clone(), kind).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("backward", &shown), |bencher| {
                bencher.iter(|| device.activation_backward(x.clone(), d_y.clone(), kind).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("gated", &shown), |bencher| {
                bencher.iter(|| device.gated(x.clone(), up.clone(), kind).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("gated_backward", &shown), |bencher| {
                let of = || Fused::GatedBackward { gate: x.clone(), up: up.clone(), d_y: d_y.clone(), kind };
                bencher.iter(|| device.fused(of()).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut Activations(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
