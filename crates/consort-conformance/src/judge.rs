//! What a device gave beside what it should have: budget used = error ÷ bound, element by element, the worst of all.
//!
//! An element that must be equal and is uses 0, one that is not uses ∞; so do NaN where a number is expected, a number where
//! NaN is, and an element that was not given at all. What is beyond the device's type by value or bound may be an infinity of
//! the same sign. Verdicts are written as `!(budget <= 1)`, so that NaN fails.

use std::hash::Hasher;

use consort_core::DType;
use serde::{Deserialize, Serialize};

use crate::{bounds::Bounded, number, problem::Output};

/// The element that used most of its bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// Name of the output.
    pub output: String,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// Index of the element, one number per dimension.
    pub index: Vec<usize>,
    /// What was found there.
    #[serde(serialize_with = "number::one", deserialize_with = "number::read")]
    pub actual: f64,
    /// What is expected there.
    #[serde(serialize_with = "number::one", deserialize_with = "number::read")]
    pub expected: f64,
    /// Their distance.
    #[serde(serialize_with = "number::one", deserialize_with = "number::read")]
    pub error: f64,
    /// What it may be.
    #[serde(serialize_with = "number::one", deserialize_with = "number::read")]
    pub bound: f64,
}

/// How a device did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Greatest error ÷ bound: 0 where everything is equal, ∞ where something had to be and is not.
    #[serde(serialize_with = "number::one")]
    pub budget: f64,
    /// Where that is; `None` where everything is equal.
    pub worst: Option<Worst>,
    /// How many elements were looked at.
    pub elements: usize,
    /// Outputs whose bounds say too little: a fault of the case.
    pub vague: Vec<String>,
    /// Whether there is an output whose bounds say enough, and none with an element that nothing is known of. Otherwise
    /// the case is no agreement, whatever was found.
    pub tells: bool,
    /// A hash of all that was given: sizes, types and bits.
    pub bits: u64,
}

impl Judgement {
    /// Whether every element is within its bound, and the bounds say something.
    pub fn passed(&self) -> bool {
        self.within() && self.tells
    }

    /// As a line, what is wrong; `None` where nothing is.
    pub fn failure(&self) -> Option<String> {
        match &self.worst {
            Some(worst) if !self.within() => {
                let Worst { output, sizes, index, actual, expected, error, bound } = worst;
                Some(format!(
                    "{output} {sizes:?}: element {index:?} is {actual:e}, expected {expected:e}: error {error:.3e}, bound \
                     {bound:.3e}, budget used {:.3}",
                    self.budget
                ))
            }
            _ if !self.tells => Some(format!(
                "unbounded case: the bounds of {} say too little for agreement to mean anything",
                self.vague.join(", ")
            )),
            _ => None,
        }
    }

    fn within(&self) -> bool {
        self.budget <= 1.0
    }
}

/// Compares what a device gave with what is expected. Outputs are found by name; one that is not expected is not looked at.
pub fn judge(actual: &[Output], expected: &[Bounded]) -> Judgement {
    let mut judgement =
        Judgement { budget: 0.0, worst: None, elements: 0, vague: Vec::new(), tells: true, bits: hash(actual) };
    for expected in expected {
        if expected.vague {
            judgement.vague.push(expected.name.clone());
        }
        let found = actual.iter().find(|output| output.name == expected.name);
        judgement.elements += expected.values.len();
        match found {
            Some(output) if output.sizes == expected.sizes && alike(output.data.dtype(), expected.dtype) => {
                judgement.compare(&output.data.to_f64(), expected);
            }
            // The whole output is missing, or is something else.
            other => {
                let sizes = other.map_or_else(|| expected.sizes.clone(), |output| output.sizes.clone());
                judgement.take(f64::INFINITY, || Worst {
                    output: expected.name.clone(),
                    sizes,
                    index: Vec::new(),
                    actual: f64::NAN,
                    expected: expected.values.first().copied().unwrap_or(f64::NAN),
                    error: f64::INFINITY,
                    bound: 0.0,
                });
            }
        }
    }
    let vague = !expected.is_empty() && judgement.vague.len() == expected.len();
    judgement.tells = !vague && !expected.iter().any(Bounded::unbounded);
    judgement
}

impl Judgement {
    fn take(&mut self, used: f64, worst: impl FnOnce() -> Worst) {
        if used > self.budget || (used.is_nan() && !self.budget.is_nan()) {
            self.budget = used;
            self.worst = Some(worst());
        }
    }

