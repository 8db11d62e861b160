//! A model as one GGUF file, by the tables that read it.
//!
//! The configuration is said in a family's words ([`export`]), those in the words of the family's architecture, and each slot
//! takes the name that the two tables give it. Before the file gets its name it is read again: what comes out must be the
//! configuration that went in, so nothing that GGUF has no place for is lost in silence.

use std::{collections::BTreeMap, path::Path};

use consort_core::{
    StoredTensor, TransformerConfig, WeightDType,
    config::{AttentionPositions, StackConfig},
    model::Weights,
};

use super::{
    Progress,
    gguf::{self, Tensor},
    metadata::{frequencies, metadata},
};
use crate::{
    error::{Error, show},
    families::export::{Exported, difference, export},
    gguf::{
        architectures::{self, Architecture},
        is_part,
        names::{Kept, from_file, to_file},
        vocabulary::Vocabulary,
    },
    weights::generalise,
};

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `general.architecture`.
    pub architecture: String,
    /// Types of the weights, the most frequent first: `q4_k + q6_k + f32`.
    pub dtype: String,
    /// Numbers in the weights.
    pub parameters: u64,
    /// Bytes of the file's weights.
    pub bytes: u64,
    /// Matrices.
    pub matrices: usize,
    /// Of these, those whose rows are no whole blocks of the type that was asked for.
    pub other: usize,
    /// What GGUF has no place for.
    pub dropped: Vec<String>,
}

/// What a file is made of, beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The transformer.
    pub config: &'a TransformerConfig,
    /// What it is, for people, as [`Model::about`](crate::Model::about) has it: `name`, `license` …
    pub about: &'a [(String, String)],
    /// The tokenizer; without one the file says so.
    pub vocabulary: Option<&'a Vocabulary>,
    /// The token that an encoder-decoder's target begins with.
    pub decoder_start: Option<u32>,
}

/// Writes a GGUF file whose matrices are kept as `dtype` as far as they can be ([`WeightDType::mixed`]); vectors and small
/// tables are kept as f32.
///
/// # Errors
/// [`Error::Path`] for a transformer that GGUF has no place for; [`Error::Io`] when the system refuses;
/// [`Error::Malformed`] for weights that `dtype` cannot hold; [`Error::Stopped`]. In all cases `path` stays as it was.
pub fn write_gguf(
    path: &Path,
    parts: Parts<'_>,
    weights: &dyn Weights,
    dtype: WeightDType,
    progress: Progress<'_>,
) -> Result<Written, Error> {
    if is_part(path) {
        return Err(Error::path(path, "is the name of a part of several: the model is written as one file"));
    }
    let mut config = parts.config.clone();
    let mut dropped = Vec::new();
    if config.decoder.is_none() && config.head.take().is_some() {
        dropped.push("the masked-token head".to_owned());
    }
    let place = || Error::path(path, "GGUF has no place for this transformer: no architecture of llama.cpp is like it");
    let exported = export(&config).ok_or_else(place)?;
    let architecture = architecture(&exported).ok_or_else(|| {
        let family = exported.family.model_type;
        Error::path(path, format!("GGUF has no place for models of the family '{family}'"))
    })?;
    let plan = plan(&exported, architecture, dtype, path)?;
    if let Some(missing) = architecture.needed.iter().find(|needed| plan.iter().all(|one| one.name != **needed)) {
        let what = format!("GGUF has no place for a {} without {missing}: llama.cpp asks for it", architecture.name);
        return Err(Error::path(path, what));
    }
    let metadata = metadata(&exported, architecture, &parts, dtype);
    let mut tensors: Vec<Tensor> = plan.iter().map(Planned::tensor).collect();
    let frequencies = frequencies(&config);
    if let Some(divisors) = &frequencies {
        tensors.push(Tensor {
            name: "rope_freqs.weight".to_owned(),
            sizes: divisors.shape()[1..].to_vec(),
            dtype: WeightDType::F32,
        });
    }
    let mut parts_of = |index: usize| match plan.get(index) {
        Some(planned) => planned.parts(weights, path),
        None => Ok(frequencies.iter().cloned().collect()),
    };
    if architecture.norms_plus_one {
        for stack in [&mut config.encoder, &mut config.decoder].into_iter().flatten() {
            stack.norm.unit_offset = false; // 1 is added in the file
        }
    }
    let check = |written: &Path| {
        // What is wrong is wrong with the file that was asked for.
        let named = |error: Error| {
            let what = error.to_string().replace(&format!("{}: ", show(written)), "");
            Error::path(path, format!("cannot be read again: {what}"))
        };
        let mut again = crate::open(written).map_err(named)?.config;
        same_frequencies(&config, &mut again);
        match difference(&config, &again) {
            None => Ok(()),
            Some(field) => Err(Error::path(path, format!("GGUF has no place for what this model has as {field}"))),
        }
    };
    gguf::write(path, &metadata, &tensors, &mut parts_of, progress, &check)?;

    let mut sizes: BTreeMap<WeightDType, u64> = BTreeMap::new();
    for tensor in &tensors {
        *sizes.entry(tensor.dtype).or_default() += tensor.sizes.iter().product::<usize>() as u64;
    }
    let matrices = || plan.iter().filter(|planned| planned.matrix).map(Planned::tensor);
    let mut types: Vec<(WeightDType, u64)> = sizes.into_iter().collect();
    types.sort_by_key(|&(_, elements)| std::cmp::Reverse(elements));
    Ok(Written {
        architecture: architecture.name.to_owned(),
        dtype: types.iter().map(|(dtype, _)| dtype.name()).collect::<Vec<_>>().join(" + "),
        parameters: types.iter().map(|&(_, elements)| elements).sum(),
        bytes: tensors.iter().map(|tensor| tensor.bytes() as u64).sum(),
        matrices: matrices().count(),
        other: matrices().filter(|tensor| tensor.sizes.last().is_some_and(|row| row % dtype.block() != 0)).count(),
        dropped,
    })
}

