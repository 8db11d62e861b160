//! Runs a list of jobs on backends, each backend in processes of its own, and gives back what every job came to.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use consort_core::{Policy, WeightDType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    isolate::{self, Child, Lost},
    report::{Case, Column, Direction, Finding, Outcome, Source},
    sweep,
};

/// Longest time that opening a backend may take.
const OPENING: Duration = Duration::from_secs(120);
/// Longest time that a process may take to end after its last case.
const CLOSING: Duration = Duration::from_secs(20);
/// How long it may be quiet.
const TICK: Duration = Duration::from_millis(250);
/// How many draws that end the process are made smaller.
const SHRINKS_OF_CRASHES: usize = 12;
/// How many cases of an operation may time out until its others are left out.
const MOST_LATE: usize = 5;

/// What a process is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) backend: String,
    pub(crate) threads: Option<usize>,
    pub(crate) fallback: Option<String>,
}

impl Settings {
    pub(crate) fn policy(&self) -> Policy {
        match self.fallback.as_deref() {
            Some("warn") => Policy::Warn,
            Some("deny") => Policy::Deny,
            _ => Policy::Allow,
        }
    }
}

/// Something to do on one column's backend.
pub(crate) struct Job {
    pub(crate) column: usize,
    pub(crate) op: String,
    pub(crate) direction: Direction,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    /// A case by its recipe or its folder.
    Case(Source, Value),
    /// So many draws, until one fails.
    Draws(u32),
    /// A whole model: the request, and how long each of its steps may take.
    Model(Value, Duration),
}

impl Work {
    /// How many steps of progress it is.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Draws(count) => *count as usize,
            Self::Case(..) | Self::Model(..) => 1,
        }
    }
}

/// How jobs are run.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) limit: Duration,
    pub(crate) processes: usize,
    /// Whether what backends print themselves is shown.
    pub(crate) echo: bool,
}

/// What a job tells while it runs.
pub(crate) enum News {
    /// A case came to its end.
    Case(Box<Case>),
    /// An event of a whole model.
    Model(Value),
    /// This many steps are done without a result of their own.
    Steps(usize),
}

/// Columns as workers see them.
struct Shared<'a> {
    settings: &'a [Settings],
    columns: Mutex<&'a mut [Column]>,
    terms: &'a Terms,
    /// How many cases of an operation have timed out, by column.
    late: Mutex<BTreeMap<(usize, String, Direction), usize>>,
}

impl<'a> Shared<'a> {
    fn new(settings: &'a [Settings], columns: &'a mut [Column], terms: &'a Terms) -> Self {
        Self { settings, columns: Mutex::new(columns), terms, late: Mutex::new(BTreeMap::new()) }
    }

    /// The cases of the job's operation that have timed out so far, `more` included.
    fn late(&self, job: &Job, more: usize) -> usize {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let count = late.entry((job.column, job.op.clone(), job.direction)).or_default();
        *count += more;
        *count
    }

    fn columns(&self) -> MutexGuard<'_, &'a mut [Column]> {
        self.columns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, column: usize, change: impl FnOnce(&mut Column)) {
        if let Some(column) = self.columns().get_mut(column) {
            change(column);
        }
    }

    fn gone(&self, column: usize) -> bool {
        self.columns().get(column).is_none_or(|column| column.unavailable.is_some())
    }
}

