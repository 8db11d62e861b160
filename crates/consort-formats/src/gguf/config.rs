//! Metadata to the `config.json` that says the same, by the tables of an architecture.

use consort_core::{StoredTensor, WeightDType};
use serde_json::{Map, Value};

use super::{
    architectures::{Absent, Architecture, Key, Kind, Only, Rotary, count, number},
    llama3,
    metadata::Metadata,
    values::Value as Stored,
    vocabulary::token,
};
use crate::{
    error::{Error, printable},
    families::rotary,
    json::MAX_LAYERS,
};

/// A configuration, and what the file calls the keys that it was made from.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) value: Value,
    pub(crate) names: Vec<(&'static str, String)>,
}

impl Config {
    /// A count that was put at `json` before.
    pub(crate) fn count(&self, json: &str) -> Option<usize> {
        self.value.get(json).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    fn set(&mut self, json: &'static str, key: String, value: Value) {
        let (outer, inner) = json.split_once('.').map_or((json, None), |(outer, inner)| (outer, Some(inner)));
        if let Value::Object(object) = &mut self.value {
            match inner {
                None => {
                    object.insert(outer.to_owned(), value);
                }
                Some(inner) => {
                    let nested = object.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(nested) = nested {
                        nested.insert(inner.to_owned(), value);
                    }
                }
            }
        }
        self.names.push((json, key));
    }
}

/// The configuration of a file with `rows` rows in its embedding.
///
/// # Errors
/// For a key that is missing, of the wrong kind, or that means a transformer that the family is not.
pub(crate) fn build(
    architecture: &'static Architecture,
    metadata: &Metadata<'_>,
    rows: usize,
    has: &dyn Fn(&str) -> bool,
    frequencies: Option<&StoredTensor>,
) -> Result<Config, Error> {
    let mut config = Config { value: Value::Object(Map::new()), names: Vec::new() };
    for (key, only) in architecture.only.iter().copied().flatten() {
        check_only(metadata, &full(architecture, key), *only)?;
    }
    config.set("model_type", "general.architecture".to_owned(), Value::from(architecture.model_type));
    // What is stored decides: a head of its own is used, and none means the embedding.
    config.set("tie_word_embeddings", "output.weight".to_owned(), Value::from(true));
    for (json, constant) in architecture.constants {
        config.set(json, "general.architecture".to_owned(), constant.value());
    }
    for switch in architecture.switches {
        let constant = if has(switch.tensor) { switch.present } else { switch.absent };
        config.set(switch.json, switch.tensor.to_owned(), constant.value());
    }
    for key in architecture.keys.iter().copied().flatten() {
        set_key(architecture, metadata, &mut config, key)?;
    }
    vocabulary_size(architecture, metadata, &mut config, rows)?;
    lengths(architecture, metadata, &config)?;
    if let Some(every) = architecture.window_pattern {
        windows(architecture, metadata, &mut config, every)?;
    }
    if architecture.rotary != Rotary::None {
        rotary(architecture, metadata, &mut config, frequencies)?;
    }
    if let Some((json, derive)) = architecture.derived
        && let Some(value) = derive(&config)
    {
        config.set(json, "general.architecture".to_owned(), value);
    }
    tokens(architecture, metadata, &mut config, rows)?;
    Ok(config)
}

fn full(architecture: &Architecture, key: &str) -> String {
    if key.starts_with('.') { format!("{}{key}", architecture.name) } else { key.to_owned() }
}

fn check_only(metadata: &Metadata<'_>, key: &str, only: Only) -> Result<(), Error> {
    let wrong =
        |found: String, only: String| Err(metadata.error(key, format!("{found} is not supported, only {only} is")));
    match only {
        Only::Count(only) => match metadata.count(key)? {
            Some(found) if found != only => wrong(found.to_string(), only.to_string()),
            _ => Ok(()),
        },
        Only::Number(only) => match metadata.number(key)? {
            Some(found) if found != only => wrong(found.to_string(), only.to_string()),
            _ => Ok(()),
        },
        Only::Flag(only) => match metadata.flag(key)? {
            Some(found) if found != only => wrong(found.to_string(), only.to_string()),
            _ => Ok(()),
        },
    }
}

fn set_key(architecture: &Architecture, metadata: &Metadata<'_>, config: &mut Config, key: &Key) -> Result<(), Error> {
    let name = full(architecture, key.gguf);
    let value = match key.kind {
        Kind::Count => metadata.count(&name)?.map(Value::from),
        Kind::Number => metadata.number(&name)?.map(Value::from),
        Kind::Flag => metadata.flag(&name)?.map(Value::from),
        Kind::Window => metadata.count(&name)?.map(|window| if window == 0 { Value::Null } else { window.into() }),
    };
    let value = match (value, key.absent) {
        (Some(value), _) => value,
        (None, Absent::Refused) => {
            return Err(metadata.error(&name, format!("missing, and '{}' needs it", architecture.name)));
        }
        (None, Absent::Left) => {
            config.names.push((key.json, name)); // what the family says of its default is said of this key
            return Ok(());
        }
        (None, Absent::Null) => Value::Null,
        (None, Absent::As(other)) => config.value.get(other).cloned().unwrap_or_default(),
    };
    config.set(key.json, name, value);
    Ok(())
}

/// The number of tokens is the embedding's; a key that says otherwise is wrong.
fn vocabulary_size(
    architecture: &Architecture,
    metadata: &Metadata<'_>,
    config: &mut Config,
    rows: usize,
) -> Result<(), Error> {
    let key = full(architecture, ".vocab_size");
    match metadata.count(&key)? {
        Some(size) if size != rows as u64 => {
            Err(metadata.error(&key, format!("{size} tokens, where token_embd.weight has {rows} rows")))
        }
        _ => {
            config.set("vocab_size", key, Value::from(rows));
            Ok(())
        }
    }
}

/// Keys and values are equally wide in every family here.
fn lengths(architecture: &Architecture, metadata: &Metadata<'_>, config: &Config) -> Result<(), Error> {
    let (key, value) = (full(architecture, ".attention.key_length"), full(architecture, ".attention.value_length"));
    let keys = match metadata.count(&key)? {
        Some(keys) => Some(keys),
        None => head_width(config).map(|width| width as u64),
    };
    match (keys, metadata.count(&value)?) {
        (Some(keys), Some(values)) if keys != values => {
            Err(metadata.error(&value, format!("{values}, where keys have {keys}: the two must be equal")))
        }
        _ => Ok(()),
    }
}

/// C, where the configuration says it or D and H do.
pub(crate) fn head_width(config: &Config) -> Option<usize> {
    let given = config.count("head_dim").or_else(|| config.count("d_kv"));
    // Heads that do not divide the width are the family's to refuse.
    let of = |width: &str, heads: &str| {
        let (width, heads) = (config.count(width)?, config.count(heads)?);
        (width > 0 && width.checked_rem(heads) == Some(0)).then(|| width / heads)
    };
    let known = [("hidden_size", "num_attention_heads"), ("n_embd", "n_head"), ("hidden_size", "n_head")];
    given.or_else(|| known.into_iter().find_map(|(width, heads)| of(width, heads)))
}

/// Which layers have a window, as llama.cpp reads it (`load_swa_pattern`): none without a window; a number is that of the
/// layers to one without, and 0 means that all have one; a list has true for those that do.
fn windows(architecture: &Architecture, metadata: &Metadata<'_>, config: &mut Config, every: u64) -> Result<(), Error> {
    const EVERY: &str = "sliding_window_pattern";
    let (window, pattern) = (".attention.sliding_window", ".attention.sliding_window_pattern");
    let (window, pattern) = (full(architecture, window), full(architecture, pattern));
    let Some(width) = metadata.count(&window)?.filter(|&width| width > 0) else {
        config.set(EVERY, window, Value::from(1)); // every layer is one without
        return Ok(());
    };
    config.set("sliding_window", window, Value::from(width));
    let layers = config.count("num_hidden_layers").unwrap_or(0);
    if !matches!(metadata.get(&pattern), Some(Stored::Array(_))) {
        let every = match metadata.count(&pattern)?.unwrap_or(every) {
            0 => (layers as u64).saturating_add(1),
            every => every,
        };
        config.set(EVERY, pattern, Value::from(every));
        return Ok(());
    }
    let Some(slides) = metadata.flags(&pattern)? else { return Ok(()) };
    if slides.count != layers {
        return Err(metadata.error(&pattern, format!("{} entries for {layers} layers", slides.count)));
    }
    // More layers than any model has are the family's to refuse.
    let kind = |slides| if slides == Stored::Flag(true) { "sliding_attention" } else { "full_attention" };
    let types: Vec<&str> = slides.values().take(MAX_LAYERS + 1).map(kind).collect();
    config.set("layer_types", pattern, Value::from(types));
    Ok(())
}

/// Rotary positions: how much of a head, and the stretch of the context.
fn rotary(
    architecture: &Architecture,
    metadata: &Metadata<'_>,
    config: &mut Config,
    frequencies: Option<&StoredTensor>,
) -> Result<(), Error> {
    let dimensions = full(architecture, ".rope.dimension_count");
    if let Some(width) = head_width(config) {
        let rotated = metadata.count(&dimensions)?.unwrap_or(width as u64);
        let wrong = |what: String| {
            Err(metadata.error(&dimensions, format!("{rotated} of a head's {width} components, where {what}")))
        };
        match architecture.rotary {
            Rotary::Part(json) => match usize::try_from(rotated) {
                Ok(part) if part > 0 && part <= width && part.is_multiple_of(2) => {
                    config.set(json, dimensions, Value::from(rotary::part(part, width)));
                }
                _ => return wrong("an even number of them was expected".to_owned()),
            },
            _ if rotated != width as u64 => return wrong(format!("'{}' rotates all", architecture.name)),
            _ => {}
        }
    }
    let kind = full(architecture, ".rope.scaling.type");
    let factor = full(architecture, ".rope.scaling.factor");
    let old_factor = full(architecture, ".rope.scale_linear"); // before there were types
    match metadata.text(&kind)? {
        None => {
            let key = if metadata.has(&factor) { factor } else { old_factor };
            if let Some(stretch) = metadata.number(&key)?.filter(|&stretch| stretch != 0.0 && stretch != 1.0) {
                config.set("rope_scaling.rope_type", kind, Value::from("linear"));
                config.set("rope_scaling.factor", key, Value::from(stretch));
            }
        }
        Some("none") => {}
        Some(known @ ("linear" | "yarn")) => {
            config.set("rope_scaling.rope_type", kind, Value::from(known));
            for key in if known == "yarn" { YARN } else { LINEAR } {
                set_key(architecture, metadata, config, key)?;
            }
        }
        Some(other) => {
            let what = format!("'{}' is not a scaling that Consort reads: none, linear, yarn", printable(other));
            return Err(metadata.error(&kind, what));
        }
    }
    match frequencies {
        Some(frequencies) => scale_frequencies(metadata, config, frequencies),
        None => Ok(()),
    }
}

const FACTOR: Key = number(".rope.scaling.factor", "rope_scaling.factor", Absent::Left);
const LINEAR: &[Key] = &[FACTOR];
const YARN: &[Key] = &[
    FACTOR,
    count(".rope.scaling.original_context_length", "rope_scaling.original_max_position_embeddings", Absent::Left),
    number(".rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast", Absent::Left),
    number(".rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow", Absent::Left),
];

/// Divisors of frequencies, which stand for Llama 3's scaling.
fn scale_frequencies(metadata: &Metadata<'_>, config: &mut Config, frequencies: &StoredTensor) -> Result<(), Error> {
    const TENSOR: &str = "rope_freqs.weight";
    let error = |what: String| Error::tensor(metadata.file, TENSOR, what);
    let [rows, count] = frequencies.shape();
    let expected = head_width(config).map(|width| width / 2);
    if rows != 1 || Some(count) != expected || frequencies.dtype() != WeightDType::F32 {
        let expected = expected.unwrap_or_default();
        return Err(error(format!("expected [{expected}] of F32, found {frequencies:?}")));
    }
    let divisors: Vec<f64> = frequencies.row(0).collect();
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return Ok(());
    }
    if config.value.get("rope_scaling").is_some() {
        return Err(error("divisors of frequencies beside another rotary scaling are not supported".to_owned()));
    }
    let theta = config.value.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
    let Some(found) = llama3::recover(&divisors, theta) else {
        return Err(error(
            "its divisors of frequencies are not those of Llama 3's scaling, the only ones known".to_owned(),
        ));
    };
    for (json, value) in [
        ("rope_scaling.rope_type", Value::from("llama3")),
        ("rope_scaling.factor", Value::from(found.factor)),
        ("rope_scaling.low_freq_factor", Value::from(found.low)),
        ("rope_scaling.high_freq_factor", Value::from(found.high)),
        ("rope_scaling.original_max_position_embeddings", Value::from(found.original)),
    ] {
        config.set(json, TENSOR.to_owned(), value);
    }
    Ok(())
}

