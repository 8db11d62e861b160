//! The `consort` command, as its users meet it: what its parts print, and how it ends on bad input.
//!
//! This binary starts itself as the command (see [`main`]), so nothing is built while tests run. Models are the goldens
//! of the repository, copied to a temporary folder where a test gives them a tokenizer or damages them. Commands have
//! limits on time and memory, so that an endless loop or a lying length fails a test and not the machine.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use consort_conformance::{
    golden::Golden,
    measure::{Values, error_over_spread},
};
use consort_tests::{goldens, shared};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::Dtype::{self, F32, F64};
use serde_json::{Value, json};
use tempfile::TempDir;

type Outcome = Result<(), Failed>;

/// Set in children: be the command.
const AS_COMMAND: &str = "CONSORT_AS_COMMAND";
/// Address space of a command in KiB: the goldens are smaller than 1 MiB.
const MEMORY: &str = "1048576";
/// Most commands take milliseconds; a busy machine may take its time.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if env::var_os(AS_COMMAND).is_some() {
        return consort::command::main();
    }
    let mut trials = good();
    trials.extend(bad());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// ---------------------------------------------------------------------------------------------------------------------
// Running the command

struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

/// A command under way; ended with the test if it has not ended itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// The next of its standard output.
    fn read(&mut self) -> Result<String, Failed> {
        let mut bytes = [0; 64];
        let read = self.0.stdout.as_mut().ok_or("standard output")?.read(&mut bytes)?;
        Ok(String::from_utf8(bytes[..read].to_vec())?)
    }
}

fn spawn<S: AsRef<OsStr>>(args: &[S]) -> Running {
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
fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).expect("readable output");
        }
        String::from_utf8(bytes).expect("output is UTF-8")
    })
}

