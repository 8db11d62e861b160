//! Tensors of files, and their way into the slots of the graph.
//!
//! A family's table has one [`Row`] a kind of weight: the slot, the name in the file, and how the file keeps it
//! (`*` stands for the layer). Everything else is done here, once: finding, slicing, checking and accounting.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Range,
    sync::Arc,
};

use consort_core::{ByteSource, StoredTensor, TransformerConfig, WeightDType};

use crate::{
    error::Error,
    gguf::names,
    safetensors::{Entry, Short},
};

/// A file of tensors, mapped or in memory.
pub(crate) struct Source {
    /// For messages.
    pub(crate) file: String,
    pub(crate) bytes: Arc<dyn ByteSource>,
}

/// Type of a file's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    /// One that weights are read in.
    Weight(WeightDType),
    /// Any other.
    Other {
        /// What the format calls it.
        name: String,
        /// What could be read, for the message.
        expected: &'static str,
    },
}

/// How the elements of a file stand to the shape that a family's table expects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the shape says.
    #[default]
    Plain,
    /// The file keeps the transposed matrix; the shape is that of the matrix itself.
    Transposed,
    /// The outputs of each of `heads` heads alternate between the head's first and second half: place `2r + e` of the file
    /// is place `e·C/2 + r` of the head.
    Interleaved {
        /// How many heads there are along the outputs.
        heads: usize,
    },
    /// The slots of a fused tensor ([`Layout::Fused`]) stand one after the other, in one group.
    Parts,
}

/// One tensor of a file.
pub(crate) struct Tensor {
    pub(crate) source: Arc<Source>,
    /// Its name in the file, where that is not the one that it is found by.
    pub(crate) name: Option<String>,
    pub(crate) dtype: ElementType,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
    pub(crate) order: Order,
}

impl Tensor {
    pub(crate) fn new(source: &Arc<Source>, entry: Entry) -> (String, Self) {
        let Entry { name, dtype, shape, bytes } = entry;
        (name, Self { source: Arc::clone(source), name: None, dtype, shape, range: bytes, order: Order::Plain })
    }

    /// The whole tensor as the family's table sees it, `[rows, columns]` or a vector `[1, columns]`.
    fn view(&self, name: &str, dtype: WeightDType, shape: [usize; 2]) -> Result<StoredTensor, consort_core::Error> {
        let [rows, columns] = shape;
        let whole = |shape| StoredTensor::new(name, Arc::clone(&self.source.bytes), self.range.start, dtype, shape);
        match self.order {
            Order::Plain | Order::Parts => whole(shape),
            Order::Transposed => whole([columns, rows]).map(StoredTensor::transposed),
            Order::Interleaved { heads } if rows == 1 => {
                Ok(whole(shape)?.transposed().reordered(&halves(columns, heads))?.transposed())
            }
            Order::Interleaved { heads } => whole(shape)?.reordered(&halves(rows, heads)),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.source.bytes.bytes().get(self.range.clone()).unwrap_or_default()
    }

    fn elements(&self) -> u64 {
        self.shape.iter().map(|&dimension| dimension as u64).product()
    }
}

/// Every tensor of a model directory by name.
#[derive(Default)]
pub(crate) struct Tensors {
    pub(crate) by_name: BTreeMap<String, Tensor>,
    /// In a shard, but not in the index that lists the shards; in a GGUF file, but not in the architecture's table.
    pub(crate) unlisted: Vec<String>,
    /// The tables by which tensors of a GGUF file got the names that they are found by.
    pub(crate) tables: &'static [&'static [names::Name]],
}

