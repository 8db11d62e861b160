//! Every operation of docs/case-format.md as a table: its operands in order, its attributes and its outputs.
//!
//! The core's enums say the same; a test holds the two together, so that an operation added there is missed here.

use consort_core::{Fused, Primitive};
use serde_json::{Map, Value};

/// An operation that a case can be of.
#[derive(Debug)]
pub struct Operation {
    /// Snake-case name.
    pub name: &'static str,
    /// Operands, in the order that positions in a case file refer to.
    pub operands: &'static [Slot],
    /// Keys of its attributes.
    pub attributes: &'static [Attribute],
    /// Names of its outputs.
    pub outputs: &'static [&'static str],
    /// What is owed of its result, whatever its attributes; see [`class`](Self::class).
    class: Class,
}

/// An operand that an operation takes.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub kind: Kind,
    /// Whether it may be absent.
    pub optional: bool,
}

/// What an operand must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats of the type that the backend computes in.
    Float,
    /// Anything: the operation takes all types.
    Any,
    /// u32.
    Ids,
    /// u32, 0 or not.
    Mask,
    /// A packed weight `[outputs, inputs]`.
    Weight,
    /// Rows of a cache `[rows, K, C]`, floats.
    Cache,
}

/// A key in an operation's attributes.
#[derive(Debug)]
pub struct Attribute {
    /// The key.
    pub name: &'static str,
    /// Whether it may be left out, which is the same as `null`.
    pub optional: bool,
}

/// What is owed of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The very bits: elements are moved, rounded once as the contract says, or change their sign.
    Bits,
    /// The very values: comparisons, choices, indices. Which of two equal zeros is chosen is open.
    Exact,
    /// A bound: something is computed.
    Rounded,
}

impl Operation {
    /// The operation of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// The operand of this name.
    pub fn operand(&self, name: &str) -> Option<&'static Slot> {
        self.operands.iter().find(|slot| slot.name == name)
    }

    /// What is owed of its result under `attributes`.
    pub fn class(&self, attributes: &Map<String, Value>) -> Class {
        let kind = attributes.get("kind").and_then(Value::as_str);
        match (self.name, kind) {
            ("unary", Some("negate" | "single")) => Class::Bits,
            ("unary", Some("round")) => Class::Exact,
            ("binary", Some("maximum" | "minimum" | "less" | "equal")) => Class::Exact,
            ("reduce", Some("maximum" | "arg_maximum")) => Class::Exact,
            ("scatter_rows", _) if attributes.get("add") != Some(&Value::Bool(true)) => Class::Bits,
            _ => self.class,
        }
    }

    /// Whether it is one of the contract's primitives.
    pub fn is_primitive(&self) -> bool {
        Primitive::<()>::NAMES.contains(&self.name)
    }

    /// Whether it is one of the contract's fused operations.
    pub fn is_fused(&self) -> bool {
        Fused::<(), (), ()>::NAMES.contains(&self.name)
    }
}

/// The one of `names` that `wrong` was most likely meant to be.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().min_by_key(|name| (distance(wrong, name), *name))
}

/// Insertions, deletions and replacements from one word to the other (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    // Names are short; what is not would cost its square.
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, to) in b.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((from, replaced), deleted) in a.iter().zip(&row).zip(row.iter().skip(1)) {
            let inserted = next.last().copied().unwrap_or(0) + 1;
            next.push((replaced + usize::from(*from != to)).min(deleted + 1).min(inserted));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

const fn slot(name: &'static str, kind: Kind) -> Slot {
    Slot { name, kind, optional: false }
}

const fn float(name: &'static str) -> Slot {
    slot(name, Kind::Float)
}

const fn any(name: &'static str) -> Slot {
    slot(name, Kind::Any)
}

const fn optional(name: &'static str) -> Slot {
    Slot { name, kind: Kind::Float, optional: true }
}

const fn key(name: &'static str) -> Attribute {
    Attribute { name, optional: false }
}

const fn nullable(name: &'static str) -> Attribute {
    Attribute { name, optional: true }
}

const fn operation(
    name: &'static str,
    operands: &'static [Slot],
    attributes: &'static [Attribute],
    outputs: &'static [&'static str],
    class: Class,
) -> Operation {
    Operation { name, operands, attributes, outputs, class }
}

use Class::{Bits, Rounded};

const IDS: Slot = slot("ids", Kind::Ids);
const TARGETS: Slot = slot("targets", Kind::Ids);
const WEIGHT: Slot = slot("weight", Kind::Weight);
const KEYS: Slot = slot("keys", Kind::Cache);
const VALUES: Slot = slot("values", Kind::Cache);
const KIND: &[Attribute] = &[key("kind")];
const COMPUTE: &[Attribute] = &[nullable("compute")];
const ATTENTION: &[Attribute] =
    &[key("segments"), key("scale"), key("mask"), nullable("window"), nullable("soft_cap"), nullable("score_bias")];
