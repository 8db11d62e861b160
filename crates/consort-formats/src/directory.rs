//! From a path to a checked model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use consort_core::{ByteSource, TransformerConfig};
use serde_json::Value;

use crate::{
    error::{Error, printable, show},
    families,
    generation::GenerationConfig,
    gguf::{self, vocabulary::Vocabulary},
    json::{Reader, found},
    map::MappedFile,
    safetensors,
    weights::{Filled, Mapping, Source, Tensor, Tensors, Weights, fill},
};

/// A model, checked: every slot of its configuration filled, every shape as the configuration says.
#[derive(Debug)]
pub struct Model {
    /// The transformer.
    pub config: TransformerConfig,
    /// `model_type` of config.json, or of the family that reads a GGUF file's architecture, or `consort` for a directory in
    /// the native form.
    pub family: String,
    /// Its weights, still in the mapped files.
    pub weights: Weights,
    /// How its makers generate with it.
    pub generation: GenerationConfig,
    /// The tokenizer inside a GGUF file; directories have theirs in files of their own.
    pub vocabulary: Option<Vocabulary>,
    /// What a GGUF file says of itself in words: name, author, licence … by their keys without `general.` in front.
    pub about: Vec<(String, String)>,
    /// Tensors of the files that nothing needs, except for buffers and second names that hold nothing of their own.
    pub unused: Vec<String>,
    /// Stored element types of the weights in use, the most frequent first: `bf16`, `q4_k + q6_k + f32`.
    pub dtype: String,
    /// Numbers in the weights in use, each stored tensor counted once.
    pub parameters: u64,
}

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const NATIVE: &str = "config.toml";
const GENERATION: &str = "generation_config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Text files beyond this are not configurations.
const MAX_TEXT: u64 = 64 << 20;

/// Opens a model directory: `config.json` (or `config.toml`, Consort's own form) with `model.safetensors` or shards and
/// their index. Or a GGUF file, known by its first bytes; or any of its parts, for a model in several; or a directory that
/// has one such model and no configuration.
///
/// # Errors
/// One line that names the file and says what was expected and found. [`Error::Path`] when `path` is no model, [`Error::Config`] for settings that Consort does not know, [`Error::Malformed`] and [`Error::Tensor`]
/// for weight files that contradict themselves or the configuration, [`Error::Missing`] for weights that are not there.
pub fn open(path: &Path) -> Result<Model, Error> {
    let kind = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => not_found(path),
        _ => Error::io(path, error),
    })?;
    if !kind.is_dir() {
        if is_gguf(path, &kind)? {
            return open_gguf(path);
        }
        return Err(Error::path(path, instead_of_file(path)));
    }
    let json = path.join(CONFIG);
    let toml = path.join(NATIVE);
    if is_file(&json) {
        open_json(path, &json)
    } else if is_file(&toml) {
        open_native(path, &toml)
    } else {
        open_gguf(&path.join(only_gguf(path)?))
    }
}

/// The name of a directory's one GGUF model: that of its first part, where it has several.
fn only_gguf(directory: &Path) -> Result<String, Error> {
    const LISTED: usize = 5;
    let entries = fs::read_dir(directory).map_err(|error| Error::io(directory, error))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let models: BTreeSet<String> = names.filter(|name| name.ends_with(".gguf")).map(gguf::first_part).collect();
    match models.len() {
        1 => Ok(models.into_iter().next().unwrap_or_default()),
        0 => Err(Error::path(
            directory,
            format!(
                "no {CONFIG} (and no {NATIVE}, and no GGUF file) in this directory, so it is not a model directory"
            ),
        )),
        count => {
            let mut listed: Vec<String> = models.iter().take(LISTED).map(|name| printable(name)).collect();
            if count > LISTED {
                listed.push("…".to_owned());
            }
            Err(Error::path(directory, format!("{count} GGUF models, give one of them: {}", listed.join(", "))))
        }
    }
}

/// Whether a file is a GGUF file, by its first bytes, or claims to be one.
fn is_gguf(path: &Path, kind: &fs::Metadata) -> Result<bool, Error> {
    if !kind.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    open_file(path)?.take(4).read_to_end(&mut start).map_err(|error| Error::io(path, error))?;
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    Ok(named || gguf::is_ours(&start))
}

fn open_gguf(path: &Path) -> Result<Model, Error> {
    let paths = gguf::parts(path)?;
    let mut parts = Vec::new();
    for part in &paths {
        if !is_file(part) {
            return Err(gguf::missing(part, paths.len(), path));
        }
        parts.push(gguf::Part { file: show(part), bytes: map(part)? });
    }
    gguf::read(&parts)
}

