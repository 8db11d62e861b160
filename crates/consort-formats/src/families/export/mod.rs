//! The way back: a `config.json` that says exactly what a [`TransformerConfig`] says.
//!
//! Each family that could hold a configuration writes its keys; what its own mapping then reads must be the same
//! configuration again. So a choice that a family cannot express is never lost on the way: another family is tried, or
//! none fits.

mod absolute;
mod encoders;
mod rotary;

use std::collections::BTreeSet;

use consort_core::config::{Activation, AttentionPositions, TransformerConfig};
use serde_json::{Map, Value};

use super::{FAMILIES, Family};
use crate::{
    json::{Reader, found},
    weights::{Mapping, Tensors},
};

/// A configuration in a family's words.
pub(crate) struct Exported {
    pub(crate) family: &'static Family,
    /// `config.json`.
    pub(crate) json: Value,
    /// How the family maps it back.
    pub(crate) mapping: Mapping,
}

/// The first family that can say `config`.
pub(crate) fn export(config: &TransformerConfig) -> Option<Exported> {
    candidates(config).into_iter().find_map(|(model_type, mut json, tensors)| {
        let family = FAMILIES.iter().find(|family| family.model_type == model_type)?;
        json.insert("model_type".to_owned(), model_type.into());
        let json = Value::Object(json);
        let reader = Reader::new("config.json", &json).ok()?;
        let mapping = (family.map)(&reader, &Tensors::named(&tensors)).ok()?;
        same(config, &mapping.config).then_some(Exported { family, json, mapping })
    })
}

fn same(one: &TransformerConfig, other: &TransformerConfig) -> bool {
    difference(one, other).is_none()
}

/// The first field in which two configurations differ, and its values, but for the last digits of numbers, which a file in
/// decimals or in f32 has rounded.
pub(crate) fn difference(one: &TransformerConfig, other: &TransformerConfig) -> Option<String> {
    let values = [serde_json::to_value(one).ok()?, serde_json::to_value(other).ok()?];
    differ("", Some(&values[0]), Some(&values[1]))
}

fn differ(field: &str, one: Option<&Value>, other: Option<&Value>) -> Option<String> {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    match (one, other) {
        (Some(Value::Number(a)), Some(Value::Number(b))) if close(a.as_f64()?, b.as_f64()?) => None,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let inner = |key: &String| if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
            keys.into_iter().find_map(|key| differ(&inner(key), a.get(key), b.get(key)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| differ(field, Some(a), Some(b)))
        }
        (one, other) if one == other => None,
        (one, other) => {
            let shown = |value: Option<&Value>| value.map_or("none".to_owned(), found);
            Some(format!("{field} ({}, read again as {})", shown(one), shown(other)))
        }
    }
}

/// `model_type`, keys, and tensors that are to be there for the mapping to see what is optional.
type Candidate = (&'static str, Map<String, Value>, Vec<&'static str>);

fn candidates(config: &TransformerConfig) -> Vec<Candidate> {
    let mut all = Vec::new();
    match (&config.encoder, &config.decoder) {
        (None, Some(stack)) => {
            if let AttentionPositions::Rotary(rotary) = stack.attention.positions {
                all.extend(rotary::decoders(config, stack, &rotary));
            } else {
                all.extend([absolute::gpt2(config, stack), absolute::bloom(config, stack)]);
            }
        }
        (Some(stack), None) => all.extend([encoders::bert(config, stack), encoders::t5(config, stack, None)]),
        (Some(encoder), Some(decoder)) => {
            all.extend([
                encoders::t5(config, encoder, Some(decoder)),
                encoders::bart(config, encoder, decoder),
                encoders::marian(config, encoder, decoder),
            ]);
        }
        (None, None) => {}
    }
    all
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::QuickGelu => "quick_gelu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use consort_core::config::Placement;

    use super::*;

    #[test]
    fn every_golden_is_said_again() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let mut families = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(goldens).unwrap() {
            let directory = entry.unwrap().path();
            let model = crate::open(&directory).unwrap();
            let Some(exported) = export(&model.config) else {
                // The paper's own form is no family's.
                assert_eq!(model.family, "consort", "{}", directory.display());
                continue;
            };
            assert!(same(&exported.mapping.config, &model.config), "{}", directory.display());
            families.insert(exported.family.model_type);
        }
        for needed in [
            "llama",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "phi3",
            "starcoder2",
            "gpt_neox",
            "falcon",
            "bloom",
            "gpt2",
            "bert",
            "t5",
            "bart",
            "marian",
        ] {
            assert!(families.contains(needed), "{needed} was never the first that fits: {families:?}");
        }
    }

    #[test]
    fn what_no_family_has_is_not_said() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let mut config = crate::open(&goldens.join("llama")).unwrap().config;
        config.head.as_mut().unwrap().scale = 0.5;
        assert!(export(&config).is_none());
        let mut config = crate::open(&goldens.join("gpt2")).unwrap().config;
        config.decoder.as_mut().unwrap().placement = Placement::Post;
        assert!(export(&config).is_none());
    }
}