const CACHED_ATTENTION: &[Attribute] =
    &[key("plan"), key("scale"), key("mask"), nullable("window"), nullable("soft_cap"), nullable("score_bias")];
const ADAMW: &[Attribute] =
    &[key("rate"), key("beta1"), key("beta2"), key("epsilon"), key("weight_decay"), key("step")];

/// Primitives, fused operations, and what a backend does with its caches.
pub static OPERATIONS: &[Operation] = &[
    operation("fill", &[], &[key("shape"), key("value"), key("dtype")], &["y"], Bits),
    operation("copy", &[any("x")], &[key("dtype")], &["y"], Bits),
    operation("write", &[any("into"), any("x")], &[key("start")], &["y"], Bits),
    operation("unary", &[float("x")], KIND, &["y"], Rounded),
    operation("binary", &[any("a"), any("b")], KIND, &["y"], Rounded),
    operation("select", &[slot("mask", Kind::Mask), any("a"), any("b")], &[], &["y"], Bits),
    operation("reduce", &[float("x")], &[key("axis"), key("kind")], &["y"], Rounded),
    operation("matmul", &[float("a"), float("b")], &[], &["y"], Rounded),
    operation("gather_rows", &[any("x"), IDS], &[], &["y"], Bits),
    operation("scatter_rows", &[any("into"), IDS, any("x")], &[key("add")], &["y"], Rounded),
    operation("softmax", &[float("x")], &[], &["y"], Rounded),
    operation("layer_norm", &[float("x"), float("weight"), optional("bias")], &[key("epsilon")], &["y"], Rounded),
    operation("rms_norm", &[float("x"), float("weight")], &[key("epsilon"), key("unit_offset")], &["y"], Rounded),
    operation("rotary", &[float("x"), float("cos"), float("sin"), IDS], &[key("pairing")], &["y"], Rounded),
    operation("activation", &[float("x")], KIND, &["y"], Rounded),
    operation("gated", &[float("gate"), float("up")], KIND, &["y"], Rounded),
    operation("soft_cap", &[float("x")], &[key("cap")], &["y"], Rounded),
    operation("quantize_activations", &[float("x")], &[], &["codes", "scales"], Class::Exact),
    operation(
        "linear",
        &[float("x"), WEIGHT, optional("bias"), optional("residual")],
        &[nullable("activation"), nullable("compute")],
        &["y"],
        Rounded,
    ),
    operation("embedding", &[WEIGHT, IDS], &[], &["y"], Bits),
    operation(
        "attention",
        &[float("query"), float("key"), float("value"), optional("bias")],
        ATTENTION,
        &["y", "log_sum"],
        Rounded,
    ),
    operation("cache_write", &[KEYS, VALUES, float("key"), float("value")], &[key("plan")], &["keys", "values"], Bits),
    operation("cached_attention", &[float("query"), KEYS, VALUES, optional("bias")], CACHED_ATTENTION, &["y"], Rounded),
    operation("cross_entropy", &[float("logits"), TARGETS], &[key("smoothing")], &["losses", "log_sum"], Rounded),
    operation(
        "adamw",
        &[float("parameter"), float("gradient"), float("first"), float("second")],
        ADAMW,
        &["parameter", "first", "second"],
        Rounded,
    ),
    operation("sample", &[float("logits")], &[key("rows")], &["y"], Class::Exact),
    operation("softmax_backward", &[float("y"), float("d_y")], &[], &["d_x"], Rounded),
    operation(
        "layer_norm_backward",
        &[float("x"), float("weight"), float("d_y")],
        &[key("epsilon")],
        &["d_x", "d_weight", "d_bias"],
        Rounded,
    ),
    operation(
        "rms_norm_backward",
        &[float("x"), float("weight"), float("d_y")],
        &[key("epsilon"), key("unit_offset")],
        &["d_x", "d_weight"],
        Rounded,
    ),
    operation("activation_backward", &[float("x"), float("d_y")], KIND, &["d_x"], Rounded),
    operation("gated_backward", &[float("gate"), float("up"), float("d_y")], KIND, &["d_gate", "d_up"], Rounded),
    operation("soft_cap_backward", &[float("x"), float("d_y")], &[key("cap")], &["d_x"], Rounded),
    operation("linear_backward_input", &[float("d_y"), WEIGHT], COMPUTE, &["d_x"], Rounded),
    operation("linear_backward_weight", &[float("x"), float("d_y")], COMPUTE, &["d_weight"], Rounded),
    operation("embedding_backward", &[IDS, float("d_y")], &[key("rows")], &["d_weight"], Rounded),
    operation(
        "attention_backward",
        &[float("query"), float("key"), float("value"), optional("bias"), float("y"), float("log_sum"), float("d_y")],
        ATTENTION,
        &["d_query", "d_key", "d_value", "d_bias"],
        Rounded,
    ),
    operation(
        "cross_entropy_backward",
        &[float("logits"), TARGETS, float("log_sum"), float("d_loss")],
        &[key("smoothing")],
        &["d_logits"],
        Rounded,
    ),
    operation("cache_copy", &[KEYS, VALUES], &[key("block"), key("pairs")], &["keys", "values"], Bits),
];

