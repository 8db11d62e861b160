//! Operations from and to what a case file says of them: names, attributes as JSON, operands by name.
//!
//! Everything goes through the core's own [`Assemble`] and [`Describe`], so that an operation added there needs nothing
//! here. What differs from the core's fields: `attributes` of attention and `settings` of AdamW are flattened into the
//! case's attributes; `layer` is no attribute, the engine chooses it; a cache is two operands, its keys and its values; and
//! the type `"float"` is what the device computes in.

use consort_core::{Assemble, DType, Describe, Fused, Primitive};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    error::Error,
    ops::{Operation, nearest},
};

/// Fields of the core's operations that are flattened into the attributes of a case.
const FLATTENED: [&str; 2] = ["attributes", "settings"];
/// The layer of a cache that a case is about; the others must stay as they are.
pub const LAYER: usize = 1;
const FLOAT: &str = "float";

/// An operation over operands of these types.
pub enum Assembled<T, W, C> {
    /// A primitive.
    Primitive(Primitive<T>),
    /// A fused operation.
    Fused(Fused<T, W, C>),
}

/// Operands by name, to put an operation together from.
#[derive(Clone)]
pub struct Operands<T, W, C> {
    /// Tensors.
    pub tensors: Vec<(String, T)>,
    /// Packed weights.
    pub weights: Vec<(String, W)>,
    /// The cache.
    pub cache: Option<C>,
}

impl<T, W, C> Default for Operands<T, W, C> {
    fn default() -> Self {
        Self { tensors: Vec::new(), weights: Vec::new(), cache: None }
    }
}

/// The operation that `attributes` and `operands` make on a device that computes in `float`.
///
/// # Errors
/// [`Error::Problem`] names an attribute or operand that is missing, unknown, or not what it should be.
pub fn assemble<T, W, C>(
    operation: &'static Operation,
    attributes: &Map<String, Value>,
    float: DType,
    operands: Operands<T, W, C>,
) -> Result<Assembled<T, W, C>, Error> {
    check_keys(operation, attributes)?;
    let mut attributes = attributes.clone();
    if let Some(dtype) = attributes.get_mut("dtype").filter(|dtype| dtype.as_str() == Some(FLOAT)) {
        *dtype = Value::String(float.to_string());
    }
    let attributes = &attributes;
    if operation.is_primitive() {
        let operands = Operands::<T, (), ()> { tensors: operands.tensors, weights: Vec::new(), cache: None };
        match Primitive::assemble(operation.name, &mut Reader { operation, attributes, operands }) {
            Some(assembled) => return assembled.map(Assembled::Primitive),
            None => return Err(not_one(operation)),
        }
    }
    match Fused::assemble(operation.name, &mut Reader { operation, attributes, operands }) {
        Some(assembled) => assembled.map(Assembled::Fused),
        None => Err(not_one(operation)),
    }
}

fn not_one(operation: &Operation) -> Error {
    Error::problem(operation.name, "this is no operation of the contract by itself")
}

/// Refuses keys that the operation does not have, and names what may have been meant.
fn check_keys(operation: &'static Operation, attributes: &Map<String, Value>) -> Result<(), Error> {
    let names = || operation.attributes.iter().map(|key| key.name);
    match attributes.keys().find(|key| !names().any(|name| name == key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::problem(
            operation.name,
            match nearest(key, names()) {
                Some(name) => format!("unknown attribute {key:?}, did you mean {name:?}?"),
                None => format!("unknown attribute {key:?}, expected none"),
            },
        )),
    }
}

/// One attribute.
///
/// # Errors
/// [`Error::Problem`] when it is missing or not what it should be.
pub(crate) fn attribute<A: DeserializeOwned>(
    operation: &'static Operation,
    attributes: &Map<String, Value>,
    name: &str,
) -> Result<A, Error> {
    let optional = operation.attributes.iter().any(|key| key.name == name && key.optional);
    let value = match attributes.get(name) {
        Some(value) => value.clone(),
        None if optional => Value::Null,
        None => return Err(Error::problem(operation.name, format!("attribute {name:?} is missing"))),
    };
    serde_json::from_value(value)
        .map_err(|error| Error::problem(operation.name, format!("attribute {name:?}: {error}")))
}

