//! Models that are not Consort's own goldens: references from outside, tokens drawn here, weights kept as other types.

mod support;

use std::fs;

use consort_conformance::{
    Error,
    compare::{Exact, compare, default_profile},
    golden::{DRAWN, Golden, goldens},
    oracle::{Oracle, Single},
};
use consort_core::{Device, WeightDType};
use safetensors::Dtype;
use support::{Folder, Stored, golden, golden_path, save};

fn f32s(name: &str, sizes: Vec<usize>, values: &[f64]) -> Stored {
    let bytes = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
    (name.to_owned(), Dtype::F32, sizes, bytes)
}

#[test]
fn a_reference_from_outside_needs_no_more_than_tokens_and_logits() {
    let own = golden("llama");
    let folder = Folder::of_golden("llama");
    let tokens = own.case.tokens.iter().flat_map(|&token| i64::from(token).to_le_bytes()).collect();
    let tokens = ("tokens".to_owned(), Dtype::I64, vec![1, own.case.tokens.len()], tokens);
    let batched = |name: &str| {
        let values = &own.expected[name];
        f32s(name, [1].into_iter().chain(values.sizes.iter().copied()).collect(), &values.data)
    };
    let path = folder.0.join("expected.safetensors");

    save(&path, &[tokens.clone(), batched("logits")]);
    let [golden] = <[Golden; 1]>::try_from(goldens(&folder.0).unwrap()).unwrap();
    assert_eq!((&golden.case.tokens, golden.case.decoder_tokens.len()), (&own.case.tokens, 0));
    let report = compare(&golden, &Device::new(Single::new())).unwrap();
    assert!(report.agrees(), "{:?}", report.failures());
    assert_eq!((report.compared, report.oracle_bar), (1, Some(1e-5)));
    assert!(report.oracle.unwrap().error > 1e-10, "F32 is rounded");

    save(&path, &[tokens.clone(), batched("logits"), batched("hidden.1"), batched("attention.0")]);
    let report = compare(&Golden::of_model(&folder.0).unwrap(), &Device::new(Single::new())).unwrap();
    assert!(report.agrees() && report.compared == 3, "{:?}", report.failures());

    // One logit that is wrong by a thousandth of the spread.
    let mut wrong = own.clone();
    wrong.expected.get_mut("logits").unwrap().data[5] += 0.1;
    let logits = &wrong.expected["logits"];
    save(&path, &[tokens.clone(), f32s("logits", logits.sizes.clone(), &logits.data)]);
    let report = compare(&Golden::read(&folder.0).unwrap(), &Device::new(Single::new())).unwrap();
    assert!(report.failures()[0].starts_with("the oracle's logits"), "{:?}", report.failures());

    // Without logits, or without tokens, there is no golden.
    save(&path, &[tokens.clone(), batched("hidden.1")]);
    assert!(matches!(Golden::read(&folder.0), Err(Error::Malformed { .. })));
    save(&path, &[batched("logits")]);
    let error = Golden::read(&folder.0).unwrap_err().to_string();
    assert!(error.contains("no tensor 'tokens'"), "{error}");
    // Two lists of tokens must be the same.
    save(&path, &[tokens, batched("logits")]);
    fs::write(folder.0.join("case.json"), "{\"tokens\": [1, 2]}").unwrap();
    let error = Golden::read(&folder.0).unwrap_err().to_string();
    assert!(error.contains("other tokens than case.json"), "{error}");
}

#[test]
fn a_model_without_a_reference_has_tokens_of_its_own() {
    for (name, lengths) in [("llama", [DRAWN, 0]), ("t5", [DRAWN, DRAWN]), ("bert", [DRAWN, 0])] {
        let folder = Folder::of_golden(name);
        let drawn = Golden::of_model(&folder.0).unwrap();
        let again = Golden::drawn(&folder.0).unwrap();
        assert_eq!([drawn.case.tokens.len(), drawn.case.decoder_tokens.len()], lengths, "{name}");
        assert_eq!(drawn.case.tokens, again.case.tokens);
        assert!(drawn.case.tokens.iter().any(|token| *token > 30), "{:?}", drawn.case.tokens);
        let report = compare(&drawn, &Device::new(Single::new())).unwrap();
        assert!(report.agrees(), "{name}: {:?}", report.failures());
        assert_eq!((report.compared, report.oracle), (0, None));
        // Layers come in order, the output last.
        let names: Vec<&str> = report.layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(*names.last().unwrap(), "logits");
        assert!(names.iter().position(|name| *name == "hidden.0") < names.iter().position(|name| *name == "hidden.1"));
        assert!(report.layers.iter().all(|layer| layer.error == layer.floor && layer.error < 1e-5));
    }
}