/// Tokens that end a text or a turn whatever ids a file names, if they are special in it: llama.cpp's list
/// (`llama-vocab.cpp`).
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

fn ends_by_text(metadata: &Metadata<'_>) -> Result<Vec<usize>, Error> {
    let kinds = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let Some(tokens) = metadata.texts("tokenizer.ggml.tokens")? else { return Ok(Vec::new()) };
    // 3: control, 4: added by users.
    let special = |place: usize| matches!(kinds.get(place), Some(3 | 4));
    let ends = tokens
        .read()
        .enumerate()
        .filter(|(place, token)| special(*place) && token.is_ok_and(|text| ENDS.contains(&text)));
    Ok(ends.map(|(place, _)| place).collect())
}

/// What generation needs of the special tokens. A turn's end ends a text as well.
fn tokens(architecture: &Architecture, metadata: &Metadata<'_>, config: &mut Config, rows: usize) -> Result<(), Error> {
    let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let mut ends: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token(metadata, &key(name), rows)?.filter(|id| !ends.contains(id)));
    }
    for id in ends_by_text(metadata)? {
        if id < rows && !ends.contains(&(id as u32)) {
            ends.push(id as u32);
        }
    }
    config.set("eos_token_id", key("eos"), Value::from(ends));
    let start = full(architecture, ".decoder_start_token_id");
    for (json, key) in
        [("bos_token_id", key("bos")), ("pad_token_id", key("padding")), ("decoder_start_token_id", start)]
    {
        if let Some(id) = token(metadata, &key, rows)? {
            config.set(json, key, Value::from(id));
        }
    }
    Ok(())
}
