//! Bytes of a GGUF file to its metadata and the places of its tensors.
//!
//! Layout (the `gguf.md` of ggml): magic, version, counts, then metadata (key, type, value), then a description of each
//! tensor (name, dimensions with the innermost first, type, offset), then padding to the alignment, then the tensors.
//! Everything is little-endian. Version 1 has counts and lengths of 32 bits where 2 and 3 have 64.
//!
//! Nothing is believed: a count or a length is compared with the bytes that are left before anything is made of it, so
//! that what is kept is at most a few times the header. Keys, names, strings and arrays stay slices of the file.

use std::{collections::BTreeMap, ops::Range};

use super::types::GgmlType;
use crate::error::{Error, printable};

const MAGIC: &[u8; 4] = b"GGUF";
/// Where a file says nothing.
const ALIGNMENT: u64 = 32;
/// Beyond any page or transfer size, and far from an overflow.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// The format's own limit.
const MAX_KEY: u64 = 65_535;
/// Far beyond any model; they keep what a hostile header takes to some tens of megabytes.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 18;

/// Whether these are the first bytes of a GGUF file or of one of the formats before it.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || predecessor(start).is_some()
}

/// The formats of ggml before GGUF, by their magic in either order of bytes.
fn predecessor(start: &[u8]) -> Option<&'static str> {
    let magic = start.first_chunk::<4>()?;
    let mut reversed = *magic;
    reversed.reverse();
    ["ggml", "ggmf", "ggjt", "ggla"].into_iter().find(|name| {
        let name = name.as_bytes();
        name == magic || name == reversed
    })
}

/// A metadata value; text and arrays are slices of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float32(f32),
    Float64(f64),
    Flag(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// An array of one kind of elements, none of them an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Array<'a> {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    /// Exactly its elements.
    pub(crate) bytes: &'a [u8],
    pub(crate) version: u32,
}

impl<'a> Array<'a> {
    /// Its elements in order.
    pub(crate) fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0, version: self.version };
        // Every element was read once before.
        (0..self.count).map_while(move |_| cursor.value(self.kind).ok())
    }
}

/// The kind of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned(usize),
    Signed(usize),
    Float32,
    Float64,
    Flag,
    Text,
    Array,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float32,
            7 => Self::Flag,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float64,
            _ => return None,
        })
    }

    /// Fewest bytes that a value takes.
    fn least(self, version: u32) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes,
            Self::Float32 => 4,
            Self::Float64 => 8,
            Self::Flag => 1,
            Self::Text => word(version),
            Self::Array => 4 + word(version),
        }
    }
}

/// Bytes of a count or a length.
fn word(version: u32) -> usize {
    if version == 1 { 4 } else { 8 }
}

/// Where one tensor lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: GgmlType,
    /// The innermost dimension last, as everywhere else here.
    pub(crate) shape: Vec<usize>,
    /// In the file, from its first byte.
    pub(crate) bytes: Range<usize>,
}

/// What stands before the tensors.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) metadata: BTreeMap<&'a str, Value<'a>>,
    /// In the order of their bytes.
    pub(crate) tensors: Vec<Info<'a>>,
}

/// Reads the header of `bytes`, a whole file, which messages call `file`.
///
/// # Errors
/// One line for anything that the format does not allow or that the file is too short for.
pub(crate) fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Header<'a>, Error> {
    let malformed = |what: String| Error::malformed(file, what);
    let mut cursor = Cursor { bytes, at: 0, version: 3 };
    match bytes.first_chunk::<4>() {
        Some(MAGIC) => cursor.at = MAGIC.len(),
        Some(other) => {
            return Err(malformed(match predecessor(other) {
                Some(name) => format!(
                    "a file of the '{name}' format, which GGUF replaced: convert it with llama.cpp's tools, or get a \
                     GGUF file of the model"
                ),
                None => format!("not a GGUF file: it begins with '{}', not 'GGUF'", other.escape_ascii()),
            }));
        }
        None if bytes.is_empty() => return Err(malformed("the file is empty".to_owned())),
        None => return Err(malformed(format!("truncated: {} bytes are no GGUF file", bytes.len()))),
    }
    cursor.version = cursor.u32().map_err(|short| malformed(short.line("its version")))?;
    match cursor.version {
        1..=3 => {}
        0 => return Err(malformed("version 0 of GGUF, where 1 to 3 can be read".to_owned())),
        swapped if swapped & 0xffff == 0 => {
            return Err(malformed(
                "a big-endian GGUF file: convert it to little-endian with gguf's gguf_convert_endian.py".to_owned(),
            ));
        }
        newer => return Err(malformed(format!("version {newer} of GGUF, where 1 to 3 can be read"))),
    }
    let count = |cursor: &mut Cursor<'a>, what: &str, least: usize, limit: usize| {
        let count = cursor.word().map_err(|short| malformed(short.line("its counts")))?;
        let left = bytes.len();
        match usize::try_from(count) {
            Ok(count) if count <= left / least && count <= limit => Ok(count),
            Ok(count) if count <= left / least => {
                Err(malformed(format!("it has {count} {what}, beyond the limit of {limit}")))
            }
            _ => Err(malformed(format!("damaged: it claims {count} {what}, more than its {left} bytes can hold"))),
        }
    };
    let word = word(cursor.version);
    let tensors = count(&mut cursor, "tensors", word + 16, MAX_TENSORS)?;
    let entries = count(&mut cursor, "metadata entries", word + 5, MAX_ENTRIES)?;
    let metadata = read_metadata(file, &mut cursor, entries)?;
    let alignment = alignment(file, &metadata)?;
    let tensors = read_tensors(file, &mut cursor, tensors)?;
    let tensors = place(file, bytes.len(), cursor.at, alignment, tensors)?;
    Ok(Header { metadata, tensors })
}