#[cfg(test)]
mod tests {
    use consort_core::{
        Assemble,
        operation::{AdamWSettings, AttentionAttributes, Mask, ScoreBias},
    };
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::json;

    use super::*;

    /// Writes down what an operation asks for.
    #[derive(Default)]
    struct Asked(Vec<String>);

    impl Assemble<(), (), ()> for Asked {
        type Error = String;

        fn tensor(&mut self, name: &'static str) -> Result<(), String> {
            self.0.push(format!("tensor {name}"));
            Ok(())
        }

        fn optional(&mut self, name: &'static str) -> Result<Option<()>, String> {
            self.0.push(format!("optional {name}"));
            Ok(None)
        }

        fn weight(&mut self, name: &'static str) -> Result<(), String> {
            self.0.push(format!("weight {name}"));
            Ok(())
        }

        fn cache(&mut self, _: &'static str) -> Result<(), String> {
            self.0.extend(["cache keys".to_owned(), "cache values".to_owned()]);
            Ok(())
        }

        fn attribute<A: DeserializeOwned>(&mut self, name: &'static str) -> Result<A, String> {
            let keys = |written: &dyn erased::Keys| written.keys();
            let attention = AttentionAttributes { scale: 1.0, soft_cap: None, mask: Mask::All, bias: ScoreBias::None };
            let adamw = AdamWSettings { rate: 0.0, beta1: 0.0, beta2: 0.0, epsilon: 0.0, weight_decay: 0.0, step: 1 };
            match name {
                // Not an attribute of a case: the engine chooses it.
                "layer" => {}
                "attributes" => self.0.extend(keys(&attention)),
                "settings" => self.0.extend(keys(&adamw)),
                _ => self.0.push(format!("attribute {name}")),
            }
            let values = [
                json!(null),
                json!(1),
                json!(true),
                json!([]),
                json!("f32"),
                json!("exp"),
                json!("add"),
                json!("sum"),
                json!("halves"),
                json!("relu"),
                json!({"queries": [], "keys": []}),
                json!({"block": 1, "rows": [], "sequences": []}),
                serde_json::to_value(attention).unwrap(),
                serde_json::to_value(adamw).unwrap(),
            ];
            values
                .into_iter()
                .find_map(|value| serde_json::from_value(value).ok())
                .ok_or_else(|| format!("no value for {name}"))
        }
    }

    mod erased {
        /// The keys that something is written with.
        pub(super) trait Keys {
            fn keys(&self) -> Vec<String>;
        }

        impl<T: super::Serialize> Keys for T {
            fn keys(&self) -> Vec<String> {
                let written = serde_json::to_value(self).unwrap();
                written.as_object().unwrap().keys().map(|key| format!("attribute {key}")).collect()
            }
        }
    }

    #[test]
    fn the_table_says_what_the_core_says() {
        let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
        let core: Vec<&str> =
            Primitive::<()>::NAMES.iter().chain(Fused::<(), (), ()>::NAMES).copied().chain(["cache_copy"]).collect();
        assert_eq!(names, core);
        for operation in OPERATIONS.iter().filter(|operation| operation.name != "cache_copy") {
            let mut asked = Asked::default();
            if operation.is_primitive() {
                Primitive::<()>::assemble(operation.name, &mut asked).unwrap().unwrap();
            } else {
                Fused::<(), (), ()>::assemble(operation.name, &mut asked).unwrap().unwrap();
            }
            let is_attribute = |asked: &&String| asked.starts_with("attribute");
            let (mut attributes, operands): (Vec<_>, Vec<_>) = asked.0.iter().partition(is_attribute);
            let mut listed: Vec<String> =
                operation.attributes.iter().map(|key| format!("attribute {}", key.name)).collect();
            listed.sort();
            attributes.sort();
            assert_eq!(listed.iter().collect::<Vec<_>>(), attributes, "{}", operation.name);
            let listed = operation.operands.iter().map(|slot| match slot.kind {
                Kind::Weight => format!("weight {}", slot.name),
                Kind::Cache => format!("cache {}", slot.name),
                _ if slot.optional => format!("optional {}", slot.name),
                _ => format!("tensor {}", slot.name),
            });
            assert_eq!(listed.collect::<Vec<_>>(), operands.into_iter().cloned().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_slip_finds_what_was_meant() {
        let names = || OPERATIONS.iter().map(|operation| operation.name);
        assert_eq!(nearest("softmx", names()), Some("softmax"));
        assert_eq!(nearest("layernorm", names()), Some("layer_norm"));
        assert_eq!(nearest("", ["ab", "a"]), Some("a"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
