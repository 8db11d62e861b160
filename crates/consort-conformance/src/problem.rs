//! One operation with everything it needs, on the host: what a case is before it meets a backend.
//!
//! A problem holds what a case file holds (docs/case-format.md): the operation by name, its attributes as JSON, its operands
//! by name. It can be made by hand, read from a folder, drawn from a recipe, or taken from a model in lockstep; and it can be
//! written to a folder, whichever way it was made.

mod plain;
mod rows;
mod run;

use consort_core::{HostData, Layout, WeightDType};
use serde_json::{Map, Value};

pub(crate) use self::run::offsets;
pub use self::run::{How, MOST_ELEMENTS, Output};

/// An operation with its operands.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Snake-case name, as in docs/case-format.md.
    pub op: String,
    /// Its attributes, as in docs/case-format.md.
    pub attributes: Map<String, Value>,
    /// Its operands that are present, by name, in the order of docs/case-format.md.
    pub operands: Vec<(String, Operand)>,
    /// What an operand that is a weight is kept as.
    pub weight_dtype: WeightDType,
    /// Whether the float operands are independent draws around zero: sums of them are then bounded as random walks are.
    pub random: bool,
    /// Asks for gradients instead of the outputs.
    pub backward: Option<Backward>,
}

/// Which gradients, from which cotangents.
#[derive(Clone, Debug)]
pub struct Backward {
    /// For each output of the operation, what it is pulled back from; `None` stands for zeros.
    pub cotangents: Vec<Option<Operand>>,
    /// Names of the operands whose gradients are the result, in this order.
    pub gradients: Vec<String>,
}

/// An operand: a buffer, and the part of it that is seen.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The whole buffer.
    pub elements: Elements,
    /// The part.
    pub layout: Layout,
}

/// Elements of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Of the type that a backend computes in, rounded to it once.
    Float(Vec<f64>),
    /// Of their own type on every backend: ids, masks, halves.
    Exact(HostData),
    /// Blocks of a quantised weight as they lie in a file; only for operands that are weights.
    Blocks(WeightDType, Vec<u8>),
}
