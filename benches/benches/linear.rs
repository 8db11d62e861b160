//! `linear` by what its weight is kept as, what products are computed in, and how many rows share it.

use anyhow::Result;
use consort_benches::{OnBackend, drawn, each, weight};
use consort_core::{Backend, Compute, Device, WeightDType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Outputs and inputs: a projection of a model of a billion parameters, beyond the last-level cache in singles only.
const SHAPE: [usize; 2] = [2048, 2048];

struct Linear<'a>(&'a mut Criterion);

impl OnBackend for Linear<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        use WeightDType::{BF16, F16, F32, Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
        for dtype in [F32, BF16, F16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K] {
            let weight = weight(device, SHAPE, dtype)?;
            for compute in [Compute::F32, Compute::BF16, Compute::Int8] {
                let mut group = self.0.benchmark_group(format!("{name}/linear {dtype} in {compute}"));
                for rows in [1, 4, 16, 128] {
                    let x = drawn(device, &[rows, SHAPE[1]], 1)?;
                    group.throughput(Throughput::Elements((2 * rows * SHAPE[0] * SHAPE[1]) as u64));
                    group.bench_with_input(BenchmarkId::from_parameter(rows), &x, |bencher, x| {
                        bencher.iter(|| device.linear(x.clone(), &weight, None, None, None, compute).expect("it runs"));
                    });
                }
            }
        }
        Ok(())
    }
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut Linear(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
