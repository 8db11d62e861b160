//! Cases in files, as docs/case-format.md has them: a folder with `case.json` and `tensors.safetensors`.
//!
//! Everything in them is foreign: what does not fit is an error that names the file, the key, what was expected and what was
//! found, before anything of the size that it asks for is allocated.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use consort_core::{DType, HostData, Layout, Shape, WeightDType};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    bounds::{Bounded, Compute, Inputs, Profile, ROUNDED, bounded, in_own_type},
    error::Error,
    ops::{Class, Kind, OPERATIONS, Operation, nearest},
    problem::{Backward, Elements, Operand, Problem},
};

const CASE: &str = "case.json";
const TENSORS: &str = "tensors.safetensors";
/// In front of the name of a tensor that is an operand in its own type.
const RAW: &str = "raw.";
const KEYS: [&str; 13] = [
    "op",
    "attributes",
    "inputs",
    "outputs",
    "direction",
    "cotangents",
    "gradients",
    "rtol",
    "atol",
    "weight_dtype",
    "layouts",
    "random",
    "comment",
];

/// A case and what its author expects.
#[derive(Clone, Debug)]
pub struct CaseFile {
    /// Name of its folder.
    pub name: String,
    /// Its folder.
    pub directory: PathBuf,
    /// What is to be computed.
    pub problem: Problem,
    /// What is expected; nothing where the oracle is to say it.
    pub expected: Vec<Expected>,
    /// Greatest error, as a share of what is expected; the author's.
    pub rtol: Option<f64>,
    /// Greatest error beside that; the author's.
    pub atol: Option<f64>,
    /// For people.
    pub comment: Option<String>,
}

/// An expected output.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name of the output, or `d_` and the operand's name for a gradient.
    pub name: String,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f64>,
}

/// `layouts` of a case.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct View {
    sizes: Vec<usize>,
    strides: Vec<usize>,
    #[serde(default)]
    offset: usize,
}

/// The cases of a folder in order of their names: the folder itself if it is one, else those directly in it.
///
/// # Errors
/// [`Error::NoCases`] when there are none; otherwise the first that [`CaseFile::read`] meets.
pub fn cases(folder: &Path) -> Result<Vec<CaseFile>, Error> {
    folders(folder)?.iter().map(|directory| CaseFile::read(directory)).collect()
}

/// The folders of single cases that [`cases`] reads.
pub(crate) fn folders(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    if folder.join(CASE).is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut directories = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.join(CASE).is_file() {
            directories.push(path);
        }
    }
    if directories.is_empty() {
        return Err(Error::NoCases { path: folder.to_owned() });
    }
    directories.sort();
    Ok(directories)
}

