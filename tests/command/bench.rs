//! `bench`: what it prints, of models of each shape. How fast this machine is, is no matter here.

use std::fs;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::*;

/// Short runs, and nothing of the machine's limits, which take a gibibyte.
const QUICK: [&str; 5] = ["--repetitions", "2", "--block", "0", "--no-limits"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bench::decoder", decoder),
        Trial::test("bench::random_weights", random_weights),
        Trial::test("bench::encoder_decoder", encoder_decoder),
        Trial::test("bench::encoder", encoder),
        Trial::test("bench::end_tokens_end_nothing", end_tokens),
        Trial::test("bench::table", table),
        Trial::test("bench::limits_are_measured", limits),
        Trial::test("bench::refused", refused),
    ]
}

/// A small decoder, in a file.
fn config(name: &str) -> Result<(TempDir, String), Failed> {
    let text = "width = 16\n[decoder]\nvocabulary = 40\ncontext = 48\nlayers = 2\ncausal = true\nplacement = \"pre\"\n\
                final_norm = true\nnorm = { kind = \"rms\", epsilon = 1e-5 }\n\
                feed_forward = { width = 32, activation = \"silu\", gated = true }\n\
                [decoder.attention]\nheads = 2\nkey_value_heads = 1\nhead_width = 8\nscale = 0.35\n\
                positions = { kind = \"rotary\", width = 8, theta = 10000.0, pairing = \"halves\" }\n\
                [head]\ntied = false\n";
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    fs::write(&path, text)?;
    let path = path.display().to_string();
    Ok((folder, path))
}

/// The objects that it prints, each with a rate.
fn lines(args: &[&str]) -> Result<Vec<Value>, Failed> {
    let text = done(&[&["bench", "--json"], args, &QUICK].concat())?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    for line in &lines {
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let (min, median, max) = (number("min"), number("median"), number("max"));
        check(&format!("a spread: {line}"), 0.0 < min && min <= median && median <= max && max.is_finite())?;
        check(&format!("work: {line}"), number("gflop_s") > 0.0 && number("weight_gb_s") > 0.0)?;
        check(&format!("times: {line}"), 0.0 < number("load_s") && number("load_s") <= number("first_token_s"))?;
        check(&format!("runs: {line}"), line["runs"].as_u64() >= Some(2))?;
    }
    Ok(lines)
}

fn cases(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["case"].as_str()).collect()
}

fn decoder() -> Outcome {
    let model = golden_path("llama").display().to_string();
    let found =
        lines(&["--model", &model, "--prompt-tokens", "4,9", "--new-tokens", "3", "--rows", "1,2", "--beams", "1,2"])?;
    let expected = ["4", "9"].into_iter().flat_map(|prompt| {
        [
            format!("prefill_{prompt}"),
            format!("decode_3_after_{prompt}"),
            format!("decode_3_after_{prompt}_b1_beam2"),
            format!("prefill_{prompt}_b2"),
            format!("decode_3_after_{prompt}_b2"),
            format!("decode_3_after_{prompt}_b2_beam2"),
        ]
    });
    equal("cases", &cases(&found), &expected.collect::<Vec<_>>().iter().map(String::as_str).collect())?;
    let same = |key: &str, value: &str| found.iter().all(|line| line[key] == value);
    check("what it was", same("engine", "consort") && same("backend", "simd") && same("compute", "f32"))?;
    check("its weights", found.iter().all(|line| line["weights_mib"].as_f64() > Some(0.0)))?;
    if cfg!(target_os = "linux") {
        check("memory", found.iter().all(|line| line["peak_rss_mib"].as_f64() > line["weights_mib"].as_f64()))?;
        check("others", found.iter().all(|line| line["worst_foreign_cpus"].is_f64()))?;
    }
    let alone = lines(&["--model", &model, "--new-tokens", "0", "--prompt-tokens", "4"])?;
    equal("prompts alone", &cases(&alone), &vec!["prefill_4"])
}

fn random_weights() -> Outcome {
    let (_folder, path) = config("small.toml")?;
    for (dtype, bytes) in [("f32", 4.0), ("bf16", 2.0)] {
        let found = lines(&["--random-config", &path, "--dtype", dtype, "--compute", "int8"])?;
        // A quarter of the context is written, and what is left is the prompt.
        equal("cases", &cases(&found), &vec!["prefill_35", "decode_12_after_35"])?;
        let step = &found[1];
        let matrices = 2.0 * (16.0 * 16.0 * 2.0 + 16.0 * 8.0 * 2.0 + 3.0 * 16.0 * 32.0) + 40.0 * 16.0;
        let read = step["weight_gb_s"].as_f64().unwrap_or(0.0) * 1e9 / step["median"].as_f64().unwrap_or(0.0);
        check(&format!("bytes a token: {read}"), (read / (bytes * matrices) - 1.0).abs() < 1e-9)?;
        equal("name", &step["model"], &"small".into())?;
        equal("types", &[&step["dtype"], &step["compute"]], &[&dtype.into(), &"int8".into()])?;
    }
    Ok(())
}

