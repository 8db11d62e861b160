//! What an operation's result may be, element by element: the oracle's value, and how far a device may be from it.
//!
//! [`Bounds`] is a backend whose numbers are pairs: what the oracle computes in f64, and a bound on the distance of what a
//! device with a [`Profile`] computes from the same operands. Each primitive carries the errors of its operands through
//! itself and adds its own rounding (`elementwise`, `sums`, `movement`); fused operations have no form here, so that
//! their bounds flow through their decompositions; and since [`Autodiff`](consort_core::autodiff::Autodiff) is a backend over
//! a backend, so do those of gradients.
//!
//! Operands that a device is given are rounded to its type once and are nobody's error. An error of 0 asks for the very
//! value. Numbers that are finite here but beyond the device's type may be infinite there; what nothing can be said of has an
//! infinite bound. The bounds hold for any order of the terms of a sum, and with products and sums rounded apart or together.

mod elementwise;
mod movement;
mod profile;
mod sums;

use std::{borrow::Cow, sync::Arc};

use consort_core::{
    Backend, DType, Device, Fused, FusedOf, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result, Shape,
    Spec, StoredTensor, Tensor, TensorOf, WeightDType, decode,
    operation::{BinaryKind, ReduceKind, UnaryKind},
    unsupported,
};
use serde_json::Value;

pub use self::profile::{Accuracy, Compute, Functions, Profile};
pub(crate) use self::sums::confidence;
use self::{
    elementwise::{Elementwise, Number, settled},
    sums::Terms,
};
use crate::{
    error::Error,
    ops::Class,
    oracle::Oracle,
    problem::{Elements, Operand, Problem},
};

/// An output as it should be.
#[derive(Clone, Debug)]
pub struct Bounded {
    /// Name of the output, or `d_` and the operand's name for a gradient.
    pub name: String,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// Its type on the device.
    pub dtype: DType,
    /// What is expected of each element, row-major.
    pub values: Vec<f64>,
    /// How far from it each may be; 0 asks for equal values.
    pub errors: Vec<f64>,
    /// Where values must be equal, whether the signs of zeros must be, too.
    pub bits: bool,
    /// Whether the bounds say too little for agreement to mean anything: one of them is infinite, or more than half are
    /// greater than half of their value and 2⁻⁸ of the greatest.
    pub vague: bool,
}

impl Bounded {
    /// An output; whether it is vague is seen from the numbers.
    pub fn new(name: String, sizes: Vec<usize>, dtype: DType, values: Vec<f64>, errors: Vec<f64>) -> Self {
        let magnitudes = values.iter().map(|value| value.abs()).filter(|value| value.is_finite());
        let greatest = magnitudes.fold(0.0, f64::max);
        let enough = |(value, error): &(&f64, &f64)| **error <= 0.5 * value.abs() + greatest / 256.0;
        let much = values.iter().zip(&errors).filter(enough).count();
        let vague = 2 * much < values.len() || errors.iter().any(|error| !error.is_finite());
        Self { name, sizes, dtype, values, errors, bits: false, vague }
    }

    /// Whether there is an element that nothing is known of.
    pub fn unbounded(&self) -> bool {
        self.errors.iter().any(|error| !error.is_finite())
    }
}

/// What `problem` should give on a device of this profile.
///
/// # Errors
/// [`Error::Problem`] where its parts do not fit together.
pub fn expected(problem: &Problem, profile: &Profile) -> Result<Vec<Bounded>, Error> {
    bounded(problem, profile, Inputs::Rounded)
}

/// As [`expected`], of the codes that a device gave for the activations.
pub(crate) fn expected_of(problem: &Problem, profile: &Profile, emitted: Emitted) -> Result<Vec<Bounded>, Error> {
    let backend = Bounds::with_inputs(profile.clone(), problem.random, Inputs::Rounded);
    bounded_on(Bounds { emitted: Some(emitted), ..backend }, problem)
}

/// As [`expected`], around operands that are rounded or as they are.
pub(crate) fn bounded(problem: &Problem, profile: &Profile, inputs: Inputs) -> Result<Vec<Bounded>, Error> {
    bounded_on(Bounds::with_inputs(profile.clone(), problem.random, inputs), problem)
}

