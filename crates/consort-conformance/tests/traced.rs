//! The shapes of real models are in the sweep: those of small models whose traces are kept here, and of the goldens.

use std::{collections::BTreeSet, fs, path::Path};

use consort_conformance::{
    golden::{Golden, goldens},
    oracle::Single,
    problem::How,
    sweep::{Depth, recipes},
};
use consort_core::{DType, Device, Shape, Trace, model::Tokens};

type Traced = Device<Trace<Single>>;

/// What was asked since the last time, a line an operation: `softmax [3, 5] -> [3, 5]`, types but f32 after their shapes.
fn lines(device: &Traced) -> BTreeSet<String> {
    let shapes = |shapes: &[(Shape, DType)]| -> String {
        let one = |(shape, dtype): &(Shape, DType)| match dtype {
            DType::F32 => shape.to_string(),
            other => format!("{shape}{other}"),
        };
        shapes.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let line = |record: consort_core::Record| {
        format!("{} {} -> {}", record.operation, shapes(&record.inputs), shapes(&record.outputs))
    };
    device.backend().take().into_iter().map(line).collect()
}

fn traced() -> Traced {
    Device::new(Trace::new(Single::new()))
}

/// What the sweep asks, operations and their parts.
fn swept() -> BTreeSet<String> {
    let device = traced();
    for recipe in recipes(Depth::Quick) {
        recipe.problem().unwrap().run(&device, How::AsAsked).unwrap();
    }
    lines(&device)
}

/// A prompt of seven tokens, then one more, through a model.
fn model(golden: &Golden) -> BTreeSet<String> {
    let device = traced();
    let model = golden.load(&device).unwrap();
    lines(&device);
    let tokens: Vec<u32> = (3..10).collect();
    if model.config().decoder.is_none() {
        let hidden = model.encode(&[&tokens], None).unwrap();
        if model.config().head.is_some() {
            model.logits(&hidden, None).unwrap();
        }
        return lines(&device);
    }
    let mut state = model.state().unwrap();
    let source = match model.config().encoder {
        Some(_) => model.add_sources(&mut state, &[&tokens]).unwrap().pop(),
        None => None,
    };
    let slot = state.open(tokens.len() + 1, source);
    let hidden = model.step(&mut state, &[slot; 7], Tokens::Host(&tokens), None).unwrap();
    model.logits(&hidden, Some(&[6])).unwrap();
    let hidden = model.step(&mut state, &[slot], Tokens::Host(&[5]), None).unwrap();
    model.logits(&hidden, None).unwrap();
    lines(&device)
}

/// Operations whose shapes are a matter of the graph and no more: moved, filled, looked up.
fn is_plumbing(line: &str) -> bool {
    ["fill ", "copy ", "write "].iter().any(|plumbing| line.starts_with(plumbing))
}

#[test]
fn small_models_ask_for_what_is_swept() {
    let swept = swept();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let missing: Vec<&str> = text.lines().filter(|line| !is_plumbing(line) && !swept.contains(*line)).collect();
        assert!(missing.is_empty(), "{}: {} not swept\n{}", path.display(), missing.len(), missing.join("\n"));
        files += 1;
    }
    assert_eq!(files, 3);
}

#[test]
fn goldens_ask_for_products_and_heads_that_are_swept() {
    let swept = swept();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut asked = BTreeSet::new();
    for golden in goldens(&folder).unwrap() {
        asked.extend(model(&golden));
    }
    let wanted = |line: &&String| ["linear ", "rotary "].iter().any(|op| line.starts_with(op));
    let missing: Vec<&String> = asked.iter().filter(wanted).filter(|line| !swept.contains(*line)).collect();
    assert!(missing.is_empty(), "{} not swept\n{missing:#?}", missing.len());
}
