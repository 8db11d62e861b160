//! Gradients of every operation against finite differences; and that the check finds what it is there to find.

use std::collections::{BTreeMap, BTreeSet};

use consort_conformance::{
    gradient::{Check, check, recipes},
    oracle::{Buffer, Oracle},
    sweep,
};
use consort_core::{
    Backend, DType, Device, Fused, FusedOf, HostData, Nothing, Outputs, PrimitiveOf, Ready, Result, Spec, TensorOf,
    operation::{BinaryKind, UnaryKind},
    unsupported,
};

#[test]
fn every_gradient_agrees_with_finite_differences() {
    let device = Device::new(Oracle::new());
    let mut operations = BTreeSet::new();
    let (mut count, mut most) = (0, 0f64);
    for recipe in recipes() {
        operations.insert(recipe.op.clone());
        for check in check(&recipe, &device).unwrap_or_else(|error| panic!("{recipe}: {error}")) {
            // Passing includes that the gradient is a hundred thousand times the tolerance.
            assert!(check.passed(), "{recipe}: {check:?}");
            most = most.max((check.numeric - check.pulled).abs() / check.tolerance.max(f64::MIN_POSITIVE));
            count += 1;
        }
    }
    println!("{count} checks of {} operations, at most {most:.3} of a tolerance used", operations.len());
    let differentiable = sweep::operations().filter(|op| sweep::has_gradient(op)).map(str::to_owned);
    assert_eq!(operations, differentiable.collect(), "operations with a gradient");
}

/// Every value that an attribute takes in the sweep's backward recipes is checked, numbers but for some.
#[test]
fn every_value_of_every_attribute_is_checked() {
    let values = |recipes: Vec<consort_conformance::recipe::Recipe>| {
        let mut values: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for recipe in recipes.into_iter().filter(|recipe| recipe.backward) {
            for (name, value) in recipe.attributes {
                let value = match &value {
                    serde_json::Value::Object(map) if map.contains_key("kind") => map["kind"].to_string(),
                    serde_json::Value::String(_) | serde_json::Value::Bool(_) | serde_json::Value::Null => {
                        value.to_string()
                    }
                    _ => "a number".to_owned(),
                };
                values.entry((recipe.op.clone(), name)).or_default().insert(value);
            }
        }
        values
    };
    let checked = values(recipes());
    for ((op, name), swept) in values(sweep::recipes(sweep::Depth::Quick)) {
        // What rounds is no function with a derivative: its gradient goes through as if nothing was rounded.
        let smooth = |value: &String| match (op.as_str(), name.as_str()) {
            ("copy", _) => value == "\"float\"",
            ("unary", "kind") => value != "\"single\"",
            (_, "compute") => value != "\"bf16\"",
            _ => true,
        };
        let swept: BTreeSet<String> = swept.into_iter().filter(smooth).collect();
        let checked = checked.get(&(op.clone(), name.clone())).cloned().unwrap_or_default();
        let missing: Vec<&String> = swept.difference(&checked).collect();
        assert!(missing.is_empty(), "{op}: {name} {missing:?} has no check");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Gradients of the wrong sign.
    Sign,
    /// Twice the gradient.
    Factor,
    /// `y·d_y` without `− y·Σ y·d_y`; the same of norms and attention: what was centred is not.
    NotCentred,
    /// The greatest element of each gradient is 0.
    OneZero,
    /// A millionth too much.
    Millionth,
}

/// The oracle with a fault in its fused backwards.
struct Planted(Device<Oracle>, Fault);

impl Planted {
    /// A gradient, spoiled.
    fn spoil(&self, x: TensorOf<Oracle>) -> Result<TensorOf<Oracle>> {
        let Self(device, fault) = self;
        match fault {
            Fault::Sign => device.unary(x, UnaryKind::Negate),
            Fault::Factor => device.scale(x, 2.0),
            Fault::Millionth => device.scale(x, 1.0 + 1e-6),
            Fault::NotCentred => Ok(x),
            Fault::OneZero => {
                let mut data = device.download(&x)?.to_f64();
                let greatest = (0..data.len()).max_by(|&a, &b| data[a].abs().total_cmp(&data[b].abs()));
                greatest.into_iter().for_each(|at| data[at] = 0.0);
                device.upload_floats(&data, x.sizes())
            }
        }
    }

    fn backward(&self, operation: FusedOf<Oracle>) -> Result<Vec<TensorOf<Oracle>>> {
        let device = &self.0;
        if let (Fault::NotCentred, Fused::SoftmaxBackward { y, d_y }) = (self.1, &operation) {
            return Ok(vec![device.binary(y.clone(), d_y.clone(), BinaryKind::Multiply)?]);
        }
        if let (
            Fault::NotCentred,
            Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes },
        ) = (self.1, &operation)
        {
            // Without δ.
            let y = device.scale(y.clone(), 0.0)?;
            let operation = Fused::AttentionBackward {
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                bias: bias.clone(),
                y,
                log_sum: log_sum.clone(),
                d_y: d_y.clone(),
                segments: segments.clone(),
                attributes: *attributes,
            };
            return Ok(device.decomposed(operation)?.into_vec());
        }
        device.decomposed(operation)?.into_iter().map(|x| self.spoil(x)).collect()
    }
}