impl Tensors {
    /// The tensor called `name`, or the same without `prefix` in front.
    pub(crate) fn find(&self, prefix: &str, name: &str) -> Option<(&str, &Tensor)> {
        let bare = if prefix.is_empty() { None } else { name.strip_prefix(prefix) };
        std::iter::once(name)
            .chain(bare)
            .find_map(|name| self.by_name.get_key_value(name))
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Tensors without bytes, all different, for mappings that look at what there is.
    pub(crate) fn named(names: &[&str]) -> Self {
        let source = Arc::new(Source { file: "model.safetensors".to_owned(), bytes: Arc::new(Vec::new()) });
        let entry = |(at, name): (usize, &&str)| Entry {
            name: (*name).to_owned(),
            dtype: ElementType::Weight(WeightDType::F32),
            shape: vec![0, at],
            bytes: 0..0,
        };
        let tensors = names.iter().enumerate().map(|named| Tensor::new(&source, entry(named)));
        Self { by_name: tensors.collect(), ..Self::default() }
    }

    /// What the file calls, or would call, the tensor that is found by `name`.
    fn in_file(&self, name: &str) -> String {
        let known = self.by_name.get(name).and_then(|tensor| tensor.name.clone());
        known.or_else(|| names::to_file(self.tables, name)).unwrap_or_else(|| name.to_owned())
    }

    /// Whether two stored tensors are the same values; reads both.
    pub(crate) fn same(&self, one: &Tensor, other: &Tensor) -> bool {
        let same = one.dtype == other.dtype
            && one.shape == other.shape
            && one.order == other.order
            && one.bytes() == other.bytes();
        for tensor in [one, other] {
            tensor.source.bytes.release(tensor.range.clone());
        }
        same
    }
}

/// How a file keeps a slot's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As the graph wants it: `[outputs, inputs]`, or a vector.
    Plain,
    /// `[inputs, outputs]`.
    Transposed,
    /// Part `.0` of `.1` equal ones, side by side along the outputs of a transposed matrix, or of a vector.
    TransposedPart(usize, usize),
    /// A part of a fused projection or its bias, whose outputs come in `groups` equal ones of `each` outputs: what stands
    /// from output `first` on in every group.
    Fused {
        /// Groups.
        groups: usize,
        /// Outputs of a group, those of other slots included.
        each: usize,
        /// First output of this slot's in a group.
        first: usize,
    },
}

/// Where a slot's weight is in the files of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The slot; `*` is the layer.
    pub(crate) slot: &'static str,
    /// Names it may have, the preferred first.
    pub(crate) tensors: &'static [&'static str],
    pub(crate) layout: Layout,
}

/// A [`Row`] kept as the graph wants it.
pub(crate) const fn row(slot: &'static str, tensors: &'static [&'static str]) -> Row {
    Row { slot, tensors, layout: Layout::Plain }
}

/// What a family makes of a configuration.
pub(crate) struct Mapping {
    pub(crate) config: TransformerConfig,
    /// What names may lack at their front: files of a headless model leave the wrapper's name out.
    pub(crate) prefix: &'static str,
    /// Slots without a row are stored under their own name.
    pub(crate) rows: Vec<Row>,
    /// Names (`*` for any number) that hold nothing of their own: buffers, computed tables, second names.
    pub(crate) silent: Vec<&'static str>,
}

/// The weights of a model by the slot of the graph that they fill.
#[derive(Clone, Default)]
pub struct Weights(BTreeMap<String, StoredTensor>);

impl Weights {
    /// The weight of `slot`, a name that [`TransformerConfig::slots`] lists.
    pub fn get(&self, slot: &str) -> Option<&StoredTensor> {
        self.0.get(slot)
    }

    /// Slots and weights in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &StoredTensor)> {
        self.0.iter().map(|(slot, weight)| (slot.as_str(), weight))
    }

    /// How many slots are filled.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl consort_core::model::Weights for Weights {
    fn stored(&self, slot: &str) -> Option<StoredTensor> {
        self.get(slot).cloned()
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values()).finish()
    }
}

/// What filling the slots gave.
pub(crate) struct Filled {
    pub(crate) weights: Weights,
    pub(crate) unused: Vec<String>,
    pub(crate) dtype: String,
    pub(crate) parameters: u64,
}

