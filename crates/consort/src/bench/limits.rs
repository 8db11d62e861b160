//! What this machine was measured to do, for shares: reading memory, multiplying and adding in registers.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use consort_core::Compute;

use super::blocks::Spread;

/// Memory that is read at a time, all threads together: far beyond any last-level cache.
const BYTES: usize = 1 << 30;
/// Times that it is read, the first of which warms up.
const RUNS: usize = 8;

/// Limits of this machine, with as many threads as were measured with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reading memory, in GB/s; `None` where there was not memory enough to measure it.
    pub read: Option<f64>,
    /// Arithmetic, as far as a backend measures it.
    pub peaks: Peaks,
}

/// Multiplications and additions in registers, 10⁹ a second, with the instructions that a backend uses; `None` where it does
/// not measure them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// Of singles.
    pub f32: Option<f64>,
    /// Of bf16, added in singles.
    pub bf16: Option<f64>,
    /// Of bytes, added in 32 bits.
    pub int8: Option<f64>,
}

impl Peaks {
    /// The one that products of this kind are held against.
    pub fn of(&self, compute: Compute) -> Option<f64> {
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
    let barrier = Barrier::new(threads + 1);
    let mut memory = Vec::new();
    for _ in 0..threads {
        let mut part: Vec<u64> = Vec::new();
        part.try_reserve_exact(words).ok()?;
        memory.push(part);
    }
    let seconds = thread::scope(|scope| {
        for mut part in memory {
            let barrier = &barrier;
            scope.spawn(move || {
                part.resize(words, 0x0101_0101_0101_0101);
                for _ in 0..RUNS {
                    barrier.wait();
                    black_box(sum(&part));
                    barrier.wait();
                }
            });
        }
        let time = |_| {
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            start.elapsed().as_secs_f64()
        };
        (0..RUNS).map(time).skip(1).collect::<Vec<f64>>()
    });
    let bytes = (words * size_of::<u64>() * threads) as f64;
    Spread::of(seconds).map(|seconds| bytes / seconds.median / 1e9)
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