impl CaseFile {
    /// Reads one folder.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Malformed`] says in one line what does not fit.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let (path, tensors_path) = (directory.join(CASE), directory.join(TENSORS));
        let keys = parse(&path)?;
        let bytes = read(&tensors_path)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| malformed(&tensors_path, format!("no safetensors file: {error}")))?;
        let layouts = BTreeMap::new();
        let mut reader = Reader { path, keys, tensors_path, tensors, layouts };
        reader.layouts = reader.optional("layouts")?.unwrap_or_default();
        reader.case(directory)
    }

    /// Writes a problem, and what is expected where that is said, as files from which [`read`](Self::read) makes the same.
    /// Bounds are not written: they are derived anew.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written; [`Error::Problem`] where the problem's parts do not fit together.
    pub fn write(problem: &Problem, expected: Option<&[Bounded]>, directory: &Path) -> Result<(), Error> {
        let operation = problem.operation()?;
        let mut writer = Writer::default();
        let inputs: Vec<String> =
            problem.operands.iter().map(|(name, operand)| writer.operand(name, operand)).collect();
        let mut case = Map::new();
        case.insert("op".to_owned(), Value::from(problem.op.as_str()));
        case.insert("attributes".to_owned(), Value::Object(problem.attributes.clone()));
        case.insert("inputs".to_owned(), Value::from(inputs));
        let outputs = expected.unwrap_or_default().iter().map(|output| writer.expected(output));
        case.insert("outputs".to_owned(), outputs.collect());
        if let Some(Backward { cotangents, gradients }) = &problem.backward {
            let cotangents = cotangents.iter().zip(operation.outputs).map(|(cotangent, name)| match cotangent {
                Some(cotangent) => Value::from(writer.operand(&format!("cotangent.{name}"), cotangent)),
                None => Value::Null,
            });
            case.insert("cotangents".to_owned(), cotangents.collect());
            case.insert("direction".to_owned(), Value::from("backward"));
            case.insert("gradients".to_owned(), Value::from(gradients.clone()));
        }
        if problem.weight_dtype != WeightDType::F32 {
            case.insert("weight_dtype".to_owned(), Value::from(problem.weight_dtype.name()));
        }
        if problem.random {
            case.insert("random".to_owned(), Value::from(true));
        }
        let Writer { tensors, layouts } = writer;
        if !layouts.is_empty() {
            let layouts =
                serde_json::to_value(layouts).map_err(|error| Error::problem(&problem.op, error.to_string()))?;
            case.insert("layouts".to_owned(), layouts);
        }
        let mut text = serde_json::to_string_pretty(&Value::Object(case))
            .map_err(|error| Error::problem(&problem.op, error.to_string()))?;
        text.push('\n');
        let views = tensors.iter().map(|(name, stored)| {
            let view = TensorView::new(stored.dtype, stored.sizes.clone(), &stored.bytes);
            Ok((name.as_str(), view.map_err(|error| Error::problem(&problem.op, error.to_string()))?))
        });
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let bytes =
            safetensors::serialize(views, None).map_err(|error| Error::problem(&problem.op, error.to_string()))?;
        let io = |path: PathBuf| move |source| Error::Io { path, source };
        fs::create_dir_all(directory).map_err(io(directory.to_owned()))?;
        fs::write(directory.join(TENSORS), bytes).map_err(io(directory.join(TENSORS)))?;
        fs::write(directory.join(CASE), text).map_err(io(directory.join(CASE)))
    }

    /// What a device of this profile should give: what the author expects, each element within what the author allows.
    ///
    /// Where the author allows nothing of his own, the bound is derived: what the operation may be off by on such a device,
    /// the rounding of operands that its type does not hold included, and as much again as it may be off by in f64, which is
    /// how expected values are made elsewhere, with four roundings more for another order of operations. An operand
    /// that f32 does not hold is taken to have been computed, too, and to be off by four roundings of f64 itself.
    ///
    /// # Errors
    /// [`Error::Malformed`] when an expected tensor has other sizes than the operation gives; what the problem meets.
    pub fn expected(&self, profile: &Profile) -> Result<Vec<Bounded>, Error> {
        if self.expected.is_empty() {
            return crate::bounds::expected(&self.problem, profile);
        }
        let problem = in_own_type(&self.problem, profile.float())?;
        let derived = bounded(&problem, profile, Inputs::AsTheyAre)?;
        let theirs = match profile.compute {
            Compute::F64 => derived.clone(),
            Compute::F32 => bounded(&problem, &Profile::f64(), Inputs::AsTheyAre)?,
        };
        let given = self.rtol.is_some() || self.atol.is_some();
        let (rtol, atol) = (self.rtol.unwrap_or(0.0), self.atol.unwrap_or(0.0));
        let class = Operation::find(&self.problem.op).map(|of| of.class(&self.problem.attributes));
        let computed = class == Some(Class::Rounded) || self.problem.backward.is_some();
        let rounded = if computed { ROUNDED } else { 0.0 };
        let judge = |expected: &Expected| {
            let found = derived.iter().zip(&theirs).find(|(ours, _)| ours.name == expected.name);
            let Some((ours, theirs)) = found.filter(|(ours, _)| ours.sizes == expected.sizes) else {
                let what = match found {
                    Some((ours, _)) => {
                        format!("key \"outputs\": {} is {:?}, expected {:?}", expected.name, expected.sizes, ours.sizes)
                    }
                    None => format!("key \"outputs\": this problem has no output {:?}", expected.name),
                };
                return Err(malformed(&self.directory.join(CASE), what));
            };
            let values = expected.values.clone();
            let errors = match given {
                true => values.iter().map(|value| atol + rtol * value.abs()).collect(),
                false => {
                    let sides = ours.errors.iter().zip(&theirs.errors).zip(&values);
                    sides.map(|((ours, theirs), value)| ours + theirs + finite(rounded * value.abs())).collect()
                }
            };
            let (name, sizes) = (expected.name.clone(), expected.sizes.clone());
            let mut bounded = Bounded::new(name, sizes, ours.dtype, values, errors);
            bounded.bits = ours.bits && !given;
            // Which values are worth a case is the author's to say; that something is known of them is not.
            bounded.vague = bounded.unbounded();
            Ok(bounded)
        };
        self.expected.iter().map(judge).collect()
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Names of tensors, for each output one or none.
type Cotangents = Vec<Option<String>>;

/// The two files of a case.
struct Reader<'a> {
    path: PathBuf,
    keys: Map<String, Value>,
    tensors_path: PathBuf,
    tensors: SafeTensors<'a>,
    layouts: BTreeMap<String, View>,
}

