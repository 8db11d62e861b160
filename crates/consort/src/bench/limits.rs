//! What this machine was measured to do, for shares: reading memory, multiplying and adding in registers.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use consort_core::Compute;

use super::blocks::Spread;

/// Memory that is read at a time, all threads together: far beyond any last-level cache.
const BYTES: usize = 1 << 30;
/// Times that it is read, the first of which warms up.
const RUNS: usize = 8;

/// Limits of this machine with so many threads, in 10⁹ a second; a multiplication and an addition count two. `None` is what was
/// not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes read from memory.
    pub read: Option<f64>,
    /// Arithmetic of singles in registers, with the instructions that the backend uses.
    pub f32: Option<f64>,
    /// The same of bf16, added in singles.
    pub bf16: Option<f64>,
    /// The same of bytes, added in 32 bits.
    pub int8: Option<f64>,
}

impl Limits {
    /// The arithmetic that products of this kind are held against.
    pub fn arithmetic(&self, compute: Compute) -> Option<f64> {
        match compute {
            Compute::F32 => self.f32,
            Compute::BF16 => self.bf16,
            Compute::Int8 => self.int8,
        }
    }
}

/// Bytes that `threads` threads read from memory, in 10⁹ a second: the median of some passes over a gibibyte. Each thread
/// sums what it has written itself. `None` where there is not so much memory.
pub fn read_bandwidth(threads: usize) -> Option<f64> {
    let threads = threads.max(1);
    let words = BYTES / size_of::<u64>() / threads;
    let mut memory = Vec::new();
    for _ in 0..threads {
        let mut part: Vec<u64> = Vec::new();
        part.try_reserve_exact(words).ok()?;
        memory.push(part);
    }
    let barrier = Barrier::new(threads);
    let run = |mut part: Vec<u64>| {
        part.resize(words, 0x0101_0101_0101_0101);
        let time = |_| {
            barrier.wait();
            let start = Instant::now();
            black_box(sum(&part));
            (start, Instant::now())
        };
        (0..RUNS).map(time).collect::<Vec<_>>()
    };
    let times: Vec<Vec<(Instant, Instant)>> = thread::scope(|scope| {
        let started: Vec<_> = memory.into_iter().map(|part| scope.spawn(|| run(part))).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // From the first thread's start to the last one's end.
    let span = |index: usize| {
        let start = times.iter().map(|times| times[index].0).min()?;
        let end = times.iter().map(|times| times[index].1).max()?;
        Some((end - start).as_secs_f64())
    };
    let bytes = (words * size_of::<u64>() * threads) as f64;
    Spread::of((1..RUNS).filter_map(span).collect()).map(|seconds| bytes / seconds.median / 1e9)
}

/// The sum of all words, in as many chains as the loads of a core keep busy.
fn sum(words: &[u64]) -> u64 {
    const CHAINS: usize = 16;
    let mut sums = [0u64; CHAINS];
    for chunk in words.chunks_exact(CHAINS) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}