fn bounded_on(backend: Bounds, problem: &Problem) -> Result<Vec<Bounded>, Error> {
    let operation = problem.operation()?;
    let float = backend.elementwise.profile.float();
    let problem = in_own_type(problem, float)?;
    let device = Device::new(backend);
    let forward = problem.backward.is_none();
    let mut outputs = Vec::new();
    for (name, output) in problem.outputs(&device)? {
        let mut values = device.download(&output)?.to_f64();
        let mut errors = device.backend().errors(&output)?;
        if forward && operation.name == "fill" && output.dtype() == DType::F64 {
            // By itself it is a rounding, not a number that other operations can have had better.
            values.iter_mut().for_each(|value| *value = device.backend().elementwise.rounding.nearest(*value));
            errors.iter_mut().for_each(|error| *error = 0.0);
        }
        let dtype = if output.dtype() == DType::F64 { float } else { output.dtype() };
        let bounded = Bounded::new(name, output.sizes().to_vec(), dtype, values, errors);
        outputs.push(Bounded { bits: forward && operation.class(&problem.attributes) == Class::Bits, ..bounded });
    }
    Ok(outputs)
}

/// The problem on a device that computes in `float`, which it may have named: there it is the backend's own type.
///
/// # Errors
/// [`Error::Problem`] where it is for devices of another type.
pub(crate) fn in_own_type(problem: &Problem, float: DType) -> Result<Cow<'_, Problem>, Error> {
    if let Some(unfit) = problem.unfit(float) {
        return Err(Error::problem(&problem.op, unfit));
    }
    let mut problem = Cow::Borrowed(problem);
    if problem.attributes.get("dtype").and_then(Value::as_str) == Some(&float.to_string()) {
        problem.to_mut().attributes.insert("dtype".to_owned(), Value::from("float"));
    }
    let own = |operand: &Operand| matches!(&operand.elements, Elements::Exact(data) if data.dtype() == float);
    if problem.operands.iter().any(|(_, operand)| own(operand)) {
        for (_, operand) in problem.to_mut().operands.iter_mut().filter(|(_, operand)| own(operand)) {
            if let Elements::Exact(data) = &operand.elements {
                operand.elements = Elements::Float(data.to_f64());
            }
        }
    }
    Ok(problem)
}

/// What a number computed in f64 elsewhere is taken to be off by, of itself: four roundings.
pub(crate) const ROUNDED: f64 = 2.0 * f64::EPSILON;

/// What a device makes of operands that its type does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// They are rounded for everyone, and no error.
    Rounded,
    /// What is expected was computed from them as they are: the rounding is an error of the device.
    AsTheyAre,
}

/// The backend of values with bounds. See the [module](self).
pub struct Bounds {
    elementwise: Elementwise,
    random: bool,
    inputs: Inputs,
    oracle: Device<Oracle>,
    emitted: Option<Emitted>,
}

/// Values with bounds; cloning it clones a handle.
#[derive(Clone, Debug)]
pub struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    values: <Oracle as Backend>::Buffer,
    /// As many f64; `None` where all are 0.
    errors: Option<<Oracle as Backend>::Buffer>,
    elements: usize,
    /// No number on the device is below 0, whatever its error.
    nonnegative: bool,
    /// Of each value a device has the nearest that its type has: they are of exact operands, rounded once.
    nearest: bool,
}

/// What a device itself gave for `quantize_activations`: what its products in int8 are judged by.
#[derive(Clone, Debug)]
pub(crate) struct Emitted {
    /// `[T, D]`, row-major.
    pub(crate) codes: Vec<f64>,
    /// `[T, ⌈D/32⌉]`, row-major.
    pub(crate) scales: Vec<f64>,
}

impl Bounds {
    /// Devices of this profile; `random` says that operands are independent draws around zero, so that sums are bounded as
    /// walks are.
    pub fn new(profile: Profile, random: bool) -> Self {
        Self::with_inputs(profile, random, Inputs::Rounded)
    }

    fn with_inputs(profile: Profile, random: bool, inputs: Inputs) -> Self {
        let (elementwise, oracle) = (Elementwise::new(profile), Device::new(Oracle::new()));
        Self { elementwise, random, inputs, oracle, emitted: None }
    }

