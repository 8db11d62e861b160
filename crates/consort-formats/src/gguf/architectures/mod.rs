//! The architectures of GGUF files that can be read, a table each: which keys of the metadata are which of `config.json`,
//! and what tensors are called in both. With these a file is read by the same family as a Hugging Face directory; no
//! family is written twice.
//!
//! Keys and tensor names are those of the `gguf` Python package (`constants.py`); what a file keeps otherwise than a
//! directory is what llama.cpp's `convert_hf_to_gguf.py` does, and what a file leaves out is what llama.cpp assumes then.
//! The tables go both ways, so that a writer can use them as well. A further architecture is a further file here.

mod bert;
mod bloom;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod phi3;
mod qwen;
mod starcoder2;
mod t5;

use serde_json::Value;

use super::{config::Config, names::Name};

/// One `general.architecture`.
#[derive(Debug)]
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    /// The family that reads it, by its `model_type`.
    pub(crate) model_type: &'static str,
    pub(crate) keys: &'static [&'static [Key]],
    /// What `config.json` says that no key does.
    pub(crate) constants: &'static [(&'static str, Constant)],
    /// What `config.json` says depending on whether a tensor of the file is there.
    pub(crate) switches: &'static [Switch],
    /// Keys (without the architecture's name) whose other values mean a transformer that the family is not.
    pub(crate) only: &'static [&'static [(&'static str, Only)]],
    /// What `config.json` says that follows from the keys.
    pub(crate) derived: Option<(&'static str, Derive)>,
    pub(crate) rotary: Rotary,
    /// Keys say which layers have a window: all but every so many'th, this one where no key says how many.
    pub(crate) window_pattern: Option<u64>,
    /// Files have 1 added to the weights of norms that directories keep as differences from 1.
    pub(crate) norms_plus_one: bool,
    /// Every name. Where one of a file's names could be two, the first counts.
    pub(crate) tensors: &'static [&'static [Name]],
    /// The tables that are read instead where a file has no tensor of the name in front.
    pub(crate) without: Option<(&'static str, &'static [&'static [Name]])>,
    /// Tensors that llama.cpp asks for where the family has them or not.
    pub(crate) needed: &'static [&'static str],
}

/// A value of `config.json` from those that are there already.
pub(crate) type Derive = fn(&Config) -> Option<Value>;

/// How much of a head rotary positions turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotary {
    /// There are none.
    None,
    /// All of it, whatever a key says.
    Whole,
    /// What a key says, which is this fraction in `config.json`.
    Part(&'static str),
}

/// A key of the metadata and the one of `config.json` that says the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// With a dot in front where the architecture's name comes before it.
    pub(crate) gguf: &'static str,
    /// Dotted where it is inside another.
    pub(crate) json: &'static str,
    pub(crate) kind: Kind,
    pub(crate) absent: Absent,
}

/// What a key's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Count,
    Number,
    Flag,
    /// A count, 0 for none.
    Window,
}

/// What a file without the key means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Absent {
    /// The file is not complete.
    Refused,
    /// The family's default.
    Left,
    /// null: not the default that the family has for a directory.
    Null,
    /// The number that another key has.
    As(&'static str),
}

/// A value that does not depend on the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Constant {
    Flag(bool),
    Count(u64),
    Text(&'static str),
    /// A list of one text.
    List(&'static str),
}

impl Constant {
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Flag(flag) => Value::from(flag),
            Self::Count(count) => Value::from(count),
            Self::Text(text) => Value::from(text),
            Self::List(text) => Value::from(vec![text]),
        }
    }
}

/// A value by whether a tensor is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switch {
    /// The tensor's name in the file.
    pub(crate) tensor: &'static str,
    pub(crate) json: &'static str,
    pub(crate) present: Constant,
    pub(crate) absent: Constant,
}

/// The one value that a key may have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Only {
    Count(u64),
    Number(f64),
    Flag(bool),
}

/// All of them, in alphabetical order.
pub(crate) const ARCHITECTURES: [&Architecture; 15] = [
    &bert::BERT,
    &bloom::BLOOM,
    &falcon::FALCON,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &llama::LLAMA,
    &phi3::PHI3,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &starcoder2::STARCODER2,
    &t5::T5,
    &t5::T5_ENCODER,
];

