//! Typed access to a GGUF file's metadata: every complaint names file and key, what was expected and what is there.

use std::collections::BTreeMap;

use super::values::{Array, Kind, Value};
use crate::error::{Error, printable};

/// The metadata of a file.
#[derive(Debug)]
pub(crate) struct Metadata<'a> {
    pub(crate) file: &'a str,
    pub(crate) entries: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn error(&self, key: &str, what: impl Into<String>) -> Error {
        Error::config(self.file, printable(key), what)
    }

    fn wrong<T>(&self, key: &str, expected: &str, value: &Value<'_>) -> Result<T, Error> {
        Err(self.error(key, format!("expected {expected}, found {}", found(value))))
    }

    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.entries.get(key).copied()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A whole number from 0 up. Some keys have one for each layer; equal ones are as good as one.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        let expected = "an integer from 0 up";
        let one = |value: Value<'a>| match value {
            Value::Unsigned(count) => Ok(count),
            Value::Signed(count) if count >= 0 => Ok(count.cast_unsigned()),
            other => self.wrong(key, expected, &other),
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let mut values = array.values();
                let Some(first) = values.next() else {
                    return Err(self.error(key, format!("expected {expected}, found an empty list")));
                };
                if values.any(|value| value != first) {
                    let what = "the list has different values for different layers, which Consort does not have";
                    return Err(self.error(key, what));
                }
                one(first).map(Some)
            }
            Some(value) => one(value).map(Some),
        }
    }

    /// A finite number. One of 32 bits is read as the shortest decimal that rounds to it: 1e-6 is meant where
    /// 9.999999974752427e-7 is what is left of it.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Float32(number) => number.to_string().parse().unwrap_or(f64::from(number)),
            Value::Float64(number) => number,
            Value::Unsigned(number) => number as f64,
            Value::Signed(number) => number as f64,
            other => return self.wrong(key, "a number", &other),
        };
        if number.is_finite() { Ok(Some(number)) } else { self.wrong(key, "a finite number", &value) }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(flag)),
            Some(other) => self.wrong(key, "true or false", &other),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(self.error(key, format!("not text: byte {} is not UTF-8", error.valid_up_to()))),
            },
            Some(other) => self.wrong(key, "a string", &other),
        }
    }

    /// The short texts that say what the file is, for people, by their keys without `general.` in front.
    pub(crate) fn about(&self) -> Vec<(String, String)> {
        const PREFIX: &str = "general.";
        /// What is longer is no name and no licence's.
        const LONGEST: usize = 4096;
        let entries = self.entries.range(PREFIX..).take_while(|(key, _)| key.starts_with(PREFIX));
        let told = entries.filter_map(|(key, value)| match value {
            Value::Text(bytes) if bytes.len() <= LONGEST => {
                Some((key.strip_prefix(PREFIX)?, std::str::from_utf8(bytes).ok()?))
            }
            _ => None,
        });
        let own = |key: &str| !matches!(key, "architecture" | "type");
        told.filter(|(key, _)| own(key)).map(|(key, text)| (key.to_owned(), text.to_owned())).collect()
    }

    /// An array of what `is` says that it is.
    fn array(&self, key: &str, expected: &str, is: impl Fn(Kind) -> bool) -> Result<Option<Array<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) if is(array.kind) => Ok(Some(array)),
            Some(other) => self.wrong(key, expected, &other),
        }
    }

    /// An array of strings, not yet read.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Texts<'a>>, Error> {
        Ok(self.array(key, "a list of strings", |kind| kind == Kind::Text)?.map(Texts))
    }

    /// An array of floats.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let array = self.array(key, "a list of floats", |kind| matches!(kind, Kind::Float32 | Kind::Float64))?;
        Ok(array.map(|array| {
            let narrow = |value| match value {
                Value::Float32(number) => Some(number),
                Value::Float64(number) => Some(number as f32),
                _ => None,
            };
            array.values().filter_map(narrow).collect()
        }))
    }

    /// An array of integers, whole numbers of at most 32 bits.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        let whole = |kind| matches!(kind, Kind::Unsigned(_) | Kind::Signed(_));
        let Some(array) = self.array(key, "a list of integers", whole)? else { return Ok(None) };
        let narrow = |value: Value<'_>| match value {
            Value::Unsigned(number) => i32::try_from(number).ok(),
            Value::Signed(number) => i32::try_from(number).ok(),
            _ => None,
        };
        match array.values().map(narrow).collect() {
            Some(integers) => Ok(Some(integers)),
            None => Err(self.error(key, "the list has an integer beyond 32 bits")),
        }
    }

    /// An array of truth values, one a layer.
    pub(crate) fn flags(&self, key: &str) -> Result<Option<Array<'a>>, Error> {
        self.array(key, "a list of true and false", |kind| kind == Kind::Flag)
    }

    /// An array of bytes.
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<&'a [u8]>, Error> {
        let byte = |kind| matches!(kind, Kind::Unsigned(1) | Kind::Signed(1));
        Ok(self.array(key, "a list of bytes", byte)?.map(|array| array.bytes))
    }
}

/// An array of strings in the file.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a>(Array<'a>);

impl<'a> Texts<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.count
    }

    /// The strings; `Err` with the place of one that is not UTF-8.
    pub(crate) fn read(self) -> impl Iterator<Item = Result<&'a str, usize>> {
        self.0.values().enumerate().map(|(place, value)| match value {
            Value::Text(bytes) => std::str::from_utf8(bytes).map_err(|_| place),
            _ => Err(place),
        })
    }
}

/// A value for a message: short, on one line.
fn found(value: &Value<'_>) -> String {
    match value {
        Value::Unsigned(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Float32(number) => format!("the float {number}"),
        Value::Float64(number) => format!("the float {number}"),
        Value::Flag(flag) => flag.to_string(),
        Value::Text(text) => {
            let shown = text.get(..64.min(text.len())).unwrap_or_default();
            format!("the string '{}'", printable(&String::from_utf8_lossy(shown)))
        }
        Value::Array(array) => format!("a list of {}", array.count),
    }
}
