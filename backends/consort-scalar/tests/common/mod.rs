//! What the tests share: numbers from a seed, tensors with unruly layouts, comparison by bits.

#![allow(dead_code, reason = "each test file uses its own part")]

use consort_core::{Backend, DType, Device, HostData, Layout, TensorOf, philox};
use proptest::test_runner::{Config, RngSeed};

/// Numbers that depend on the seed only.
pub(crate) struct Draws {
    seed: u64,
    next: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// In `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.next += 1;
        philox::uniform(self.seed, 0, self.next)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end - 1)
    }

    /// In `[−2, 2)`.
    pub(crate) fn values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| 4.0 * self.unit() - 2.0).collect()
    }
}

/// The same cases in every run.
pub(crate) fn fixed(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(20), failure_persistence: None, ..Config::default() }
}

/// Where the elements of a layout are, row-major.
pub(crate) fn offsets(layout: &Layout) -> Vec<usize> {
    let mut out = vec![layout.offset()];
    for (size, stride) in layout.shape().sizes().iter().zip(layout.strides()) {
        out = out.iter().flat_map(|base| (0..*size).map(move |index| base + index * stride)).collect();
    }
    out
}

/// A tensor of this shape that is a permuted, sliced and broadcast view of a larger one, and its elements.
pub(crate) fn view<B: Backend>(
    device: &Device<B>,
    draws: &mut Draws,
    sizes: &[usize],
    dtype: DType,
) -> (TensorOf<B>, Vec<f64>) {
    // The axes in their order in memory.
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    (1..order.len()).rev().for_each(|last| order.swap(last, draws.below(last + 1)));
    let broadcast: Vec<bool> = sizes.iter().map(|_| draws.below(6) == 0).collect();
    let before: Vec<usize> = sizes.iter().map(|_| draws.below(3).saturating_sub(1)).collect();
    let kept: Vec<usize> = sizes.iter().zip(&broadcast).map(|(&size, &one)| if one { 1 } else { size }).collect();
    let memory: Vec<usize> = order.iter().map(|&axis| kept[axis] + before[axis] + draws.below(3) / 2).collect();
    let count = memory.iter().product();
    let values = draws.values(count).into_iter().map(|value| if dtype == DType::U32 { value + 2.0 } else { value });
    let data = HostData::from_f64(values, dtype);
    let exact = data.to_f64();
    let base = device.upload(data, &memory).unwrap();
    let back: Vec<usize> =
        (0..sizes.len()).map(|axis| order.iter().position(|&other| other == axis).unwrap()).collect();
    let mut view = base.permute(&back).unwrap();
    for axis in 0..sizes.len() {
        view = view.slice(axis, before[axis], kept[axis]).unwrap();
    }
    let view = view.broadcast_to(sizes).unwrap();
    let elements = offsets(view.layout()).into_iter().map(|offset| exact[offset]).collect();
    (view, elements)
}

/// The index in `sizes` that broadcasts to index `flat` of `out`, both row-major.
pub(crate) fn broadcast_index(out: &[usize], sizes: &[usize], mut flat: usize) -> usize {
    let (mut index, mut stride) = (0, 1);
    for (axis, &size) in out.iter().enumerate().rev() {
        let at = flat % size;
        flat /= size;
        if let Some(own) = (axis + sizes.len()).checked_sub(out.len()) {
            index += if sizes[own] == 1 { 0 } else { at * stride };
            stride *= sizes[own];
        }
    }
    index
}

/// The elements of `x` as f64, exactly.
pub(crate) fn elements<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Vec<f64> {
    device.download(x).unwrap().to_f64()
}

/// Equal bit by bit; NaNs are equal.
#[track_caller]
pub(crate) fn assert_bits(name: &str, actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{name}: number of elements");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let same = actual.to_bits() == expected.to_bits() || (actual.is_nan() && expected.is_nan());
        assert!(same, "{name}[{index}]: {actual:e}, expected {expected:e}");
    }
}

/// Equal up to rounding in f64: sums here have at most some hundred terms of magnitude 1 to 10, and each rounds by
/// 1.1e-16 of its size.
#[track_caller]
pub(crate) fn assert_close(name: &str, actual: &[f64], expected: &[f64]) {
    const BOUND: f64 = 1e-12;
    assert_eq!(actual.len(), expected.len(), "{name}: number of elements");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        let bound = BOUND * expected.abs().max(1.0);
        assert!(error <= bound, "{name}[{index}]: {actual:e}, expected {expected:e}, error {error:e} > {bound:e}");
    }
}