fn encoder_decoder() -> Outcome {
    let expected = vec!["translate_5_to_4_b1_beam1", "translate_5_to_4_b1_beam3", "translate_5_to_4_b2_beam1"];
    for model in ["marian", "t5", "bart"] {
        let model = golden_path(model).display().to_string();
        let args = ["--prompt-tokens", "5", "--new-tokens", "4", "--batch", "1,2", "--beams", "1,3"];
        let found = lines(&[&["--model", &model], args.as_slice()].concat())?;
        equal("cases", &cases(&found)[..3].to_vec(), &expected)?;
    }
    Ok(())
}

fn encoder() -> Outcome {
    let model = golden_path("bert").display().to_string();
    let found = lines(&["--model", &model, "--prompt-tokens", "7", "--batch", "1,3"])?;
    equal("cases", &cases(&found), &vec!["encode_7", "encode_7_b3"])
}

/// Every token ends a text of this model; as many are written all the same.
fn end_tokens() -> Outcome {
    let model = Model::copy("llama");
    let all: Vec<u32> = (0..131).collect();
    model.write("generation_config.json", serde_json::json!({ "eos_token_id": all }).to_string());
    let found = lines(&["--model", model.path(), "--prompt-tokens", "3", "--new-tokens", "5"])?;
    equal("cases", &cases(&found), &vec!["prefill_3", "decode_5_after_3"])
}

fn table() -> Outcome {
    let (_folder, path) = config("small.toml")?;
    let args = ["bench", "--random-config", &path, "--prompt-tokens", "4", "--new-tokens", "2", "--batch", "1,10"];
    let ended = consort(&[args.as_slice(), &QUICK].concat())?.succeeded()?;
    let names: Vec<&str> = ended.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    equal("rows", &names, &vec!["case", "prefill_4", "decode_2_after_4", "prefill_4_b10", "decode_2_after_4_b10"])?;
    check(&ended.err, ended.err.contains("small: weights as f32, 1 MiB") && ended.err.contains("first token after"))
}

fn limits() -> Outcome {
    let (_folder, path) = config("small.toml")?;
    // More than tests have of memory: where nothing was measured, nothing is said.
    let args = ["bench", "--random-config", &path, "--repetitions", "1", "--block", "0", "--prompt-tokens", "4"];
    let ended = consort(&args)?.succeeded()?;
    check(&ended.err, ended.err.contains("the machine: reading memory "))?;
    let text = done(&[args.as_slice(), &["--json"]].concat())?;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        equal(
            "a share where there is a limit",
            &line["share_of_reading"].is_f64(),
            &line["limits"]["read_gb_s"].is_f64(),
        )?;
        equal(
            "a share of arithmetic where that is known",
            &line["share_of_arithmetic"].is_f64(),
            &line["limits"]["f32_gflop_s"].is_f64(),
        )?;
    }
    Ok(())
}

fn refused() -> Outcome {
    let (folder, path) = config("small.toml")?;
    let wrong = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let bert = golden_path("bert").display().to_string();
    let marian = golden_path("marian").display().to_string();
    let random = ["--random-config", path.as_str()];
    let bad = wrong("bad.toml", "width = 16\nheight = 3\n");
    let absent = folder.path().join("absent.toml").display().to_string();
    let headless = wrong("headless.toml", &fs::read_to_string(&path)?.replace("[head]\ntied = false\n", ""));
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&[], 2, &["--model <PATH>", "--random-config"]),
        (&["--model", &marian, random[0], random[1]], 2, &["cannot be used with"]),
        (&[random[0], random[1], "--prompt-tokens", "0"], 2, &["'0' is not a whole number from 1 on"]),
        (&[random[0], random[1], "--batch", "1,,2"], 2, &["'' is not a whole number from 1 on"]),
        (&[random[0], random[1], "--block=-1"], 2, &["'-1' is not a number of seconds"]),
        (&[random[0], random[1], "--patience", "soon"], 2, &["'soon' is not a number of seconds"]),
        (
            &[random[0], random[1], "--prompt-tokens", "40", "--new-tokens", "8"],
            1,
            &["decode_8_after_40", "context of 48"],
        ),
        (&[random[0], random[1], "--prompt-tokens", "48", "--new-tokens", "0"], 1, &["prefill_48", "context of 48"]),
        (&[random[0], random[1], "--dtype", "q9"], 1, &["'q9' are not available on simd"]),
        (&[random[0], &absent], 1, &["absent.toml", "No such file"]),
        (&[random[0], &bad], 1, &["bad.toml: line 2: ", "height"]),
        (&[random[0], &headless], 1, &["without a head"]),
        (&["--model", &bert, "--new-tokens", "4"], 2, &["--new-tokens", "encoder-only"]),
        (&["--model", &marian, "--new-tokens", "0"], 2, &["--new-tokens", "by what it writes"]),
    ];
    for (args, status, parts) in cases {
        consort(&[&["bench"], args].concat())?.failed(status, parts)?;
    }
    Ok(())
}
