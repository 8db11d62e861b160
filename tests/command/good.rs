//! What works.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use consort_conformance::{
    golden::Golden,
    measure::{Values, error_over_spread},
};
use consort_tests::{goldens, shared};
use libtest_mimic::{Failed, Trial};
use safetensors::Dtype::{self, F32, F64};
use serde_json::{Value, json};

use crate::support::*;

pub(crate) fn good() -> Vec<Trial> {
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
pub(crate) fn with_shared(name: &str, run: fn(&Path) -> Outcome) -> Trial {
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
    check(&format!("the backend is said: {quiet}"), quiet.contains("backend: simd") && quiet.contains("tokens/s"))?;
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
    check(
        &text,
        text.starts_with("simd (default): ") && text.contains("\nscalar: ") && text.contains("f32, bf16, f16, q8_0"),
    )
}

fn help() -> Outcome {
    for part in ["", "generate", "forward", "tokenize", "info", "bench", "quantize", "synth", "backends"] {
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