fn read_metadata<'a>(
    file: &str,
    cursor: &mut Cursor<'a>,
    entries: usize,
) -> Result<BTreeMap<&'a str, Value<'a>>, Error> {
    let mut metadata = BTreeMap::new();
    for entry in 1..=entries {
        let place = || format!("metadata entry {entry} of {entries}");
        let start = cursor.at;
        let key = cursor.text().map_err(|short| Error::malformed(file, short.line(&place())))?;
        let Some(key) = std::str::from_utf8(key).ok().filter(|key| key.len() as u64 <= MAX_KEY) else {
            let what = format!("damaged: the key of {} at byte {start} is no text of at most {MAX_KEY} bytes", place());
            return Err(Error::malformed(file, what));
        };
        let shown = || printable(key);
        let error = |problem: Short| Error::config(file, shown(), problem.line("its value"));
        let number = cursor.u32().map_err(error)?;
        let Some(kind) = Kind::of(number) else {
            return Err(Error::config(file, shown(), format!("damaged: a value of unknown type {number}")));
        };
        let value = cursor.value(kind).map_err(error)?;
        if metadata.insert(key, value).is_some() {
            return Err(Error::config(file, shown(), "the metadata has this key twice"));
        }
    }
    Ok(metadata)
}

fn alignment(file: &str, metadata: &BTreeMap<&str, Value<'_>>) -> Result<u64, Error> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(given)) if given.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(given) => Ok(*given),
        Some(Value::Unsigned(given)) => {
            let what = format!("expected a power of two from 8 to {MAX_ALIGNMENT}, found {given}");
            Err(Error::config(file, KEY, what))
        }
        Some(_) => Err(Error::config(file, KEY, "expected an unsigned integer, found another kind of value")),
    }
}

/// A tensor as it is described: not yet known to be in the file.
struct Described<'a> {
    info: Info<'a>,
    offset: u64,
    length: u64,
}

fn read_tensors<'a>(file: &str, cursor: &mut Cursor<'a>, count: usize) -> Result<Vec<Described<'a>>, Error> {
    let mut tensors: Vec<Described<'a>> = Vec::new();
    for index in 1..=count {
        let place = || format!("tensor {index} of {count}");
        let start = cursor.at;
        let name = cursor.text().map_err(|short| Error::malformed(file, short.line(&place())))?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(Error::malformed(file, format!("damaged: the name of {} at byte {start} is no text", place())));
        };
        let error = |what: String| Error::tensor(file, name, what);
        let short = |short: Short| error(short.line("its description"));
        let dimensions = cursor.u32().map_err(short)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(error(format!("{dimensions} dimensions, where the format has at most {MAX_DIMENSIONS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let dimension = cursor.word().map_err(short)?;
            match usize::try_from(dimension) {
                Ok(fits) if fits > 0 => shape.push(fits),
                _ => return Err(error(format!("a dimension of {dimension}"))),
            }
        }
        let number = cursor.u32().map_err(short)?;
        let Some(kind) = GgmlType::of(number) else {
            return Err(error(format!("element type {number}, which is none that Consort knows")));
        };
        let offset = cursor.u64().map_err(short)?;
        let row = shape.first().copied().unwrap_or(1) as u64;
        if !row.is_multiple_of(kind.block) {
            let what = format!("rows of {row} elements are no whole blocks of {} as {}", kind.block, kind.name());
            return Err(error(what));
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension as u64));
        let Some(length) = elements.and_then(|elements| (elements / kind.block).checked_mul(kind.bytes)) else {
            return Err(error(format!("shape {shape:?} of {} overflows", kind.name())));
        };
        tensors.push(Described { info: Info { name, kind, shape, bytes: 0..0 }, offset, length });
    }
    Ok(tensors)
}