fn wait(mut running: Running) -> Result<Ended, Failed> {
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

fn consort<S: AsRef<OsStr>>(args: &[S]) -> Result<Ended, Failed> {
    wait(spawn(args))
}

/// Standard output of a command that must succeed without a word of error.
fn done<S: AsRef<OsStr>>(args: &[S]) -> Result<String, Failed> {
    Ok(consort(args)?.succeeded()?.out)
}

impl Ended {
    fn succeeded(self) -> Result<Self, Failed> {
        if self.status != Some(0) || self.err.contains("error:") || self.err.contains("panicked at") {
            return Err(format!("status {:?}\n{}", self.status, self.err).into());
        }
        Ok(self)
    }

    /// One line of error that has all of `parts`; status 1, or 2 where the command line was wrong.
    fn failed(&self, status: i32, parts: &[&str]) -> Outcome {
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

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}").into()) }
}

fn check(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Models

fn golden_path(name: &str) -> PathBuf {
    let golden = goldens().into_iter().find(|golden| golden.name == name);
    golden.unwrap_or_else(|| panic!("no golden is called {name}")).directory
}

/// A copy of a golden model, for giving it more files or damaging it.
struct Model {
    folder: TempDir,
}

impl Model {
    fn copy(golden: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(golden_path(golden)).expect("a golden") {
            let path = entry.expect("an entry").path();
            fs::write(folder.path().join(path.file_name().expect("a name")), fs::read(&path).expect("a file"))
                .expect("a copy");
        }
        Self { folder }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("a path that is text")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.file(name), contents).expect("a written file");
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.file(name)).expect("a file")).expect("JSON");
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes header and data of the weights.
    fn weights(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = fs::read(self.file("model.safetensors")).expect("weights");
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize);
        let (mut header, mut data) = (serde_json::from_slice(header).expect("a header"), data.to_vec());
        change(&mut header, &mut data);
        let header = header.to_string();
        self.write("model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat());
    }

    /// Puts a number at the beginning of a tensor stored as f32.
    fn first_element(&self, tensor: &str, value: f32) {
        self.weights(|header, data| {
            let begin = header[tensor]["data_offsets"][0].as_u64().expect("a tensor of the model") as usize;
            data[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
        });
    }

    /// Gives it a tokenizer whose words are `w3` … for ids from 3; 0 is `<pad>`, 1 `<s>`, 2 `</s>`. It puts `<s>` before
    /// a text and `</s>` after it, and knows no other words.
    fn with_tokenizer(self, words: u32) -> Self {
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
    fn endless(self) -> Self {
        self.edit("config.json", |config| config["max_position_embeddings"] = json!(1_000_000));
        self
    }

    /// A decoder-only model with a tokenizer.
    fn talking() -> Self {
        Self::copy("llama-llama3").with_tokenizer(131)
    }

    /// Its first tokens after a prompt, as ids.
    fn ids(&self, more: &[&str]) -> Result<String, Failed> {
        let args = ["generate", "--model", self.path(), "--raw-tokens", "--ignore-eos", "--max-new-tokens", "8"];
        Ok(done(&[&args, more].concat())?.trim_end().to_owned())
    }
}

/// `w5 w6` for `5,6`; special tokens have no text.
fn words(ids: &str) -> String {
    let ids = ids.split(',').map(|id| id.parse::<u32>().expect("an id"));
    ids.filter(|&id| id > 2).map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

fn list(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

// ---------------------------------------------------------------------------------------------------------------------
// What works

fn good() -> Vec<Trial> {
    let mut trials = Vec::new();
    for golden in goldens() {
        let golden: &'static Golden = Box::leak(Box::new(golden));
        let mut trial = |name: &str, run: fn(&Golden) -> Outcome| {
            trials.push(Trial::test(format!("{}::{name}", golden.name), move || run(golden)));
        };
        trial("forward_in_f64", |golden| forward(golden, "f64", F64, 1e-10));
        trial("forward_in_f32", |golden| forward(golden, "f32", F32, 1e-5));
        trial("info", info);
        let written = golden.expected.contains_key("logits") && !golden.case.greedy.is_empty();
        match (golden.case.decoder_tokens.is_empty(), written) {
            (true, true) => trial("generate", generate_decoder),
            (false, true) if golden.directory.join("config.json").is_file() => trial("generate", generate_from_source),
            _ => {}
        }
    }
    let mut trial = |name: &str, run: fn() -> Outcome| trials.push(Trial::test(name, run));
    trial("forward::without_attention", forward_without_attention);
    trial("forward::of_a_prompt", forward_of_a_prompt);
    trial("forward::replaces_its_file", forward_replaces_its_file);
    trial("generate::text", text);
    trial("generate::several_prompts", several_prompts);
    trial("generate::prompt_file", prompt_file);
    trial("generate::json", json_object);
    trial("generate::json_without_a_tokenizer", json_without_a_tokenizer);
    trial("generate::ids_without_a_tokenizer", ids_without_a_tokenizer);
    trial("generate::seed", seed);
    trial("generate::filters", filters);
    trial("generate::repetition_penalty", repetition_penalty);
    trial("generate::beams", beams);
    trial("generate::stop", stop);
    trial("generate::end_token", end_token);
    trial("generate::chat", chat);
    trial("generate::common_flags", common_flags);
    trial("generate::streams", streams);
    trial("generate::closed_output", closed_output);
    trial("tokenize::ids", tokenize);
    trial("backends::list", backends);
    trial("help::all_parts", help);
    trial("info::unused_tensors", unused_tensors);
    #[cfg(unix)]
    trial("generate::interrupted", interrupted);
    trials.push(with_shared("shared::stories_stream_their_text", stories));
    trials
}

/// A test over models that are not in the repository.
fn with_shared(name: &str, run: fn(&Path) -> Outcome) -> Trial {
    match shared() {
        Some(data) => Trial::test(name, move || run(&data)),
        None => Trial::test(name, || Ok(())).with_kind("no ../shared").with_ignored_flag(true),
    }
}

/// What `forward` writes: types and values by name.
fn forward_tensors(args: &[&str]) -> Result<BTreeMap<String, (Dtype, Values)>, Failed> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out.safetensors");
    let path = out.to_str().ok_or("a path that is text")?;
    check("nothing on standard output", done(&[&["forward", "--out", path], args].concat())?.is_empty())?;
    let bytes = fs::read(&out)?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    let read = |(name, tensor): (&str, safetensors::tensor::TensorView<'_>)| {
        let width = if tensor.dtype() == F64 { 8 } else { 4 };
        let number = |bytes: &[u8]| match bytes {
            &[a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
            bytes => f64::from_le_bytes(bytes.try_into().expect("8 bytes")),
        };
        let data = tensor.data().chunks_exact(width).map(number).collect();
        Ok((name.to_owned(), (tensor.dtype(), Values::new(name, tensor.shape().to_vec(), data)?)))
    };
    tensors.iter().map(read).collect()
}

fn forward(golden: &Golden, flag: &str, dtype: Dtype, bar: f64) -> Outcome {
    let (tokens, target) = (list(&golden.case.tokens), list(&golden.case.decoder_tokens));
    let path = golden.directory.to_str().ok_or("a path that is text")?;
    let mut args = vec!["--model", path, "--tokens", &tokens, "--attention", "--dtype", flag];
    if !target.is_empty() {
        args.extend(["--decoder-tokens", &target]);
    }
    let tensors = forward_tensors(&args)?;
    equal("names", &tensors.keys().collect::<Vec<_>>(), &golden.expected.keys().collect::<Vec<_>>())?;
    for (name, (found, values)) in &tensors {
        let expected = &golden.expected[name];
        equal(name, &values.sizes, &expected.sizes)?;
        equal(name, found, &dtype)?;
        // In f32, probabilities inherit the error of scores that random weights make large.
        if dtype == F32 && name.contains("attention") {
            continue;
        }
        let error = error_over_spread(&values.data, &expected.data)?;
        check(&format!("{name}: {error:e} of the spread, at most {bar:e}"), error <= bar)?;
    }
    Ok(())
}

fn forward_without_attention() -> Outcome {
    let model = golden_path("bart");
    let tensors = forward_tensors(&["--model", model.to_str().ok_or("text")?, "--tokens", "5,6,7"])?;
    check("no attention unless asked", !tensors.keys().any(|name| name.contains("attention")))?;
    // One target token: where the decoder starts.
    equal("logits", &tensors["logits"].1.sizes, &vec![1, 131])
}

fn forward_of_a_prompt() -> Outcome {
    let model = Model::talking();
    let by_text = forward_tensors(&["--model", model.path(), "--prompt", "w5 w6"])?;
    // The tokenizer's </s> is not part of a prompt.
    let by_ids = forward_tensors(&["--model", model.path(), "--tokens", "1,5,6"])?;
    check("text and its ids are the same", by_text == by_ids)
}

fn forward_replaces_its_file() -> Outcome {
    let model = Model::talking();
    let out = model.file("out.safetensors");
    fs::write(&out, "old")?;
    let args = ["forward", "--model", model.path(), "--tokens", "1,5", "--out", out.to_str().ok_or("text")?];
    done(&args)?;
    safetensors::SafeTensors::deserialize(&fs::read(&out)?)?;
    // Only the file itself is left in the folder.
    let files = fs::read_dir(model.folder.path())?.count();
    done(&args)?;
    equal("files", &fs::read_dir(model.folder.path())?.count(), &files)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::write(model.file("any"), "")?;
        let mode = |name: &str| fs::metadata(model.file(name)).map(|file| file.permissions().mode());
        equal("permissions", &mode("out.safetensors")?, &mode("any")?)?;
    }
    Ok(())
}

fn info(golden: &Golden) -> Outcome {
    let text = done(&["info".as_ref(), "--model".as_ref(), golden.directory.as_os_str()])?;
    let expected = match (golden.expected.contains_key("encoder_last_hidden_state"), golden.case.greedy.is_empty()) {
        (true, _) => "(encoder-decoder)",
        (false, true) => "(encoder-only)",
        (false, false) => "(decoder-only)",
    };
    for part in [expected, "parameters", "tokenizer      none", "vocabulary 131"] {
        check(&format!("no '{part}' in\n{text}"), text.contains(part))?;
    }
    Ok(())
}

fn generate_decoder(golden: &Golden) -> Outcome {
    let (tokens, path) = (list(&golden.case.tokens), golden.directory.to_str().ok_or("text")?);
    let args = ["generate", "--model", path, "--tokens", &tokens, "--max-new-tokens", "12", "--ignore-eos"];
    let expected = list(&golden.case.greedy) + "\n";
    equal("greedy", &done(&[&args[..], &["--raw-tokens"]].concat())?, &expected)?;
    equal("greedy in f64", &done(&[&args[..], &["--raw-tokens", "--dtype", "f64"]].concat())?, &expected)
}

/// Greedy tokens of an encoder-decoder are those that `forward` finds most likely, given the ones before.
fn generate_from_source(golden: &Golden) -> Outcome {
    let (tokens, path) = (list(&golden.case.tokens), golden.directory.to_str().ok_or("text")?);
    let args = ["generate", "--model", path, "--tokens", &tokens, "--max-new-tokens", "6", "--ignore-eos", "--json"];
    let object: Value = serde_json::from_str(&done(&[&args[..], &["--dtype", "f64"]].concat())?)?;
    let written: Vec<u32> = serde_json::from_value(object["tokens"].clone())?;
    equal("tokens", &written.len(), &6)?;
    let config: Value = serde_json::from_slice(&fs::read(golden.directory.join("generation_config.json"))?)?;
    let start = config["decoder_start_token_id"].as_u64().ok_or("a start token")? as u32;
    let target = list(&[&[start], &written[..5]].concat());
    let tensors =
        forward_tensors(&["--model", path, "--tokens", &tokens, "--decoder-tokens", &target, "--dtype", "f64"])?;
    probabilities(&object, &written, &tensors["logits"].1, 0)
}

/// Compares what `--json` reports with the logits of `forward`, whose row `first` predicts the first new token.
fn probabilities(object: &Value, written: &[u32], logits: &Values, first: usize) -> Outcome {
    for (index, row) in logits.rows().skip(first).take(written.len()).enumerate() {
        let greatest = row.iter().copied().fold(f64::MIN, f64::max);
        let normaliser = greatest + row.iter().map(|logit| (logit - greatest).exp()).sum::<f64>().ln();
        let top = object["top"][index].as_array().ok_or("a list of alternatives")?;
        equal("alternatives", &top.len(), &5)?;
        let own = json!({"token": written[index], "log_probability": object["log_probabilities"][index]});
        for choice in top.iter().chain([&own]) {
            let token = choice["token"].as_u64().ok_or("a token")? as usize;
            let (found, expected) = (choice["log_probability"].as_f64().ok_or("a number")?, row[token] - normaliser);
            check(&format!("token {index}: {found}, expected {expected}"), (found - expected).abs() <= 1e-10)?;
        }
        equal("the most likely token", &row[top[0]["token"].as_u64().unwrap_or(0) as usize], &greatest)?;
    }
    Ok(())
}

fn text() -> Outcome {
    let model = Model::talking();
    let ids = model.ids(&["--tokens", "1,5,6"])?;
    // The tokenizer adds <s>, and its </s> would be nothing to continue.
    equal("ids of a text", &model.ids(&["--prompt", "w5 w6"])?, &ids)?;
    let args = ["generate", "--model", model.path(), "--prompt", "w5 w6", "--ignore-eos", "--max-new-tokens", "8"];
    equal("text", &done(&args)?.trim().to_owned(), &words(&ids))
}

fn several_prompts() -> Outcome {
    let model = Model::talking();
    let prompts = ["w5 w6", "w100", "w7 w8 w9 w10 w11", "w5 w6"];
    for settings in [&[][..], &["--temperature", "1.5", "--seed", "7"], &["--beams", "3"]] {
        let together = model.ids(&[&["--prompt"], &prompts[..], settings].concat())?;
        let together: Vec<&str> = together.lines().collect();
        equal("outputs", &together.len(), &prompts.len())?;
        for (index, (prompt, found)) in prompts.iter().zip(together).enumerate() {
            // The n-th prompt has the n-th seed.
            let seed = (7 + index).to_string();
            let alone: &[&str] =
                if settings.contains(&"--seed") { &["--temperature", "1.5", "--seed", &seed] } else { settings };
            equal(prompt, &found, &model.ids(&[&["--prompt", prompt], alone].concat())?.as_str())?;
        }
    }
    // In text, one after the other.
    let args = ["generate", "--model", model.path(), "--ignore-eos", "--max-new-tokens", "4", "--prompt", "w5", "w6"];
    let alone = |prompt: &str| done(&[&args[..6], &["--prompt", prompt]].concat());
    equal("text", &done(&args)?, &(alone("w5")? + &alone("w6")?))
}

fn prompt_file() -> Outcome {
    let model = Model::talking();
    let expected = model.ids(&["--prompt", "w5 w6"])?;
    model.write("prompt.txt", "w5 w6\n");
    let path = model.file("prompt.txt");
    equal("from a file", &model.ids(&["--prompt-file", path.to_str().ok_or("text")?])?, &expected)?;
    let args = ["generate", "--model", model.path(), "--raw-tokens", "--ignore-eos", "--max-new-tokens", "8"];
    let mut child = spawn(&[&args[..], &["--prompt-file", "-"]].concat());
    child.0.stdin.take().ok_or("standard input")?.write_all(b"w5 w6\r\n")?;
    equal("from standard input", &wait(child)?.succeeded()?.out.trim_end().to_owned(), &expected)
}

fn json_object() -> Outcome {
    let model = Model::talking();
    let args = ["--model", model.path(), "--dtype", "f64"];
    let more = ["generate", "--prompt", "w5 w6", "w7", "--json", "--ignore-eos", "--max-new-tokens", "8"];
    let out = done(&[&more[..], &args].concat())?;
    let objects = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    equal("objects", &objects.len(), &2)?;
    let object = &objects[0];
    let written: Vec<u32> = serde_json::from_value(object["tokens"].clone())?;
    equal("prompt", &object["prompt"], &json!("w5 w6"))?;
    equal("prompt_tokens", &object["prompt_tokens"], &json!([1, 5, 6]))?;
    equal("text", &object["text"].as_str().unwrap_or_default().trim(), &words(&list(&written)).as_str())?;
    equal("finish", &object["finish"], &json!("length"))?;
    equal("backend", &object["backend"], &json!("scalar"))?;
    equal("greedy", &object["top"][0][0]["token"], &json!(written[0]))?;
    equal("piece", &object["top"][0][0]["piece"], &json!(format!("w{}", written[0])))?;
    equal("timings", &object["timings"]["new_tokens"], &json!(16))?;
    for key in ["prompt_tokens", "prompt_seconds", "generation_seconds", "generation_tokens_per_second"] {
        check(key, object["timings"][key].as_f64().is_some_and(|number| number > 0.0))?;
    }
    let tokens = list(&[&[1, 5, 6], written.as_slice()].concat());
    let tensors = forward_tensors(&[&args[..], &["--tokens", &tokens]].concat())?;
    probabilities(object, &written, &tensors["logits"].1, 2)
}

fn json_without_a_tokenizer() -> Outcome {
    let path = golden_path("gpt2");
    let args = ["generate", "--tokens", "5,6", "--json", "--max-new-tokens", "3", "--ignore-eos", "--model"];
    let object: Value = serde_json::from_str(&done(&[&args[..], &[path.to_str().ok_or("text")?]].concat())?)?;
    equal("text", &object["text"], &Value::Null)?;
    equal("tokens", &object["tokens"].as_array().map(Vec::len), &Some(3))
}

fn ids_without_a_tokenizer() -> Outcome {
    let path = golden_path("gpt2");
    let args = [
        "generate",
        "--tokens",
        "5,6",
        "--max-new-tokens",
        "3",
        "--ignore-eos",
        "--model",
        path.to_str().ok_or("text")?,
    ];
    let said = consort(&args)?.succeeded()?;
    check(&format!("ids are said to be ids: {}", said.err), said.err.contains("the output is token ids"))?;
    equal("ids", &said.out, &done(&[&args[..], &["--raw-tokens"]].concat())?)
}

fn seed() -> Outcome {
    let model = Model::talking();
    let draw = |seed: &str| model.ids(&["--prompt", "w5", "--temperature", "2", "--seed", seed]);
    equal("the same seed", &draw("3")?, &draw("3")?)?;
    for seed in ["4", "5", "6"] {
        check("another seed draws other tokens", draw(seed)? != draw("3")?)?;
    }
    // Any sampling flag implies temperature 1; without a seed, one is made and said.
    let implied = model.ids(&["--prompt", "w5", "--seed", "3"])?;
    equal("implied temperature", &implied, &model.ids(&["--prompt", "w5", "--seed", "3", "--temperature", "1"])?)?;
    let args = [
        "generate",
        "--model",
        model.path(),
        "--tokens",
        "1,5",
        "--raw-tokens",
        "--max-new-tokens",
        "8",
        "--ignore-eos",
    ];
    for flag in [["--top-k", "50"], ["--top-p", "0.9"], ["--min-p", "0.01"], ["--temperature", "1"]] {
        let first = consort(&[&args[..], &flag].concat())?.succeeded()?;
        let seed = first.err.lines().find_map(|line| line.strip_prefix("seed: ")).ok_or("the seed is said")?.to_owned();
        equal("again by its seed", &done(&[&args[..], &flag, &["--seed", &seed]].concat())?, &first.out)?;
    }
    Ok(())
}

fn filters() -> Outcome {
    let model = Model::talking();
    let greedy = model.ids(&["--prompt", "w5"])?;
    // Whatever leaves one token is greedy.
    for flags in [["--top-k", "1"], ["--top-p", "0.000001"], ["--min-p", "0.999999"], ["--temperature", "0"]] {
        let found = model.ids(&[&["--prompt", "w5", "--seed", "9"][..], &flags].concat())?;
        equal(flags[0], &found, &greedy)?;
    }
    Ok(())
}

fn repetition_penalty() -> Outcome {
    let model = Model::talking();
    let plain = model.ids(&["--prompt", "w5"])?;
    equal("1 changes nothing", &model.ids(&["--prompt", "w5", "--repetition-penalty", "1"])?, &plain)?;
    let found = model.ids(&["--prompt", "w5", "--repetition-penalty", "1000000"])?;
    let mut ids: Vec<&str> = found.split(',').collect();
    ids.sort_unstable();
    ids.dedup();
    equal(&format!("different ids in {found}"), &ids.len(), &8)
}

fn beams() -> Outcome {
    let model = Model::talking();
    let score = |beams: &str, more: &[&str]| -> Result<(f64, String), Failed> {
        let args = ["generate", "--model", model.path(), "--prompt", "w5 w6", "--ignore-eos", "--max-new-tokens", "6"];
        let out = done(&[&args[..], &["--json", "--beams", beams], more].concat())?;
        let object: Value = serde_json::from_str(&out)?;
        let sum: f64 = object["log_probabilities"].as_array().ok_or("a list")?.iter().filter_map(Value::as_f64).sum();
        if beams != "1" {
            let power = if more.is_empty() { 1.0 } else { -1.5f64 };
            let expected = sum / 6f64.powf(power);
            let found = object["score"].as_f64().ok_or("a score")?;
            check(&format!("score {found}, expected {expected}"), (found - expected).abs() <= 1e-4 * expected.abs())?;
        }
        Ok((sum, object["tokens"].to_string()))
    };
    let (greedy, beams) = (score("1", &[])?, score("8", &[])?);
    check(&format!("{beams:?} is not as likely as {greedy:?}"), beams.0 >= greedy.0 - 1e-4)?;
    equal("as long as the others, the penalty changes nothing", &score("8", &["--length-penalty", "-1.5"])?.1, &beams.1)
}

fn stop() -> Outcome {
    let model = Model::talking();
    let args = ["generate", "--model", model.path(), "--prompt", "w5 w6", "--ignore-eos", "--max-new-tokens", "8"];
    let whole = done(&args)?;
    let third = whole.split_whitespace().nth(2).ok_or("words")?;
    let cut = whole.find(third).ok_or("the word")?;
    let found = done(&[&args[..], &["--stop", "none of these", "--stop", third]].concat())?;
    equal("text", &found, &format!("{}\n", &whole[..cut]))?;
    let object: Value = serde_json::from_str(&done(&[&args[..], &["--stop", third, "--json"]].concat())?)?;
    equal("text", &object["text"], &json!(whole[..cut]))?;
    equal("finish", &object["finish"], &json!("stop"))?;
    check("no tokens after it", object["tokens"].as_array().is_some_and(|tokens| tokens.len() <= 3))?;
    // Across the border of two words.
    let across = &whole[cut - 2..cut + 2];
    equal(
        "across tokens",
        &done(&[&args[..], &["--stop", across]].concat())?,
        &format!("{}\n", &whole[..whole.find(across).ok_or("there")?]),
    )
}

fn end_token() -> Outcome {
    let model = Model::talking();
    let ids = model.ids(&["--prompt", "w5"])?;
    let third = ids.split(',').nth(2).ok_or("ids")?;
    model.edit("generation_config.json", |config| config["eos_token_id"] = json!([third.parse::<u32>().unwrap_or(0)]));
    let args = ["generate", "--model", model.path(), "--prompt", "w5", "--max-new-tokens", "8", "--json"];
    let object: Value = serde_json::from_str(&done(&args)?)?;
    equal("finish", &object["finish"], &json!("stop"))?;
    let end = object["tokens"].as_array().and_then(|tokens| tokens.last().cloned());
    equal("last token", &end.map(|token| token.to_string()), &Some(third.to_owned()))?;
    equal("--ignore-eos", &model.ids(&["--prompt", "w5"])?, &ids)
}

fn chat() -> Outcome {
    let model = Model::talking();
    let template = "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}w10 {% endif %}\
        w11 {{ message.content }} {% endfor %}{% if add_generation_prompt %}w12{% endif %}";
    model.edit("tokenizer_config.json", |config| config["chat_template"] = json!(template));
    equal("user", &model.ids(&["--chat", "--prompt", "w5"])?, &model.ids(&["--tokens", "1,11,5,12"])?)?;
    equal(
        "system and user",
        &model.ids(&["--chat", "--system", "w6", "--prompt", "w5"])?,
        &model.ids(&["--tokens", "1,10,11,6,11,5,12"])?,
    )
}

fn common_flags() -> Outcome {
    let model = Model::talking();
    let plain = model.ids(&["--prompt", "w5"])?;
    for flags in [
        &["--backend", "scalar", "--device", "0"][..],
        &["--dtype", "f32", "--compute", "f32"],
        &["--dtype", "f64"],
        &["--threads", "3"],
    ] {
        equal(&flags.join(" "), &model.ids(&[&["--prompt", "w5"], flags].concat())?, &plain)?;
    }
    for dtype in ["bf16", "f16"] {
        equal(dtype, &model.ids(&["--prompt", "w5", "--dtype", dtype])?.split(',').count(), &8)?;
    }
    for compute in ["bf16", "int8"] {
        for dtype in ["f32", "f64"] {
            let flags = ["--prompt", "w5", "--compute", compute, "--dtype", dtype];
            equal(compute, &model.ids(&flags)?.split(',').count(), &8)?;
        }
    }
    let args = ["generate", "--model", model.path(), "--prompt", "w5", "--max-new-tokens", "2"];
    let quiet = consort(&args)?.succeeded()?.err;
    check(&format!("the backend is said: {quiet}"), quiet.contains("backend: scalar") && quiet.contains("tokens/s"))?;
    let verbose = consort(&[&args[..], &["-v"]].concat())?.succeeded()?.err;
    check(&format!("-v reports operations: {verbose}"), verbose.contains("native") && verbose.contains("attention"))
}

/// A generation that does not end by itself, and the first of its output.
fn started(model: &Model) -> Result<(Running, String), Failed> {
    let args = ["generate", "--model", model.path(), "--prompt", "w5 w6", "--ignore-eos", "--max-new-tokens", "900000"];
    let mut child = spawn(&args);
    let first = child.read()?;
    Ok((child, first))
}

fn streams() -> Outcome {
    let model = Model::talking().endless();
    let (mut child, mut text) = started(&model)?;
    for _ in 0..20 {
        text.push_str(&child.read()?);
        check("text arrives while more is made", child.0.try_wait()?.is_none())?;
    }
    let expected = words(&model.ids(&["--prompt", "w5 w6"])?);
    check(&format!("'{text}' is not what '{expected}' begins"), text.trim_start().starts_with(&expected))
}

#[cfg(unix)]
fn interrupted() -> Outcome {
    let model = Model::talking().endless();
    let (child, first) = started(&model)?;
    let status = std::process::Command::new("sh").args(["-c", &format!("kill -INT {}", child.0.id())]).status()?;
    check("kill", status.success())?;
    let ended = wait(child)?.succeeded()?;
    check("what was made is there, to the end of its line", (first + &ended.out).ends_with('\n'))?;
    check(&format!("timings are said: {}", ended.err), ended.err.contains("tokens/s"))
}

fn closed_output() -> Outcome {
    let model = Model::talking().endless();
    let (mut child, _) = started(&model)?;
    drop(child.0.stdout.take());
    let ended = wait(child)?.succeeded()?;
    check(
        &format!("nothing to complain about: {}", ended.err),
        ended.err.lines().all(|line| line.starts_with("backend")),
    )?;
    // Notes that nobody reads are no failure either.
    let mut child = spawn(&["generate", "--model", model.path(), "--prompt", "w5", "--max-new-tokens", "4", "-v"]);
    drop(child.0.stderr.take());
    equal("status", &wait(child)?.status, &Some(0))
}

fn tokenize() -> Outcome {
    let model = Model::talking();
    let ended = consort(&["tokenize", "--model", model.path(), "w5 </s> w6"])?.succeeded()?;
    equal("ids", &ended.out.as_str(), &"1,5,2,6,2\n")?;
    check(&format!("pieces: {}", ended.err), ended.err.contains("5  \"w5\"") && ended.err.contains("end token"))
}

fn backends() -> Outcome {
    let text = done(&["backends"])?;
    check(&text, text.starts_with("scalar (default): ") && text.contains("f32, bf16, f16, f64"))
}

fn help() -> Outcome {
    for part in ["", "generate", "forward", "tokenize", "info", "backends"] {
        let args: &[&str] = if part.is_empty() { &["--help"] } else { &[part, "--help"] };
        let text = done(args)?;
        check(
            &format!("usage and exit status: {text}"),
            text.contains("Usage: consort") && text.contains("Exit status: 0 done"),
        )?;
    }
    check("version", done(&["--version"])?.starts_with("consort "))
}

/// Weights that nothing needs are no failure, but said.
fn unused_tensors() -> Outcome {
    let model = Model::talking();
    let before = model.ids(&["--prompt", "w5"])?;
    model.weights(|header, data| {
        let end = data.len();
        header["surplus"] = json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]});
        data.extend([0; 8]);
    });
    check("info names it", done(&["info", "--model", model.path()])?.contains("unused tensors surplus"))?;
    equal("output", &model.ids(&["--prompt", "w5"])?, &before)?;
    let ended =
        consort(&["generate", "--model", model.path(), "--prompt", "w5", "--max-new-tokens", "1"])?.succeeded()?;
    check(&format!("generate names it: {}", ended.err), ended.err.contains("surplus"))
}

