//! Headers of `.safetensors` files: eight bytes of length, a JSON object of tensors, then their bytes.
//!
//! The rules are those of the format's own crate, which has the last word. It says little of what it found, and adds
//! up offsets without looking for overflow, so names, offsets and sizes are looked at here first: a message says which
//! tensor, what was expected and what is there. Nothing is copied but the header; nothing need be aligned.

use std::{collections::HashSet, fmt, ops::Range};

use consort_core::WeightDType;
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::{error::printable, weights::ElementType};

/// Bytes of the length in front of the header.
const LENGTH: usize = 8;
/// The format's limit on a header.
const MAX_HEADER: u64 = 100_000_000;

/// Where one tensor lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: ElementType,
    pub(crate) shape: Vec<usize>,
    /// In the file, from its first byte.
    pub(crate) bytes: Range<usize>,
}

/// What is wrong with a file, and with which of its tensors where it is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) tensor: Option<String>,
    pub(crate) what: String,
}

impl Problem {
    fn file(what: impl Into<String>) -> Self {
        Self { tensor: None, what: what.into() }
    }

    fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self { tensor: Some(name.to_owned()), what: what.into() }
    }
}

/// The tensors of a file, in the order of their bytes.
///
/// # Errors
/// For anything that the format does not allow: see the module.
pub(crate) fn read(file: &[u8]) -> Result<Vec<Entry>, Problem> {
    let total = file.len();
    let Some(length) = file.first_chunk::<LENGTH>() else {
        return Err(Problem::file(match total {
            0 => "the file is empty".to_owned(),
            _ => format!("truncated: {total} bytes, where the length of the header alone takes {LENGTH}"),
        }));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Problem::file(format!(
            "not a safetensors file: a header of {length} bytes, where {MAX_HEADER} is the limit"
        )));
    }
    let start = LENGTH + length as usize;
    let Some(header) = file.get(LENGTH..start) else {
        return Err(Problem::file(format!("truncated: a header of {length} bytes in a file of {total}")));
    };
    let mut tensors = parse(header)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);

    let data = total - start;
    let mut expected = 0;
    for (name, info) in &tensors {
        let (begin, end) = info.data_offsets;
        let bytes = byte_count(info).ok_or_else(|| {
            Problem::tensor(name, format!("shape {:?} of {:?} overflows", Short(&info.shape), info.dtype))
        })?;
        if end < begin {
            return Err(Problem::tensor(name, format!("ends at byte {end} of the data, before its begin at {begin}")));
        }
        if end > data {
            return Err(Problem::tensor(
                name,
                format!("bytes {begin} to {end} of the data, of which the file has {data}: truncated or damaged"),
            ));
        }
        if begin != expected {
            let what =
                if begin < expected { "overlaps the tensor before it, which ends" } else { "leaves a gap after" };
            return Err(Problem::tensor(
                name,
                format!("begins at byte {begin} of the data, {what} at byte {expected}"),
            ));
        }
        if end - begin != bytes {
            return Err(Problem::tensor(
                name,
                format!(
                    "{} bytes, where {:?} of shape {:?} takes {bytes}",
                    end - begin,
                    info.dtype,
                    Short(&info.shape)
                ),
            ));
        }
        expected = end;
    }
    if expected != data {
        return Err(Problem::file(format!("the tensors take {expected} bytes, the file has {data} after its header")));
    }
    SafeTensors::read_metadata(file).map_err(|error| Problem::file(printable(&error.to_string())))?;

    let place = |(name, info): (String, TensorInfo)| {
        let (begin, end) = info.data_offsets;
        Entry { name, dtype: element_type(info.dtype), shape: info.shape, bytes: start + begin..start + end }
    };
    Ok(tensors.into_iter().map(place).collect())
}

fn element_type(dtype: Dtype) -> ElementType {
    ElementType::Weight(match dtype {
        Dtype::F64 => WeightDType::F64,
        Dtype::F32 => WeightDType::F32,
        Dtype::F16 => WeightDType::F16,
        Dtype::BF16 => WeightDType::BF16,
        other => {
            return ElementType::Other { name: format!("{other:?}"), expected: "F32, F16, BF16 or F64" };
        }
    })
}

fn byte_count(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    // Types narrower than a byte fill it up or are refused by the format's crate.
    Some(bits.div_ceil(8))
}

fn parse(header: &[u8]) -> Result<Vec<(String, TensorInfo)>, Problem> {
    let mut problem = None;
    let mut json = serde_json::Deserializer::from_slice(header);
    let result =
        json.deserialize_map(Header { problem: &mut problem }).and_then(|tensors| json.end().map(|()| tensors));
    result.map_err(|error| {
        problem.unwrap_or_else(|| Problem::file(format!("the header is not valid: {}", printable(&error.to_string()))))
    })
}

/// Reads the header's object pair by pair, so that a name that comes twice is seen and a bad entry has a name.
struct Header<'a> {
    problem: &'a mut Option<Problem>,
}

impl<'de> Visitor<'de> for Header<'_> {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                *self.problem = Some(Problem::tensor(&name, "the header lists this name twice"));
                return Err(A::Error::custom("a name twice"));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match map.next_value::<TensorInfo>() {
                Ok(info) => tensors.push((name, info)),
                Err(error) => {
                    let what = format!("its entry in the header is not valid: {}", printable(&error.to_string()));
                    *self.problem = Some(Problem::tensor(&name, what));
                    return Err(error);
                }
            }
        }
        Ok(tensors)
    }
}

/// A shape for a message; hostile ones have thousands of dimensions.
pub(crate) struct Short<'a>(pub(crate) &'a [usize]);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..8) {
            Some(first) if self.0.len() > 8 => write!(f, "{first:?}… ({} dimensions)", self.0.len()),
            _ => write!(f, "{:?}", self.0),
        }
    }
}
