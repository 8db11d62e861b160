//! One line on a terminal that says how far a comparison is; nothing anywhere else.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::work::Job;
use crate::report::{clock, what};

/// How often the line is written anew.
const OFTEN: Duration = Duration::from_millis(80);

pub(crate) struct Progress {
    shown: bool,
    start: Instant,
    last: Option<Instant>,
    done: usize,
    all: usize,
    at: String,
}

impl Progress {
    pub(crate) fn new(all: usize) -> Self {
        Self { shown: io::stderr().is_terminal(), start: Instant::now(), last: None, done: 0, all, at: String::new() }
    }

    /// What is under way: a backend's name and a job.
    pub(crate) fn at(&mut self, job: Option<(&str, &Job)>) {
        if self.shown
            && let Some((backend, job)) = job
        {
            self.at = format!("{backend}  {}", what(&job.op, job.direction));
        }
    }

    pub(crate) fn step(&mut self, steps: usize) {
        self.done += steps;
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < OFTEN) {
            return;
        }
        self.last = Some(Instant::now());
        let passed = self.start.elapsed();
        let left = passed.mul_f64(self.all.saturating_sub(self.done) as f64 / self.done.max(1) as f64);
        let mut line = format!("{}/{}  {}", self.done, self.all, self.at);
        if passed > Duration::from_secs(1) {
            line.push_str(&format!("  {} left", clock(left)));
        }
        // A line that cannot be written is no reason to stop comparing.
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