fn stories(data: &Path) -> Outcome {
    let model = data.join("tinystories-656k");
    let args = [
        "generate",
        "--model",
        model.to_str().ok_or("text")?,
        "--prompt",
        "Once upon a time",
        "--max-new-tokens",
        "30",
    ];
    let text = done(&args)?;
    equal(
        "story",
        &text.as_str(),
        &", a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot, Spot, loved to play all day. One day, Lily saw a small bird on the ground. She picked it up and \n",
    )
}

// ---------------------------------------------------------------------------------------------------------------------
// What does not

/// A command that fails with `status` and one line that has all of `parts`. `prepare` damages a copy of a model, and
/// says what to run if it is not the plain generation; `MODEL` in it is the copy, `GOLDENS` the folder of all goldens.
fn refused(
    name: &str,
    status: i32,
    parts: &'static [&'static str],
    prepare: impl FnOnce(&Model) -> Vec<&'static str> + Send + 'static,
) -> Trial {
    Trial::test(format!("refused::{name}"), move || {
        let model = Model::talking();
        let args = prepare(&model);
        let args = if args.is_empty() { PLAIN.to_vec() } else { args };
        let bart = golden_path("bart");
        let goldens = bart.parent().and_then(Path::to_str).ok_or("a path that is text")?;
        let place = |arg: &&str| arg.replace("MODEL", model.path()).replace("GOLDENS", goldens);
        let args: Vec<String> = args.iter().map(place).collect();
        let before = fs::read_dir(model.folder.path())?.count();
        consort(&args)?.failed(status, parts)?;
        equal("files in the folder: nothing is left behind", &fs::read_dir(model.folder.path())?.count(), &before)
    })
}

