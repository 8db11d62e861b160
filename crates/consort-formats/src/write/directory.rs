//! A model directory: `config.json` in the words of the first family that can say the configuration (`config.toml` where none
//! can), and `model.safetensors` under that family's names.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    ops::Range,
    path::Path,
};

use consort_core::{Slot, StoredTensor, TransformerConfig, WeightDType, model::Weights};

use super::{
    Progress,
    safetensors::{self, Tensor},
    whole_file,
};
use crate::{
    directory::{CONFIG, NATIVE, WEIGHTS},
    error::{Error, show},
    families::export::export,
    weights::{Layout, Mapping, generalise},
};

/// Writes `config` and `weights` as a model directory, matrices as `dtype` (f32, f16 or bf16) and vectors as f32; gives the
/// family that it has become. The directory is made if it is not there; what else is in it stays.
///
/// # Errors
/// [`Error::Path`] when there is a model already or `path` is no directory; [`Error::Io`] when the system refuses;
/// [`Error::Malformed`] for weights that are not finite; [`Error::Stopped`].
pub fn write_directory(
    path: &Path,
    config: &TransformerConfig,
    weights: &dyn Weights,
    dtype: WeightDType,
    progress: Progress<'_>,
) -> Result<String, Error> {
    if dtype.block() > 1 || dtype == WeightDType::F64 {
        return Err(Error::path(
            path,
            format!("weights as {dtype} have no place in a model directory: f32, f16, bf16"),
        ));
    }
    for file in [CONFIG, NATIVE, WEIGHTS] {
        if fs::symlink_metadata(path.join(file)).is_ok() {
            return Err(Error::path(path, format!("there is a {file} already: give another directory")));
        }
    }
    let (family, file, text, mapping) = match export(config) {
        Some(exported) => {
            let text = serde_json::to_string_pretty(&exported.json).unwrap_or_default() + "\n";
            (exported.family.model_type, CONFIG, text, exported.mapping)
        }
        None => {
            let text = toml::to_string(config).map_err(|error| Error::malformed(NATIVE, error.to_string()))?;
            let mapping = Mapping { config: config.clone(), prefix: "", rows: Vec::new(), silent: Vec::new() };
            ("consort", NATIVE, text, mapping)
        }
    };
    fs::create_dir_all(path).map_err(|error| Error::io(path, error))?;
    let stored = places(&mapping);
    let tensors: Vec<Tensor> = stored.iter().map(|(name, places)| tensor(name, places, dtype)).collect();
    let mut parts = |index: usize| match stored.get(index) {
        Some((_, places)) => pieces(places, weights, path),
        None => Ok(Vec::new()),
    };
    safetensors::write(&path.join(WEIGHTS), &tensors, &mut parts, progress)?;
    // Last: a directory without it is no model.
    let config_file = path.join(file);
    let write =
        |out: &mut BufWriter<&File>| out.write_all(text.as_bytes()).map_err(|error| Error::io(&config_file, error));
    whole_file(&config_file, write, &|_| Ok(()))?;
    Ok(family.to_owned())
}

/// A slot in a tensor of a file.
struct Place {
    slot: Slot,
    layout: Layout,
}

/// The file's tensors, each with the slots that it holds.
fn places(mapping: &Mapping) -> Vec<(String, Vec<Place>)> {
    let mut stored: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for slot in mapping.config.slots() {
        let (pattern, layer) = generalise(&slot.name);
        let row = mapping.rows.iter().find(|row| row.slot == pattern);
        let name = row.and_then(|row| row.tensors.first());
        let name = name.map_or_else(|| slot.name.clone(), |name| name.replacen('*', &layer, 1));
        let layout = row.map_or(Layout::Plain, |row| row.layout);
        stored.entry(name).or_default().push(Place { slot, layout });
    }
    stored.into_iter().collect()
}

/// Whether the file keeps `[inputs, outputs]`.
fn is_transposed(places: &[Place]) -> bool {
    let turned = |place: &Place| matches!(place.layout, Layout::Transposed | Layout::TransposedPart(..));
    places.iter().all(|place| turned(place) && place.slot.shape[0] > 1)
}

fn is_vector(places: &[Place]) -> bool {
    places.iter().all(|place| place.slot.shape[0] == 1)
}