impl Backend for Planted {
    type Buffer = Buffer<f64>;
    type Packed = consort_conformance::oracle::Packed;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Oracle;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer<f64>> {
        self.0.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Buffer<f64>> {
        self.0.backend().upload(data)
    }

    fn download(&self, buffer: &Buffer<f64>) -> Result<Ready> {
        self.0.backend().download(buffer)
    }

    fn float(&self) -> DType {
        DType::F64
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer<f64>> {
        self.0.backend().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Buffer<f64>>> {
        if !operation.name().contains("_backward") {
            return Err(unsupported(self, operation.name()));
        }
        let outputs = self.backward(operation.clone())?;
        let whole = |x: TensorOf<Oracle>| Ok(self.0.copy(&x, DType::F64)?.buffer);
        outputs.into_iter().map(whole).collect()
    }
}

/// The operations whose fused backward a fault reaches.
const THROUGH_A_BACKWARD: [&str; 10] = [
    "softmax",
    "layer_norm",
    "rms_norm",
    "activation",
    "gated",
    "soft_cap",
    "linear",
    "embedding",
    "attention",
    "cross_entropy",
];

#[test]
fn wrong_backwards_are_found_in_every_recipe() {
    for fault in [Fault::Sign, Fault::Factor, Fault::NotCentred, Fault::OneZero, Fault::Millionth] {
        let device = Device::new(Planted(Device::new(Oracle::new()), fault));
        let mut tried = BTreeSet::new();
        for recipe in recipes() {
            let reached = match fault {
                Fault::NotCentred => ["softmax", "attention"].contains(&recipe.op.as_str()),
                _ => THROUGH_A_BACKWARD.contains(&recipe.op.as_str()),
            };
            // Through an activation two backwards go, whose wrong signs cancel.
            let twice = recipe.op == "linear" && recipe.attributes["activation"].is_string();
            if !reached || (fault == Fault::Sign && twice) {
                continue;
            }
            tried.insert(recipe.op.clone());
            let checks = check(&recipe, &device).unwrap();
            assert!(checks.iter().any(|check| !check.passed()), "{fault:?} goes unseen in {recipe}");
        }
        assert!(tried.len() == if fault == Fault::NotCentred { 2 } else { THROUGH_A_BACKWARD.len() });
    }
}

/// What made the check of another suite pass with two broken backwards: a sum as the loss.
#[test]
fn a_cotangent_of_ones_would_see_nothing_of_softmax() {
    let device = Device::new(Planted(Device::new(Oracle::new()), Fault::Sign));
    let recipe = recipes().into_iter().find(|recipe| recipe.op == "softmax").unwrap();
    let mut problem = recipe.problem().unwrap();
    let backward = problem.backward.as_mut().unwrap();
    let ones = backward.cotangents[0].as_ref().unwrap();
    let sizes = ones.layout.shape().sizes().to_vec();
    let count = sizes.iter().product();
    backward.cotangents[0] = Some(consort_conformance::problem::Operand::floats(vec![1.0; count], &sizes).unwrap());
    let gradients = problem.run(&device, consort_conformance::problem::How::AsAsked).unwrap();
    assert!(gradients[0].data.to_f64().iter().all(|gradient| gradient.abs() < 1e-15));
    // With draws the same fault stands out.
    let checks: Vec<Check> = check(&recipe, &device).unwrap();
    assert!(checks.iter().all(|check| !check.passed()));
}

#[test]
fn what_cannot_be_checked_says_so() {
    let device = Device::new(Oracle::new());
    let recipe = |json: &str| check(&json.parse().unwrap(), &device).unwrap_err().to_string();
    let forward = recipe(r#"{"op":"softmax","dims":{"x0":3}}"#);
    assert_eq!(forward, "softmax: a forward recipe, expected a backward one");
    let rounded =
        recipe(r#"{"op":"embedding","backward":true,"dims":{"n":2,"width":32,"rows":1},"weight_dtype":"q8_0"}"#);
    assert_eq!(rounded, "embedding: a weight kept as q8_0 has no finite differences, expected f64");
    let none = recipe(r#"{"op":"binary","backward":true,"dims":{"a0":2,"b0":2},"attributes":{"kind":"less"}}"#);
    assert_eq!(none, "binary: nothing here has a gradient");
}
