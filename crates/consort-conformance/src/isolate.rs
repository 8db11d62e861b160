//! A child process that answers requests, so that whatever a backend does ends at the edge of a process.
//!
//! The child is this same executable, started again with [`MARK`] in front. It reads one JSON request a line from its
//! standard input and answers on its standard output with JSON text sequences (RFC 7464): every record begins with an RS
//! character, so that what a driver prints there itself cannot be taken for one. The last record of an answer is [`DONE`].
//!
//! Who asks waits with a limit. A child that crashes, hangs or is killed for its memory loses one request and is said to
//! have; the next request goes to a new child. A child whose parent is gone reads the end of its input, and ends.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// First argument of a child.
pub(crate) const MARK: &str = "--child";
/// The record that ends an answer.
const DONE: &str = "null";
const RECORD: u8 = 0x1e;
/// How much of a child's standard error is remembered.
const TAIL: usize = 4096;
/// How often a wait looks whether it was interrupted.
const BLINK: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C from now on: the first ends what is under way in order, the second ends the process at once.
pub(crate) fn listen() {
    // Without a handler Ctrl-C still ends everything, only without a report.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
}

/// Whether Ctrl-C was pressed.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Why there is no answer; the child is gone in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It ended: how, and the last that it said.
    Crashed(String),
    /// It ended before the request reached it, so that something before is to blame.
    Before(String),
    /// Nothing came within the limit.
    TimedOut(Duration),
    /// Ctrl-C.
    Interrupted,
}

/// A running child.
pub(crate) struct Child {
    process: std::process::Child,
    requests: Option<ChildStdin>,
    records: Receiver<String>,
    said: Arc<Mutex<VecDeque<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Child {
    /// Starts this executable again with `settings` for [`serve`]'s caller; `echo` passes on what it prints itself.
    pub(crate) fn start(settings: &str, echo: bool) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([MARK, settings]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let requests = process.stdin.take();
        let said = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL)));
        let (to, records) = mpsc::channel();
        let mut readers = Vec::new();
        if let Some(output) = process.stdout.take() {
            let said = Arc::clone(&said);
            readers.push(thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let (own, record) = match line.iter().position(|&byte| byte == RECORD) {
                        Some(at) => line.split_at(at),
                        None => (line.as_slice(), &[][..]),
                    };
                    keep(&said, own, echo);
                    if let Some((_, record)) = record.split_first()
                        && to.send(String::from_utf8_lossy(record).trim_end().to_owned()).is_err()
                    {
                        break;
                    }
                    line.clear();
                }
            }));
        }
        if let Some(mut errors) = process.stderr.take() {
            let said = Arc::clone(&said);
            readers.push(thread::spawn(move || {
                let mut some = [0; 1024];
                while let Ok(read @ 1..) = errors.read(&mut some) {
                    keep(&said, some.get(..read).unwrap_or_default(), echo);
                }
            }));
        }
        Ok(Self { process, requests, records, said, readers })
    }

    /// Sends a request and gives every record of the answer to `take`; `limit` is for each record anew.
    pub(crate) fn ask(&mut self, request: &Value, limit: Duration, mut take: impl FnMut(Value)) -> Result<(), Lost> {
        if let Ok(Some(status)) = self.process.try_wait() {
            return Err(Lost::Before(self.ended(status)));
        }
        lock(&self.said).clear();
        let sent = match &mut self.requests {
            Some(requests) => writeln!(requests, "{request}").and_then(|()| requests.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if sent.is_err() {
            return Err(Lost::Before(self.wait_for_end()));
        }
        loop {
            let record = self.receive(limit)?;
            if record == DONE {
                return Ok(());
            }
            match serde_json::from_str(&record) {
                Ok(value) => take(value),
                Err(error) => return Err(Lost::Crashed(format!("answered what is not JSON: {error}"))),
            }
        }
    }

    fn receive(&mut self, limit: Duration) -> Result<String, Lost> {
        let start = Instant::now();
        loop {
            if interrupted() {
                self.kill();
                return Err(Lost::Interrupted);
            }
            let left = limit.saturating_sub(start.elapsed());
            match self.records.recv_timeout(left.min(BLINK)) {
                Ok(record) => return Ok(record),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    self.kill();
                    return Err(Lost::TimedOut(limit));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let how = self.wait_for_end();
                    // Ctrl-C reaches a terminal's children as well.
                    return Err(if interrupted() { Lost::Interrupted } else { Lost::Crashed(how) });
                }
            }
        }
    }

    /// Lets it end by itself, within `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<(), Lost> {
        self.requests = None;
        let start = Instant::now();
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) if !interrupted() => return Err(Lost::Crashed(self.ended(status))),
                Ok(None) if interrupted() => return Err(Lost::Interrupted),
                Ok(None) if start.elapsed() > limit => return Err(Lost::TimedOut(limit)),
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) | Err(_) => return Err(Lost::Interrupted),
            }
        }
    }

    fn kill(&mut self) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Its output has ended, so it is about to; how it did.
    fn wait_for_end(&mut self) -> String {
        self.requests = None;
        let start = Instant::now();
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return self.ended(status),
                Ok(None) if start.elapsed() < Duration::from_secs(5) => thread::sleep(Duration::from_millis(2)),
                _ => {
                    self.kill();
                    return "closed its output and went on".to_owned();
                }
            }
        }
    }

    /// One line: how it ended, and the last lines that it said.
    fn ended(&mut self, status: ExitStatus) -> String {
        // What it said is all there once its pipes are closed.
        for reader in self.readers.drain(..) {
            let start = Instant::now();
            while !reader.is_finished() && start.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let bytes: Vec<u8> = lock(&self.said).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let told = |line: &&str| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE");
        let lines: Vec<&str> = text.lines().map(str::trim).filter(told).collect();
        let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" | ");
        let how = how(status);
        if last.is_empty() { how } else { format!("{how}: {last}") }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock(said: &Mutex<VecDeque<u8>>) -> MutexGuard<'_, VecDeque<u8>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(said: &Mutex<VecDeque<u8>>, bytes: &[u8], echo: bool) {
    if bytes.is_empty() {
        return;
    }
    if echo {
        // Who looks at it is a person; if it cannot be written, nobody does.
        let _ = io::stderr().write_all(bytes);
    }
    let mut said = lock(said);
    said.extend(bytes);
    let over = said.len().saturating_sub(TAIL);
    said.drain(..over);
}

