//! What this machine can do at most with an instruction set: the denominators of every share that is told of this backend.
//!
//! - Arithmetic: twelve chains in registers that never wait for memory, on each thread.
//! - Reading: a gibibyte, on pages of the kind that packed weights lie on, each thread what it has written itself.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use memmap2::MmapMut;

use crate::isa::{Isa, Kernel, Level};

/// Bytes that are read at a time, all threads together: far beyond any last-level cache.
const BYTES: usize = 1 << 30;
/// Runs of each measurement, the first of which warms up.
const RUNS: usize = 32;
/// Links of a chain: some milliseconds.
const LINKS: usize = 1_000_000;
/// Independent chains, so that a multiply-add need not wait for the last: two a cycle, four to five cycles each.
const CHAINS: usize = 12;

/// What was measured, in 10⁹ a second; a multiplication and an addition count two.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes read from memory; `None` where there was no gibibyte of it.
    pub read: Option<f64>,
    /// Multiply-adds of singles.
    pub f32: f64,
    /// Dot products of bf16; `None` where the set has no instruction for them.
    pub bf16: Option<f64>,
    /// Dot products of bytes; `None` where the set has no instruction for them.
    pub int8: Option<f64>,
}

/// Measures them with this instruction set, on so many threads. Takes about a second, and a gibibyte of memory meanwhile.
pub fn limits(level: Level, threads: usize) -> Limits {
    let threads = threads.max(1);
    let dots = has_dots(level);
    // Lanes times pairs or fours, times two for multiplication and addition.
    let rate = |kind: Kind, each: usize| {
        let seconds = chains(level, threads, kind);
        (LINKS * CHAINS * level.run(Lanes) * each * threads) as f64 / seconds / 1e9
    };
    Limits {
        read: read(level, threads),
        f32: rate(Kind::F32, 2),
        bf16: dots.then(|| rate(Kind::Bf16, 4)),
        int8: dots.then(|| rate(Kind::Int8, 8)),
    }
}

/// Whether the set has instructions for dot products of bf16 and of bytes.
fn has_dots(level: Level) -> bool {
    level.name() == "avx512"
}

#[derive(Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    Int8,
}

/// Seconds of the fastest run: what else the machine does must not look like a limit.
fn chains(level: Level, threads: usize, kind: Kind) -> f64 {
    let work = |(): &mut ()| level.run(Chains { kind, links: black_box(LINKS) });
    together(vec![(); threads], |()| (), work).into_iter().fold(f64::INFINITY, f64::min)
}

/// GB/s of the run in the middle.
fn read(level: Level, threads: usize) -> Option<f64> {
    let each = BYTES / threads / size_of::<f32>() / 1024 * 1024 * size_of::<f32>();
    let mut parts = Vec::new();
    for _ in 0..threads {
        let part = MmapMut::map_anon(each).ok()?;
        #[cfg(target_os = "linux")]
        let _ = part.advise(memmap2::Advice::HugePage); // small pages are as right, and slower
        parts.push(part);
    }
    // Not zero, so that no page of zeros is shared; by the thread that reads it.
    let mut times = together(parts, |part| part.fill(1), |part| level.run(Sum { bytes: part }));
    times.sort_by(f64::total_cmp);
    Some((each * threads) as f64 / times[times.len() / 2] / 1e9)
}

/// Runs `work` RUNS times on each of `parts`, each on a thread of its own, all at once: seconds of all runs but the first, from
/// the first thread's start to the last one's end.
fn together<T: Send>(parts: Vec<T>, begin: impl Fn(&mut T) + Sync, work: impl Fn(&mut T) + Sync) -> Vec<f64> {
    let barrier = Barrier::new(parts.len());
    let run = |mut part: T| {
        begin(&mut part);
        let time = |_| {
            barrier.wait();
            let start = Instant::now();
            work(&mut part);
            (start, Instant::now())
        };
        (0..RUNS).map(time).collect::<Vec<_>>()
    };
    let times: Vec<Vec<(Instant, Instant)>> = thread::scope(|scope| {
        let started: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| run(part))).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let span = |index: usize| {
        let start = times.iter().map(|times| times[index].0).min()?;
        let end = times.iter().map(|times| times[index].1).max()?;
        Some((end - start).as_secs_f64())
    };
    (1..RUNS).filter_map(span).collect()
}

struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Isa>(self, _: S) -> usize {
        S::LANES
    }
}

struct Chains {
    kind: Kind,
    links: usize,
}

impl Kernel for Chains {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        // Unknown to the compiler: chains that begin alike would be one.
        let starts = black_box([0i32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        match self.kind {
            Kind::F32 => {
                let (x, y) = (isa.splat(black_box(0.999_999)), isa.splat(black_box(1e-6)));
                let mut sums = starts.map(|start| isa.splat(start as f32));
                for _ in 0..self.links {
                    for sum in &mut sums {
                        *sum = isa.mul_add(*sum, x, y);
                    }
                }
                black_box(sums.map(|sum| isa.sum(sum)));
            }
            Kind::Bf16 => {
                // Pairs of 2⁻⁷.
                let (x, y) = (isa.splat_i(black_box(0x3c00_3c00)), isa.splat_i(black_box(0x3c00_3c00)));
                let mut sums = starts.map(|start| isa.splat(start as f32));
                for _ in 0..self.links {
                    for sum in &mut sums {
                        *sum = isa.dot_bf16(*sum, x, y);
                    }
                }
                black_box(sums.map(|sum| isa.sum(sum)));
            }
            Kind::Int8 => {
                let (x, y) = (isa.splat_i(black_box(0x0101_0101)), isa.splat_i(black_box(0x0101_0101)));
                let mut sums = starts.map(|start| isa.splat_i(start));
                for _ in 0..self.links {
                    for sum in &mut sums {
                        *sum = isa.dot_u8_i8(*sum, x, y);
                    }
                }
                black_box(sums.map(|sum| isa.sum(isa.to_f(sum))));
            }
        }
    }
}

struct Sum<'a> {
    bytes: &'a [u8],
}

impl Kernel for Sum<'_> {
    type Output = ();

    /// Sums what lies there as singles, in eight chains.
    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        const CHAINS: usize = 8;
        let mut sums = [isa.zero(); CHAINS];
        for chunk in self.bytes.chunks_exact(CHAINS * S::LANES * size_of::<f32>()) {
            for (chain, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk has CHAINS registers of four-byte lanes; any bits are a float, at any alignment.
                *sum = isa.add(*sum, unsafe { isa.load(chunk.as_ptr().cast::<f32>().add(chain * S::LANES)) });
            }
        }
        black_box(sums.map(|sum| isa.sum(sum)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_limits() {
        for level in Level::available() {
            let kinds = [Kind::F32, Kind::Bf16, Kind::Int8];
            for kind in kinds.into_iter().take(if has_dots(level) { 3 } else { 1 }) {
                let seconds = chains(level, 2, kind);
                assert!(seconds > 0.0 && seconds.is_finite(), "{level:?}: {seconds}");
            }
        }
    }
}