const PLAIN: [&str; 7] = ["generate", "--model", "MODEL", "--tokens", "1,5,6", "--max-new-tokens", "2"];

/// The plain generation with more flags.
fn plain(more: &[&'static str]) -> Vec<&'static str> {
    [&PLAIN[..], more].concat()
}

/// The same for a prompt.
fn prompt(more: &[&'static str]) -> Vec<&'static str> {
    [&["generate", "--model", "MODEL", "--max-new-tokens", "2", "--prompt"][..], more].concat()
}

fn bad() -> Vec<Trial> {
    let mut trials = bad_weights();
    trials.extend(bad_configs());
    trials.extend(bad_paths());
    trials.extend(bad_prompts());
    trials.extend(bad_flags());
    trials
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

fn bad_weights() -> Vec<Trial> {
    let weights = |name: &str, parts, change: fn(&mut Value, &mut Vec<u8>)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            model.weights(change);
            Vec::new()
        })
    };
    let bytes = |name: &str, parts, change: fn(&mut Vec<u8>)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            let mut bytes = fs::read(model.file("model.safetensors")).expect("weights");
            change(&mut bytes);
            model.write("model.safetensors", bytes);
            Vec::new()
        })
    };
    let element = |name: &str, tensor: &'static str, value: f32| {
        refused(&format!("weights::{name}"), 1, NAMED, move |model| {
            model.first_element(tensor, value);
            Vec::new()
        })
    };
    const NAMED: &[&str] = &["weight 'model.", "element [0, ", "not a finite number", "tmp"];
    let shards = |name: &str, parts, change: fn(&Model)| {
        refused(&format!("weights::{name}"), 1, parts, move |model| {
            fs::remove_file(model.file("model.safetensors")).expect("weights");
            for entry in fs::read_dir(golden_path("llama-sharded")).expect("a golden") {
                let path = entry.expect("an entry").path();
                fs::write(
                    model.file(path.file_name().and_then(OsStr::to_str).expect("a name")),
                    fs::read(&path).expect("a file"),
                )
                .expect("a copy");
            }
            change(model);
            Vec::new()
        })
    };
    vec![
        bytes("empty", &["model.safetensors", "empty"], Vec::clear),
        bytes("truncated", &["model.safetensors", "truncated"], |bytes| bytes.truncate(bytes.len() - 10)),
        bytes("truncated_in_the_header", &["truncated: a header of"], |bytes| bytes.truncate(40)),
        bytes("truncated_in_the_length", &["truncated: 5 bytes"], |bytes| bytes.truncate(5)),
        bytes("more_than_the_header_says", &["model.safetensors", "after its header"], |bytes| bytes.extend([0; 99])),
        bytes("header_length_huge", &["not a safetensors file", "18446744073709551615"], |bytes| bytes[..8].fill(255)),
        bytes("header_length_beyond_the_file", &["truncated: a header of 90000000 bytes"], |bytes| {
            bytes[..8].copy_from_slice(&90_000_000u64.to_le_bytes());
        }),
        bytes("header_length_too_short", &["header is not valid"], |bytes| {
            bytes[..8].copy_from_slice(&100u64.to_le_bytes());
        }),
        bytes("header_is_no_json", &["header is not valid"], |bytes| bytes[8..40].fill(b'x')),
        weights("overlapping", &["tensor '", "begins at byte", "overlaps"], |header, _| {
            header[NORM]["data_offsets"] = json!([0, 96]);
        }),
        weights("offsets_out_of_range", &[NORM, "truncated or damaged"], |header, data| {
            header[NORM]["data_offsets"] = json!([data.len(), data.len() + 96]);
        }),
        weights("offsets_that_overflow", &[NORM], |header, _| {
            header[NORM]["data_offsets"] = json!([u64::MAX - 96, u64::MAX]);
        }),
        weights("offsets_reversed", &[NORM, "before its begin"], |header, _| {
            header[NORM]["data_offsets"] = json!([96, 0]);
        }),
        weights("shape_that_overflows", &[NORM, "overflows"], |header, _| {
            header[NORM]["shape"] = json!([u64::MAX, u64::MAX]);
        }),
        weights("shape_of_other_size", &[NORM, "takes"], |header, _| header[NORM]["shape"] = json!([23])),
        weights("unknown_dtype", &[NORM, "not valid"], |header, _| header[NORM]["dtype"] = json!("F7")),
        weights("missing_tensor", &["missing 1 of the", NORM], |header, _| {
            let entry = header[NORM].take();
            header["another"] = entry;
            header.as_object_mut().expect("an object").remove(NORM);
        }),
        weights("misshapen", &[NORM, "[24]", "[4, 6]"], |header, _| header[NORM]["shape"] = json!([4, 6])),
        weights("transposed", &[EMBEDDING, "[24, 131]", "[131, 24]"], |header, _| {
            header[EMBEDDING]["shape"] = json!([24, 131]);
        }),
        element("nan_in_the_embedding", EMBEDDING, f32::NAN),
        element("nan_in_a_norm", NORM, f32::NAN),
        element("infinity", "model.layers.1.self_attn.q_proj.weight", f32::INFINITY),
        shards("missing_shard", &["model-00002-of-00003.safetensors", "missing"], |model| {
            fs::remove_file(model.file("model-00002-of-00003.safetensors")).expect("a shard");
        }),
        shards("shard_outside", &["not inside the model directory"], |model| {
            model.edit("model.safetensors.index.json", |index| {
                index["weight_map"][NORM] = json!("../other.safetensors")
            });
        }),
        shards("tensor_in_another_shard", &[NORM, "not in this file"], |model| {
            model.edit("model.safetensors.index.json", |index| {
                let (first, last) = ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors");
                let other = if index["weight_map"][NORM] == first { last } else { first };
                index["weight_map"][NORM] = json!(other);
            });
        }),
        shards("no_weights", &["no model.safetensors and no model.safetensors.index.json"], |model| {
            fs::remove_file(model.file("model.safetensors.index.json")).expect("an index");
        }),
    ]
}