fn tensor(name: &str, places: &[Place], dtype: WeightDType) -> Tensor {
    let outputs: usize = places.iter().map(|place| place.slot.shape[0]).sum();
    let inputs = places.first().map_or(0, |place| place.slot.shape[1]);
    let name = name.to_owned();
    if is_vector(places) {
        let length = places.iter().map(|place| place.slot.shape[1]).sum();
        // A bias over the vocabulary is a row in the reference's encoder-decoders.
        let sizes = if name == "final_logits_bias" { vec![1, length] } else { vec![length] };
        return Tensor { name, sizes, dtype: WeightDType::F32 };
    }
    let sizes = if is_transposed(places) { vec![inputs, outputs] } else { vec![outputs, inputs] };
    Tensor { name, sizes, dtype }
}

/// What follows one another in a tensor.
fn pieces(places: &[Place], weights: &dyn Weights, path: &Path) -> Result<Vec<StoredTensor>, Error> {
    let error = |error: consort_core::Error| Error::malformed(&show(path), error.to_string());
    let mut slots = Vec::new();
    for place in places {
        let missing = || Error::malformed(&show(path), format!("no weight for {}", place.slot.name));
        slots.push(weights.stored(&place.slot.name).ok_or_else(missing)?);
    }
    let vector = is_vector(places);
    // Along the outputs: whose turn it is, and which of its outputs.
    let mut order: Vec<(usize, usize, Range<usize>)> = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let [outputs, inputs] = place.slot.shape;
        let outputs = if vector { inputs } else { outputs };
        match place.layout {
            Layout::Plain | Layout::Transposed => order.push((0, at, 0..outputs)),
            Layout::TransposedPart(part, _) => order.push((part * outputs, at, 0..outputs)),
            Layout::Fused { groups, each, first } => {
                let count = outputs / groups.max(1);
                let group = |group: usize| (group * each + first, at, group * count..(group + 1) * count);
                order.extend((0..groups).map(group));
            }
        }
    }
    order.sort_by_key(|(begin, at, _)| (*begin, *at));
    let run = |of: &StoredTensor, range: &Range<usize>| match vector {
        true => of.clone().inputs(range.clone()),
        false => of.clone().outputs(range.clone()),
    };
    let runs = order.iter().filter_map(|(_, at, range)| Some(run(slots.get(*at)?, range)));
    let runs: Vec<StoredTensor> = runs.collect::<Result<_, _>>().map_err(error)?;
    if !is_transposed(places) {
        return Ok(runs);
    }
    let inputs = places.first().map_or(0, |place| place.slot.shape[1]);
    let turned: Vec<StoredTensor> = runs.into_iter().map(StoredTensor::transposed).collect();
    let rows = (0..inputs).flat_map(|row| turned.iter().map(move |run| run.clone().outputs(row..row + 1)));
    rows.collect::<Result<_, _>>().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_golden_reads_as_it_was() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        for entry in fs::read_dir(goldens).unwrap() {
            let directory = entry.unwrap().path();
            let model = crate::open(&directory).unwrap();
            let copy = tempfile::tempdir().unwrap();
            let family =
                write_directory(copy.path(), &model.config, &model.weights, WeightDType::F32, &mut |_, _| true)
                    .unwrap();
            let again = crate::open(copy.path()).unwrap();
            assert_eq!(again.family, family);
            assert!(again.unused.is_empty(), "{}: {:?}", directory.display(), again.unused);
            assert_eq!(again.weights.len(), model.weights.len());
            for (slot, weight) in model.weights.iter() {
                let other = again.weights.get(slot).unwrap();
                assert_eq!(other.shape(), weight.shape(), "{slot}");
                for output in 0..weight.shape()[0] {
                    assert!(
                        weight.row(output).map(|x| f64::from(x as f32)).eq(other.row(output)),
                        "{}: {slot}, {output}",
                        directory.display()
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_written_over() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let model = crate::open(&goldens.join("llama")).unwrap();
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("config.json"), "{}").unwrap();
        let write = |path: &Path, go_on: bool| {
            write_directory(path, &model.config, &model.weights, WeightDType::BF16, &mut |_, _| go_on)
        };
        let error = write(copy.path(), true).unwrap_err().to_string();
        assert!(error.ends_with("there is a config.json already: give another directory"), "{error}");
        assert_eq!(fs::read(copy.path().join("config.json")).unwrap(), b"{}");
        // Stopped on the way: nothing is there but the directory.
        let other = copy.path().join("other");
        assert!(matches!(write(&other, false), Err(Error::Stopped { .. })));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    }
}
