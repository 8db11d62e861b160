//! Reading of JSON configurations: every value is checked for type and range, every complaint names file and key.

use serde_json::{Map, Value};

use crate::error::{Error, printable};

/// Sizes beyond this are mistakes; it keeps sums and small products far from overflow, on 32 bits too.
const MAX_SIZE: u64 = (1 << 31) - 1;
/// The limit of the core on a stack's layers, applied before anything is made per layer.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

/// An object of a configuration file.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    file: &'a str,
    parent: &'a str,
    object: &'a Map<String, Value>,
    /// Dotted keys and what the file calls them, where the object was made from a file of another kind.
    names: &'a [(&'static str, String)],
}

impl<'a> Reader<'a> {
    /// The whole file.
    ///
    /// # Errors
    /// When it holds anything but an object.
    pub(crate) fn new(file: &'a str, value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(object) => Ok(Self { file, parent: "", object, names: &[] }),
            other => Err(Error::malformed(file, format!("expected a JSON object, found {}", found(other)))),
        }
    }

    /// The same, with messages that call keys as the file does that they were made from.
    pub(crate) fn named(self, names: &'a [(&'static str, String)]) -> Self {
        Self { names, ..self }
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>) -> Error {
        let dot = if self.parent.is_empty() { "" } else { "." };
        let dotted = format!("{}{dot}{key}", self.parent);
        let name = self.names.iter().find(|(known, _)| *known == dotted).map(|(_, name)| name.clone());
        Error::config(self.file, name.unwrap_or(dotted), what)
    }

    /// The value of `key`; `None` when it is left out, `Some(Value::Null)` when it says null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key)
    }

    /// Whether there is anything but null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    fn wrong<T>(&self, key: &str, expected: &str, value: &Value) -> Result<T, Error> {
        Err(self.error(key, format!("expected {expected}, found {}", found(value))))
    }

    /// The object at `key`; null is as good as nothing.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Reader<'a>>, Error> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Reader { parent: key, object, ..*self })),
            Some(other) => self.wrong(key, "an object", other),
        }
    }

    fn integer(&self, key: &str, value: &Value, least: u64, expected: &str) -> Result<usize, Error> {
        let whole = value.as_u64().or_else(|| {
            let number = value.as_f64()?;
            // 512.0 is a way to write 512; beyond 2^53 a double no longer knows.
            (number.fract() == 0.0 && (0.0..=9e15).contains(&number)).then_some(number as u64)
        });
        match whole {
            Some(whole) if (least..=MAX_SIZE).contains(&whole) => Ok(whole as usize),
            Some(whole) if whole > MAX_SIZE => {
                Err(self.error(key, format!("{whole} is beyond the limit of {MAX_SIZE}")))
            }
            _ => self.wrong(key, expected, value),
        }
    }

    /// A size, at least 1.
    pub(crate) fn size(&self, key: &str, default: usize) -> Result<usize, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => self.integer(key, value, 1, "a positive integer"),
        }
    }

    /// A size, at least 1, or `None` where the file says null.
    pub(crate) fn optional_size(&self, key: &str, default: Option<usize>) -> Result<Option<usize>, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => self.integer(key, value, 1, "a positive integer or null").map(Some),
        }
    }

    /// The first of several names for the same size that the file has.
    pub(crate) fn size_of(&self, keys: &[&str], default: usize) -> Result<usize, Error> {
        match keys.iter().find(|key| self.get(key).is_some()) {
            Some(key) => self.size(key, default),
            None => Ok(default),
        }
    }

    /// A number of layers.
    pub(crate) fn layers(&self, keys: &[&str], default: usize) -> Result<usize, Error> {
        let layers = self.size_of(keys, default)?;
        if layers > MAX_LAYERS {
            let key = keys.iter().find(|key| self.get(key).is_some()).or(keys.first()).copied().unwrap_or_default();
            return Err(self.error(key, format!("{layers} is beyond the limit of {MAX_LAYERS}")));
        }
        Ok(layers)
    }

    /// A count from 0.
    pub(crate) fn count(&self, key: &str, default: usize) -> Result<usize, Error> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => self.integer(key, value, 0, "an integer from 0 up"),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(number),
                None => self.wrong(key, "a number", value),
            },
        }
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str, default: f64) -> Result<f64, Error> {
        let number = self.number(key, default)?;
        if number > 0.0 {
            Ok(number)
        } else {
            Err(self.error(key, format!("expected a positive number, found {number}")))
        }
    }

    /// A finite number, or `None` where the file says null or nothing.
    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, Error> {
        if self.has(key) { self.number(key, 0.0).map(Some) } else { Ok(None) }
    }

    /// True or false; null counts as left out.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.wrong(key, "true or false", other),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str, default: &'a str) -> Result<&'a str, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(other) => self.wrong(key, "a string", other),
        }
    }

    /// A list of strings, or `None` where the file says null or nothing.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, Error> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => match items.iter().map(Value::as_str).collect() {
                Some(texts) => Ok(Some(texts)),
                None => Err(self.error(key, "expected a list of strings, found another element in it")),
            },
            Some(other) => self.wrong(key, "a list of strings", other),
        }
    }

    fn token_value(&self, key: &str, value: &Value) -> Result<Option<u32>, Error> {
        // Conversions of the first Llama wrote -1 for "there is none".
        if value.is_null() || value.as_i64() == Some(-1) {
            return Ok(None);
        }
        match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => self.wrong(key, "a token id", value),
        }
    }

    /// A token id, or `None` where the file says null, -1 or nothing.
    pub(crate) fn token(&self, key: &str) -> Result<Option<u32>, Error> {
        self.get(key).map_or(Ok(None), |value| self.token_value(key, value))
    }

    /// One token id or a list of them.
    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<u32>, Error> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                Ok(items.iter().map(|item| self.token_value(key, item)).collect::<Result<Vec<_>, _>>()?)
                    .map(|ids| ids.into_iter().flatten().collect())
            }
            Some(value) => Ok(self.token_value(key, value)?.into_iter().collect()),
        }
    }

    /// A list of lists of token ids.
    pub(crate) fn token_lists(&self, key: &str) -> Result<Vec<Vec<u32>>, Error> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(lists)) => lists
                .iter()
                .map(|list| match list.as_array() {
                    Some(ids) => ids
                        .iter()
                        .map(|id| match self.token_value(key, id)? {
                            Some(id) => Ok(id),
                            None => self.wrong(key, "a token id", id),
                        })
                        .collect(),
                    None => self.wrong(key, "a list of token ids", list),
                })
                .collect(),
            Some(other) => self.wrong(key, "a list of lists of token ids", other),
        }
    }
}

/// A value for a message: short, on one line.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        other => printable(&other.to_string()),
    }
}
