//! Small files into slots: fused projections taken apart, the names of a model inside another, shapes that do not fit.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::family;
use crate::{
    directory::tensors_of,
    error::Error,
    json::Reader,
    weights::{Filled, Tensors, fill},
};

/// Tensors of F32 whose elements count up from 0, row by row.
fn file(tensors: &[(&str, &[usize])]) -> Tensors {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let begin = data.len();
        for element in 0..shape.iter().product::<usize>() {
            data.extend_from_slice(&(element as f32).to_le_bytes());
        }
        header.insert((*name).to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    let by_name = tensors_of("model.safetensors".to_owned(), Arc::new(bytes)).expect("tensors").into_iter().collect();
    Tensors { by_name, ..Tensors::default() }
}

fn filled(config: &Value, tensors: &Tensors) -> Result<Filled, Error> {
    let reader = Reader::new("config.json", config)?;
    let mapping = (family(&reader)?.map)(&reader, tensors)?;
    fill(&mapping, tensors, "directory", "config.json")
}

/// The first element of each row of a slot whose tensor has rows of four, as the number of that row.
fn rows(filled: &Filled, slot: &str) -> Vec<usize> {
    let weight = filled.weights.get(slot).expect("a weight");
    (0..weight.shape()[0]).map(|row| weight.row(row).next().map_or(0, |first| first as usize / 4)).collect()
}

fn vector(filled: &Filled, slot: &str) -> Vec<usize> {
    filled.weights.get(slot).expect("a vector").row(0).map(|element| element as usize).collect()
}

#[test]
fn query_key_and_value_that_alternate_head_by_head() {
    let config = json!({"model_type": "gpt_neox", "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 3, "vocab_size": 5, "rotary_pct": 1.0});
    let tensors = |fused: usize| {
        file(&[
            ("gpt_neox.embed_in.weight", &[5, 4]),
            ("gpt_neox.layers.0.input_layernorm.weight", &[4]),
            ("gpt_neox.layers.0.input_layernorm.bias", &[4]),
            ("gpt_neox.layers.0.post_attention_layernorm.weight", &[4]),
            ("gpt_neox.layers.0.post_attention_layernorm.bias", &[4]),
            ("gpt_neox.layers.0.attention.query_key_value.weight", &[fused, 4]),
            ("gpt_neox.layers.0.attention.query_key_value.bias", &[12]),
            ("gpt_neox.layers.0.attention.dense.weight", &[4, 4]),
            ("gpt_neox.layers.0.attention.dense.bias", &[4]),
            ("gpt_neox.layers.0.attention.masked_bias", &[]),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", &[3, 4]),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h.bias", &[3]),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", &[4, 3]),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.bias", &[4]),
            ("gpt_neox.final_layer_norm.weight", &[4]),
            ("gpt_neox.final_layer_norm.bias", &[4]),
            ("embed_out.weight", &[5, 4]),
        ])
    };
    let filled_slots = filled(&config, &tensors(12)).expect("a model");
    assert!(filled_slots.unused.is_empty(), "{:?}", filled_slots.unused);
    for (part, places) in [("query", [0, 1, 6, 7]), ("key", [2, 3, 8, 9]), ("value", [4, 5, 10, 11])] {
        assert_eq!(rows(&filled_slots, &format!("decoder.0.attention.{part}.weight")), places);
        assert_eq!(vector(&filled_slots, &format!("decoder.0.attention.{part}.bias")), places);
    }
    let error = filled(&config, &tensors(11)).err().expect("a tensor that is too short").to_string();
    for part in ["model.safetensors", "query_key_value.weight", "[12, 4]", "[11, 4]"] {
        assert!(error.contains(part), "{error}: no {part}");
    }
}

#[test]
fn queries_with_the_keys_and_values_of_their_group() {
    let small = |more: Value| {
        let mut config = json!({"model_type": "falcon", "hidden_size": 4, "num_attention_heads": 4,
            "num_hidden_layers": 1, "ffn_hidden_size": 3, "vocab_size": 5});
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        config
    };
    let tensors = |fused: usize| {
        file(&[
            ("word_embeddings.weight", &[5, 4]),
            ("h.0.input_layernorm.weight", &[4]),
            ("h.0.input_layernorm.bias", &[4]),
            ("h.0.self_attention.query_key_value.weight", &[fused, 4]),
            ("h.0.self_attention.dense.weight", &[4, 4]),
            ("h.0.mlp.dense_h_to_4h.weight", &[3, 4]),
            ("h.0.mlp.dense_4h_to_h.weight", &[4, 3]),
            ("ln_f.weight", &[4]),
            ("ln_f.bias", &[4]),
        ])
    };
    let grouped = json!({"new_decoder_architecture": true, "num_ln_in_parallel_attn": 1, "num_kv_heads": 2});
    for (more, fused, expected) in [
        (grouped, 8, [vec![0, 1, 4, 5], vec![2, 6], vec![3, 7]]),
        (json!({}), 6, [vec![0, 1, 2, 3], vec![4], vec![5]]),
        (json!({"multi_query": false}), 12, [vec![0, 3, 6, 9], vec![1, 4, 7, 10], vec![2, 5, 8, 11]]),
    ] {
        let filled = filled(&small(more), &tensors(fused)).expect("a model");
        assert!(filled.unused.is_empty(), "{:?}", filled.unused);
        for (part, places) in ["query", "key", "value"].into_iter().zip(expected) {
            assert_eq!(rows(&filled, &format!("decoder.0.attention.{part}.weight")), places);
        }
    }
}

#[test]
fn halves_of_one_tensor() {
    let config = json!({"model_type": "phi3", "hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "intermediate_size": 3, "vocab_size": 5});
    let tensors = file(&[
        ("model.embed_tokens.weight", &[5, 4]),
        ("model.layers.0.input_layernorm.weight", &[4]),
        ("model.layers.0.post_attention_layernorm.weight", &[4]),
        ("model.layers.0.self_attn.qkv_proj.weight", &[8, 4]),
        ("model.layers.0.self_attn.o_proj.weight", &[4, 4]),
        ("model.layers.0.mlp.gate_up_proj.weight", &[6, 4]),
        ("model.layers.0.mlp.down_proj.weight", &[4, 3]),
        ("model.norm.weight", &[4]),
        ("lm_head.weight", &[5, 4]),
    ]);
    let filled = filled(&config, &tensors).expect("a model");
    assert!(filled.unused.is_empty(), "{:?}", filled.unused);
    for (slot, places) in [
        ("attention.query", vec![0, 1, 2, 3]),
        ("attention.key", vec![4, 5]),
        ("attention.value", vec![6, 7]),
        ("feed_forward.gate", vec![0, 1, 2]),
        ("feed_forward.up", vec![3, 4, 5]),
    ] {
        assert_eq!(rows(&filled, &format!("decoder.0.{slot}.weight")), places);
    }
}

#[test]
fn a_text_part_under_three_names() {
    let text = json!({"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
        "num_hidden_layers": 1, "intermediate_size": 3, "vocab_size": 5});
    let mut alone = text.clone();
    alone["model_type"] = "gemma3_text".into();
    let beside = json!({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 7}});
    let names: [(&str, &[usize]); 15] = [
        ("embed_tokens", &[5, 4]),
        ("layers.0.input_layernorm", &[4]),
        ("layers.0.post_attention_layernorm", &[4]),
        ("layers.0.pre_feedforward_layernorm", &[4]),
        ("layers.0.post_feedforward_layernorm", &[4]),
        ("layers.0.self_attn.q_proj", &[4, 4]),
        ("layers.0.self_attn.k_proj", &[2, 4]),
        ("layers.0.self_attn.v_proj", &[2, 4]),
        ("layers.0.self_attn.q_norm", &[2]),
        ("layers.0.self_attn.k_norm", &[2]),
        ("layers.0.self_attn.o_proj", &[4, 4]),
        ("layers.0.mlp.gate_proj", &[3, 4]),
        ("layers.0.mlp.up_proj", &[3, 4]),
        ("layers.0.mlp.down_proj", &[4, 3]),
        ("norm", &[4]),
    ];
    for (config, prefix) in
        [(&alone, "model."), (&alone, ""), (&beside, "model.language_model."), (&beside, "language_model.model.")]
    {
        let mut named: Vec<(String, &[usize])> =
            names.iter().map(|(name, shape)| (format!("{prefix}{name}.weight"), *shape)).collect();
        named.push(("model.vision_tower.patch.weight".to_owned(), &[2]));
        let borrowed: Vec<(&str, &[usize])> = named.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
        let filled = filled(config, &file(&borrowed)).unwrap_or_else(|error| panic!("{prefix}: {error}"));
        assert_eq!(filled.unused, ["model.vision_tower.patch.weight"], "{prefix}");
        assert_eq!(filled.weights.len(), names.len());
    }
}