impl Reader<'_> {
    fn case(&self, directory: &Path) -> Result<CaseFile, Error> {
        if let Some(wrong) = self.keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let meant = nearest(wrong, KEYS).unwrap_or_default();
            return Err(self.error(format!("unknown key {wrong:?}, did you mean {meant:?}?")));
        }
        let op: String = self.required("op")?;
        let Some(operation) = Operation::find(&op) else {
            let meant = nearest(&op, OPERATIONS.iter().map(|operation| operation.name)).unwrap_or_default();
            return Err(self.error(format!("key \"op\": no operation is called {op:?}, did you mean {meant:?}?")));
        };
        let weight_dtype = match self.optional::<String>("weight_dtype")? {
            None => WeightDType::F32,
            Some(name) => WeightDType::from_name(&name).ok_or_else(|| {
                let known = WeightDType::ALL.map(WeightDType::name).join(", ");
                self.error(format!("key \"weight_dtype\": {name:?}, expected one of {known}"))
            })?,
        };
        let inputs: Vec<String> = self.required("inputs")?;
        let operands = self.operands(operation, &inputs)?;
        let (backward, cotangents) = self.backward(operation)?.unzip();
        let cotangents: Cotangents = cotangents.unwrap_or_default();
        let viewed = |name: &&String| inputs.contains(name) || cotangents.iter().flatten().any(|of| of == *name);
        if let Some(unused) = self.layouts.keys().find(|name| !viewed(name)) {
            return Err(self.error(format!("key \"layouts\": {unused:?} is neither an input nor a cotangent")));
        }
        let problem = Problem {
            op,
            attributes: self.optional("attributes")?.unwrap_or_default(),
            operands,
            weight_dtype,
            random: self.optional("random")?.unwrap_or(false),
            backward,
        };
        problem.operation().map_err(|error| self.error(error.to_string()))?;
        Ok(CaseFile {
            name: directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            directory: directory.to_owned(),
            expected: self.expected(operation, &problem)?,
            problem,
            rtol: self.tolerance("rtol")?,
            atol: self.tolerance("atol")?,
            comment: self.optional("comment")?,
        })
    }

    fn error(&self, what: impl Into<String>) -> Error {
        malformed(&self.path, what)
    }

    fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.keys.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let read = serde_json::from_value(value.clone());
        read.map(Some).map_err(|error| self.error(format!("key {key:?}: {error}")))
    }

    fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| self.error(format!("key {key:?} is missing")))
    }

    fn tolerance(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.optional::<f64>(key)? {
            Some(tolerance) if !(tolerance >= 0.0 && tolerance.is_finite()) => {
                Err(self.error(format!("key {key:?} is {tolerance}, expected a number from 0 on")))
            }
            tolerance => Ok(tolerance),
        }
    }

    fn operands(&self, operation: &'static Operation, inputs: &[String]) -> Result<Vec<(String, Operand)>, Error> {
        let by_name = inputs.iter().all(|name| operation.operand(own_name(name)).is_some());
        if !by_name && inputs.len() > operation.operands.len() {
            let (found, expected) = (inputs.len(), operation.operands.len());
            let op = operation.name;
            return Err(self.error(format!("key \"inputs\": {found} names, expected at most {expected} of {op}")));
        }
        let operand = |(tensor, position): (&String, &crate::ops::Slot)| {
            let slot = if by_name { operation.operand(own_name(tensor)).unwrap_or(position) } else { position };
            Ok((slot.name.to_owned(), self.operand("inputs", tensor, slot.kind)?))
        };
        // More names than operands are found twice later, and refused.
        let positions = operation.operands.iter().chain(operation.operands.last().into_iter().cycle());
        inputs.iter().zip(positions).map(operand).collect()
    }

    fn backward(&self, operation: &'static Operation) -> Result<Option<(Backward, Cotangents)>, Error> {
        match self.optional::<String>("direction")?.as_deref() {
            None | Some("forward") => {
                let keys = ["cotangents", "gradients"].into_iter().find(|key| self.keys.contains_key(*key));
                return match keys {
                    Some(key) => Err(self.error(format!("key {key:?} in a forward case, expected direction backward"))),
                    None => Ok(None),
                };
            }
            Some("backward") => {}
            Some(other) => {
                return Err(self.error(format!("key \"direction\": {other:?}, expected \"forward\" or \"backward\"")));
            }
        }
        let names: Cotangents = self.required("cotangents")?;
        if names.len() > operation.outputs.len() {
            let (found, expected, op) = (names.len(), operation.outputs.len(), operation.name);
            return Err(self.error(format!("key \"cotangents\": {found} names, expected at most {expected} of {op}")));
        }
        let cotangent = |name: &Option<String>| match name {
            Some(name) => self.operand("cotangents", name, Kind::Float).map(Some),
            None => Ok(None),
        };
        let cotangents = names.iter().map(cotangent).collect::<Result<_, _>>()?;
        Ok(Some((Backward { cotangents, gradients: self.required("gradients")? }, names)))
    }

    fn expected(&self, operation: &'static Operation, problem: &Problem) -> Result<Vec<Expected>, Error> {
        let outputs: Vec<String> = self.optional("outputs")?.unwrap_or_default();
        let names: Vec<String> = match &problem.backward {
            Some(backward) => backward.gradients.iter().map(|name| format!("d_{name}")).collect(),
            None => operation.outputs.iter().map(|name| (*name).to_owned()).collect(),
        };
        if outputs.len() > names.len() {
            let (found, expected, op) = (outputs.len(), names.len(), operation.name);
            return Err(self.error(format!("key \"outputs\": {found} names, expected at most {expected} of {op}")));
        }
        let expected = |(name, tensor): (String, &String)| {
            let view = self.tensor("outputs", tensor)?;
            let values = match elements(&view) {
                Some(Elements::Float(values)) => values,
                Some(Elements::Exact(data)) => data.to_f64(),
                _ => return Err(self.wrong_type("outputs", tensor, view.dtype(), "floats or whole numbers from 0 on")),
            };
            Ok(Expected { name, sizes: view.shape().to_vec(), values })
        };
        names.into_iter().zip(&outputs).map(expected).collect()
    }

    fn tensor(&self, key: &str, name: &str) -> Result<TensorView<'_>, Error> {
        self.tensors.tensor(name).map_err(|_| {
            let names = self.tensors.names();
            let what = match nearest(name, names.iter().copied()) {
                Some(meant) => format!("no tensor {name:?} as key {key:?} names it, did you mean {meant:?}?"),
                None => format!("no tensor {name:?} as key {key:?} names it: there are none"),
            };
            malformed(&self.tensors_path, what)
        })
    }

    fn wrong_type(&self, key: &str, name: &str, dtype: Dtype, expected: &str) -> Error {
        malformed(&self.tensors_path, format!("tensor {name:?} of key {key:?} is {dtype:?}, expected {expected}"))
    }

    fn operand(&self, key: &str, name: &str, kind: Kind) -> Result<Operand, Error> {
        let view = self.tensor(key, name)?;
        let fit = |error: consort_core::Error| malformed(&self.tensors_path, format!("tensor {name:?}: {error}"));
        if let Some(dtype) = blocks(name) {
            // Rows of blocks, as they lie in a file of weights.
            let &[outputs, row] = view.shape() else {
                let found = view.shape();
                let what = format!("tensor {name:?} is {found:?}, expected [outputs, bytes of a row of {dtype}]");
                return Err(malformed(&self.tensors_path, what));
            };
            if view.dtype() != Dtype::U8 || !row.is_multiple_of(dtype.block_bytes()) {
                return Err(self.wrong_type(key, name, view.dtype(), &format!("rows of U8 blocks of {dtype}")));
            }
            let shape = Shape::new(&[outputs, row / dtype.block_bytes() * dtype.block()]).map_err(fit)?;
            let elements = Elements::Blocks(dtype, view.data().to_vec());
            return Ok(Operand { elements, layout: Layout::contiguous(shape) });
        }
        let own_type = name.starts_with(RAW);
        let found = if own_type { own_elements(&view) } else { elements(&view) };
        let Some(elements) = found else {
            let expected = match kind {
                Kind::Ids | Kind::Mask => "U32, or I64 and I32 with numbers that fit",
                _ => "F64, F32, F16 or BF16",
            };
            return Err(self.wrong_type(key, name, view.dtype(), expected));
        };
        let layout = match self.layouts.get(name) {
            None => Layout::contiguous(Shape::new(view.shape()).map_err(fit)?),
            Some(View { sizes, strides, offset }) => Shape::new(sizes)
                .and_then(|shape| Layout::strided(shape, strides, *offset))
                .map_err(|error| self.error(format!("key \"layouts\", {name:?}: {error}")))?,
        };
        let (end, length) = (layout.end(), elements.len());
        if end > length {
            let what = format!("key \"layouts\", {name:?}: a view of {end} elements, the tensor has {length}");
            return Err(self.error(what));
        }
        Ok(Operand { elements, layout })
    }
}