#[cfg(unix)]
fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let name = |signal| match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error)",
        8 => " (arithmetic)",
        9 => " (killed, often for want of memory)",
        11 => " (segmentation fault)",
        _ => "",
    };
    match status.signal() {
        Some(signal) => format!("ended by signal {signal}{}", name(signal)),
        None => status.to_string(),
    }
}

#[cfg(not(unix))]
fn how(status: ExitStatus) -> String {
    status.to_string()
}

/// The child's side: answers requests with what `answer` emits, until there are no more.
///
/// # Errors
/// When standard output cannot be written, for then nobody is listening.
pub(crate) fn serve(mut answer: impl FnMut(Value, &mut dyn FnMut(&Value))) -> io::Result<()> {
    let (to, requests) = mpsc::channel();
    // A thread of its own reads, so that a child that hangs in a request still ends with its parent.
    let busy = Arc::new(AtomicBool::new(false));
    let working = Arc::clone(&busy);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
        if working.load(Ordering::Acquire) {
            std::process::exit(1);
        }
    });
    let say = |text: &str| -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&[RECORD])?;
        writeln!(out, "{text}")?;
        out.flush()
    };
    for line in requests {
        busy.store(true, Ordering::Release);
        let request = serde_json::from_str(&line).map_err(io::Error::other)?;
        let mut written = Ok(());
        answer(request, &mut |record| {
            if written.is_ok() {
                written = say(&record.to_string());
            }
        });
        written?;
        // Before the parent hears that it is done, and may close.
        busy.store(false, Ordering::Release);
        say(DONE)?;
    }
    Ok(())
}
