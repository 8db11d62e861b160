//! `linear_backward_input` and `linear_backward_weight` of a training step's projections.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each, weight};
use consort_core::{Backend, Compute, Device, Fused, WeightDType};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Rows of a step, outputs and inputs: the feed-forward of a model of ten million parameters.
const ROWS: usize = 2048;
const OUTPUTS: usize = 1536;
const INPUTS: usize = 384;

struct LinearBackward<'a>(&'a mut Criterion);

impl OnBackend for LinearBackward<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let (x, d_y) = (drawn(device, &[ROWS, INPUTS], 1)?, drawn(device, &[ROWS, OUTPUTS], 2)?);
        for (compute, dtype) in [(Compute::F32, WeightDType::F32), (Compute::BF16, WeightDType::BF16)] {
            let weight = weight(device, [OUTPUTS, INPUTS], dtype)?;
            let mut group = self.0.benchmark_group(format!("{name}/linear_backward in {compute}"));
            group.throughput(Throughput::Elements((2 * ROWS * OUTPUTS * INPUTS) as u64));
            group.bench_function("input", |bencher| {
                let of = || Fused::LinearBackwardInput { d_y: d_y.clone(), weight: weight.clone(), compute };
                bencher.iter(|| device.one(of()).expect("it runs"));
            });
            group.bench_function("weight", |bencher| {
                let of = || Fused::LinearBackwardWeight { x: x.clone(), d_y: d_y.clone(), compute };
                bencher.iter(|| device.one(of()).expect("it runs"));
            });
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut LinearBackward(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
