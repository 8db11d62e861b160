//! `adamw` of one large parameter, in place where it can be.

use anyhow::{Context, Result};
use consort_benches::{OnBackend, drawn, each};
use consort_core::{Backend, Device, Fused, TensorOf, operation::AdamWSettings};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SIZES: [usize; 2] = [1536, 384];
const SETTINGS: AdamWSettings =
    AdamWSettings { rate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, step: 3 };

struct AdamW<'a>(&'a mut Criterion);

impl OnBackend for AdamW<'_> {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let gradient = drawn(device, &SIZES, 1)?;
        let mut group = self.0.benchmark_group(name);
        group.throughput(Throughput::Elements((SIZES[0] * SIZES[1]) as u64));
        group.bench_function("adamw", |bencher| {
            let zeros = || device.fill(&SIZES, 0.0);
            let mut held = Some([zeros(), zeros(), zeros()]);
            bencher.iter(|| {
                let next = held.take().context("a state").and_then(|state| step(device, state, gradient.clone()));
                held = next.ok().map(|state| state.map(Ok));
            });
            assert!(held.is_some(), "a step failed");
        });
        Ok(())
    }
}

fn step<B: Backend>(
    device: &Device<B>,
    [parameter, first, second]: [consort_core::Result<TensorOf<B>>; 3],
    gradient: TensorOf<B>,
) -> Result<[TensorOf<B>; 3]> {
    let (parameter, first, second) = (parameter?, first?, second?);
    let outputs = device.fused(Fused::AdamW { parameter, gradient, first, second, settings: SETTINGS })?;
    <[TensorOf<B>; 3]>::try_from(outputs.into_vec()).ok().context("adamw has three outputs")
}

fn all(criterion: &mut Criterion) {
    each(None, None, &mut AdamW(criterion)).expect("every backend of the build runs it");
}

criterion_group!(benches, all);
criterion_main!(benches);
