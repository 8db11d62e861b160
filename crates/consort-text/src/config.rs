//! The few things that are needed from `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and
//! `config.json`.
//!
//! Source of the names and defaults: `transformers` 5, `tokenization_utils_base.py` and the tokenizer classes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::Error;
use crate::load::{invalid, read_json_object};

/// Tokens with a role, by the names that `transformers` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Bos,
    Eos,
    Unk,
    Sep,
    Pad,
    Cls,
    Mask,
    /// End of a turn; only embedded tokenizers name it.
    Eot,
    /// End of a message; only embedded tokenizers name it.
    Eom,
}

impl Role {
    /// Those that a directory names.
    pub(crate) const ALL: [Self; 7] = [Self::Bos, Self::Eos, Self::Unk, Self::Sep, Self::Pad, Self::Cls, Self::Mask];

    fn key(self) -> &'static str {
        match self {
            Self::Bos => "bos_token",
            Self::Eos => "eos_token",
            Self::Unk => "unk_token",
            Self::Sep => "sep_token",
            Self::Pad => "pad_token",
            Self::Cls => "cls_token",
            Self::Mask => "mask_token",
            Self::Eot => "eot_token",
            Self::Eom => "eom_token",
        }
    }
}

/// Families of tokenizer classes that share files and default tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    /// Byte-level BPE with `<|endoftext|>`.
    Gpt2,
    /// Byte-level BPE with `<s>`, `</s>` and RoBERTa's post-processor.
    Roberta,
    /// WordPiece.
    Bert,
    /// SentencePiece Unigram with `</s>` at the end.
    T5,
    /// SentencePiece BPE with `<s>` at the beginning.
    Llama,
    /// A class that is named, and is none of these.
    Other(String),
}

impl Family {
    /// The family of a `tokenizer_class`; none for the generic classes, which say nothing.
    fn of_class(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Fast").unwrap_or(class) {
            "GPT2Tokenizer" => Self::Gpt2,
            "RobertaTokenizer" | "BartTokenizer" | "LongformerTokenizer" | "LEDTokenizer" => Self::Roberta,
            "BertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "MobileBertTokenizer"
            | "MPNetTokenizer"
            | "LayoutLMTokenizer"
            | "SqueezeBertTokenizer"
            | "ConvBertTokenizer"
            | "DPRReaderTokenizer" => Self::Bert,
            "T5Tokenizer" => Self::T5,
            "LlamaTokenizer" => Self::Llama,
            "PreTrainedTokenizer" | "TokenizersBackend" => return None,
            _ => Self::Other(class.to_owned()),
        })
    }

    /// The family of the tokenizer that a `model_type` in `config.json` goes with.
    fn of_model_type(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "gpt2" | "gpt_neo" => Self::Gpt2,
            "roberta" | "bart" | "longformer" | "led" => Self::Roberta,
            "bert" | "distilbert" | "electra" | "mobilebert" | "layoutlm" | "squeezebert" | "convbert" => Self::Bert,
            "t5" | "mt5" | "umt5" => Self::T5,
            "llama" => Self::Llama,
            _ => return None,
        })
    }

    /// The text of the token with this role where no file names it.
    fn default_token(&self, role: Role) -> Option<&'static str> {
        match (self, role) {
            (Self::Gpt2, Role::Bos | Role::Eos | Role::Unk) => Some("<|endoftext|>"),
            (Self::Roberta, Role::Bos | Role::Cls) | (Self::Llama, Role::Bos) => Some("<s>"),
            (Self::Roberta, Role::Eos | Role::Sep) | (Self::T5 | Self::Llama, Role::Eos) => Some("</s>"),
            (Self::Roberta | Self::T5 | Self::Llama, Role::Unk) => Some("<unk>"),
            (Self::Roberta | Self::T5, Role::Pad) => Some("<pad>"),
            (Self::Roberta, Role::Mask) => Some("<mask>"),
            (Self::Bert, Role::Unk) => Some("[UNK]"),
            (Self::Bert, Role::Sep) => Some("[SEP]"),
            (Self::Bert, Role::Pad) => Some("[PAD]"),
            (Self::Bert, Role::Cls) => Some("[CLS]"),
            (Self::Bert, Role::Mask) => Some("[MASK]"),
            _ => None,
        }
    }
}