fn open_json(directory: &Path, path: &Path) -> Result<Model, Error> {
    let file = show(path);
    let value = read_json(path)?;
    let reader = Reader::new(&file, &value)?;
    // The family first: that it is unknown says more than what its weights lack.
    let family = families::family(&reader)?;
    let tensors = open_tensors(directory)?;
    let mapping = (family.map)(&reader, &tensors)?;
    check(&mapping.config, &file)?;
    let Filled { weights, unused, dtype, parameters } = fill(&mapping, &tensors, &show(directory), CONFIG)?;
    let generation = match read_generation(directory)? {
        Some(generation) => generation,
        None => GenerationConfig::read(&reader)?,
    };
    let family = family.model_type.to_owned();
    Ok(Model {
        config: mapping.config,
        family,
        weights,
        generation,
        vocabulary: None,
        about: Vec::new(),
        unused,
        dtype,
        parameters,
    })
}

fn open_native(directory: &Path, path: &Path) -> Result<Model, Error> {
    let file = show(path);
    let text = read_text(path)?;
    let config = native_config(&file, &text)?;
    let tensors = open_tensors(directory)?;
    let mapping = Mapping { rows: Vec::new(), prefix: "", silent: Vec::new(), config };
    let Filled { weights, unused, dtype, parameters } = fill(&mapping, &tensors, &show(directory), NATIVE)?;
    let generation = read_generation(directory)?.unwrap_or_default();
    let family = "consort".to_owned();
    Ok(Model {
        config: mapping.config,
        family,
        weights,
        generation,
        vocabulary: None,
        about: Vec::new(),
        unused,
        dtype,
        parameters,
    })
}

/// The core's own checks, in the name of the file that the values come from.
pub(crate) fn check(config: &TransformerConfig, file: &str) -> Result<(), Error> {
    config.validate().map_err(|error| match error {
        consort_core::Error::Config { field, what } => Error::config(file, field, what),
        other => Error::malformed(file, other.to_string()),
    })
}

pub(crate) fn native_config(file: &str, text: &str) -> Result<TransformerConfig, Error> {
    let config: TransformerConfig = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        Error::malformed(file, format!("{line}{}", printable(error.message())))
    })?;
    check(&config, file)?;
    Ok(config)
}

fn read_generation(directory: &Path) -> Result<Option<GenerationConfig>, Error> {
    let path = directory.join(GENERATION);
    if !is_file(&path) {
        return Ok(None);
    }
    let value = read_json(&path)?;
    GenerationConfig::read(&Reader::new(&show(&path), &value)?).map(Some)
}

fn read_json(path: &Path) -> Result<Value, Error> {
    parse_json(&show(path), &read_text(path)?)
}

pub(crate) fn parse_json(file: &str, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::malformed(file, format!("not valid JSON: {}", printable(&error.to_string()))))
}

