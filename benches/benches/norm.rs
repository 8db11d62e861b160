//! `layer_norm` and `rms_norm`, and their backwards.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device, Fused};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const WIDTH: usize = 768;
const EPSILON: f64 = 1e-5;

struct Norm<'a>(&'a mut Criterion);

impl OnBackend for Norm<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let (weight, bias) = (drawn(device, &[WIDTH], 1)?, drawn(device, &[WIDTH], 2)?);
        let mut group = self.0.benchmark_group(format!("{name}/norm"));
        for rows in [1, 512] {
            let (x, d_y) = (drawn(device, &[rows, WIDTH], 3)?, drawn(device, &[rows, WIDTH], 4)?);
            group.throughput(Throughput::Elements((rows * WIDTH) as u64));
            group.bench_function(BenchmarkId::new("layer_norm", rows), |bencher| {
                bencher.iter(|| device.layer_norm(x.clone(), &weight, Some(&bias), EPSILON).expect("it runs"));
            });
            group.bench_function(BenchmarkId::new("rms_norm", rows), |bencher| {
                bencher.iter(|| device.rms_norm(x.clone(), &weight, EPSILON, false).expect("it runs"));
            });
            let operands = || (x.clone(), weight.clone(), d_y.clone());
            group.bench_function(BenchmarkId::new("layer_norm_backward", rows), |bencher| {
                bencher.iter(|| {
                    let (x, weight, d_y) = operands();
                    device.fused(Fused::LayerNormBackward { x, weight, d_y, epsilon: EPSILON }).expect("it runs")
                });
            });
            group.bench_function(BenchmarkId::new("rms_norm_backward", rows), |bencher| {
                bencher.iter(|| {
                    let (x, weight, d_y) = operands();
                    device
                        .fused(Fused::RmsNormBackward { x, weight, d_y, epsilon: EPSILON, unit_offset: false })
                        .expect("it runs")
                });
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut Norm(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