/// The architecture that holds models of this family. Mistral's files say `llama`.
fn architecture(exported: &Exported) -> Option<&'static Architecture> {
    let config = &exported.mapping.config;
    let alone = config.encoder.is_some() && config.decoder.is_none();
    let name = match exported.family.model_type {
        "mistral" => "llama",
        "t5" if alone => "t5encoder",
        other => architectures::ARCHITECTURES.iter().find(|one| one.model_type == other)?.name,
    };
    architectures::find(name)
}

/// A tensor of the file, and what it is made of.
struct Planned {
    name: String,
    dtype: WeightDType,
    /// What a row of the family's table and the architecture's say of each part.
    slots: Vec<(String, [usize; 2], Kept)>,
    /// Heads whose rows are interleaved.
    head_width: usize,
    plus_one: bool,
    /// A matrix, rather than a vector or a small table.
    matrix: bool,
}

impl Planned {
    fn is_vector(&self) -> bool {
        self.slots.iter().all(|(_, shape, _)| shape[0] == 1)
    }

    fn tensor(&self) -> Tensor {
        let vector = self.is_vector();
        let length = self.slots.iter().map(|(_, [outputs, inputs], _)| if vector { inputs } else { outputs }).sum();
        let inputs = self.slots.first().map_or(0, |(_, [_, inputs], _)| *inputs);
        let sizes = if vector { vec![length] } else { vec![length, inputs] };
        Tensor { name: self.name.clone(), sizes, dtype: self.dtype }
    }

    fn parts(&self, weights: &dyn Weights, path: &Path) -> Result<Vec<StoredTensor>, Error> {
        let error = |error: consort_core::Error| Error::malformed(&show(path), error.to_string());
        let part = |(slot, shape, kept): &(String, [usize; 2], Kept)| {
            let missing = || Error::malformed(&show(path), format!("no weight for {slot}"));
            let stored = weights.stored(slot).ok_or_else(missing)?;
            if self.plus_one {
                let values: Vec<f64> = stored.row(0).map(|value| value + 1.0).collect();
                return StoredTensor::from_values(stored.name(), &values, *shape).map_err(error);
            }
            if !matches!(kept, Kept::QueryRows | Kept::KeyRows) {
                return Ok(stored);
            }
            let half = self.head_width / 2;
            let order = |rows: usize| -> Vec<usize> {
                let from =
                    |row: usize| row / self.head_width * self.head_width + row % 2 * half + row % self.head_width / 2;
                (0..rows).map(from).collect()
            };
            let turned = |stored: StoredTensor| stored.reordered(&order(shape[1])).map(StoredTensor::transposed);
            match self.is_vector() {
                true => turned(stored.transposed()).map_err(error),
                false => stored.reordered(&order(shape[0])).map_err(error),
            }
        };
        self.slots.iter().map(part).collect()
    }
}

