//! GGUF files for tests: as small as they can be, and wrong where a test wants them to be.

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Value {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Flag(bool),
    Text(&'static str),
    Texts(&'static [&'static str]),
    /// An array: the number of its element type, the count, the bytes.
    Array(u32, u64, Vec<u8>),
    /// The number of a type and any bytes.
    Raw(u32, Vec<u8>),
}

/// An array of elements that have their bytes.
pub(crate) fn array<const N: usize>(kind: u32, elements: &[[u8; N]]) -> Value {
    Value::Array(kind, elements.len() as u64, elements.concat())
}

/// A tensor; the innermost dimension first.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
    /// Where it is said to be; where it is, without.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A file.
pub(crate) struct Builder {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Builder {
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of this name")
    }

    /// F32: `first`, `first + 1` …
    pub(crate) fn add(&mut self, name: &str, shape: &[u64], first: f32) {
        let count = shape.iter().product::<u64>();
        let data = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), kind: 0, offset: None, data });
    }

    fn word(&self, out: &mut Vec<u8>, word: u64) {
        if self.version == 1 { out.extend((word as u32).to_le_bytes()) } else { out.extend(word.to_le_bytes()) }
    }

    fn text(&self, out: &mut Vec<u8>, text: &str) {
        self.word(out, text.len() as u64);
        out.extend(text.as_bytes());
    }

    fn value(&self, out: &mut Vec<u8>, value: &Value) {
        let mut kind = |kind: u32| out.extend(kind.to_le_bytes());
        match value {
            Value::U16(_) => kind(2),
            Value::U32(_) => kind(4),
            Value::I32(_) => kind(5),
            Value::F32(_) => kind(6),
            Value::Flag(_) => kind(7),
            Value::Text(_) => kind(8),
            Value::Texts(_) | Value::Array(..) => kind(9),
            Value::Raw(number, _) => kind(*number),
        }
        match value {
            Value::U16(number) => out.extend(number.to_le_bytes()),
            Value::U32(number) => out.extend(number.to_le_bytes()),
            Value::I32(number) => out.extend(number.to_le_bytes()),
            Value::F32(number) => out.extend(number.to_le_bytes()),
            Value::Flag(flag) => out.push(u8::from(*flag)),
            Value::Text(text) => self.text(out, text),
            Value::Texts(texts) => {
                out.extend(8u32.to_le_bytes());
                self.word(out, texts.len() as u64);
                texts.iter().for_each(|text| self.text(out, text));
            }
            Value::Array(kind, count, bytes) => {
                out.extend(kind.to_le_bytes());
                self.word(out, *count);
                out.extend(bytes);
            }
            Value::Raw(_, bytes) => out.extend(bytes),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        self.word(&mut out, self.tensors.len() as u64);
        self.word(&mut out, self.metadata.len() as u64);
        for (key, value) in &self.metadata {
            self.text(&mut out, key);
            self.value(&mut out, value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            self.text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dimension| self.word(&mut out, *dimension));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// A Llama of one layer: D 8, two heads, one of keys, F 12, five tokens; the tied embedding.
pub(crate) fn llama() -> Builder {
    let mut file = Builder { version: 3, metadata: Vec::new(), tensors: Vec::new() };
    for (key, value) in [
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(16)),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.feed_forward_length", Value::U32(12)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.dimension_count", Value::U32(4)),
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Texts(&["<unk>", "<s>", "</s>", "<eot>", "a"])),
        ("tokenizer.ggml.scores", array(6, &[[0; 4]; 5])),
        ("tokenizer.ggml.token_type", array(5, &[2i32, 3, 3, 3, 1].map(i32::to_le_bytes))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(3)),
        ("tokenizer.ggml.add_bos_token", Value::Flag(true)),
        ("tokenizer.chat_template", Value::Text("x")),
        ("tokenizer.chat_template.tool", Value::Text("y")),
    ] {
        file.set(key, value);
    }
    for (name, shape) in [
        ("token_embd.weight", &[8, 5][..]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[8, 4]),
        ("blk.0.attn_v.weight", &[8, 4]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[8, 12]),
        ("blk.0.ffn_up.weight", &[8, 12]),
        ("blk.0.ffn_down.weight", &[12, 8]),
        ("output_norm.weight", &[8]),
        ("extra.weight", &[8]),
    ] {
        file.add(name, shape, 0.0);
    }
    file
}