    /// How far each element may be off, row-major.
    ///
    /// # Errors
    /// [`Error::Core`] when memory runs out.
    pub fn errors(&self, x: &TensorOf<Self>) -> Result<Vec<f64>, Error> {
        match &x.buffer.0.errors {
            None => Ok(vec![0.0; x.shape().elements()]),
            Some(_) => Ok(self.read(&self.error_tensor(x)?, x.shape())?),
        }
    }

    fn value_tensor(&self, x: &TensorOf<Self>) -> TensorOf<Oracle> {
        Tensor::with_layout(x.buffer.0.values.clone(), *x.layout(), x.dtype())
    }

    fn error_tensor(&self, x: &TensorOf<Self>) -> Result<TensorOf<Oracle>> {
        let buffer = match &x.buffer.0.errors {
            Some(errors) => errors.clone(),
            None => self.oracle.backend().alloc(DType::F64, x.buffer.0.elements)?,
        };
        Ok(Tensor::with_layout(buffer, *x.layout(), DType::F64))
    }

    /// The whole buffer of `x`, changed number by number, seen as `x` is.
    fn mapped(&self, x: &TensorOf<Self>, f: impl Fn(f64) -> f64) -> Result<TensorOf<Oracle>> {
        let all = Tensor::new(x.buffer.0.values.clone(), Shape::new(&[x.buffer.0.elements])?, x.dtype());
        let data = self.oracle.download(&all)?.to_f64().into_iter().map(f).collect();
        Ok(Tensor::with_layout(self.oracle.backend().upload(HostData::F64(data))?, *x.layout(), DType::F64))
    }

    /// The elements of `x` broadcast to `shape`, row-major.
    fn read(&self, x: &TensorOf<Oracle>, shape: &Shape) -> Result<Vec<f64>> {
        Ok(match self.oracle.download(&x.broadcast_to(shape.sizes())?)? {
            HostData::F64(data) => data,
            other => other.to_f64(),
        })
    }

    /// The elements of `x` broadcast to `shape`, with their errors.
    fn numbers(&self, x: &TensorOf<Self>, shape: &Shape) -> Result<Numbers> {
        let values = self.read(&self.value_tensor(x), shape)?;
        let errors = match &x.buffer.0.errors {
            Some(_) => Some(self.read(&self.error_tensor(x)?, shape)?),
            None => None,
        };
        Ok(Numbers { values, errors })
    }

    /// A result with its errors.
    fn hold(&self, values: TensorOf<Oracle>, errors: Option<Vec<f64>>, nonnegative: bool) -> Result<Held> {
        self.hold_as(values, errors, nonnegative, false)
    }

    fn hold_as(
        &self,
        values: TensorOf<Oracle>,
        errors: Option<Vec<f64>>,
        nonnegative: bool,
        nearest: bool,
    ) -> Result<Held> {
        let elements = values.shape().elements();
        let errors = match errors.filter(|errors| errors.iter().any(|error| *error != 0.0)) {
            Some(errors) => Some(self.oracle.backend().upload(HostData::F64(errors))?),
            None => None,
        };
        Ok(Held(Arc::new(Inner { values: values.buffer, errors, elements, nonnegative, nearest })))
    }

    /// Data that the device rounds on the way in.
    fn given(&self, values: Vec<f64>) -> Result<Held> {
        let nearest = |value: &f64| self.elementwise.rounding.nearest(*value);
        let (values, errors) = match self.inputs {
            Inputs::Rounded => (values.iter().map(nearest).collect(), None),
            Inputs::AsTheyAre => {
                // What f32 does not hold was computed somewhere and rounded there.
                let computed = |value: f64| f64::from(value as f32) != value;
                let made = |value: &f64| if computed(*value) { ROUNDED * value.abs() } else { 0.0 };
                let error = |value: &f64| settled(nearest(value), (value - nearest(value)).abs() + made(value));
                let errors = values.iter().map(error).collect();
                (values, Some(errors))
            }
        };
        // What lies around a view may be NaN, and is no number below 0.
        let nonnegative = values.iter().all(|value: &f64| value.is_nan() || *value >= 0.0);
        let shape = [values.len()];
        self.hold(self.oracle.upload(HostData::F64(values), &shape)?, errors, nonnegative)
    }