    fn compare(&mut self, actual: &[f64], expected: &Bounded) {
        let max = if expected.dtype == DType::F32 { f64::from(f32::MAX) } else { f64::INFINITY };
        let elements = expected.values.iter().zip(&expected.errors).enumerate();
        for (at, (&value, &bound)) in elements {
            let found = actual.get(at).copied();
            let used = used(found, value, bound, max, expected.bits);
            self.take(used, || {
                let actual = found.unwrap_or(f64::NAN);
                Worst {
                    output: expected.name.clone(),
                    sizes: expected.sizes.clone(),
                    index: split(at, &expected.sizes),
                    actual,
                    expected: value,
                    error: (actual - value).abs(),
                    bound,
                }
            });
        }
        // More than was asked for is as wrong as less.
        if actual.len() > expected.values.len() {
            self.take(f64::INFINITY, || Worst {
                output: expected.name.clone(),
                sizes: expected.sizes.clone(),
                index: Vec::new(),
                actual: actual.len() as f64,
                expected: expected.values.len() as f64,
                error: f64::INFINITY,
                bound: 0.0,
            });
        }
    }
}

/// What share of its bound an element uses.
fn used(actual: Option<f64>, value: f64, bound: f64, max: f64, bits: bool) -> f64 {
    let Some(actual) = actual else { return f64::INFINITY };
    // Nothing can be said of it; the output is vague.
    if bound == f64::INFINITY {
        return 0.0;
    }
    let right = |right: bool| if right { 0.0 } else { f64::INFINITY };
    if value.is_nan() || actual.is_nan() {
        return right(value.is_nan() && actual.is_nan());
    }
    if value.is_infinite() {
        return right(actual == value);
    }
    if actual.is_infinite() {
        return right(value.abs() + bound > max && (actual > 0.0) == (value > 0.0));
    }
    if bound == 0.0 {
        return right(actual == value && (!bits || actual.is_sign_negative() == value.is_sign_negative()));
    }
    (actual - value).abs() / bound
}

fn alike(actual: DType, expected: DType) -> bool {
    let computes = |dtype: DType| matches!(dtype, DType::F32 | DType::F64);
    actual == expected || (computes(actual) && computes(expected))
}

/// The first place where two results of one device differ in a bit, if they do; the bound is 0 there.
pub fn same_bits(a: &[Output], b: &[Output]) -> Option<Worst> {
    let whole = |output: &Output, error: f64| Worst {
        output: output.name.clone(),
        sizes: output.sizes.clone(),
        index: Vec::new(),
        actual: f64::NAN,
        expected: f64::NAN,
        error,
        bound: 0.0,
    };
    for (at, expected) in b.iter().enumerate() {
        let Some(actual) = a.get(at) else { return Some(whole(expected, f64::INFINITY)) };
        let same = actual.name == expected.name
            && actual.sizes == expected.sizes
            && actual.dtype == expected.dtype
            && actual.data.len() == expected.data.len();
        if !same {
            return Some(whole(actual, f64::INFINITY));
        }
        // Exact, and of one type the bits differ exactly where these do.
        let (found, wanted) = (actual.data.to_f64(), expected.data.to_f64());
        let differ = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
        if let Some(index) = found.iter().zip(&wanted).position(differ) {
            let [found, wanted] = [found, wanted].map(|data| data.get(index).copied().unwrap_or(f64::NAN));
            return Some(Worst {
                index: split(index, &actual.sizes),
                actual: found,
                expected: wanted,
                error: (found - wanted).abs(),
                ..whole(actual, 0.0)
            });
        }
    }
    a.get(b.len()).map(|extra| whole(extra, f64::INFINITY))
}

/// A row-major index as one number per dimension.
fn split(mut index: usize, sizes: &[usize]) -> Vec<usize> {
    let mut parts: Vec<usize> = Vec::with_capacity(sizes.len());
    for &size in sizes.iter().rev() {
        parts.push(index % size.max(1));
        index /= size.max(1);
    }
    parts.reverse();
    parts
}

/// FNV-1a (Fowler, Noll & Vo), 64 bits: the same on every machine and in every version.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn hash(outputs: &[Output]) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    for output in outputs {
        hasher.write(&(output.sizes.len() as u64).to_le_bytes());
        output.sizes.iter().for_each(|&size| hasher.write(&(size as u64).to_le_bytes()));
        hasher.write(output.dtype.to_string().as_bytes());
        // f64 holds every element of every type exactly, NaNs but for what tells them apart.
        output.data.to_f64().iter().for_each(|element| hasher.write(&element.to_bits().to_le_bytes()));
    }
    hasher.finish()
}
