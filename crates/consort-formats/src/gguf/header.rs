//! Bytes of a GGUF file to its metadata and the places of its tensors.
//!
//! Layout (the `gguf.md` of ggml): magic, version, counts, then metadata (key, type, value), then a description of each
//! tensor (name, dimensions with the innermost first, type, offset), then padding to the alignment, then the tensors.
//! Everything is little-endian. Version 1 has counts and lengths of 32 bits where 2 and 3 have 64.
//!
//! Nothing is believed: a count or a length is compared with the bytes that are left before anything is made of it, so
//! that what is kept is at most a few times the header. Keys, names, strings and arrays stay slices of the file.

use std::{collections::BTreeMap, ops::Range};

use super::{
    types::GgmlType,
    values::{Cursor, Kind, Short, Value, word},
};
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
        // Sizes of 1 that are outermost say nothing.
        while shape.len() > 1 && shape.last() == Some(&1) {
            shape.pop();
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