    fn unary(&self, x: &TensorOf<Self>, kind: UnaryKind) -> Result<Held> {
        let result = self.oracle.unary(self.value_tensor(x), kind)?;
        let (numbers, results) = (self.numbers(x, x.shape())?, self.read(&result, x.shape())?);
        let of_positive = x.buffer.0.nonnegative;
        let nearest = kind == UnaryKind::Single && x.buffer.0.nearest;
        let bound = |(x, result): (Number, &f64)| match nearest {
            true => self.elementwise.of_nearest(x.value),
            false => self.elementwise.unary(kind, x, *result, of_positive),
        };
        let errors = numbers.iter().zip(&results).map(bound).collect();
        let nonnegative = match kind {
            UnaryKind::Exp | UnaryKind::Sqrt => true,
            UnaryKind::Tanh | UnaryKind::Erf | UnaryKind::Reciprocal => of_positive,
            UnaryKind::Round | UnaryKind::Single => of_positive,
            UnaryKind::Negate | UnaryKind::Log => false,
        };
        self.hold(result, Some(errors), nonnegative)
    }

    fn binary(&self, a: &TensorOf<Self>, b: &TensorOf<Self>, kind: BinaryKind, shape: &Shape) -> Result<Held> {
        let result = self.oracle.binary(self.value_tensor(a), self.value_tensor(b), kind)?;
        let errors = self.binary_errors(a, b, kind, &result)?;
        let square = Arc::ptr_eq(&a.buffer.0, &b.buffer.0) && a.layout() == b.layout();
        let [of_a, of_b] = [a, b].map(|x| x.buffer.0.nonnegative);
        let nonnegative = match kind {
            BinaryKind::Add | BinaryKind::Divide | BinaryKind::Minimum => of_a && of_b,
            BinaryKind::Multiply => square || (of_a && of_b),
            BinaryKind::Maximum => of_a || of_b,
            BinaryKind::Less | BinaryKind::Equal => true,
            BinaryKind::Subtract => false,
        };
        debug_assert_eq!(result.shape(), shape);
        let exact = [a, b].iter().all(|x| x.buffer.0.errors.is_none());
        self.hold_as(result, Some(errors), nonnegative, exact && self.elementwise.is_nearest(kind))
    }

    fn binary_errors(
        &self,
        a: &TensorOf<Self>,
        b: &TensorOf<Self>,
        kind: BinaryKind,
        result: &TensorOf<Oracle>,
    ) -> Result<Vec<f64>> {
        let shape = result.shape();
        let (a, b, results) = (self.numbers(a, shape)?, self.numbers(b, shape)?, self.read(result, shape)?);
        let operands = a.iter().zip(b.iter()).zip(&results);
        Ok(operands.map(|((a, b), result)| self.elementwise.binary(kind, a, b, *result)).collect())
    }

    fn reduce(&self, x: &TensorOf<Self>, axis: usize, kind: ReduceKind) -> Result<Held> {
        let result = self.oracle.reduce(&self.value_tensor(x), axis, kind)?;
        let numbers = self.numbers(x, x.shape())?;
        let results = self.read(&result, result.shape())?;
        let inner: usize = x.sizes().iter().skip(axis + 1).product();
        let length = x.size(axis);
        let c = confidence(results.len());
        let bound = |(at, result): (usize, &f64)| {
            let first = at / inner.max(1) * length * inner + at % inner.max(1);
            let lane = || numbers.lane(first, length, inner);
            let error = match kind {
                ReduceKind::Sum => self.sum(lane, *result, c),
                ReduceKind::Maximum => {
                    let most = lane().fold(f64::NEG_INFINITY, |most, x| most.max(x.value + x.error));
                    let least = lane().fold(f64::NEG_INFINITY, |least, x| least.max(x.value - x.error));
                    (most - result).max(result - least)
                }
                ReduceKind::ArgMaximum => far_from(lane, *result),
            };
            settled(*result, error)
        };
        let errors = results.iter().enumerate().map(bound).collect();
        self.hold(result, Some(errors), x.buffer.0.nonnegative || kind == ReduceKind::ArgMaximum)
    }

