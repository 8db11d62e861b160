//! Whether the oracle fits this machine: eight bytes a number of the model, and what a pass needs besides.

use std::fs;

use consort_core::TransformerConfig;

use crate::error::Error;

/// A model with its pass needs this share more than its weights: tables of positions, logits, and the copies of one
/// operation.
const BESIDES: f64 = 0.25;

/// Bytes that the weights of the oracle take.
pub fn oracle_bytes(config: &TransformerConfig) -> u64 {
    let numbers = |shape: [usize; 2]| (shape[0] as u64).saturating_mul(shape[1] as u64);
    config.slots().iter().fold(0, |sum: u64, slot| sum.saturating_add(numbers(slot.shape).saturating_mul(8)))
}

/// Refuses a model whose oracle does not fit into what is free.
///
/// # Errors
/// [`Error::TooLarge`]; never where the system does not tell what is free.
pub fn fits(config: &TransformerConfig) -> Result<(), Error> {
    within(oracle_bytes(config), available())
}

fn within(weights: u64, free: Option<u64>) -> Result<(), Error> {
    let needed = weights.saturating_add((weights as f64 * BESIDES) as u64);
    match free {
        Some(free) if needed > free => Err(Error::TooLarge { needed, free }),
        _ => Ok(()),
    }
}

/// Bytes that can be had without swapping: what Linux says, less what a control group forbids.
fn available() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|most| most.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_in_one_line() {
        assert!(within(1 << 30, Some(2 << 30)).is_ok());
        assert!(within(u64::MAX, None).is_ok());
        let error = within(8 << 30, Some(9 << 30)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "too large for the oracle here: it needs about 10.0 GiB (8 bytes a number), 9.0 GiB are free"
        );
    }
}
