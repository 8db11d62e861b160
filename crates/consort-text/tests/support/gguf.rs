//! The tokenizer of a GGUF file, for tests: this crate reads no such file itself.

use std::collections::BTreeMap;
use std::path::Path;

use consort_text::Embedded;

/// A value of the metadata, as far as tokenizers have them.
enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
}

struct Reader {
    bytes: Vec<u8>,
    at: usize,
    /// Version 1 counts in 32 bits.
    wide: bool,
}

impl Reader {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes[self.at..self.at + N].try_into().expect("N bytes");
        self.at += N;
        bytes
    }

    fn count(&mut self) -> usize {
        let count = if self.wide { u64::from_le_bytes(self.take()) } else { u32::from_le_bytes(self.take()).into() };
        usize::try_from(count).expect("a count")
    }

    fn text(&mut self) -> String {
        let length = self.count();
        let text = String::from_utf8_lossy(&self.bytes[self.at..self.at + length]).into_owned();
        self.at += length;
        text
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 | 7 => Value::Number(self.take::<1>()[0].into()),
            1 => Value::Number(i8::from_le_bytes(self.take()).into()),
            2 => Value::Number(u16::from_le_bytes(self.take()).into()),
            3 => Value::Number(i16::from_le_bytes(self.take()).into()),
            4 => Value::Number(u32::from_le_bytes(self.take()).into()),
            5 => Value::Number(i32::from_le_bytes(self.take()).into()),
            6 => Value::Number(f32::from_le_bytes(self.take()).into()),
            8 => Value::Text(self.text()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let count = self.count();
                Value::List((0..count).map(|_| self.value(kind)).collect())
            }
            10 | 11 => Value::Number(u64::from_le_bytes(self.take()) as f64),
            12 => Value::Number(f64::from_le_bytes(self.take())),
            other => panic!("a value of type {other}"),
        }
    }
}

/// What the file's `tokenizer.*` keys say.
pub(crate) fn tokenizer(path: &Path) -> std::io::Result<Embedded> {
    let mut reader = Reader { bytes: std::fs::read(path)?, at: 4, wide: true };
    reader.wide = u32::from_le_bytes(reader.take()) > 1;
    let _tensors = reader.count();
    let mut keys = BTreeMap::new();
    for _ in 0..reader.count() {
        let key = reader.text();
        let kind = u32::from_le_bytes(reader.take());
        keys.insert(key, reader.value(kind));
    }
    let get = |key: &str| keys.get(&format!("tokenizer.ggml.{key}"));
    let text = |value: &Value| match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    let list = |key: &str| match get(key) {
        Some(Value::List(values)) => values.as_slice(),
        _ => &[],
    };
    let id = |key: &str| get(key).and_then(number).map(|id| id as u32);
    let flag = |key: &str| get(key).and_then(number).map(|flag| flag != 0.0);
    Ok(Embedded {
        model: get("model").and_then(text).unwrap_or_default(),
        pre: get("pre").and_then(text),
        tokens: list("tokens").iter().filter_map(text).collect(),
        scores: list("scores").iter().filter_map(number).map(|score| score as f32).collect(),
        kinds: list("token_type").iter().filter_map(number).map(|kind| kind as i32).collect(),
        merges: list("merges").iter().filter_map(text).collect(),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        ..Embedded::default()
    })
}