/// Fills every slot of the mapped configuration, checks every shape, and accounts for every tensor.
///
/// `directory` and `config_file` are for messages.
///
/// # Errors
/// [`Error::Missing`] for slots without a tensor, [`Error::Tensor`] for a wrong shape or an element type that is no
/// float, [`Error::Config`] for more layers than the files can hold.
pub(crate) fn fill(
    mapping: &Mapping,
    tensors: &Tensors,
    directory: &str,
    config_file: &'static str,
) -> Result<Filled, Error> {
    let config = &mapping.config;
    // A list of slots for a million layers is not made for a file of ten tensors.
    let layers: usize = [&config.encoder, &config.decoder].into_iter().flatten().map(|stack| stack.layers).sum();
    if layers > tensors.by_name.len() {
        return Err(Error::malformed(
            directory,
            format!("{config_file} asks for {layers} layers, the weight files have {} tensors", tensors.by_name.len()),
        ));
    }

    let rows: HashMap<&str, &Row> = mapping.rows.iter().map(|row| (row.slot, row)).collect();
    let mut weights = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut missing = Vec::new();
    let slots = config.slots();
    let needed = slots.len();
    for slot in slots {
        let (pattern, layer) = generalise(&slot.name);
        let row = rows.get(pattern.as_str());
        let names: Vec<String> = match row {
            Some(row) => row.tensors.iter().map(|name| name.replacen('*', &layer, 1)).collect(),
            None => vec![slot.name.clone()], // the native form
        };
        let Some((name, tensor)) = names.iter().find_map(|name| tensors.find(mapping.prefix, name)) else {
            missing.push(tensors.in_file(&names.into_iter().next().unwrap_or(slot.name)));
            continue;
        };
        let layout = row.map_or(Layout::Plain, |row| row.layout);
        weights.insert(slot.name, stored(name, tensor, layout, slot.shape)?);
        used.insert(name);
    }
    if !missing.is_empty() {
        return Err(Error::Missing { directory: directory.to_owned(), config: config_file, needed, missing });
    }

    let silent: BTreeSet<String> =
        mapping.silent.iter().map(|name| name.strip_prefix(mapping.prefix).unwrap_or(name).to_owned()).collect();
    let known = |name: &str| {
        let bare = name.strip_prefix(mapping.prefix).unwrap_or(name);
        silent.contains(&every_number(bare))
    };
    let left = tensors.by_name.keys().map(String::as_str).filter(|name| !used.contains(name) && !known(name));
    let unused = left.map(|name| tensors.in_file(name)).chain(tensors.unlisted.iter().cloned()).collect();

    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in used.iter().filter_map(|name| tensors.by_name.get(*name)) {
        if let ElementType::Weight(dtype) = tensor.dtype {
            *sizes.entry(dtype.name()).or_default() += tensor.elements();
        }
    }
    let mut types: Vec<(&str, u64)> = sizes.into_iter().collect();
    types.sort_by_key(|&(_, elements)| std::cmp::Reverse(elements));
    Ok(Filled {
        weights: Weights(weights),
        unused,
        dtype: types.iter().map(|&(name, _)| name).collect::<Vec<_>>().join(" + "),
        parameters: types.iter().map(|&(_, elements)| elements).sum(),
    })
}