fn read_text(path: &Path) -> Result<String, Error> {
    let mut text = Vec::new();
    let file = open_file(path)?;
    file.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(|error| Error::io(path, error))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::malformed(&show(path), format!("larger than the limit of {MAX_TEXT} bytes")));
    }
    String::from_utf8(text).map_err(|error| {
        Error::malformed(&show(path), format!("not text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    })
}

/// Opens a regular file only: opening a pipe would wait for its writer.
fn open_file(path: &Path) -> Result<File, Error> {
    let kind = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if !kind.is_file() {
        return Err(Error::path(path, "not a regular file"));
    }
    File::open(path).map_err(|error| Error::io(path, error))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|kind| kind.is_file())
}

fn open_tensors(directory: &Path) -> Result<Tensors, Error> {
    let single = directory.join(WEIGHTS);
    let index = directory.join(INDEX);
    if is_file(&single) {
        Ok(Tensors { by_name: open_weights(&single)?.into_iter().collect(), ..Tensors::default() })
    } else if is_file(&index) {
        open_shards(directory, &index)
    } else if let Some(pickle) = pickle(directory) {
        Err(Error::path(&directory.join(pickle), CONVERT))
    } else {
        let instead = match only_gguf(directory) {
            Ok(name) => format!("; give the GGUF file of this directory, {}, by its own name", printable(&name)),
            Err(_) => String::new(),
        };
        Err(Error::path(directory, format!("no {WEIGHTS} and no {INDEX} in this directory{instead}")))
    }
}

fn open_weights(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    tensors_of(show(path), map(path)?)
}

fn map(path: &Path) -> Result<Arc<dyn ByteSource>, Error> {
    let file = open_file(path)?;
    if file.metadata().map_err(|error| Error::io(path, error))?.len() == 0 {
        return Err(Error::malformed(&show(path), "the file is empty"));
    }
    Ok(Arc::new(MappedFile::new(&file).map_err(|error| Error::io(path, error))?))
}

pub(crate) fn tensors_of(file: String, bytes: Arc<dyn ByteSource>) -> Result<Vec<(String, Tensor)>, Error> {
    let entries = safetensors::read(bytes.bytes()).map_err(|problem| match problem.tensor {
        Some(tensor) => Error::tensor(&file, &tensor, problem.what),
        None => Error::malformed(&file, problem.what),
    })?;
    let source = Arc::new(Source { file, bytes });
    Ok(entries.into_iter().map(|entry| Tensor::new(&source, entry)).collect())
}

/// Which shard has which tensors.
pub(crate) fn read_index(file: &str, value: &Value) -> Result<BTreeMap<String, BTreeSet<String>>, Error> {
    let reader = Reader::new(file, value)?;
    let Some(Value::Object(map)) = reader.get("weight_map") else {
        let what = reader.get("weight_map").map_or("nothing".to_owned(), found);
        return Err(reader.error("weight_map", format!("expected an object of tensor names and files, found {what}")));
    };
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, shard) in map {
        let Value::String(shard) = shard else {
            return Err(Error::tensor(file, tensor, format!("expected a file name, found {}", found(shard))));
        };
        let inside = Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
        // A backslash separates directories on Windows, so it must not be a way out on one system only.
        if !inside || shard.is_empty() || shard.contains(['\\', ':', '\0']) {
            let what = format!("the file '{}' is not inside the model directory", printable(shard));
            return Err(Error::tensor(file, tensor, what));
        }
        shards.entry(shard.clone()).or_default().insert(tensor.clone());
    }
    Ok(shards)
}

fn open_shards(directory: &Path, index: &Path) -> Result<Tensors, Error> {
    let index_file = show(index);
    let shards = read_index(&index_file, &read_json(index)?)?;
    let mut tensors = Tensors::default();
    for (shard, mut listed) in shards {
        let path: PathBuf = directory.join(&shard);
        if !is_file(&path) {
            let example = listed.first().map(|name| printable(name)).unwrap_or_default();
            let what = format!("missing, and {index_file} says that it has {} tensors ('{example}' …)", listed.len());
            return Err(Error::path(&path, what));
        }
        for (name, tensor) in open_weights(&path)? {
            if listed.remove(&name) {
                tensors.by_name.insert(name, tensor);
            } else {
                tensors.unlisted.push(name);
            }
        }
        if let Some(name) = listed.first() {
            return Err(Error::tensor(&show(&path), name, format!("not in this file, where {index_file} says it is")));
        }
    }
    // Listed for another shard as well: then that one counts.
    let Tensors { by_name, unlisted, .. } = &mut tensors;
    unlisted.retain(|name| !by_name.contains_key(name));
    Ok(tensors)
}

const CONVERT: &str = "pickled PyTorch weights, which can run code when read: convert them once in Python, with \
    transformers' AutoModel….from_pretrained(directory).save_pretrained(directory, safe_serialization=True), and give \
    the directory";

/// The name of PyTorch weights in a directory that has no other.
fn pickle(directory: &Path) -> Option<&'static str> {
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth"]
        .into_iter()
        .find(|name| is_file(&directory.join(name)))
}

fn instead_of_file(path: &Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "bin" | "pt" | "pth" | "ckpt" => CONVERT.to_owned(),
        "safetensors" | "json" | "toml" => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.map_or(".".to_owned(), show);
            format!("a file of a model: give its directory instead, '{directory}'")
        }
        _ => "not a model: give a directory with config.json and model.safetensors, or a GGUF file".to_owned(),
    }
}

fn not_found(path: &Path) -> Error {
    let text = show(path);
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let hub = match text.split_once('/') {
        Some((organisation, name)) => part(organisation) && part(name),
        None => false,
    };
    if hub {
        Error::path(
            path,
            format!(
                "no such directory, and Consort does not download models: fetch it first (for example with \
                 'hf download {text} --local-dir {text}') and give the directory"
            ),
        )
    } else {
        Error::path(path, "no such file or directory")
    }
}