/// Every slot's place in the file; slots that share a tensor follow one another in the order of the graph.
fn plan(
    exported: &Exported,
    architecture: &Architecture,
    dtype: WeightDType,
    path: &Path,
) -> Result<Vec<Planned>, Error> {
    let mapping = &exported.mapping;
    let config = &mapping.config;
    let head = config.head.as_ref().map(|_| config.head_slot());
    let head_width = config.output_stack().map_or(0, |stack| stack.attention.head_width);
    let unit_offset = config.output_stack().is_ok_and(|stack| stack.norm.unit_offset);
    let mut planned: Vec<Planned> = Vec::new();
    for slot in config.slots() {
        let (pattern, layer) = generalise(&slot.name);
        let row = mapping.rows.iter().find(|row| row.slot == pattern);
        let mut names = row.into_iter().flat_map(|row| row.tensors).map(|name| name.replacen('*', &layer, 1));
        let Some(name) = names.find_map(|name| to_file(architecture.tensors, &name)) else {
            return Err(Error::path(path, format!("GGUF has no place for this model's {}", slot.name)));
        };
        let kept = from_file(architecture.tensors, &name).map_or(Kept::Same, |(_, row)| row.kept);
        let [outputs, inputs] = slot.shape;
        let table = ["positions.weight", "token_types.weight", "relative_bias.weight"];
        let matrix = outputs > 1 && !table.iter().any(|table| slot.name.ends_with(table));
        let makes_logits = head == Some(slot.name.as_str());
        let dtype = if matrix { dtype.mixed(makes_logits, inputs) } else { WeightDType::F32 };
        let plus_one = architecture.norms_plus_one && unit_offset && slot.name.ends_with("norm.weight");
        let part = (slot.name, slot.shape, kept);
        match planned.iter_mut().find(|one| one.name == name) {
            Some(one) => one.slots.push(part),
            None => planned.push(Planned { name, dtype, slots: vec![part], head_width, plus_one, matrix }),
        }
    }
    Ok(planned)
}