fn bad_configs() -> Vec<Trial> {
    let config = |name: &str, parts, key: &'static str, value: Value| {
        refused(&format!("config::{name}"), 1, parts, move |model| {
            model.edit("config.json", |config| config[key] = value);
            Vec::new()
        })
    };
    let file = |name: &str, parts, file: &'static str, text: &'static str| {
        refused(&format!("config::{name}"), 1, parts, move |model| {
            model.write(file, text);
            Vec::new()
        })
    };
    vec![
        config(
            "unknown_model_type",
            &["config.json", "model_type", "'abacus'", "llama"],
            "model_type",
            json!("abacus"),
        ),
        config("no_model_type", &["config.json", "model_type"], "model_type", Value::Null),
        config("unknown_activation", &["config.json", "hidden_act", "'wave'", "silu"], "hidden_act", json!("wave")),
        config(
            "unknown_rope_type",
            &["config.json", "rope", "'spiral'", "yarn"],
            "rope_parameters",
            json!({"rope_type": "spiral", "rope_theta": 1e4}),
        ),
        config("wrong_type", &["config.json", "hidden_size", "\"many\""], "hidden_size", json!("many")),
        config("negative", &["config.json", "hidden_size"], "hidden_size", json!(-24)),
        config("fraction", &["config.json", "num_hidden_layers"], "num_hidden_layers", json!(2.5)),
        config("zero_heads", &["config.json", "num_attention_heads"], "num_attention_heads", json!(0)),
        config(
            "heads_that_do_not_divide",
            &["config.json", "key_value_heads: 4 does not divide"],
            "num_key_value_heads",
            json!(4),
        ),
        config("zero_width", &["config.json", "hidden_size"], "hidden_size", json!(0)),
        config("many_layers", &["config.json", "num_hidden_layers"], "num_hidden_layers", json!(1_000_000_000_000u64)),
        config("a_million_layers", &["config.json", "layers: 1000000"], "num_hidden_layers", json!(1_000_000)),
        config("a_layer_more", &["missing", "model.layers.2"], "num_hidden_layers", json!(3)),
        config("huge_width", &["hidden_size"], "hidden_size", json!(1u64 << 40)),
        config("huge_vocabulary", &["vocab_size"], "vocab_size", json!(1u64 << 40)),
        config("another_vocabulary", &[EMBEDDING, "131"], "vocab_size", json!(130)),
        file("no_json", &["config.json", "not valid JSON"], "config.json", "{ \"model_type\": "),
        file("empty", &["config.json", "not valid JSON"], "config.json", ""),
        file("a_list", &["config.json", "object"], "config.json", "[1, 2]"),
        file("no_text", &["config.json"], "config.json", "\u{0}\u{1}"),
        file("generation_no_json", &["generation_config.json", "not valid JSON"], "generation_config.json", "eos: 2"),
        file(
            "generation_wrong_type",
            &["generation_config.json", "eos_token_id"],
            "generation_config.json",
            "{\"eos_token_id\": \"two\"}",
        ),
        file("tokenizer_no_json", &["tokenizer.json"], "tokenizer.json", "{"),
        file("tokenizer_of_no_kind", &["tokenizer.json"], "tokenizer.json", "{\"model\": {\"type\": \"Oracle\"}}"),
        file("tokenizer_config_no_json", &["tokenizer_config.json"], "tokenizer_config.json", "[]"),
        refused("config::deeply_nested", 1, &["config.json"], |model| {
            model.write("config.json", "[".repeat(1_000_000));
            Vec::new()
        }),
    ]
}