/// Collects what goes into the two files.
#[derive(Default)]
struct Writer {
    tensors: BTreeMap<String, Stored>,
    layouts: BTreeMap<String, View>,
}

struct Stored {
    dtype: Dtype,
    sizes: Vec<usize>,
    bytes: Vec<u8>,
}

impl Writer {
    /// The name that the operand is stored under.
    fn operand(&mut self, name: &str, operand: &Operand) -> String {
        let Operand { elements, layout } = operand;
        let sizes = layout.shape().sizes().to_vec();
        let (name, sizes, dtype, bytes) = match elements {
            Elements::Blocks(dtype, bytes) => {
                let [outputs, inputs] = [0, 1].map(|axis| sizes.get(axis).copied().unwrap_or(0));
                let row = inputs / dtype.block() * dtype.block_bytes();
                (format!("{dtype}.{name}"), vec![outputs, row], Dtype::U8, bytes.clone())
            }
            elements => {
                let (raw, dtype, bytes) = match elements {
                    Elements::Float(values) => {
                        (false, Dtype::F64, values.iter().flat_map(|x| x.to_le_bytes()).collect())
                    }
                    Elements::Exact(data) => stored(data),
                    Elements::Blocks(..) => (false, Dtype::U8, Vec::new()),
                };
                let name = if raw { format!("{RAW}{name}") } else { name.to_owned() };
                let whole =
                    *layout == Layout::contiguous(*layout.shape()) && layout.shape().elements() == elements.len();
                if whole {
                    (name, sizes, dtype, bytes)
                } else {
                    let view = View { sizes, strides: layout.strides().to_vec(), offset: layout.offset() };
                    self.layouts.insert(name.clone(), view);
                    (name, vec![elements.len()], dtype, bytes)
                }
            }
        };
        self.tensors.insert(name.clone(), Stored { dtype, sizes, bytes });
        name
    }