/// Divisors say less than what they were computed from: where they are the same, both mean the same.
fn same_frequencies(config: &TransformerConfig, again: &mut TransformerConfig) {
    let (Some(divisors), Some(found)) = (frequencies(config), frequencies(again)) else { return };
    let close = |(a, b): (f64, f64)| (a - b).abs() <= 1e-6 * a.abs();
    if divisors.shape() == found.shape() && divisors.row(0).zip(found.row(0)).all(close) {
        let positions = |stack: &StackConfig| stack.attention.positions;
        if let (Some(AttentionPositions::Rotary(ours)), Some(stack)) =
            (config.decoder.as_ref().map(positions), &mut again.decoder)
            && let AttentionPositions::Rotary(found) = &mut stack.attention.positions
        {
            found.scaling = ours.scaling;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use consort_core::config::Placement;

    use super::*;
    use crate::Model;

    fn golden(name: &str) -> Model {
        crate::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)).unwrap()
    }

    fn write(model: &Model, path: &Path, dtype: WeightDType) -> Result<Written, Error> {
        let parts = Parts {
            config: &model.config,
            about: &[("name".into(), "golden".into())],
            vocabulary: None,
            decoder_start: Some(0),
        };
        write_gguf(path, parts, &model.weights, dtype, &mut |_, _| true)
    }

    #[test]
    fn goldens_read_as_they_were() {
        let (mut architectures, mut names) = (BTreeSet::new(), BTreeSet::new());
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let mut model = golden(&name);
            if let Some(stack) = &mut model.config.decoder {
                match name.as_str() {
                    // No key has the scale of scores; llama.cpp takes the usual one.
                    "gemma2" | "gemma3" => stack.attention.scale = (stack.attention.head_width as f64).powf(-0.5),
                    // llama.cpp has no window and no biases for these two.
                    "starcoder2" => stack.attention.windows.clear(),
                    "falcon-new" => {
                        stack.attention.input_bias = false;
                        stack.attention.output_bias = false;
                        stack.feed_forward.bias = false;
                    }
                    _ => {}
                }
            }
            let path = folder.path().join(&name);
            let written = match write(&model, &path, WeightDType::F32) {
                Ok(written) => written,
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("GGUF has no place"), "{name}: {error}");
                    assert!(!path.exists(), "{name}");
                    continue;
                }
            };
            architectures.insert(written.architecture.clone());
            names.insert(name.clone());
            let again = crate::open(&path).unwrap();
            assert_eq!(again.about, [("name".to_owned(), "golden".to_owned())]);
            assert!(again.unused.is_empty(), "{name}: {:?}", again.unused);
            assert_eq!(again.dtype, "f32", "{name}");
            for (slot, other) in again.weights.iter() {
                let weight = model.weights.get(slot).unwrap();
                // Norms that are kept as differences from 1 have it added in the file.
                let one = if model.family.starts_with("gemma") && slot.ends_with("norm.weight") { 1.0 } else { 0.0 };
                for output in 0..weight.shape()[0] {
                    let expected = weight.row(output).map(|x| f64::from((x + one) as f32));
                    assert!(expected.eq(other.row(output)), "{name}: {slot}, output {output}");
                }
            }
        }
        for needed in ["llama-llama3", "llama-yarn", "llama-linear", "llama-tied-bias", "falcon-new"] {
            assert!(names.contains(needed), "{needed} could not be written");
        }
        for needed in architectures::ARCHITECTURES.map(|one| one.name).iter().filter(|&&name| name != "t5encoder") {
            assert!(architectures.contains(*needed), "no golden could be written as {needed}: {architectures:?}");
        }
    }

    #[test]
    fn what_keys_say_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let again = |model: &Model| {
            let path = folder.path().join("model.gguf");
            write(model, &path, WeightDType::F32).unwrap();
            let mut again = crate::open(&path).unwrap().config;
            fs::remove_file(&path).unwrap();
            again.decoder.as_mut().unwrap().norm.unit_offset = model.config.decoder.as_ref().unwrap().norm.unit_offset;
            assert_eq!(difference(&model.config, &again), None);
        };
        let mut neox = golden("gpt-neox");
        neox.config.decoder.as_mut().unwrap().placement = Placement::Pre;
        again(&neox);
        for windows in [vec![], vec![7, 7], vec![5, 0]] {
            let mut gemma = golden("gemma3");
            let attention = &mut gemma.config.decoder.as_mut().unwrap().attention;
            attention.scale = (attention.head_width as f64).powf(-0.5);
            attention.windows = windows;
            again(&gemma);
        }
        let mut phi = golden("phi3");
        phi.config.decoder.as_mut().unwrap().attention.windows.clear();
        again(&phi);
    }

    #[test]
    fn blocks_are_what_the_core_makes_of_rows() {
        let model = golden("gguf-blocks");
        let folder = tempfile::tempdir().unwrap();
        for dtype in [WeightDType::Q8_0, WeightDType::Q4_0, WeightDType::Q4_K, WeightDType::Q6_K, WeightDType::BF16] {
            let path = folder.path().join(dtype.name());
            write(&model, &path, dtype).unwrap();
            let again = crate::open(&path).unwrap();
            for (slot, other) in again.weights.iter() {
                let weight = model.weights.get(slot).unwrap();
                let kept = match weight.shape()[0] {
                    1 => WeightDType::F32,
                    _ => dtype.mixed(slot == model.config.head_slot(), weight.shape()[1]),
                };
                assert_eq!(other.dtype(), kept, "{slot}");
                for output in [0, weight.shape()[0] - 1] {
                    let mut expected: Vec<f64> = weight.row(output).collect();
                    if weight.dtype() != kept {
                        kept.round(&mut expected);
                    }
                    assert!(other.row(output).eq(expected), "{slot} as {kept}");
                }
            }
        }
    }

    #[test]
    fn what_gguf_cannot_say_is_refused_before_there_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, what) in [
            ("bart", "GGUF has no place for models of the family 'bart'"),
            ("llama-dynamic", "GGUF has no place for what this model has as decoder.attention.positions"),
            ("mistral", "GGUF has no place for what this model has as decoder.attention.windows"),
            ("starcoder2", "GGUF has no place for what this model has as decoder.attention.windows"),
            ("gemma3", "GGUF has no place for what this model has as decoder.attention.scale"),
            ("gpt-neox-sequence", "GGUF has no place for a gptneox without output.weight"),
            ("falcon-new", "GGUF has no place for this model's decoder.0.attention.query.bias"),
        ] {
            let path = folder.path().join(name);
            let error = write(&golden(name), &path, WeightDType::Q8_0).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