fn stored(name: &str, tensor: &Tensor, layout: Layout, slot: [usize; 2]) -> Result<StoredTensor, Error> {
    let name = tensor.name.as_deref().unwrap_or(name);
    let error = |what: String| Error::tensor(&tensor.source.file, name, what);
    let dtype = match &tensor.dtype {
        ElementType::Weight(dtype) => *dtype,
        ElementType::Other { name, expected } => return Err(error(format!("expected {expected}, found {name}"))),
    };
    let [outputs, inputs] = slot;
    let vector = outputs == 1;
    // A head of width 1 has a matrix of one output in a fused one of several.
    let fused_vector = vector && tensor.shape.len() == 1;
    let layout = match (layout, &tensor.order) {
        (Layout::Fused { groups, each, first }, Order::Parts) => {
            Layout::Fused { groups: 1, each: groups.saturating_mul(each), first: groups.saturating_mul(first) }
        }
        (layout, _) => layout,
    };
    // What the file must hold for this slot, in the file's orientation.
    let file = match layout {
        Layout::Plain => [outputs, inputs],
        Layout::TransposedPart(_, parts) if vector => [1, inputs.saturating_mul(parts)],
        Layout::Transposed => [inputs, outputs],
        Layout::TransposedPart(_, parts) => [inputs, outputs.saturating_mul(parts)],
        Layout::Fused { groups, each, .. } if fused_vector => [1, groups.saturating_mul(each)],
        Layout::Fused { groups, each, .. } => [groups.saturating_mul(each), inputs],
    };
    let is = match *tensor.shape.as_slice() {
        [n] => [1, n],
        [rows, columns] => [rows, columns],
        _ => [0, 0],
    };
    if is != file {
        let expected = if file.first() == Some(&1) { format!("[{}]", file[1]) } else { format!("{file:?}") };
        return Err(error(format!(
            "expected shape {expected} from the configuration, found {:?}",
            Short(&tensor.shape)
        )));
    }
    let whole = tensor.view(name, dtype, file);
    let part = match layout {
        Layout::Plain => whole,
        Layout::Transposed => whole.map(StoredTensor::transposed),
        Layout::TransposedPart(part, _) if vector => {
            whole.and_then(|all| all.inputs(part * inputs..(part + 1) * inputs))
        }
        Layout::TransposedPart(part, _) => {
            whole.and_then(|all| all.transposed().outputs(part * outputs..(part + 1) * outputs))
        }
        Layout::Fused { groups, each, first } if fused_vector => whole.and_then(|all| {
            let part = fused(all.transposed(), groups, each, first, inputs)?;
            Ok(part.transposed())
        }),
        Layout::Fused { groups, each, first } => whole.and_then(|all| fused(all, groups, each, first, outputs)),
    };
    part.map_err(|problem| error(problem.to_string()))
}

/// Where the outputs of heads in halves stand in a file that interleaves them; what is no whole pair stays.
fn halves(outputs: usize, heads: usize) -> Vec<usize> {
    let width = outputs / heads.max(1);
    let half = width / 2;
    let mut order: Vec<usize> = (0..outputs).collect();
    for head in 0..if half == 0 { 0 } else { heads } {
        for place in 0..2 * half {
            if let Some(stands) = order.get_mut(head * width + place) {
                *stands = head * width + 2 * (place % half) + place / half;
            }
        }
    }
    order
}

/// `outputs` of a fused matrix, as [`Layout::Fused`] says; consecutive ones stay a choice of strides.
fn fused(
    all: StoredTensor,
    groups: usize,
    each: usize,
    first: usize,
    outputs: usize,
) -> Result<StoredTensor, consort_core::Error> {
    let count = outputs / groups.max(1);
    if groups == 1 {
        return all.outputs(first..first + count);
    }
    let order: Vec<usize> =
        (0..groups).flat_map(|group| (0..count).map(move |place| group * each + first + place)).collect();
    all.reordered(&order)
}

/// A slot's name with its layer as `*`, and the layer.
pub(crate) fn generalise(slot: &str) -> (String, String) {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match slot.split('.').find(is_number) {
        Some(layer) => (slot.replacen(&format!(".{layer}."), ".*.", 1), layer.to_owned()),
        None => (slot.to_owned(), String::new()),
    }
}

/// A tensor's name with every number as `*`.
fn every_number(name: &str) -> String {
    let general =
        |part: &str| if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) { "*" } else { part }.to_owned();
    name.split('.').map(general).collect::<Vec<String>>().join(".")
}
