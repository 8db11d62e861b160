//! Every preset in configs/ is a transformer that runs: read as it stands, then built with random weights (a smaller
//! vocabulary and fewer layers, or the scalar backend would take minutes).

use std::{fs, path::Path};

use consort_core::{
    Device, Transformer, TransformerConfig,
    model::{LoadOptions, RandomWeights},
};
use consort_scalar::Single;

#[test]
fn presets_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut presets = 0;
    for entry in fs::read_dir(&folder).expect("configs/") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        let mut config: TransformerConfig =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        config.validate().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for stack in [&mut config.encoder, &mut config.decoder].into_iter().flatten() {
            stack.vocabulary = 50;
            stack.layers = 2;
        }
        run(&config);
        presets += 1;
    }
    assert!(presets > 0);
}

fn run(config: &TransformerConfig) {
    let weights = RandomWeights::new(config, 1);
    let device = Device::new(Single::new());
    let model = Transformer::load(&device, config, &weights, LoadOptions::default()).expect("a model");
    let sources: &[&[u32]] = if config.encoder.is_some() && config.decoder.is_some() { &[&[4, 7, 1]] } else { &[] };
    let hidden = model.forward(sources, &[&[2, 9, 9, 30]], None).expect("a pass");
    let logits = device.download(&model.logits(&hidden, None).expect("logits")).expect("numbers").to_f64();
    assert_eq!(logits.len(), 4 * 50);
    assert!(logits.iter().all(|logit| logit.is_finite()));
    assert!(logits[..50] != logits[50..100], "rows differ");
}
