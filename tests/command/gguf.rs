//! GGUF files: run, written, damaged.

use std::{fs, path::Path};

use libtest_mimic::{Failed, Trial};

use crate::{good::with_shared, support::*};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("gguf::runs_as_it_was_written", runs_as_it_was_written),
        Trial::test("gguf::quantize_says_what_it_costs", quantize_says_what_it_costs),
        Trial::test("gguf::quantize_with_a_text", quantize_with_a_text),
        Trial::test("gguf::dtype_and_quantize_agree", dtype_and_quantize_agree),
        Trial::test("gguf::synth_in_both_forms", synth_in_both_forms),
        Trial::test("gguf::every_cut_is_refused", every_cut_is_refused),
        Trial::test("gguf::flipped_bytes_never_panic", flipped_bytes_never_panic),
        with_shared("gguf::stories_as_their_safetensors", stories),
    ];
    trials.extend(refused());
    trials
}

fn blocks() -> String {
    golden_path("gguf-blocks").join("model.gguf").display().to_string()
}

/// Quiet about what is not asked: the path, and arguments.
fn quantize(model: &str, dtype: &str, out: &Path, more: &[&str]) -> Result<Ended, Failed> {
    let out = out.display().to_string();
    let mut args = vec!["quantize", "--model", model, "--dtype", dtype, "--out", &out];
    args.extend(more);
    consort(&args)
}

fn runs_as_it_was_written() -> Outcome {
    let folder = tempfile::tempdir()?;
    for name in ["llama", "llama-tied-bias", "qwen2", "qwen3", "gpt2"] {
        let golden = golden(name);
        let tokens = list(golden.prompt());
        let out = folder.path().join(format!("{name}.gguf"));
        let ended = quantize(&golden.directory.display().to_string(), "f32", &out, &["--tokens", "0"])?;
        check(&ended.err, ended.status == Some(0) && ended.out.is_empty())?;
        let count = golden.case.greedy.len().to_string();
        let model = out.display().to_string();
        let found = done(&[
            "generate",
            "--model",
            &model,
            "--tokens",
            &tokens,
            "--max-new-tokens",
            &count,
            "--raw-tokens",
            "--ignore-eos",
        ])?;
        equal(name, &found.trim().to_owned(), &list(&golden.case.greedy))?;
    }
    Ok(())
}

fn quantize_says_what_it_costs() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut costs = Vec::new();
    for dtype in ["q8_0", "q4_k"] {
        let out = folder.path().join(dtype);
        let ended = quantize(&blocks(), dtype, &out, &["--tokens", "64"])?;
        check(&ended.err, ended.status == Some(0) && out.is_file())?;
        check(&ended.err, ended.err.contains("random tokens"))?;
        let cost = ended.out.strip_prefix("KL divergence ").and_then(|line| line.split(' ').next());
        costs.push(cost.ok_or(ended.out.clone())?.parse::<f64>()?);
        check(&ended.out, ended.out.contains("over 64 tokens"))?;
    }
    check(&format!("{costs:?}"), costs[0] > 0.0 && costs[0] < 0.1 * costs[1] && costs[1] < 1.0)
}

fn quantize_with_a_text() -> Outcome {
    let model = Model::talking();
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("text.txt");
    fs::write(&text, words("5,9,33,60,12,7,44"))?;
    let text = text.display().to_string();
    let out = folder.path().join("x.gguf");
    let ended = quantize(model.path(), "bf16", &out, &["--text", &text, "--without-tokenizer"])?;
    check(&ended.err, ended.status == Some(0))?;
    check(&ended.out, ended.out.starts_with("KL divergence 0.0") && ended.out.contains("tokens (at most"))
}

/// Rounded while it is loaded or while it is written: the same numbers.
fn dtype_and_quantize_agree() -> Outcome {
    let folder = tempfile::tempdir()?;
    let tokens = list(golden("gguf-blocks").prompt());
    for dtype in ["q4_k", "q6_k", "q4_0"] {
        let out = folder.path().join(dtype);
        quantize(&blocks(), dtype, &out, &["--tokens", "0"])?;
        let [one, other] =
            [folder.path().join("one"), folder.path().join("other")].map(|path| path.display().to_string());
        done(&["forward", "--model", &blocks(), "--tokens", &tokens, "--dtype", dtype, "--out", &one])?;
        done(&["forward", "--model", &out.display().to_string(), "--tokens", &tokens, "--out", &other])?;
        check(dtype, fs::read(one)? == fs::read(other)?)?;
    }
    Ok(())
}

fn synth_in_both_forms() -> Outcome {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("tiny.toml");
    fs::write(
        &config,
        "width = 64\n[decoder]\nvocabulary = 300\ncontext = 32\nlayers = 2\ncausal = true\nplacement = \"pre\"\n\
         final_norm = true\nnorm = { kind = \"rms\", epsilon = 1e-5 }\n\
         feed_forward = { width = 96, activation = \"silu\", gated = true }\n[decoder.attention]\nheads = 4\n\
         key_value_heads = 2\nhead_width = 16\nscale = 0.25\n\
         positions = { kind = \"rotary\", width = 16, theta = 10000.0, pairing = \"halves\" }\n[head]\ntied = false\n",
    )?;
    let config = config.display().to_string();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let synth = |out: &str| done(&["synth", "--config", &config, "--out", out, "--dtype", "f16", "--seed", "3"]);
    let mut found = Vec::new();
    for out in [path("directory"), path("file.gguf")] {
        synth(&out)?;
        let ids = ["generate", "--model", &out, "--tokens", "1,5,9", "--max-new-tokens", "9", "--raw-tokens"];
        found.push(done(&ids)?);
    }
    equal("the two forms", &found[0], &found[1])?;
    let first = fs::read(path("file.gguf"))?;
    synth(&path("again.gguf"))?;
    check("the same seed gives the same file", fs::read(path("again.gguf"))? == first)
}