fn bad_paths() -> Vec<Trial> {
    let path = |name: &str, parts, path: &'static str, file: Option<&'static str>| {
        refused(&format!("path::{name}"), 1, parts, move |model| {
            if let Some(file) = file {
                fs::create_dir(model.file("sub")).expect("a folder");
                model.write(file, "x");
            }
            vec!["generate", "--tokens", "1", "--model", path]
        })
    };
    vec![
        refused("path::no_model", 1, &["no model comes with this version", "--model PATH"], |_| {
            vec!["generate", "--tokens", "1"]
        }),
        path("hub_name", &["openai-community/gpt2", "does not download", "hf download"], "openai-community/gpt2", None),
        path("absent", &["no such file or directory"], "MODEL/absent/too", None),
        path("empty_directory", &["no config.json"], "MODEL/sub", Some("other")),
        path(
            "pickle",
            &["pytorch_model.bin", "save_pretrained"],
            "MODEL/sub/pytorch_model.bin",
            Some("sub/pytorch_model.bin"),
        ),
        path("gguf", &["model.gguf", "later version"], "MODEL/sub/model.gguf", Some("sub/model.gguf")),
        path("a_file_of_a_model", &["give its directory"], "MODEL/model.safetensors", None),
        path("another_file", &["not a directory"], "MODEL/sub/notes.txt", Some("sub/notes.txt")),
        refused("path::only_a_pickle", 1, &["pytorch_model.bin", "save_pretrained"], |model| {
            fs::rename(model.file("model.safetensors"), model.file("pytorch_model.bin")).expect("weights");
            Vec::new()
        }),
        refused("path::out_in_no_folder", 1, &["absent/x.safetensors"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1", "--out", "MODEL/absent/x.safetensors"]
        }),
        refused("path::out_is_a_folder", 1, &["is a directory"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1", "--out", "MODEL"]
        }),
        refused("path::out_of_a_failed_pass", 1, &["131"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", "1,131", "--out", "MODEL/x.safetensors"]
        }),
        refused("path::prompt_file_absent", 1, &["absent.txt"], |_| {
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/absent.txt"]
        }),
        refused("path::prompt_file_no_text", 1, &["prompt.txt", "byte 1 is not UTF-8"], |model| {
            model.write("prompt.txt", b"a\xff");
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/prompt.txt"]
        }),
        refused("path::prompt_file_empty", 1, &["empty"], |model| {
            model.write("prompt.txt", "\n");
            vec!["generate", "--model", "MODEL", "--prompt-file", "MODEL/prompt.txt"]
        }),
    ]
}