    /// The name that the output is stored under.
    fn expected(&mut self, output: &Bounded) -> String {
        let name = format!("expected.{}", output.name);
        let (dtype, bytes) = match output.dtype {
            DType::U32 => (Dtype::U32, output.values.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect()),
            _ => (Dtype::F64, output.values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        self.tensors.insert(name.clone(), Stored { dtype, sizes: output.sizes.clone(), bytes });
        name
    }
}

/// Whether its type must be kept by name, its type and its bytes.
fn stored(data: &HostData) -> (bool, Dtype, Vec<u8>) {
    match data {
        HostData::U32(data) => (false, Dtype::U32, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        HostData::F32(data) => (true, Dtype::F32, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        HostData::F64(data) => (true, Dtype::F64, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        HostData::F16(data) => (true, Dtype::F16, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        HostData::BF16(data) => (true, Dtype::BF16, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

/// The operand that a tensor of this name is by itself.
fn own_name(tensor: &str) -> &str {
    if let Some(name) = tensor.strip_prefix(RAW) {
        return name;
    }
    match tensor.split_once('.') {
        Some((_, name)) if blocks(tensor).is_some() => name,
        _ => tensor,
    }
}

/// The type of blocks that a tensor of this name holds.
fn blocks(tensor: &str) -> Option<WeightDType> {
    let dtype = WeightDType::from_name(tensor.split_once('.')?.0)?;
    (dtype.block() > 1).then_some(dtype)
}

/// Elements as a case takes them: floats of any type as numbers, whole numbers as u32.
fn elements(view: &TensorView<'_>) -> Option<Elements> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F64 => Elements::Float(numbers(data, f64::from_le_bytes)),
        Dtype::F32 => Elements::Float(numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes)))),
        Dtype::F16 => Elements::Float(numbers(data, |bytes| f16::from_le_bytes(bytes).to_f64())),
        Dtype::BF16 => Elements::Float(numbers(data, |bytes| bf16::from_le_bytes(bytes).to_f64())),
        Dtype::U32 => Elements::Exact(HostData::U32(numbers(data, u32::from_le_bytes))),
        Dtype::I32 => whole(numbers(data, |bytes| i64::from(i32::from_le_bytes(bytes))))?,
        Dtype::I64 => whole(numbers(data, i64::from_le_bytes))?,
        _ => return None,
    })
}

/// Elements in the type that they are stored in.
fn own_elements(view: &TensorView<'_>) -> Option<Elements> {
    let data = view.data();
    Some(Elements::Exact(match view.dtype() {
        Dtype::F64 => HostData::F64(numbers(data, f64::from_le_bytes)),
        Dtype::F32 => HostData::F32(numbers(data, f32::from_le_bytes)),
        Dtype::F16 => HostData::F16(numbers(data, f16::from_le_bytes)),
        Dtype::BF16 => HostData::BF16(numbers(data, bf16::from_le_bytes)),
        _ => return elements(view).filter(|elements| matches!(elements, Elements::Exact(_))),
    }))
}

fn whole(numbers: Vec<i64>) -> Option<Elements> {
    let ids = numbers.into_iter().map(|number| u32::try_from(number).ok()).collect::<Option<_>>()?;
    Some(Elements::Exact(HostData::U32(ids)))
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

fn parse(path: &Path) -> Result<Map<String, Value>, Error> {
    let value: Value =
        serde_json::from_slice(&read(path)?).map_err(|error| malformed(path, format!("no JSON: {error}")))?;
    match value {
        Value::Object(keys) if keys.contains_key("tokens") && !keys.contains_key("op") => {
            Err(malformed(path, "this is a golden model and no case, give it to --golden"))
        }
        Value::Object(keys) => Ok(keys),
        _ => Err(malformed(path, "expected an object with keys like \"op\" and \"inputs\"")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn malformed(path: &Path, what: impl Into<String>) -> Error {
    Error::Malformed { path: path.to_owned(), what: what.into() }
}