/// Runs all jobs; `hear` is told what they come to, with the index of the job.
pub(crate) fn run(
    settings: &[Settings],
    columns: &mut [Column],
    jobs: &[Job],
    terms: &Terms,
    mut hear: impl FnMut(usize, News),
) {
    let shared = Shared::new(settings, columns, terms);
    let next = AtomicUsize::new(0);
    let (to, news) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..terms.processes.clamp(1, jobs.len().max(1)) {
            let (to, shared, next) = (to.clone(), &shared, &next);
            scope.spawn(move || {
                let mut worker = Worker { shared, to, child: None, job: 0, last: None };
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    if isolate::interrupted() {
                        break;
                    }
                    worker.job = at;
                    worker.tell(News::Steps(0));
                    worker.work(job);
                }
                worker.close();
            });
        }
        drop(to);
        // Without news the last is told again, so that a line of progress shows what takes its time.
        let mut last = 0;
        loop {
            match news.recv_timeout(TICK) {
                Ok((job, news)) => {
                    last = job;
                    hear(job, news);
                }
                Err(RecvTimeoutError::Timeout) => hear(last, News::Steps(0)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
}

/// Opens every column's backend and lets it go again: whether it works here.
pub(crate) fn open(settings: &[Settings], columns: &mut [Column], terms: &Terms) {
    let shared = Shared::new(settings, columns, terms);
    let (to, _) = mpsc::channel();
    let mut worker = Worker { shared: &shared, to, child: None, job: 0, last: None };
    for column in 0..settings.len() {
        // What comes of it is in the column.
        let _ = worker.open(column);
        worker.close();
    }
}

/// One thread with at most one process.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    to: Sender<(usize, News)>,
    child: Option<(usize, Child)>,
    job: usize,
    /// The last case that this process has answered.
    last: Option<String>,
}

impl Worker<'_> {
    fn tell(&self, news: News) {
        // Who listens does so until all workers have ended.
        let _ = self.to.send((self.job, news));
    }

    fn work(&mut self, job: &Job) {
        match &job.work {
            _ if self.shared.gone(job.column) => self.tell(News::Steps(job.work.steps())),
            Work::Case(source, case) => {
                if let Some(case) = self.case(job, *source, case) {
                    self.tell(News::Case(Box::new(case)));
                }
            }
            Work::Draws(count) => self.draws(job, *count),
            Work::Model(request, limit) => self.model(job, request, *limit),
        }
    }

    /// A case's end; `None` where the backend is not there, or after Ctrl-C.
    fn case(&mut self, job: &Job, source: Source, case: &Value) -> Option<Case> {
        if self.shared.late(job, 0) >= MOST_LATE {
            let reason = format!("not run, for {MOST_LATE} cases of this operation had timed out");
            return Some(Case { reason: Some(reason), ..Case::new(job, source, case, Outcome::Skipped) });
        }
        let request = json!({"source": source, "case": case});
        let mut answer = None;
        let lost = match self.ask(job.column, &request, self.shared.terms.limit, |value| answer = Some(value)) {
            Ok(()) => match answer.map(serde_json::from_value::<Case>) {
                Some(Ok(found)) => {
                    self.last = Some(case.to_string());
                    return Some(Case { column: job.column, source, ..found });
                }
                Some(Err(error)) => ("error", format!("its answer is not understood: {error}")),
                None => ("error", "its process gave no answer".to_owned()),
            },
            Err(Some(Lost::Crashed(how))) => ("CRASHED", how),
            Err(Some(Lost::TimedOut(limit))) => {
                self.shared.late(job, 1);
                ("TIMED OUT", format!("no answer within {} s (--limit)", limit.as_secs_f64()))
            }
            Err(Some(Lost::Before(_) | Lost::Interrupted) | None) => return None,
        };
        let (check, message) = (lost.0.to_owned(), lost.1);
        let findings = vec![Finding { check, message, worst: None }];
        Some(Case { findings, ..Case::new(job, source, case, Outcome::Failed) })
    }

    fn draws(&mut self, job: &Job, count: u32) {
        let (mut done, mut crashes) = (0, 0);
        let mut failing: Option<Case> = None;
        sweep::proptest(&job.op, job.direction == Direction::Backward, count, &mut |recipe| {
            // Each crash costs a process, and each hang the limit.
            if isolate::interrupted() || crashes > SHRINKS_OF_CRASHES {
                return Ok(());
            }
            let Ok(case) = serde_json::to_value(recipe) else { return Ok(()) };
            let Some(found) = self.case(job, Source::Draw, &case) else { return Ok(()) };
            if found.outcome != Outcome::Failed {
                if failing.is_none() {
                    done += 1;
                    self.tell(News::Case(Box::new(found)));
                }
                return Ok(());
            }
            crashes += usize::from(found.checks.is_empty());
            failing = Some(found);
            Err(String::new())
        });
        if let Some(failing) = failing {
            done += 1;
            self.tell(News::Case(Box::new(failing)));
        }
        self.tell(News::Steps((count as usize).saturating_sub(done)));
    }

    /// A model with its weights kept as one type after the other, then trained. What ends the process is told, and a new one
    /// goes on behind it.
    fn model(&mut self, job: &Job, request: &Value, limit: Duration) {
        let column = job.column;
        let backend = self.shared.settings.get(column).map(|own| own.backend.clone());
        let mut request = request.clone();
        loop {
            let mut dtypes = request["dtypes"].as_array().cloned().unwrap_or_default();
            let (to, at) = (self.to.clone(), self.job);
            let mut done = 0;
            let result = self.ask(column, &request, limit, |mut event| {
                done += usize::from(event["event"] != "training");
                event["column"] = json!(column);
                let _ = to.send((at, News::Model(event)));
            });
            let error = match result {
                Err(Some(Lost::Crashed(how))) => format!("CRASHED: {how}"),
                Err(Some(Lost::TimedOut(limit))) => format!("TIMED OUT: nothing within {} s", limit.as_secs_f64()),
                Ok(()) | Err(_) => break,
            };
            let (dtype, what) = match dtypes.get(done) {
                Some(dtype) => (dtype.clone(), error),
                None => (json!(WeightDType::F32), format!("training: {error}")),
            };
            self.tell(News::Model(json!({
                "event": "error", "backend": backend, "column": column, "model": job.op, "directory": request["model"],
                "weight_dtype": dtype, "compute": request["compute"], "agrees": false, "error": what,
            })));
            if done >= dtypes.len() {
                break;
            }
            dtypes.drain(..=done);
            request["dtypes"] = Value::Array(dtypes);
        }
        self.tell(News::Steps(1));
    }

    /// Asks the column's process, a new one where there is none; `Err(None)` where the backend does not open.
    fn ask(
        &mut self,
        column: usize,
        request: &Value,
        limit: Duration,
        mut take: impl FnMut(Value),
    ) -> Result<(), Option<Lost>> {
        if self.child.as_ref().is_some_and(|(own, _)| *own != column) {
            self.close();
        }
        let again = self.child.is_some();
        let result = self.open(column)?.ask(request, limit, &mut take);
        match result {
            Ok(()) => Ok(()),
            Err(Lost::Before(how)) if again => {
                // Whatever ended it was still under way after the case before.
                let last = self.last.take().unwrap_or_default();
                self.child = None;
                self.shared
                    .change(column, |column| column.troubles.push(format!("its process {how}, after the case {last}")));
                self.ask(column, request, limit, take)
            }
            Err(lost) => {
                self.child = None;
                let lost = if let Lost::Before(how) = lost { Lost::Crashed(how) } else { lost };
                Err(Some(lost))
            }
        }
    }

    fn open(&mut self, column: usize) -> Result<&mut Child, Option<Lost>> {
        if self.child.is_none() {
            let settings = self.shared.settings.get(column).ok_or(None)?;
            let text = serde_json::to_string(settings).map_err(|_| None)?;
            let mut opened = Value::Null;
            let started = Child::start(&text, self.shared.terms.echo)
                .map_err(|error| Lost::Crashed(format!("cannot be started: {error}")))
                .and_then(|mut child| {
                    child.ask(&json!({"open": true}), OPENING, |value| opened = value)?;
                    Ok(child)
                });
            let (reason, trouble) = match started {
                Ok(child) => match serde_json::from_value::<Opened>(opened) {
                    Ok(Opened::Open { title, float, profile }) => {
                        self.shared.change(column, |column| {
                            (column.title, column.float, column.profile) = (title, float, profile);
                        });
                        self.child = Some((column, child));
                        self.last = None;
                        return self.child.as_mut().map(|(_, child)| child).ok_or(None);
                    }
                    Ok(Opened::Unavailable(reason)) => {
                        let before = self.shared.columns().get(column).is_some_and(|column| !column.title.is_empty());
                        let trouble =
                            before.then(|| format!("it does not open again, so that cases are missing: {reason}"));
                        (reason, trouble)
                    }
                    Err(error) => (error.to_string(), Some(format!("its process answers wrongly: {error}"))),
                },
                Err(Lost::Interrupted) => return Err(Some(Lost::Interrupted)),
                Err(Lost::Crashed(how) | Lost::Before(how)) => {
                    (how.clone(), Some(format!("opening it CRASHED: {how}")))
                }
                Err(Lost::TimedOut(limit)) => {
                    let how = format!("opening it TIMED OUT after {} s", limit.as_secs());
                    (how.clone(), Some(how))
                }
            };
            self.shared.change(column, |column| {
                // More than one process may find the same.
                if column.unavailable.is_none() {
                    column.unavailable = Some(reason);
                    column.troubles.extend(trouble);
                }
            });
            return Err(None);
        }
        self.child.as_mut().map(|(_, child)| child).ok_or(None)
    }

    /// Lets the process end, and hears its warnings.
    fn close(&mut self) {
        let Some((column, mut child)) = self.child.take() else { return };
        let mut warnings: Vec<String> = Vec::new();
        let asked = child.ask(&json!({"close": true}), CLOSING, |value| {
            warnings.extend(serde_json::from_value::<Vec<String>>(value).unwrap_or_default());
        });
        let ended = asked.and_then(|()| child.finish(CLOSING));
        self.shared.change(column, |column| {
            for warning in warnings {
                if !column.warnings.contains(&warning) {
                    column.warnings.push(warning);
                }
            }
            match ended {
                Ok(()) | Err(Lost::Interrupted) => {}
                Err(Lost::Crashed(how) | Lost::Before(how)) => {
                    column.troubles.push(format!("its process {how}, while it was closed"));
                }
                Err(Lost::TimedOut(_)) => column.troubles.push("its process does not end".to_owned()),
            }
        });
    }
}

impl Case {
    /// One of which nothing is known but what was asked.
    fn new(job: &Job, source: Source, case: &Value, outcome: Outcome) -> Self {
        Self {
            column: job.column,
            outcome,
            budget: f64::INFINITY,
            ..Self::unknown(&job.op, job.direction, source, case)
        }
    }
}

/// What a process answers when it is asked to open its backend.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Opened {
    /// It is open.
    Open { title: String, float: String, profile: Value },
    /// It does not work here.
    Unavailable(String),
}