    /// The error of the sum of what `lane` gives.
    fn sum<I: Iterator<Item = Number>>(&self, lane: impl Fn() -> I, result: f64, c: f64) -> f64 {
        let rounding = &self.elementwise.rounding;
        let mut terms = Terms { sum: result, ..Terms::default() };
        for Number { value, error } in lane() {
            terms.count += f64::from(u8::from(value != 0.0 || error != 0.0));
            terms.magnitude += value.abs();
            terms.squares += value * value;
            terms.error += error;
        }
        let random = self.random.then(|| {
            let least = terms.lost_below(rounding, c);
            (c, lane().map(|x| x.value.abs()).filter(|value| *value < least).sum())
        });
        terms.bound(rounding, random)
    }

    fn matmul(&self, a: &TensorOf<Self>, b: &TensorOf<Self>) -> Result<Held> {
        let oracle = &self.oracle;
        let rounding = &self.elementwise.rounding;
        let result = oracle.matmul(&self.value_tensor(a), &self.value_tensor(b))?;
        let shape = *result.shape();
        let nonnegative = a.buffer.0.nonnegative && b.buffer.0.nonnegative;
        let count = a.sizes().last().copied().unwrap_or(0);
        if count == 1 {
            let errors = self.binary_errors(a, b, BinaryKind::Multiply, &result)?;
            return self.hold(result, Some(errors), nonnegative);
        }
        let results = self.read(&result, &shape)?;
        let [wide_a, wide_b] = [self.mapped(a, f64::abs)?, self.mapped(b, f64::abs)?];
        let magnitudes = self.read(&oracle.matmul(&wide_a, &wide_b)?, &shape)?;
        // Σ (|a| + e_a) e_b + e_a |b|.
        let mut errors = vec![0.0; results.len()];
        let mut add = |x: TensorOf<Oracle>| -> Result<()> {
            errors.iter_mut().zip(self.read(&x, &shape)?).for_each(|(sum, error)| *sum += error);
            Ok(())
        };
        if b.buffer.0.errors.is_some() {
            let most_a = match a.buffer.0.errors {
                Some(_) => oracle.add(wide_a.clone(), self.error_tensor(a)?)?,
                None => wide_a.clone(),
            };
            add(oracle.matmul(&most_a, &self.error_tensor(b)?)?)?;
        }
        if a.buffer.0.errors.is_some() {
            add(oracle.matmul(&self.error_tensor(a)?, &wide_b)?)?;
        }
        // What is never negative is no walk around zero.
        let squares = match self.random && !nonnegative {
            true => Some(self.read(&oracle.matmul(&self.mapped(a, square)?, &self.mapped(b, square)?)?, &shape)?),
            false => None,
        };
        let (n, c) = (count as f64, confidence(results.len()));
        let mut squares = squares.map(Vec::into_iter);
        let elements = results.iter().zip(magnitudes).zip(errors);
        let bound = |((result, magnitude), error): ((&f64, f64), f64)| {
            let squares = squares.as_mut().and_then(Iterator::next);
            if magnitude == 0.0 && error == 0.0 {
                return 0.0;
            }
            let worst = rounding.u * (magnitude + error);
            let products = squares.map_or(worst, |squares| worst.min(c * rounding.u * (squares.sqrt() + error)));
            let products = products * rounding.both + n * (rounding.half_least() + rounding.flushed);
            let squares = squares.unwrap_or(f64::INFINITY);
            let terms = Terms { count: n, sum: *result, magnitude, squares, error: error + products };
            settled(*result, terms.bound(rounding, squares.is_finite().then_some((c, 0.0))))
        };
        let errors = elements.map(bound).collect();
        self.hold(result, Some(errors), nonnegative)
    }
}

fn square(x: f64) -> f64 {
    x * x
}

/// How far from `result` the index of the greatest may be: nowhere where all are exact.
fn far_from<I: Iterator<Item = Number>>(lane: impl Fn() -> I, result: f64) -> f64 {
    if lane().all(|x| x.error == 0.0) {
        return 0.0;
    }
    let least = lane().fold(f64::NEG_INFINITY, |least, x| least.max(x.value - x.error));
    let candidates = lane().enumerate().filter(|(_, x)| x.value + x.error >= least);
    candidates.map(|(index, _)| (index as f64 - result).abs()).fold(0.0, f64::max)
}

