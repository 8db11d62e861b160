//! Calls timed in blocks, and blocks watched.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::machine::Noise;

/// A block is clean when others kept fewer processors than this busy during it.
const QUIET: f64 = 0.10;
/// How long the machine is looked at before a block, where there is patience.
const LOOK: Duration = Duration::from_millis(250);

/// How a call is timed.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Clean blocks that are wanted.
    pub wanted: usize,
    /// Least time of a block: a short call is repeated within it. Below 0.4 s the watch on other processes is coarse.
    pub least: Duration,
    /// How long to wait for a quiet machine, all blocks together. Without patience nothing is repeated, only told.
    pub patience: Duration,
}

/// What was timed.
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// Seconds of each call of the clean blocks; of all blocks where fewer than three and fewer than wanted were clean.
    pub seconds: Vec<f64>,
    /// Whether only clean blocks are in it. False where it is not known what others did.
    pub clean: bool,
    /// Blocks that were thrown away.
    pub discarded: usize,
    /// Processors that others kept busy, in the worst block that counts.
    pub others: Option<f64>,
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

struct Block {
    seconds: Vec<f64>,
    others: Option<f64>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { wanted: 5, least: Duration::from_millis(400), patience: Duration::ZERO }
    }
}

impl Blocks {
    /// Times `call`, which returns the seconds that count. Whoever calls has warmed it up.
    ///
    /// # Errors
    /// The first that `call` gives.
    pub fn time<E>(&self, mut call: impl FnMut() -> Result<f64, E>) -> Result<Timed, E> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + self.patience;
        while good.len() < self.wanted {
            let waited = self.wait(deadline);
            let block = self.block(&mut call)?;
            match block.others.is_some_and(|others| others <= QUIET) {
                true => good.push(block),
                false => bad.push(block),
            }
            // Without patience, or once it is over, what is there has to do; and no machine is tried for ever.
            if !waited && good.len() + bad.len() >= self.wanted || bad.len() >= 3 * self.wanted {
                break;
            }
        }
        let clean = good.len() >= self.wanted.min(3);
        let discarded = if clean { bad.len() } else { 0 };
        if !clean {
            good.append(&mut bad);
        }
        let others = good.iter().map(|block| block.others).collect::<Option<Vec<f64>>>();
        Ok(Timed {
            others: others.map(|all| all.into_iter().fold(0.0, f64::max)),
            seconds: good.into_iter().flat_map(|block| block.seconds).collect(),
            clean,
            discarded,
        })
    }

    /// Waits for a quiet machine; whether there is patience left.
    fn wait(&self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            let noise = Noise::watch();
            thread::sleep(LOOK);
            if noise.processors().is_none_or(|others| others <= QUIET) {
                return true;
            }
        }
        false
    }

    fn block<E>(&self, call: &mut impl FnMut() -> Result<f64, E>) -> Result<Block, E> {
        let (noise, start) = (Noise::watch(), Instant::now());
        let mut seconds = vec![call()?];
        while start.elapsed() < self.least {
            seconds.push(call()?);
        }
        Ok(Block { seconds, others: noise.processors() })
    }
}

impl Spread {
    /// That of `values`; `None` without any.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len().is_multiple_of(2) {
            true => (values[middle - 1] + values[middle]) / 2.0,
            false => values[middle],
        };
        Some(Self { median, min, max })
    }
}

impl Timed {
    /// `work` a second: of the median call, the slowest and the fastest.
    pub fn rate(&self, work: f64) -> Option<Spread> {
        Spread::of(self.seconds.iter().map(|seconds| work / seconds).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some() {
        let spread = |values: &[f64]| Spread::of(values.to_vec()).map(|Spread { median, min, max }| [median, min, max]);
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some([3.0; 3]));
        assert_eq!(spread(&[4.0, 1.0, 2.0]), Some([2.0, 1.0, 4.0]));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some([2.5, 1.0, 4.0]));
    }

    #[test]
    fn short_calls_fill_a_block_and_errors_end_it() {
        let blocks = Blocks { wanted: 3, least: Duration::from_millis(2), patience: Duration::ZERO };
        let mut calls = 0;
        let timed = blocks
            .time(|| {
                calls += 1;
                Ok::<f64, ()>(0.5)
            })
            .unwrap();
        // Noisy blocks count where there is no patience, so that a busy machine measures something.
        assert_eq!(timed.seconds, vec![0.5; calls]);
        assert!(calls > 3, "{calls}");
        assert_eq!(timed.rate(2.0), Some(Spread { median: 4.0, min: 4.0, max: 4.0 }));
        assert_eq!(timed.discarded, 0);
        assert_eq!(blocks.time(|| Err::<f64, _>("no")).unwrap_err(), "no");
    }
}
