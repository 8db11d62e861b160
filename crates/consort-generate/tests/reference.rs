//! The golden models continued as transformers continues them.
//!
//! `data/transformers.json` has settings, new tokens and scores of `model.double().generate(…)` by transformers 5.23 on
//! the models of `tests/golden`: greedy and beam search with penalties, constraints, forced and stop tokens.

use std::{fs, path::Path};

use consort_core::{
    Device, StoredTensor, Transformer,
    model::{LoadOptions, Weights},
};
use consort_generate::{EarlyStopping, Finish, Flow, Request, Settings, generate};
use consort_scalar::Oracle;
use serde_json::Value;

/// transformers computes log-probabilities and their sums in f32 whatever the model's type is: 16 tokens of up to 10
/// nats, 2⁻²⁴ each, and a power of the length up to 16.
const SCORE_TOLERANCE: f64 = 1e-5;

struct FileWeights(consort_formats::Weights);

impl Weights for FileWeights {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        self.0.get(slot).cloned()
    }
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn settings(value: &Value) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in value.as_object().unwrap() {
        let number = || value.as_u64().unwrap() as usize;
        let token = || value.as_u64().map(|token| token as u32);
        match name.as_str() {
            "max_new_tokens" => settings.max_new_tokens = number(),
            "num_beams" => settings.beams = number(),
            "length_penalty" => settings.length_penalty = value.as_f64().unwrap(),
            "early_stopping" => {
                settings.early_stopping = match value {
                    Value::Bool(false) => EarlyStopping::Heuristic,
                    Value::Bool(true) => EarlyStopping::First,
                    _ => EarlyStopping::Never,
                }
            }
            "no_repeat_ngram_size" => settings.no_repeat_ngram = number(),
            "repetition_penalty" => settings.repetition_penalty = value.as_f64().unwrap(),
            "eos_token_id" => settings.stop_tokens = tokens(value),
            "min_new_tokens" => settings.min_new_tokens = number(),
            "forced_bos_token_id" => settings.forced_first = token(),
            "forced_eos_token_id" => settings.forced_last = token(),
            "suppress_tokens" => settings.suppressed = tokens(value),
            other => panic!("{other}"),
        }
    }
    settings
}

#[test]
fn golden_models_go_on_as_in_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = fs::read(root.join("tests/data/transformers.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    for (name, inputs) in data["models"].as_object().unwrap() {
        let model = consort_formats::open(&root.join("../../tests/golden").join(name)).unwrap();
        let device = Device::new(Oracle::new());
        let model =
            Transformer::load(&device, &model.config, &FileWeights(model.weights), LoadOptions::default()).unwrap();
        let cases: Vec<&Value> =
            data["cases"].as_array().unwrap().iter().filter(|case| case["model"] == **name).collect();
        let requests: Vec<Request> = cases
            .iter()
            .map(|case| Request {
                source: (!inputs["source"].is_null()).then(|| tokens(&inputs["source"])),
                prompt: tokens(&inputs["prompts"][case["prompt"].as_u64().unwrap() as usize]),
                settings: settings(&case["settings"]),
            })
            .collect();
        let (outputs, _) = generate(&model, &requests, &mut |_| Flow::Continue).unwrap();
        for (case, (output, request)) in cases.iter().zip(outputs.iter().zip(&requests)) {
            assert_eq!(output.tokens, tokens(&case["tokens"]), "{case}");
            let stopped = request.settings.stop_tokens.contains(output.tokens.last().unwrap());
            assert_eq!(output.finish, if stopped { Finish::Stop } else { Finish::Length }, "{case}");
            match (output.score, case["score"].as_f64()) {
                (Some(found), Some(expected)) => {
                    assert!(
                        (found - expected).abs() <= SCORE_TOLERANCE * expected.abs().max(1.0),
                        "{found} for {case}"
                    );
                }
                (found, expected) => assert_eq!(found, expected, "{case}"),
            }
        }
    }
}
