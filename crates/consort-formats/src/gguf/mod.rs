//! GGUF files: one file with the configuration, the tokenizer and the weights, or several that are its parts.
//!
//! What a directory says in `config.json` a GGUF file says in its metadata, and what it calls `model.norm.weight` is
//! `output_norm.weight` there. [`architectures`] has tables of both; with them the same families read both kinds of files.

pub(crate) mod architectures;
mod config;
mod header;
mod llama3;
mod metadata;
pub(crate) mod names;
mod split;
mod types;
mod values;
pub(crate) mod vocabulary;

use std::{collections::BTreeMap, sync::Arc};

use consort_core::{ByteSource, StoredTensor, TransformerConfig};

use self::{
    architectures::{ARCHITECTURES, Architecture},
    config::Config,
    header::Info,
    metadata::Metadata,
    names::{Kept, Name},
};
pub(crate) use self::{
    header::is_ours,
    split::{first_part, is_part, missing, parts},
};
use crate::{
    directory::{Model, check},
    error::{Error, printable},
    families::FAMILIES,
    generation::GenerationConfig,
    json::Reader,
    weights::{ElementType, Filled, Order, Source, Tensor, Tensors, fill},
};

/// A part of a model: its name for messages, and its bytes.
pub(crate) struct Part {
    pub(crate) file: String,
    pub(crate) bytes: Arc<dyn ByteSource>,
}

/// Reads a model from its parts, the first of which has the metadata.
///
/// # Errors
/// One line that names the file, and the key or the tensor.
pub(crate) fn read(parts: &[Part]) -> Result<Model, Error> {
    let headers = parts.iter().map(|part| header::read(&part.file, part.bytes.bytes()));
    let mut headers: Vec<header::Header<'_>> = headers.collect::<Result<_, _>>()?;
    split::check(parts, &headers)?;
    let (Some(part), Some(first)) = (parts.first(), headers.first_mut()) else {
        return Err(Error::malformed("", "a model of no parts"));
    };
    let metadata = Metadata { file: &part.file, entries: std::mem::take(&mut first.metadata) };
    let architecture = architecture(&metadata)?;

    let mut infos: BTreeMap<&str, (usize, Info<'_>)> = BTreeMap::new();
    for (place, header) in headers.into_iter().enumerate() {
        for info in header.tensors {
            if let Some((_, other)) = infos.insert(info.name, (place, info)) {
                let file = parts.get(place).map_or("", |part| &part.file);
                return Err(Error::tensor(file, other.name, "another part of the model has this tensor too"));
            }
        }
    }
    let sources: Vec<Arc<Source>> =
        parts.iter().map(|part| Arc::new(Source { file: part.file.clone(), bytes: Arc::clone(&part.bytes) })).collect();

    let rows = rows(&metadata, &infos)?;
    let frequencies = match infos.get(FREQUENCIES) {
        Some((place, info)) => sources.get(*place).map(|source| stored_vector(source, info)).transpose()?,
        None => None,
    };
    let has = |name: &str| infos.contains_key(name);
    if let Some(name) = LONG_FREQUENCIES.into_iter().find(|name| has(name)) {
        let what = "other rotary frequencies for long texts (longrope) are not supported: use a variant of the model with its \
            first context (4k)";
        return Err(Error::tensor(metadata.file, name, what));
    }
    let config = config::build(architecture, &metadata, rows, &has, frequencies.as_ref())?;
    let vocabulary = vocabulary::read(&metadata, rows)?;

    let tables = match architecture.without {
        Some((tensor, tables)) if !has(tensor) => tables,
        _ => architecture.tensors,
    };
    let tensors = tensors(tables, &config, infos, &sources);
    let reader = Reader::new(metadata.file, &config.value)?.named(&config.names);
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == architecture.model_type) else {
        return Err(unknown(&metadata, architecture.name));
    };
    let mut mapping = (family.map)(&reader, &tensors)?;
    if architecture.norms_plus_one {
        for stack in [&mut mapping.config.encoder, &mut mapping.config.decoder].into_iter().flatten() {
            stack.norm.unit_offset = false;
        }
    }
    // A copy of the embedding that some conversions write as the head holds nothing of its own.
    if mapping.config.head.as_ref().is_some_and(|head| head.tied) {
        mapping.silent.push("lm_head.weight");
    }
    check(&mapping.config, metadata.file)?;
    let Filled { weights, unused, dtype, parameters } = fill(&mapping, &tensors, metadata.file, "its metadata")?;
    let generation = GenerationConfig::read(&reader)?;
    let family = family.model_type.to_owned();
    let config: TransformerConfig = mapping.config;
    Ok(Model { config, family, weights, generation, vocabulary, about: metadata.about(), unused, dtype, parameters })
}

