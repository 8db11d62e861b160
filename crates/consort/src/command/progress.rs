//! Progress of long work: on a terminal only, and only once it takes a while.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

/// A line that is written over.
pub(super) struct Progress {
    what: &'static str,
    start: Instant,
    last: Option<Instant>,
    terminal: bool,
    unfinished: bool,
}

impl Progress {
    /// `what` is being done.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, start: Instant::now(), last: None, terminal: stderr().is_terminal(), unfinished: false }
    }

    /// `done` of `all`, in `unit`s.
    pub(super) fn tell(&mut self, done: u64, all: u64, unit: &str) {
        // What is over at once should not flicker.
        if !self.terminal || self.start.elapsed() < Duration::from_millis(500) {
            return;
        }
        let end = done >= all;
        if !end && self.last.is_some_and(|last| last.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.last = Some(Instant::now());
        self.unfinished = !end;
        let _ = write!(stderr(), "\r{} {done}/{all}{unit} {}", self.what, if end { "\n" } else { "" });
    }

    /// Bytes, in MiB.
    pub(super) fn bytes(&mut self, done: u64, all: u64) {
        self.tell(done.div_ceil(1 << 20), all.div_ceil(1 << 20), " MiB");
    }
}

impl Drop for Progress {
    /// What follows begins on a line of its own.
    fn drop(&mut self) {
        if self.unfinished {
            let _ = writeln!(stderr());
        }
    }
}