/// Checks that tensors lie in the file, aligned and one after the other, under names of their own.
fn place<'a>(
    file: &str,
    total: usize,
    end: usize,
    alignment: u64,
    mut tensors: Vec<Described<'a>>,
) -> Result<Vec<Info<'a>>, Error> {
    tensors.sort_unstable_by_key(|tensor| tensor.info.name);
    let twice = tensors.iter().zip(tensors.iter().skip(1)).find(|(one, next)| one.info.name == next.info.name);
    if let Some((tensor, _)) = twice {
        return Err(Error::tensor(file, tensor.info.name, "the header lists this name twice"));
    }
    tensors.sort_by_key(|tensor| tensor.offset);

    let start = (end as u64).next_multiple_of(alignment);
    let data = (total as u64).saturating_sub(start);
    // Each by itself first, so that a tensor is blamed for itself and not for what it does to its neighbours.
    for Described { info, offset, length } in &tensors {
        let error = |what: String| Err(Error::tensor(file, info.name, what));
        if !offset.is_multiple_of(alignment) {
            return error(format!("begins at byte {offset} of the data, which is no multiple of {alignment}"));
        }
        if offset.checked_add(*length).is_none_or(|last| last > data) {
            return error(format!(
                "{length} bytes from byte {offset} of the data on, of which the file has {data}: truncated or damaged"
            ));
        }
    }
    let mut expected = 0;
    let mut placed = Vec::with_capacity(tensors.len());
    for Described { mut info, offset, length } in tensors {
        if offset != expected {
            let what =
                if offset < expected { "overlaps the tensor before it, which ends" } else { "leaves a gap after" };
            let what = format!("begins at byte {offset} of the data, {what} at byte {expected}");
            return Err(Error::tensor(file, info.name, what));
        }
        let last = offset + length;
        expected = last.next_multiple_of(alignment);
        // Inside the file, whose length is a usize.
        info.bytes = (start + offset) as usize..(start + last) as usize;
        placed.push(info);
    }
    Ok(placed)
}

/// Why something could not be read.
enum Short {
    /// The file ends at byte `end`, and `needed` bytes from `at` on were asked for.
    Truncated { at: usize, needed: u64, end: usize },
    /// An array of arrays.
    Nested,
    /// An array's elements of unknown type.
    Unknown(u32),
    /// Neither 0 nor 1.
    NoFlag(u8),
}

impl Short {
    fn line(&self, what: &str) -> String {
        match self {
            Self::Truncated { at, needed, end } => {
                format!("truncated or damaged: {what} takes {needed} bytes from byte {at} on, the file has {end}")
            }
            Self::Nested => "an array of arrays, which nothing here needs".to_owned(),
            Self::Unknown(number) => format!("damaged: an array of the unknown type {number}"),
            Self::NoFlag(byte) => format!("expected true (1) or false (0), found {byte}"),
        }
    }
}

/// A place in the header.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u32,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Short> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(Short::Truncated { at: self.at, needed: length, end: self.bytes.len() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count or a length.
    fn word(&mut self) -> Result<u64, Short> {
        if self.version == 1 { self.u32().map(u64::from) } else { self.u64() }
    }

    fn text(&mut self) -> Result<&'a [u8], Short> {
        let length = self.word()?;
        self.take(length)
    }

    /// A little-endian integer, its sign extended over the bytes that it lacks where it has one.
    fn integer(&mut self, bytes: usize, signed: bool) -> Result<u64, Short> {
        let taken = self.take(bytes as u64)?;
        let negative = signed && taken.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        for (wide, byte) in wide.iter_mut().zip(taken) {
            *wide = *byte;
        }
        Ok(u64::from_le_bytes(wide))
    }

    fn value(&mut self, kind: Kind) -> Result<Value<'a>, Short> {
        Ok(match kind {
            Kind::Unsigned(bytes) => Value::Unsigned(self.integer(bytes, false)?),
            Kind::Signed(bytes) => Value::Signed(self.integer(bytes, true)?.cast_signed()),
            Kind::Float32 => Value::Float32(self.array().map(f32::from_le_bytes)?),
            Kind::Float64 => Value::Float64(self.array().map(f64::from_le_bytes)?),
            Kind::Flag => match self.array()? {
                [0] => Value::Flag(false),
                [1] => Value::Flag(true),
                [other] => return Err(Short::NoFlag(other)),
            },
            Kind::Text => Value::Text(self.text()?),
            Kind::Array => Value::Array(self.elements()?),
        })
    }

    fn elements(&mut self) -> Result<Array<'a>, Short> {
        let number = self.u32()?;
        let kind = Kind::of(number).ok_or(Short::Unknown(number))?;
        if kind == Kind::Array {
            return Err(Short::Nested);
        }
        let count = self.word()?;
        let start = self.at;
        let needed = count.saturating_mul(kind.least(self.version) as u64);
        let left = (self.bytes.len() - start) as u64;
        if needed > left {
            return Err(Short::Truncated { at: start, needed, end: self.bytes.len() });
        }
        match kind {
            // These have no size of their own, or values that cannot be.
            Kind::Text | Kind::Flag => (0..count).try_for_each(|_| self.value(kind).map(|_| ()))?,
            _ => self.take(needed).map(|_| ())?,
        }
        let bytes = self.bytes.get(start..self.at).unwrap_or_default();
        Ok(Array { kind, count: count as usize, bytes, version: self.version })
    }
}