const EMBEDDING: &str = "token_embd.weight";
/// Divisors of rotary frequencies.
const FREQUENCIES: &str = "rope_freqs.weight";
/// The same for long texts, and for short ones.
const LONG_FREQUENCIES: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

fn architecture(metadata: &Metadata<'_>) -> Result<&'static Architecture, Error> {
    match metadata.text("general.type")? {
        None | Some("model") => {}
        Some(other) => {
            let what = format!("'{}': not a model by itself; give the model's own file", printable(other));
            return Err(metadata.error("general.type", what));
        }
    }
    match metadata.text("general.architecture")? {
        None => Err(metadata.error("general.architecture", "missing; every model's file has it")),
        Some(name) => architectures::find(name).ok_or_else(|| unknown(metadata, name)),
    }
}

fn unknown(metadata: &Metadata<'_>, name: &str) -> Error {
    let known = ARCHITECTURES.map(|one| one.name).join(", ");
    let what = format!("'{}' is not an architecture that Consort reads from GGUF: {known}", printable(name));
    metadata.error("general.architecture", what)
}

/// V, from the embedding.
fn rows(metadata: &Metadata<'_>, infos: &BTreeMap<&str, (usize, Info<'_>)>) -> Result<usize, Error> {
    match infos.get(EMBEDDING).map(|(_, info)| info.shape.as_slice()) {
        Some(&[rows, _]) => Ok(rows),
        Some(other) => {
            Err(Error::tensor(metadata.file, EMBEDDING, format!("expected two dimensions, found {other:?}")))
        }
        None if infos.is_empty() => {
            Err(Error::malformed(metadata.file, "it has no tensors: a tokenizer or a description alone is no model"))
        }
        None => Err(Error::tensor(metadata.file, EMBEDDING, "missing, and every model has it")),
    }
}

fn stored_vector(source: &Arc<Source>, info: &Info<'_>) -> Result<StoredTensor, Error> {
    let error = |what: String| Error::tensor(&source.file, info.name, what);
    match (info.kind.element(), info.shape.as_slice()) {
        (ElementType::Weight(dtype), &[count]) => {
            StoredTensor::new(info.name, Arc::clone(&source.bytes), info.bytes.start, dtype, [1, count])
                .map_err(|problem| error(problem.to_string()))
        }
        (_, shape) => Err(error(format!("expected a vector of F32, found {shape:?} of {}", info.kind.name()))),
    }
}

/// The tensors by the names that the family's table has.
fn tensors(
    tables: &'static [&'static [Name]],
    config: &Config,
    infos: BTreeMap<&str, (usize, Info<'_>)>,
    sources: &[Arc<Source>],
) -> Tensors {
    let heads = config.count("num_attention_heads").unwrap_or(1);
    let key_heads = config.count("num_key_value_heads").unwrap_or(heads);
    let mut tensors = Tensors { tables, ..Tensors::default() };
    for (name, (place, info)) in infos {
        let Some(source) = sources.get(place) else { continue };
        let Some((found_by, row)) = names::from_file(tables, name) else {
            if name != FREQUENCIES {
                tensors.unlisted.push(name.to_owned());
            }
            continue;
        };
        let mut shape = info.shape;
        let order = match row.kept {
            Kept::Same => Order::Plain,
            Kept::QueryRows => Order::Interleaved { heads },
            Kept::KeyRows => Order::Interleaved { heads: key_heads },
            Kept::Parts => Order::Parts,
            Kept::Transposed => {
                shape.reverse();
                Order::Transposed
            }
        };
        let tensor = Tensor {
            source: Arc::clone(source),
            name: Some(name.to_owned()),
            dtype: info.kind.element(),
            shape,
            range: info.bytes,
            order,
        };
        tensors.by_name.insert(found_by, tensor);
    }
    tensors
}
