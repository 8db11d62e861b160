//! Ways into the parsers for the fuzz targets in `fuzz/`; not part of the API.

use std::sync::Arc;

use consort_core::TransformerConfig;

use crate::{
    directory::{Model, check, native_config, parse_json, read_index, tensors_of},
    error::Error,
    families,
    generation::GenerationConfig,
    gguf,
    json::Reader,
    weights::{Tensors, fill},
};

/// Reads a safetensors file; returns how many tensors it has.
pub fn safetensors(bytes: &[u8]) -> Result<usize, Error> {
    tensors_of("fuzz.safetensors".to_owned(), Arc::new(bytes.to_vec())).map(|tensors| tensors.len())
}

/// Reads a GGUF file whole.
pub fn gguf(bytes: &[u8]) -> Result<Model, Error> {
    gguf::read(&[gguf::Part { file: "fuzz.gguf".to_owned(), bytes: Arc::new(bytes.to_vec()) }])
}

/// Reads an index of shards; returns how many there are.
pub fn index(text: &str) -> Result<usize, Error> {
    let file = "model.safetensors.index.json";
    read_index(file, &parse_json(file, text)?).map(|shards| shards.len())
}

/// Maps a `config.json` as if its directory had the tensors called `names`, and checks the result.
pub fn config_with(text: &str, names: &[&str]) -> Result<TransformerConfig, Error> {
    let file = "config.json";
    let value = parse_json(file, text)?;
    let reader = Reader::new(file, &value)?;
    GenerationConfig::read(&reader)?;
    let mapping = (families::family(&reader)?.map)(&reader, &Tensors::named(names))?;
    check(&mapping.config, file)?;
    let _ = fill(&mapping, &Tensors::named(names), "fuzz", "config.json");
    Ok(mapping.config)
}

/// Maps a `config.json` without weights.
pub fn config(text: &str) -> Result<TransformerConfig, Error> {
    config_with(text, &[])
}

/// Reads a `config.toml`.
pub fn native(text: &str) -> Result<TransformerConfig, Error> {
    native_config("config.toml", text)
}