#[test]
fn weights_of_every_type_are_compared_on_the_same_rounded_weights() {
    let folder = Folder::of_whole_blocks();
    let golden = Golden::of_model(&folder.0).unwrap();
    let exact = Exact::compute(&golden).unwrap();
    let mut worse = 0.0;
    for dtype in [WeightDType::F32, WeightDType::F16, WeightDType::BF16, WeightDType::Q8_0, WeightDType::Q4_0] {
        let reference = exact.kept_as(dtype).unwrap();
        let report = reference.compare(&Device::new(Single::new()), "ieee").unwrap();
        assert!(report.agrees(), "{dtype}: {:?}", report.failures());
        assert_eq!((report.weight_dtype, report.times_floor), (dtype, Some(1.0)));
        let quality = report.quality.unwrap();
        println!("{dtype}: error {:.2e}, quality {:.2e} nats", report.output.error, quality.mean);
        // What the type costs is no error of the backend, and is not hidden: each of these is coarser than the last.
        assert!(report.output.error < 1e-6 && quality.mean >= worse, "{dtype}: {quality:?}");
        worse = quality.mean;
        let oracle = reference.compare(&Device::new(Oracle::new()), "f64").unwrap();
        assert!(oracle.agrees() && oracle.output.error == 0.0, "{dtype}: {:?}", oracle.failures());
    }
    assert!(worse > 1e-4, "four bits cost nothing?");
}

#[test]
fn what_a_type_cannot_keep_is_refused_with_the_reason() {
    let golden = golden("llama");
    let exact = Exact::compute(&golden).unwrap();
    let Err(error) = exact.kept_as(WeightDType::Q8_0) else { panic!("rows of 36 are no blocks of 32") };
    let reason =
        "cannot be kept as q8_0: rows of decoder.embedding.tokens.weight have 36 elements, no whole blocks of 32";
    assert!(error.to_string().starts_with(reason), "{error}");
    assert!(matches!(error, Error::Kept { .. }));
}

#[test]
fn goldens_agree_in_half_precision_weights() {
    let mut floors: Vec<(WeightDType, f64)> = Vec::new();
    for golden in goldens(&golden_path("")).unwrap() {
        let exact = Exact::compute(&golden).unwrap();
        for dtype in [WeightDType::F32, WeightDType::F16, WeightDType::BF16] {
            let device = Device::new(Single::new());
            let report = exact.kept_as(dtype).unwrap().compare(&device, default_profile(&device)).unwrap();
            assert!(report.agrees(), "{} as {dtype}: {:?}", golden.name, report.failures());
            match floors.iter_mut().find(|(found, _)| *found == dtype) {
                Some((_, floor)) => *floor = report.floor.max(*floor),
                None => floors.push((dtype, report.floor)),
            }
        }
    }
    println!("greatest noise floors: {floors:?}");
    assert_eq!(floors.len(), 3);
}

#[test]
fn broken_goldens_are_errors() {
    let folder = Folder::new();
    assert!(matches!(goldens(&folder.0), Err(Error::NoGoldens { .. })));
    assert!(matches!(goldens(&folder.0.join("absent")), Err(Error::Io { .. })));
    assert!(matches!(Golden::of_model(&folder.0), Err(Error::Model(_))));
    for case in ["", "[]", "{\"tokens\": []}", "{\"tokens\": [-1]}"] {
        fs::write(folder.0.join("case.json"), case).unwrap();
        assert!(matches!(goldens(&folder.0), Err(Error::Malformed { .. })), "{case}");
    }
    fs::write(folder.0.join("case.json"), "{\"tokens\": [1]}").unwrap();
    assert!(matches!(goldens(&folder.0), Err(Error::Io { .. })));
    let path = folder.0.join("expected.safetensors");
    for expected in [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"]
    {
        fs::write(&path, expected).unwrap();
        assert!(matches!(goldens(&folder.0), Err(Error::Malformed { .. })));
    }
    for (dtype, bytes) in [(Dtype::F16, 2), (Dtype::I64, 8)] {
        save(&path, &[("logits".to_owned(), dtype, vec![1, 1], vec![0; bytes])]);
        assert!(matches!(goldens(&folder.0), Err(Error::Malformed { .. })), "{dtype:?}");
    }
    save(&path, &[("logits".to_owned(), Dtype::F64, vec![1, 1], 1.5f64.to_le_bytes().to_vec())]);
    let found = goldens(&folder.0).unwrap();
    assert!(matches!(compare(&found[0], &Device::new(Single::new())), Err(Error::Model(_))));
}