/// What the files beside the vocabulary say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) family: Option<Family>,
    /// `None` inside: a file says `null`, so there is no such token whatever the family's default is.
    tokens: HashMap<Role, Option<String>>,
    /// `additional_special_tokens`, in order.
    pub(crate) more_special: Vec<String>,
    /// Added tokens by id.
    pub(crate) added: BTreeMap<u32, AddedToken>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
    pub(crate) do_lower_case: Option<bool>,
    pub(crate) strip_accents: Option<bool>,
    pub(crate) tokenize_chinese_chars: Option<bool>,
    pub(crate) add_prefix_space: Option<bool>,
}

impl Config {
    /// Reads the files that are there. `tokenizer_config.json` goes before `special_tokens_map.json`, and
    /// `tokenizer_class` before `model_type`.
    pub(crate) fn read(directory: &Path) -> Result<Self, Error> {
        let mut config = Self::default();
        let path = directory.join("tokenizer_config.json");
        if let Some(object) = read_json_object(&path)? {
            config.read_tokens(&object, &path)?;
            let class = object.get("tokenizer_class").and_then(Value::as_str);
            config.family = class.and_then(Family::of_class);
            config.read_added_decoder(&object, &path)?;
            let flag = |key: &str| match object.get(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Bool(value)) => Ok(Some(*value)),
                Some(other) => Err(invalid(&path, format!("expected true or false as {key}, found {}", kind(other)))),
            };
            config.add_bos = flag("add_bos_token")?.unwrap_or(false);
            config.add_eos = flag("add_eos_token")?.unwrap_or(false);
            config.do_lower_case = flag("do_lower_case")?;
            config.strip_accents = flag("strip_accents")?;
            config.tokenize_chinese_chars = flag("tokenize_chinese_chars")?;
            config.add_prefix_space = flag("add_prefix_space")?;
        }
        let path = directory.join("special_tokens_map.json");
        if let Some(object) = read_json_object(&path)? {
            config.read_tokens(&object, &path)?;
        }
        let path = directory.join("added_tokens.json");
        if let Some(object) = read_json_object(&path)? {
            for (content, id) in &object {
                let id = id
                    .as_u64()
                    .and_then(|id| u32::try_from(id).ok())
                    .ok_or_else(|| invalid(&path, format!("expected an id for {content:?}, found {id}")))?;
                config.added.entry(id).or_insert_with(|| AddedToken::from(content.clone(), false));
            }
        }
        if config.family.is_none() {
            // `config.json` belongs to the model: its errors are reported where the model is read.
            let model = read_json_object(&directory.join("config.json")).ok().flatten();
            let model_type = model.as_ref().and_then(|object| object.get("model_type")?.as_str());
            config.family = model_type.and_then(Family::of_model_type);
        }
        Ok(config)
    }

    /// The text of the token with this role, from the files or by the family's default.
    pub(crate) fn token(&self, role: Role) -> Option<&str> {
        match self.tokens.get(&role) {
            Some(named) => named.as_deref(),
            None => self.family.as_ref()?.default_token(role),
        }
    }

    fn read_tokens(&mut self, object: &Map<String, Value>, path: &Path) -> Result<(), Error> {
        for role in Role::ALL {
            let Some(value) = object.get(role.key()) else { continue };
            let token = match value {
                Value::Null => None,
                value => Some(token_text(value).ok_or_else(|| {
                    let found = kind(value);
                    invalid(
                        path,
                        format!("expected a string or an object with content as {}, found {found}", role.key()),
                    )
                })?),
            };
            self.tokens.entry(role).or_insert(token);
        }
        // `transformers` 5 calls it `extra_special_tokens`, and gives a list or an object.
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            let values: Vec<&Value> = match object.get(key) {
                Some(Value::Array(values)) => values.iter().collect(),
                Some(Value::Object(named)) => named.values().collect(),
                _ => continue,
            };
            self.more_special.extend(values.into_iter().filter_map(token_text));
        }
        Ok(())
    }

    fn read_added_decoder(&mut self, object: &Map<String, Value>, path: &Path) -> Result<(), Error> {
        let Some(Value::Object(tokens)) = object.get("added_tokens_decoder") else { return Ok(()) };
        for (id, value) in tokens {
            let content = token_text(value);
            let (Ok(id), Some(content)) = (id.parse::<u32>(), content) else {
                let detail = format!("expected an id and an object with content in added_tokens_decoder, found {id:?}");
                return Err(invalid(path, detail));
            };
            let flag = |key: &str| value.get(key).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let token = AddedToken::from(content, special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            self.added.insert(id, token);
        }
        Ok(())
    }
}

/// The text of a token given as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