/// The architecture of this name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.into_iter().find(|one| one.name == name)
}

pub(super) const fn count(gguf: &'static str, json: &'static str, absent: Absent) -> Key {
    Key { gguf, json, kind: Kind::Count, absent }
}

pub(super) const fn number(gguf: &'static str, json: &'static str, absent: Absent) -> Key {
    Key { gguf, json, kind: Kind::Number, absent }
}

const fn flag(gguf: &'static str, json: &'static str, absent: Absent) -> Key {
    Key { gguf, json, kind: Kind::Flag, absent }
}

/// The keys of decoders with rotary positions.
const ROTARY_DECODER: &[Key] = &[
    count(".context_length", "max_position_embeddings", Absent::Refused),
    count(".embedding_length", "hidden_size", Absent::Refused),
    count(".block_count", "num_hidden_layers", Absent::Refused),
    count(".feed_forward_length", "intermediate_size", Absent::Refused),
    count(".attention.head_count", "num_attention_heads", Absent::Refused),
    count(".attention.head_count_kv", "num_key_value_heads", Absent::Null),
    count(".attention.key_length", "head_dim", Absent::Null),
    number(".rope.freq_base", "rope_theta", Absent::Left),
];

/// Of those with RMS norms.
const RMS_NORM: &[Key] = &[number(".attention.layer_norm_rms_epsilon", "rms_norm_eps", Absent::Refused)];

/// Keys that change the transformer, by the value that changes nothing. Those of experts and of heads that are no part of
/// any family here among them.
const USUAL: &[&[(&str, Only)]] = &[ALL, CAUSAL, NO_LINEAR_BIAS, IN_SEQUENCE];

/// Of decoders; files made for embedding have some that see what follows.
const CAUSAL: &[(&str, Only)] = &[(".attention.causal", Only::Flag(true))];

const NOT_CAUSAL: &[(&str, Only)] = &[(".attention.causal", Only::Flag(false))];

const ALL: &[(&str, Only)] = &[
    (".expert_count", Only::Count(0)),
    (".attention.clamp_kqv", Only::Number(0.0)),
    (".logit_scale", Only::Number(1.0)),
    (".residual_scale", Only::Number(1.0)),
    (".embedding_scale", Only::Number(1.0)),
    (".rope.scaling.attn_factor", Only::Number(1.0)),
    (".rope.scaling.yarn_attn_factor", Only::Number(1.0)),
    (".rope.scaling.yarn_ext_factor", Only::Number(1.0)),
];

const NO_LINEAR_BIAS: &[(&str, Only)] = &[(".attention.max_alibi_bias", Only::Number(0.0))];

const IN_SEQUENCE: &[(&str, Only)] = &[(".use_parallel_residual", Only::Flag(false))];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{families::FAMILIES, gguf::names};

    #[test]
    fn tables_go_both_ways() {
        for architecture in ARCHITECTURES {
            assert!(
                FAMILIES.iter().any(|family| family.model_type == architecture.model_type),
                "{}",
                architecture.name
            );
            let without = architecture.without.map(|(_, tables)| tables);
            for tables in [Some(architecture.tensors), without].into_iter().flatten() {
                let rows = || tables.iter().copied().flatten();
                let hugging_face: BTreeSet<&str> = rows().map(|row| row.hugging_face).collect();
                assert_eq!(hugging_face.len(), rows().count(), "{}: a name twice", architecture.name);
                for row in rows() {
                    let name = row.hugging_face.replacen('*', "7", 1);
                    let gguf = names::to_file(tables, &name).expect("a name");
                    assert_eq!(gguf, row.gguf.replacen('*', "7", 1));
                    assert!(names::from_file(tables, &gguf).is_some(), "{gguf}");
                }
            }
            let keys = || architecture.keys.iter().copied().flatten();
            let json: BTreeSet<&str> = keys().map(|key| key.json).collect();
            let gguf: BTreeSet<&str> = keys().map(|key| key.gguf).collect();
            assert_eq!((json.len(), gguf.len()), (keys().count(), keys().count()), "{}", architecture.name);
        }
    }
}