fn bad_prompts() -> Vec<Trial> {
    const LONG: &str = "3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3";
    let tokenizer = |name: &str, parts, words: u32| {
        refused(&format!("prompt::{name}"), 1, parts, move |model| {
            let other = Model::copy("llama-llama3").with_tokenizer(words);
            fs::copy(other.file("tokenizer.json"), model.file("tokenizer.json")).expect("a copy");
            prompt(&["w5"])
        })
    };
    vec![
        refused("prompt::token_beyond_the_vocabulary", 1, &["token id 131", "0 to 130"], |_| {
            vec!["generate", "--model", "MODEL", "--tokens", "1,131", "--raw-tokens"]
        }),
        refused("prompt::beyond_the_context", 1, &["41 tokens", "context of 40"], |_| {
            vec!["generate", "--model", "MODEL", "--tokens", LONG]
        }),
        refused("prompt::forward_beyond_the_context", 1, &["41", "40"], |_| {
            vec!["forward", "--model", "MODEL", "--tokens", LONG, "--out", "MODEL/x.safetensors"]
        }),
        refused("prompt::empty", 1, &["the prompt is empty"], |_| prompt(&[""])),
        refused("prompt::one_of_several_empty", 1, &["the prompt is empty"], |_| prompt(&["w5", ""])),
        refused("prompt::forward_empty", 1, &["empty"], |_| {
            vec!["forward", "--model", "MODEL", "--prompt", "", "--out", "MODEL/x.safetensors"]
        }),
        refused("prompt::tokenize_empty", 1, &["empty"], |_| vec!["tokenize", "--model", "MODEL", ""]),
        refused("prompt::no_words", 1, &["no token for \"n\" at byte 3"], |_| prompt(&["w5 naïve"])),
        tokenizer("tokenizer_larger_than_the_embedding", &["132 tokens", "131 embedding rows"], 132),
        tokenizer("tokenizer_of_another_model", &["4000 tokens", "131 embedding rows"], 4000),
        refused(
            "prompt::embedding_much_larger_than_the_tokenizer",
            1,
            &["131 tokens", "3000 embedding rows"],
            |model| {
                // Both ends of the model have rows to spare.
                model.edit("config.json", |config| config["vocab_size"] = json!(3000));
                model.weights(|header, data| {
                    for name in [EMBEDDING, "lm_head.weight"] {
                        let begin = data.len();
                        data.extend(vec![0; 3000 * 24 * 4]);
                        let entry = json!({"dtype": "F32", "shape": [3000, 24], "data_offsets": [begin, data.len()]});
                        // The old rows stay under another name: offsets have no gaps.
                        let old = std::mem::replace(&mut header[name], entry);
                        header[format!("old.{name}")] = old;
                    }
                });
                prompt(&["w5"])
            },
        ),
        refused("prompt::no_tokenizer", 1, &["no tokenizer", "--tokens"], |model| {
            fs::remove_file(model.file("tokenizer.json")).expect("a tokenizer");
            prompt(&["w5"])
        }),
        refused("prompt::stop_without_a_tokenizer", 1, &["no tokenizer", "--stop"], |model| {
            fs::remove_file(model.file("tokenizer.json")).expect("a tokenizer");
            plain(&["--stop", "w5"])
        }),
        refused("prompt::no_chat_template", 1, &["no chat template", "--chat"], |_| prompt(&["w5", "--chat"])),
        refused("prompt::chat_template_that_fails", 1, &["tokenizer_config.json", "unknown role"], |model| {
            model.edit("tokenizer_config.json", |config| {
                config["chat_template"] = json!("{{ raise_exception('unknown role') }}");
            });
            prompt(&["w5", "--chat"])
        }),
        refused(
            "prompt::tokenizer_that_panics",
            1,
            &["the text cannot be encoded", "the tokenizers crate panicked"],
            |model| {
                // The tokenizers crate indexes what a template does not define.
                model.edit("tokenizer.json", |tokenizer| {
                    tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("<x>")
                });
                prompt(&["w5"])
            },
        ),
        refused("prompt::encoder_only", 1, &["encoder-only", "consort forward"], |_| {
            vec!["generate", "--tokens", "1,5", "--model", "GOLDENS/bert"]
        }),
        refused("prompt::decoder_tokens_without_an_encoder", 1, &["--decoder-tokens"], |_| {
            vec![
                "forward",
                "--model",
                "MODEL",
                "--tokens",
                "1",
                "--decoder-tokens",
                "1",
                "--out",
                "MODEL/x.safetensors",
            ]
        }),
        refused("prompt::source_beyond_the_context", 1, &["41", "context"], |_| {
            vec!["generate", "--tokens", LONG, "--model", "GOLDENS/bart"]
        }),
    ]
}

