//! A persistent team of threads: hands a job over in well under a microsecond.
//!
//! A decoding step asks for some two hundred short parallel jobs a token. Waking a sleeping thread costs five to fifty
//! microseconds each time, so a worker spins for [`SPIN`] after a job, in which the next one usually comes, and parks then. A
//! job is a number of tasks that are claimed one at a time: whoever is late or held up claims fewer, and a worker that does
//! not come at all is not waited for. Where the machine has other work to do (a spinning worker notices that it was not run
//! for a while) workers park at once for the next [`CALM`] jobs.
//!
//! Which thread runs a task never shows in a result: tasks write to places of their own.

use std::{
    cell::UnsafeCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a worker waits for the next job before it parks.
const SPIN: Duration = Duration::from_micros(50);
/// A spinning worker that sees no time for so long was not run.
const HELD_UP: Duration = Duration::from_micros(30);
/// Jobs for which a worker that was held up parks at once.
const CALM: u32 = 64;
/// Tasks a thread, where a job can be cut as one likes.
const TASKS_PER_THREAD: usize = 4;

/// Set in [`Shared::state`] while a job can be joined.
const OPEN: u64 = 1 << 31;
/// Below [`OPEN`]: workers in the job. Above: the job's number.
const EPOCH: u32 = 32;

/// The team. One job runs at a time; whoever asks while one runs, from within it too, does its tasks alone.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

struct Shared {
    /// Number of the job, whether it is open, and how many workers are in it.
    state: AtomicU64,
    /// What the open job is; set before it opens, and untouched while any worker is in it.
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    busy: AtomicBool,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
}

#[derive(Clone, Copy)]
struct Job {
    /// Its lifetime is that of the call that waits for all workers.
    run: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is written by the one caller that holds `busy`, while no worker is in a job (state is closed and counts
// none), and read by workers that joined after it was opened.
unsafe impl Sync for Shared {}
// SAFETY: a job's pointer is used only while the call that made it waits.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `threads`, the calling one among them.
    pub(crate) fn new(threads: usize) -> Self {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            // Where no thread can be had, the others do the work.
            thread::Builder::new().name(format!("consort-{index}")).spawn(move || shared.work(index)).ok()
        };
        let workers = (0..workers).filter_map(start).map(|handle| (handle.thread().clone(), Some(handle))).collect();
        Self { shared, workers }
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run(0)`, …, `run(tasks − 1)`, in any order and in parallel.
    pub(crate) fn each(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        if tasks <= 1 || self.workers.is_empty() || shared.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(run);
            return;
        }
        let job: *const (dyn Fn(usize) + Sync + '_) = &run;
        // SAFETY: only the lifetime changes; `Closing` waits for everyone who could use it before `run` is dropped.
        let job =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(job) };
        // SAFETY: `busy` is ours and no worker is in a job.
        unsafe { *shared.job.get() = Some(Job { run: job, tasks }) };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = (shared.state.load(Ordering::Relaxed) >> EPOCH).wrapping_add(1);
        shared.state.store(epoch << EPOCH | OPEN, Ordering::SeqCst);
        let closing = Closing(shared);
        for ((worker, _), sleeping) in self.workers.iter().zip(&shared.sleeping) {
            if sleeping.load(Ordering::SeqCst) && sleeping.swap(false, Ordering::SeqCst) {
                worker.unpark();
            }
        }
        shared.claim(Job { run: job, tasks });
        drop(closing);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of a parallel job panicked");
    }

    /// `run` over ranges of `items`, each of at least `grain` but the last.
    pub(crate) fn ranges(&self, items: usize, grain: usize, run: impl Fn(Range<usize>) + Sync) {
        let most = (self.threads() * TASKS_PER_THREAD).min(items / grain.max(1)).max(1);
        let each = items.div_ceil(most);
        self.each(if items == 0 { 0 } else { items.div_ceil(each) }, |task| {
            run(task * each..((task + 1) * each).min(items));
        });
    }

    /// `run(first row, rows)` over parts of `out`, rows of `width`, each of at least `grain` rows but the last.
    pub(crate) fn rows<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        grain: usize,
        run: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let rows = out.len() / width.max(1);
        let out = Parts::new(out);
        self.ranges(rows, grain, |range| {
            // SAFETY: ranges of different tasks do not meet.
            run(range.start, unsafe { out.part(range.start * width..range.end * width) });
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (worker, handle) in &mut self.workers {
            worker.unpark();
            if let Some(handle) = handle.take() {
                // A worker catches its tasks' panics.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// Does tasks until none is left.
    fn claim(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the call that made the job waits for everyone in it.
            unsafe { (*job.run)(task) };
        }
    }

    fn work(&self, index: usize) {
        let mut done = 0;
        let mut calm = 0;
        while let Some(epoch) = self.join(index, done, &mut calm) {
            done = epoch;
            // SAFETY: this worker is counted in an open job, whose caller does not touch it until it is left.
            if let Some(job) = unsafe { *self.job.get() }
                && catch_unwind(AssertUnwindSafe(|| self.claim(job))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job after `done` and enters it: its number. `None` when the team ends.
    fn join(&self, index: usize, done: u64, calm: &mut u32) -> Option<u64> {
        loop {
            self.wait(index, done, calm);
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let state = self.state.load(Ordering::Relaxed);
            let new = state & OPEN != 0 && state >> EPOCH != done;
            if new && self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(state >> EPOCH);
            }
        }
    }

    /// Until there may be a job after `done`, or the end.
    fn wait(&self, index: usize, done: u64, calm: &mut u32) {
        let ready = |order| {
            let state = self.state.load(order);
            state & OPEN != 0 && state >> EPOCH != done || self.stop.load(order)
        };
        if *calm > 0 {
            *calm -= 1;
        } else {
            let start = Instant::now();
            let mut last = start;
            while last - start < SPIN {
                for _ in 0..16 {
                    if ready(Ordering::Relaxed) {
                        return;
                    }
                    std::hint::spin_loop();
                }
                let now = Instant::now();
                if now - last > HELD_UP {
                    *calm = CALM;
                    break;
                }
                last = now;
            }
        }
        let sleeping = &self.sleeping[index];
        sleeping.store(true, Ordering::SeqCst);
        while sleeping.load(Ordering::SeqCst) && !ready(Ordering::SeqCst) {
            thread::park();
        }
        sleeping.store(false, Ordering::SeqCst);
    }
}

/// Ends a job, by a panic too: nobody may join any more, and whoever is in it is waited for.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        // What is unclaimed after a panic stays undone.
        shared.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
        let mut state = shared.state.fetch_and(!OPEN, Ordering::Acquire);
        let start = Instant::now();
        while state & (OPEN - 1) != 0 {
            if start.elapsed() < SPIN {
                std::hint::spin_loop()
            } else {
                thread::yield_now()
            }
            state = shared.state.load(Ordering::Acquire);
        }
        shared.busy.store(false, Ordering::Release);
    }
}

/// A slice that tasks write to in parts that do not meet.
pub(crate) struct Parts<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: parts are handed out as exclusive slices, by the promise that those who call `part` give.
unsafe impl<T: Send> Sync for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<T> {}

impl<T> Parts<T> {
    /// Of `whole`, which must not be used while parts are.
    pub(crate) fn new(whole: &mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), length: whole.len() }
    }

    /// A part.
    ///
    /// # Safety
    /// Parts that are in use at the same time must not meet, and the slice must outlive them.
    ///
    /// # Panics
    /// When the range is not inside.
    #[allow(clippy::mut_from_ref, reason = "that is what it is for")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {}", self.length);
        // SAFETY: inside the slice; exclusive by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..50 {
                    team.each(tasks, |task| _ = runs[task].fetch_add(1, Ordering::Relaxed));
                    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == round), "{threads} {tasks} {round}");
                }
            }
        }
    }

    #[test]
    fn jobs_in_jobs_and_beside_jobs_end() {
        let team = Team::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        team.each(4, |_| team.each(4, |_| _ = sum.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4 * 200 * 16);
    }

    #[test]
    fn parked_workers_come_back() {
        let team = Team::new(2);
        for _ in 0..5 {
            thread::sleep(SPIN * 4);
            let ids = std::sync::Mutex::new(std::collections::BTreeSet::new());
            let start = Instant::now();
            // Tasks long enough for a thread to wake up; whether it does is not promised, that all are done is.
            team.each(8, |task| {
                while start.elapsed() < Duration::from_millis(1) * task as u32 / 4 {}
                ids.lock().unwrap().insert(task);
            });
            assert_eq!(ids.into_inner().unwrap().len(), 8);
        }
    }

    #[test]
    fn a_panic_comes_out_and_leaves_the_team_whole() {
        let team = Team::new(2);
        for bad in 0..4 {
            let run = || team.each(4, |task| assert_ne!(task, bad));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            let sum = AtomicUsize::new(0);
            team.each(10, |task| _ = sum.fetch_add(task, Ordering::Relaxed));
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn ranges_and_rows_cover_all() {
        let team = Team::new(3);
        for items in [0, 1, 5, 12, 13, 100] {
            for grain in [1, 4, 1000] {
                let mut seen = vec![0; items * 3];
                team.rows(&mut seen, 3, grain, |first, rows| {
                    rows.iter_mut().enumerate().for_each(|(index, seen)| *seen += first * 3 + index + 1);
                });
                assert!(seen.iter().enumerate().all(|(index, &seen)| seen == index + 1));
            }
        }
    }

    /// What a job costs here and in rayon: `cargo test --release -p consort-simd --lib hand_over -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn hand_over() {
        const JOBS: u32 = 10_000;
        let team = Team::new(2);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let touched = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let touch = |task: usize| _ = touched[task].fetch_add(1, Ordering::Relaxed);
        let median = |run: &dyn Fn()| {
            let mut times: Vec<Duration> = (0..21)
                .map(|_| {
                    let start = Instant::now();
                    (0..JOBS).for_each(|_| run());
                    start.elapsed() / JOBS
                })
                .collect();
            times.sort();
            times[10]
        };
        let of_team = median(&|| team.each(2, touch));
        let of_rayon = median(&|| _ = pool.install(|| rayon::join(|| touch(0), || touch(1))));
        println!("two tasks: {of_team:?} by the team, {of_rayon:?} by rayon");
        assert!(touched.iter().all(|touched| touched.load(Ordering::Relaxed) > 0));
    }
}
