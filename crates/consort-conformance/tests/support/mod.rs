//! Model directories made for a test.
#![allow(dead_code, reason = "not every test needs everything")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use consort_conformance::golden::Golden;
use consort_core::philox;
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

/// A folder that is removed in the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("consort-conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A golden's model, without its reference.
    pub(crate) fn of_golden(name: &str) -> Self {
        let folder = Self::new();
        for entry in fs::read_dir(golden_path(name)).unwrap() {
            let entry = entry.unwrap();
            let besides = ["case.json", "expected.safetensors", "training.json", "gradients"];
            if !besides.iter().any(|name| *name == entry.file_name()) {
                fs::copy(entry.path(), folder.0.join(entry.file_name())).unwrap();
            }
        }
        folder
    }

    /// A Llama all of whose rows are whole blocks of 32.
    pub(crate) fn of_whole_blocks() -> Self {
        let folder = Self::new();
        let config = r#"{
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 64,
            "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
            "vocab_size": 97, "max_position_embeddings": 40, "rms_norm_eps": 1e-3, "rope_theta": 500.0,
            "tie_word_embeddings": false
        }"#;
        fs::write(folder.0.join("config.json"), config).unwrap();
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![97, 64]),
            ("model.norm.weight".to_owned(), vec![64]),
            ("lm_head.weight".to_owned(), vec![97, 64]),
        ];
        for layer in 0..2 {
            for (name, sizes) in [
                ("self_attn.q_proj", vec![64, 64]),
                ("self_attn.k_proj", vec![32, 64]),
                ("self_attn.v_proj", vec![32, 64]),
                ("self_attn.o_proj", vec![64, 64]),
                ("mlp.gate_proj", vec![96, 64]),
                ("mlp.up_proj", vec![96, 64]),
                ("mlp.down_proj", vec![64, 96]),
                ("input_layernorm", vec![64]),
                ("post_attention_layernorm", vec![64]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), sizes));
            }
        }
        let tensors = shapes.into_iter().zip(0..).map(|((name, sizes), stream)| {
            let elements: usize = sizes.iter().product();
            let width = *sizes.last().unwrap() as f64;
            let draw = |at: u64| match sizes.len() {
                1 => 1.0 + 0.1 * philox::normal(5, stream, at),
                _ => 1.5 * philox::normal(5, stream, at) / width.sqrt(),
            };
            let bytes = (0..elements as u64).flat_map(|at| (draw(at) as f32).to_le_bytes()).collect();
            (name, Dtype::F32, sizes, bytes)
        });
        save(&folder.0.join("model.safetensors"), &tensors.collect::<Vec<_>>());
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Name, type, sizes and bytes of a tensor.
pub(crate) type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn save(path: &Path, tensors: &[Stored]) {
    let views: HashMap<String, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, sizes, bytes)| (name.clone(), TensorView::new(*dtype, sizes.clone(), bytes).unwrap()))
        .collect();
    serialize_to_file(views, None, path).unwrap();
}

pub(crate) fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

pub(crate) fn golden(name: &str) -> Golden {
    Golden::read(&golden_path(name)).unwrap_or_else(|error| panic!("{error}"))
}
