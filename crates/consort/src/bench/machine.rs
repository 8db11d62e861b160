//! What the operating system knows: memory of this process, processor time of the others. From Linux's /proc; elsewhere
//! nothing is known, and nothing is claimed.

use std::{fs, time::Instant};

/// Ticks a second in /proc, the same on every Linux.
const TICKS: f64 = 100.0;

/// Watches what other processes use of the machine.
#[derive(Debug)]
pub struct Noise {
    start: Instant,
    others: Option<f64>,
}

impl Noise {
    /// From now on.
    pub fn watch() -> Self {
        Self { start: Instant::now(), others: others() }
    }

    /// Processors that others kept busy since, in the mean; `None` where that is not known. Its step is a tick of 10 ms.
    pub fn processors(&self) -> Option<f64> {
        let wall = self.start.elapsed().as_secs_f64();
        let used = others()? - self.others?;
        (wall > 0.0).then(|| used.max(0.0) / wall)
    }
}

/// Most resident memory of this process in bytes, since its start or the last [`reset_peak_memory`].
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Lets [`peak_memory`] begin again at what is resident now; whether that could be done.
pub fn reset_peak_memory() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Processor seconds of everything but this process, since the machine's start.
fn others() -> Option<f64> {
    let all = busy(&fs::read_to_string("/proc/stat").ok()?)?;
    let own = own(&fs::read_to_string("/proc/self/stat").ok()?)?;
    Some((all - own) / TICKS)
}

/// Ticks of user, nice, system, irq and softirq of the first line of /proc/stat.
fn busy(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat.lines().next()?.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().map(|field| fields.get(field)).sum()
}

/// Ticks of user and system of /proc/self/stat, whose second field may hold spaces and brackets.
fn own(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        assert_eq!(busy("cpu  10 20 30 4000 50 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"), Some(73.0));
        assert_eq!(busy("cpu  10"), None);
        assert_eq!(own("7 (a (b) c) R 1 7 7 0 -1 4 5 0 0 0 250 40 0 0 20 0 3"), Some(290.0));
        assert_eq!(own("7 (a) R 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_is_seen_and_forgotten() {
        const SIZE: usize = 96 << 20;
        let before = peak_memory().unwrap();
        assert!(before > 0);
        let block = std::hint::black_box(vec![1u8; SIZE]);
        let with = peak_memory().unwrap();
        assert!(with >= SIZE as u64, "{with}");
        drop(block);
        if reset_peak_memory() {
            let after = peak_memory().unwrap();
            assert!(after + (SIZE as u64 / 2) < with, "{with}, then {after}");
        }
    }
}