fn bad_flags() -> Vec<Trial> {
    let flags = |name: &str, status, parts, more: &'static [&'static str]| {
        refused(&format!("flags::{name}"), status, parts, move |_| plain(more))
    };
    let all = |name: &str, parts, args: &'static [&'static str]| {
        refused(&format!("flags::{name}"), 2, parts, move |_| args.to_vec())
    };
    vec![
        flags("backend", 1, &["'abacus'", "scalar"], &["--backend", "abacus"]),
        flags("dtype", 1, &["'int3'", "f32, bf16, f16, f64"], &["--dtype", "int3"]),
        flags("compute", 1, &["'int4'", "f32, bf16, int8"], &["--compute", "int4"]),
        flags("device", 1, &["device 3 does not exist"], &["--device", "3"]),
        flags("temperature_negative", 2, &["--temperature: -1 is not"], &["--temperature", "-1"]),
        flags("temperature_nan", 2, &["--temperature: NaN is not"], &["--temperature", "nan"]),
        flags("top_p", 2, &["--top-p: 2 is not"], &["--top-p", "2"]),
        flags("min_p", 2, &["--min-p: 1.5 is not"], &["--min-p", "1.5"]),
        flags("repetition_penalty", 2, &["--repetition-penalty: 0 is not"], &["--repetition-penalty", "0"]),
        flags("length_penalty", 2, &["--length-penalty: inf is not"], &["--length-penalty", "inf"]),
        flags("beams", 2, &["--beams: 0 is not"], &["--beams", "0"]),
        flags(
            "beams_and_temperature",
            2,
            &["--beams: 4 beams with temperature 0.7"],
            &["--beams", "4", "--temperature", "0.7"],
        ),
        flags("stop_empty", 2, &["--stop", "empty"], &["--stop", ""]),
        flags("stop_and_raw_tokens", 2, &["--stop", "--raw-tokens"], &["--stop", "a", "--raw-tokens"]),
        flags("no_new_tokens", 2, &["--max-new-tokens"], &["--max-new-tokens", "0"]),
        flags("no_threads", 2, &["--threads"], &["--threads", "0"]),
        flags("prompt_and_tokens", 2, &["--prompt", "--tokens"], &["--prompt", "a"]),
        flags("chat_with_tokens", 2, &["--chat", "--tokens"], &["--chat"]),
        flags("json_and_raw_tokens", 2, &["--json", "--raw-tokens"], &["--json", "--raw-tokens"]),
        flags("unknown", 2, &["--abacus"], &["--abacus"]),
        all("nothing", &["--prompt"], &["generate", "--model", "MODEL"]),
        all("empty_tokens", &["'' is not a token id"], &["generate", "--model", "MODEL", "--tokens", ""]),
        all("no_number", &["'x' is not a token id"], &["generate", "--model", "MODEL", "--tokens", "1,x"]),
        all("negative_token", &["'-1' is not a token id"], &["generate", "--model", "MODEL", "--tokens", "1,-1"]),
        all("system_without_chat", &["--chat"], &["generate", "--prompt", "w5", "--system", "w6"]),
        all("forward_without_out", &["--out"], &["forward", "--model", "MODEL", "--tokens", "1"]),
        all("forward_of_nothing", &["--prompt"], &["forward", "--model", "MODEL", "--out", "MODEL/x.safetensors"]),
        all("unknown_part", &["abacus"], &["abacus"]),
    ]
}
