//! Running the command, and the models that it is run on.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::Read,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use consort_conformance::golden::Golden;
use consort_tests::goldens;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) type Outcome = Result<(), Failed>;

/// Set in children: be the command.
pub(crate) const AS_COMMAND: &str = "CONSORT_AS_COMMAND";
/// Address space of a command in KiB: the goldens are smaller than 1 MiB.
pub(crate) const MEMORY: &str = "1048576";
/// Most commands take milliseconds; a busy machine may take its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command under way; ended with the test if it has not ended itself.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// The next of its standard output.
    pub(crate) fn read(&mut self) -> Result<String, Failed> {
        let mut bytes = [0; 64];
        let read = self.0.stdout.as_mut().ok_or("standard output")?.read(&mut bytes)?;
        Ok(String::from_utf8(bytes[..read].to_vec())?)
    }
}

pub(crate) fn spawn<S: AsRef<OsStr>>(args: &[S]) -> Running {
    let this = env::current_exe().expect("a path to this binary");
    let mut command = if cfg!(unix) {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")]).arg(this);
        command
    } else {
        std::process::Command::new(this)
    };
    command.args(args).env(AS_COMMAND, "1").env_remove("RUST_BACKTRACE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().expect("a child"))
}

/// All of a stream, read on a thread of its own so that the child never waits for us.
pub(crate) fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).expect("readable output");
        }
        String::from_utf8(bytes).expect("output is UTF-8")
    })
}

pub(crate) fn wait(mut running: Running) -> Result<Ended, Failed> {
    let child = &mut running.0;
    drop(child.stdin.take());
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => return Err(format!("no end after {PATIENCE:?}").into()),
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    Ok(Ended { status: status.code(), out: out.join().expect("stdout"), err: err.join().expect("stderr") })
}

pub(crate) fn consort<S: AsRef<OsStr>>(args: &[S]) -> Result<Ended, Failed> {
    wait(spawn(args))
}

/// Standard output of a command that must succeed without a word of error.
pub(crate) fn done<S: AsRef<OsStr>>(args: &[S]) -> Result<String, Failed> {
    Ok(consort(args)?.succeeded()?.out)
}

impl Ended {
    pub(crate) fn succeeded(self) -> Result<Self, Failed> {
        if self.status != Some(0) || self.err.contains("error:") || self.err.contains("panicked at") {
            return Err(format!("status {:?}\n{}", self.status, self.err).into());
        }
        Ok(self)
    }

    /// One line of error that has all of `parts`; status 1, or 2 where the command line was wrong.
    pub(crate) fn failed(&self, status: i32, parts: &[&str]) -> Outcome {
        let Self { status: found, out, err } = self;
        let context = format!("status {found:?}, expected {status}\n--- stdout\n{out}\n--- stderr\n{err}");
        let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
        let [line] = errors[..] else { return Err(format!("not one line of error: {context}").into()) };
        // The parser of the command line adds how it is used.
        let is_last = err.lines().last() == Some(line) || status == 2;
        if *found != Some(status) || !out.is_empty() || !is_last || err.contains("panicked at") {
            return Err(context.into());
        }
        let all = if status == 2 { err.as_str() } else { line };
        match parts.iter().find(|part| !all.contains(**part)) {
            Some(part) => Err(format!("no '{part}' in the line: {context}").into()),
            None => Ok(()),
        }
    }
}

pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}").into()) }
}

pub(crate) fn check(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

pub(crate) fn golden_path(name: &str) -> PathBuf {
    let golden = goldens().into_iter().find(|golden| golden.name == name);
    golden.unwrap_or_else(|| panic!("no golden is called {name}")).directory
}

/// A copy of a golden model, for giving it more files or damaging it.
pub(crate) struct Model {
    pub(crate) folder: TempDir,
}

impl Model {
    pub(crate) fn copy(golden: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(golden_path(golden)).expect("a golden") {
            let path = entry.expect("an entry").path();
            fs::write(folder.path().join(path.file_name().expect("a name")), fs::read(&path).expect("a file"))
                .expect("a copy");
        }
        Self { folder }
    }

    pub(crate) fn path(&self) -> &str {
        self.folder.path().to_str().expect("a path that is text")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.file(name), contents).expect("a written file");
    }

    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.file(name)).expect("a file")).expect("JSON");
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes header and data of the weights.
    pub(crate) fn weights(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = fs::read(self.file("model.safetensors")).expect("weights");
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize);
        let (mut header, mut data) = (serde_json::from_slice(header).expect("a header"), data.to_vec());
        change(&mut header, &mut data);
        let header = header.to_string();
        self.write("model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat());
    }

    /// Puts a number at the beginning of a tensor stored as f32.
    pub(crate) fn first_element(&self, tensor: &str, value: f32) {
        self.weights(|header, data| {
            let begin = header[tensor]["data_offsets"][0].as_u64().expect("a tensor of the model") as usize;
            data[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
        });
    }

    /// Gives it a tokenizer whose words are `w3` … for ids from 3; 0 is `<pad>`, 1 `<s>`, 2 `</s>`. It puts `<s>` before
    /// a text and `</s>` after it, and knows no other words.
    pub(crate) fn with_tokenizer(self, words: u32) -> Self {
        let special = ["<pad>", "<s>", "</s>"];
        let mut vocabulary: BTreeMap<String, u32> = (3..words).map(|id| (format!("w{id}"), id)).collect();
        vocabulary.extend(special.iter().map(|token| token.to_string()).zip(0..));
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(id, token)| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let around = |id: u32, token: &str| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
        let special_tokens: serde_json::Map<String, Value> =
            [around(1, "<s>"), around(2, "</s>")].into_iter().collect();
        let single = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}]);
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special_tokens},
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        });
        self.write("tokenizer.json", tokenizer.to_string());
        self.write("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "</s>"}).to_string());
        self
    }

    /// Lets it go on for longer than a test waits.
    pub(crate) fn endless(self) -> Self {
        self.edit("config.json", |config| config["max_position_embeddings"] = json!(1_000_000));
        self
    }

    /// A decoder-only model with a tokenizer.
    pub(crate) fn talking() -> Self {
        Self::copy("llama-llama3").with_tokenizer(131)
    }

    /// Its first tokens after a prompt, as ids.
    pub(crate) fn ids(&self, more: &[&str]) -> Result<String, Failed> {
        let args = ["generate", "--model", self.path(), "--raw-tokens", "--ignore-eos", "--max-new-tokens", "8"];
        Ok(done(&[&args, more].concat())?.trim_end().to_owned())
    }
}

/// The golden of this name.
pub(crate) fn golden(name: &str) -> Golden {
    goldens().into_iter().find(|golden| golden.name == name).expect("a golden of this name")
}

/// `w5 w6` for `5,6`; special tokens have no text.
pub(crate) fn words(ids: &str) -> String {
    let ids = ids.split(',').map(|id| id.parse::<u32>().expect("an id"));
    ids.filter(|&id| id > 2).map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn list(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