/// Values and errors, row-major.
struct Numbers {
    values: Vec<f64>,
    errors: Option<Vec<f64>>,
}

impl Numbers {
    fn iter(&self) -> impl Iterator<Item = Number> + '_ {
        self.lane(0, self.values.len(), 1)
    }

    /// `length` of them from `first` on, `step` apart.
    fn lane(&self, first: usize, length: usize, step: usize) -> impl Iterator<Item = Number> + '_ {
        let errors = self.errors.as_ref().and_then(|errors| errors.get(first..)).unwrap_or(&[]);
        let mut errors = errors.iter().step_by(step.max(1));
        let values = self.values.get(first..).unwrap_or(&[]).iter().step_by(step.max(1)).take(length);
        values.map(move |value| Number { value: *value, error: errors.next().copied().unwrap_or(0.0) })
    }
}

impl Backend for Bounds {
    type Buffer = Held;
    type Packed = (Held, [usize; 2]);
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Oracle;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Held> {
        let values = self.oracle.backend().alloc(dtype, elements)?;
        Ok(Held(Arc::new(Inner { values, errors: None, elements, nonnegative: true, nearest: false })))
    }

    fn upload(&self, data: HostData) -> Result<Held> {
        match data {
            HostData::F64(values) => self.given(values),
            exact => {
                let shape = [exact.len()];
                let nonnegative = exact.to_f64().iter().all(|value| *value >= 0.0);
                self.hold(self.oracle.upload(exact, &shape)?, None, nonnegative)
            }
        }
    }

    fn download(&self, buffer: &Held) -> Result<Ready> {
        self.oracle.backend().download(&buffer.0.values)
    }

    fn name(&self) -> &'static str {
        "bounds"
    }

    fn float(&self) -> DType {
        DType::F64
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Held> {
        match operation {
            Primitive::Fill { shape, value, dtype } => self.fill(shape, *value, *dtype),
            Primitive::Copy { x, dtype } => self.copy(x, *dtype),
            Primitive::Write { into, x, start } => self.write(into, x, start),
            Primitive::Unary { x, kind } => self.unary(x, *kind),
            Primitive::Binary { a, b, kind } => self.binary(a, b, *kind, &out.shape),
            Primitive::Select { mask, a, b } => self.select(mask, a, b),
            Primitive::Reduce { x, axis, kind } => self.reduce(x, *axis, *kind),
            Primitive::MatMul { a, b } => self.matmul(a, b),
            Primitive::GatherRows { x, ids } => self.gather_rows(x, ids),
            Primitive::ScatterRows { into, ids, x, add: false } => self.replace_rows(into, ids, x),
            Primitive::ScatterRows { into, ids, x, add: true } => self.add_rows(into, ids, x),
        }
    }

    /// None, so that every bound is that of a decomposition; but codes that a device gave are what they are.
    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Held>> {
        match (&*operation, &self.emitted) {
            (Fused::QuantizeActivations { .. }, Some(Emitted { codes, scales })) => {
                let given = [codes, scales].into_iter().zip(out).map(|(values, spec)| {
                    self.hold(self.oracle.upload(HostData::F64(values.clone()), spec.shape.sizes())?, None, false)
                });
                given.collect()
            }
            _ => Err(unsupported(self, operation.name())),
        }
    }

    /// What a device really holds: rounded to `dtype` and then to the device's type.
    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        let shape = consort_core::concatenated_shape(parts)?;
        let kept = decode(parts, dtype, self.elementwise.profile.float())?.to_f64();
        let held = match self.inputs {
            Inputs::Rounded => self.given(kept)?,
            Inputs::AsTheyAre => {
                let stored = decode(parts, WeightDType::F64, DType::F64)?.to_f64();
                let errors = stored.iter().zip(&kept).map(|(stored, kept)| (stored - kept).abs()).collect();
                let nonnegative = stored.iter().chain(&kept).all(|value| *value >= 0.0);
                self.hold(self.oracle.upload(HostData::F64(stored), &shape)?, Some(errors), nonnegative)?
            }
        };
        Ok((held, shape))
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Held> {
        Ok(packed.0.clone())
    }
}