struct Reader<'a, T, W, C> {
    operation: &'static Operation,
    attributes: &'a Map<String, Value>,
    operands: Operands<T, W, C>,
}

impl<T, W, C> Reader<'_, T, W, C> {
    fn missing(&self, what: &str) -> Error {
        Error::problem(self.operation.name, format!("operand {what:?} is missing"))
    }
}

fn take<T>(from: &mut Vec<(String, T)>, name: &str) -> Option<T> {
    let at = from.iter().position(|(of, _)| of == name)?;
    Some(from.swap_remove(at).1)
}

impl<T, W, C> Assemble<T, W, C> for Reader<'_, T, W, C> {
    type Error = Error;

    fn tensor(&mut self, name: &'static str) -> Result<T, Error> {
        take(&mut self.operands.tensors, name).ok_or_else(|| self.missing(name))
    }

    fn optional(&mut self, name: &'static str) -> Result<Option<T>, Error> {
        Ok(take(&mut self.operands.tensors, name))
    }

    fn weight(&mut self, name: &'static str) -> Result<W, Error> {
        take(&mut self.operands.weights, name).ok_or_else(|| self.missing(name))
    }

    fn cache(&mut self, _: &'static str) -> Result<C, Error> {
        self.operands.cache.take().ok_or_else(|| self.missing("keys"))
    }

    fn attribute<A: DeserializeOwned>(&mut self, name: &'static str) -> Result<A, Error> {
        let problem = |error: serde_json::Error| Error::problem(self.operation.name, format!("{error}"));
        if name == "layer" {
            return serde_json::from_value(Value::from(LAYER)).map_err(problem);
        }
        if !FLATTENED.contains(&name) {
            return attribute(self.operation, self.attributes, name);
        }
        let mut keys = self.operation.attributes.iter().filter(|key| !key.optional);
        if let Some(key) = keys.find(|key| !self.attributes.contains_key(key.name)) {
            return Err(Error::problem(self.operation.name, format!("attribute {:?} is missing", key.name)));
        }
        serde_json::from_value(Value::Object(self.attributes.clone())).map_err(problem)
    }
}

/// What an operation is made of, as a case says it.
pub struct Described<T, W, C> {
    /// Its attributes.
    pub attributes: Map<String, Value>,
    /// Its operands.
    pub operands: Operands<T, W, C>,
    /// The layer of its cache, where it has one.
    pub layer: Option<usize>,
    float: DType,
}

/// What a primitive on a device that computes in `float` is made of.
pub fn describe_primitive<T: Clone>(operation: &Primitive<T>, float: DType) -> Described<T, (), ()> {
    let mut described = Described::new(float);
    operation.describe(&mut described);
    described
}

/// What a fused operation on a device that computes in `float` is made of.
pub fn describe_fused<T: Clone, W: Clone, C: Clone>(operation: &Fused<T, W, C>, float: DType) -> Described<T, W, C> {
    let mut described = Described::new(float);
    operation.describe(&mut described);
    described
}

impl<T, W, C> Described<T, W, C> {
    fn new(float: DType) -> Self {
        Self { attributes: Map::new(), operands: Operands::default(), layer: None, float }
    }
}

impl<T: Clone, W: Clone, C: Clone> Describe<T, W, C> for Described<T, W, C> {
    fn tensor(&mut self, name: &'static str, tensor: &T) {
        self.operands.tensors.push((name.to_owned(), tensor.clone()));
    }

    fn weight(&mut self, name: &'static str, weight: &W) {
        self.operands.weights.push((name.to_owned(), weight.clone()));
    }

    fn cache(&mut self, _: &'static str, cache: &C) {
        self.operands.cache = Some(cache.clone());
    }

    fn attribute<A: Serialize>(&mut self, name: &'static str, attribute: &A) {
        // What JSON cannot say becomes null, and is refused when it is read.
        match serde_json::to_value(attribute).unwrap_or(Value::Null) {
            Value::Object(keys) if FLATTENED.contains(&name) => self.attributes.extend(keys),
            Value::Number(layer) if name == "layer" => self.layer = layer.as_u64().map(|layer| layer as usize),
            Value::String(dtype) if name == "dtype" && dtype == self.float.to_string() => {
                self.attributes.insert(name.to_owned(), Value::from(FLOAT));
            }
            value => {
                self.attributes.insert(name.to_owned(), value);
            }
        }
    }
}