/// Cut anywhere: one line, no panic.
fn every_cut_is_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let whole = fs::read(blocks())?;
    let path = folder.path().join("cut.gguf");
    let cuts = (0..whole.len()).step_by(whole.len() / 12 + 1).chain([1, 3, 4, 7, 8, 23, 24, 30, 100, 400]);
    for cut in cuts {
        fs::write(&path, &whole[..cut])?;
        let ended = consort(&["generate", "--model", &path.display().to_string(), "--tokens", "1"])?;
        check(
            &ended.err,
            ended.status == Some(1) && ended.err.contains("cut.gguf") && !ended.err.contains("internal"),
        )?;
        check(&ended.err, ended.err.lines().count() <= 2)?;
    }
    Ok(())
}

fn flipped_bytes_never_panic() -> Outcome {
    let folder = tempfile::tempdir()?;
    let whole = fs::read(blocks())?;
    let path = folder.path().join("flipped.gguf");
    // The header of this file ends before byte 1,500.
    for at in (0..1500).step_by(41) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xa5;
        fs::write(&path, &bytes)?;
        let model = path.display().to_string();
        let ended = consort(&["generate", "--model", &model, "--tokens", "1", "--max-new-tokens", "1"])?;
        let ended_well = matches!(ended.status, Some(0 | 1)) && !ended.err.contains("internal error");
        check(&format!("byte {at}: {}", ended.err), ended_well)?;
    }
    Ok(())
}

fn stories(data: &Path) -> Outcome {
    let generate = |model: &Path, tokens: &str| {
        let model = model.display().to_string();
        done(&["generate", "--model", &model, "--prompt", "Once upon a time", "--max-new-tokens", tokens])
    };
    let stories = data.join("tinystories-656k");
    let expected = generate(&stories, "60")?;
    equal("F16", &generate(&stories.join("TinyStories-656K.f16.gguf"), "60")?, &expected)?;
    let start: String = expected.chars().take(30).collect();
    let q8 = generate(&stories.join("tinystories-656k-q8_0.gguf"), "60")?;
    check(&q8, q8.starts_with(&start))?;
    let old = generate(&data.join("stories260k/tinyllamas-stories-260k-f32.gguf"), "30")?;
    check(&old, old.starts_with(", there was a little girl named Lily."))
}

fn refused() -> Vec<Trial> {
    let folder = || tempfile::tempdir().expect("a folder");
    let cases: Vec<(&str, Vec<&str>, Vec<&str>)> = vec![
        (
            "unknown_type",
            vec!["quantize", "--model", "BLOCKS", "--dtype", "q9", "--out", "OUT/x.gguf"],
            vec!["'q9'", "q4_k"],
        ),
        (
            "no_such_model",
            vec!["quantize", "--model", "OUT/none", "--dtype", "q8_0", "--out", "OUT/x.gguf"],
            vec!["no such file"],
        ),
        (
            "out_is_a_folder",
            vec!["quantize", "--model", "BLOCKS", "--dtype", "q8_0", "--out", "OUT"],
            vec!["is a directory"],
        ),
        (
            "out_in_no_folder",
            vec!["quantize", "--model", "BLOCKS", "--dtype", "q8_0", "--out", "OUT/no/x.gguf"],
            vec!["no/x.gguf", "there is no folder"],
        ),
        (
            "no_place_in_gguf",
            vec!["quantize", "--model", "BART", "--dtype", "q8_0", "--out", "OUT/x.gguf"],
            vec!["no place", "'bart'"],
        ),
        (
            "text_without_a_tokenizer",
            vec!["quantize", "--model", "BLOCKS", "--dtype", "q8_0", "--out", "OUT/x.gguf", "--text", "CONFIG"],
            vec!["--text needs a tokenizer", "no tokenizer in this file"],
        ),
        (
            "synth_without_a_config",
            vec!["synth", "--config", "OUT/none.toml", "--out", "OUT/x"],
            vec!["none.toml", "No such file"],
        ),
        ("synth_of_no_config", vec!["synth", "--config", "BLOCKS", "--out", "OUT/x"], vec!["model.gguf"]),
        (
            "synth_blocks_in_a_directory",
            vec!["synth", "--config", "CONFIG", "--out", "OUT/x", "--dtype", "q4_k"],
            vec!["q4_k", "f32, f16, bf16"],
        ),
        ("not_gguf", vec!["info", "--model", "OUT/fake.gguf"], vec!["fake.gguf", "GGUF"]),
    ];
    let run = move |args: Vec<&'static str>, needed: Vec<&'static str>| -> Outcome {
        let folder = folder();
        fs::write(folder.path().join("fake.gguf"), "not at all")?;
        let place = |arg: &str| {
            let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/stories-15m.toml");
            arg.replace("BLOCKS", &blocks())
                .replace("BART", &golden_path("bart").display().to_string())
                .replace("CONFIG", config)
                .replace("OUT", &folder.path().display().to_string())
        };
        let args: Vec<String> = args.into_iter().map(place).collect();
        let ended = consort(&args)?;
        let status = if needed.contains(&"'q9'") { 2 } else { 1 };
        check(&format!("status {:?}: {}", ended.status, ended.err), ended.status == Some(status))?;
        for part in needed {
            check(&format!("{part:?} in: {}", ended.err), ended.err.contains(part))?;
        }
        check("nothing is left", fs::read_dir(folder.path())?.count() == 1)
    };
    cases
        .into_iter()
        .map(|(name, args, needed)| Trial::test(format!("gguf::refused::{name}"), move || run(args, needed)))
        .collect()
}
