//! Errors where elements are moved, chosen or cast: they go with their elements. Rows that are added are sums.

use consort_core::{DType, HostData, Primitive, Result, Shape, Tensor, TensorOf};

use super::{
    Bounds, Held,
    elementwise::settled,
    profile::power,
    sums::{Terms, confidence},
};
use crate::oracle::Oracle;

impl Bounds {
    /// The number itself, of which a device has the nearest.
    pub(super) fn fill(&self, shape: &Shape, value: f64, dtype: DType) -> Result<Held> {
        let result = self.oracle.primitive(Primitive::Fill { shape: *shape, value, dtype })?;
        let held = if dtype == DType::F64 { self.elementwise.rounding.nearest(value) } else { value };
        let error = if held.is_finite() { (value - held).abs() } else { 0.0 };
        let errors = (error > 0.0).then(|| vec![error; shape.elements()]);
        self.hold(result, errors, value >= 0.0)
    }

    /// Values are cast on every device alike; only where one may be off its cast may be, too.
    pub(super) fn copy(&self, x: &TensorOf<Self>, dtype: DType) -> Result<Held> {
        let rounding = &self.elementwise.rounding;
        let mut result = self.oracle.copy(&self.value_tensor(x), dtype)?;
        let nonnegative = x.buffer.0.nonnegative;
        if dtype == DType::F64 && x.dtype() == DType::U32 {
            // Of large whole numbers the nearest that the device's type has.
            let values = self.read(&result, x.shape())?.into_iter().map(|value| rounding.nearest(value)).collect();
            result = self.oracle.upload(HostData::F64(values), x.sizes())?;
        }
        if x.buffer.0.errors.is_none() {
            return self.hold(result, None, nonnegative);
        }
        let widened = |value: f64, error: f64| match dtype {
            _ if dtype == x.dtype() => error,
            DType::F32 | DType::F64 if x.dtype() == DType::U32 => error + rounding.half_ulp(value.abs() + error),
            DType::F32 | DType::F64 => error,
            // u, half the least number, and where the type ends: 2¹⁶ and about what f32 has.
            DType::F16 => through(value, error, power(-11), power(-25), 65504.0),
            DType::BF16 => through(value, error, power(-8), power(-134), f64::from(f32::MAX)),
            DType::U32 => {
                let whole = |value: f64| f64::from(value as u32);
                (whole(value + error) - whole(value)).max(whole(value) - whole(value - error))
            }
        };
        let numbers = self.numbers(x, x.shape())?;
        let errors = numbers.iter().map(|x| settled(x.value, widened(x.value, x.error))).collect();
        self.hold(result, Some(errors), nonnegative)
    }

    pub(super) fn write(&self, into: &TensorOf<Self>, x: &TensorOf<Self>, start: &Shape) -> Result<Held> {
        let write = |into, x| self.oracle.write(into, x, start.sizes());
        let result = write(self.value_tensor(into), self.value_tensor(x))?;
        let errors = match [into, x].iter().any(|x| x.buffer.0.errors.is_some()) {
            true => Some(write(self.error_tensor(into)?, self.error_tensor(x)?)?),
            false => None,
        };
        self.moved(result, errors, into.buffer.0.nonnegative && x.buffer.0.nonnegative)
    }

    /// Where the mask is not certain either may be taken.
    pub(super) fn select(&self, mask: &TensorOf<Self>, a: &TensorOf<Self>, b: &TensorOf<Self>) -> Result<Held> {
        let nonnegative = a.buffer.0.nonnegative && b.buffer.0.nonnegative;
        let select = |a, b| self.oracle.select(self.value_tensor(mask), a, b);
        let result = select(self.value_tensor(a), self.value_tensor(b))?;
        if mask.buffer.0.errors.is_none() {
            let errors = match [a, b].iter().any(|x| x.buffer.0.errors.is_some()) {
                true => Some(select(self.error_tensor(a)?, self.error_tensor(b)?)?),
                false => None,
            };
            return self.moved(result, errors, nonnegative);
        }
        let shape = result.shape();
        let (mask, a, b) = (self.numbers(mask, shape)?, self.numbers(a, shape)?, self.numbers(b, shape)?);
        let bound = |((mask, a), b): ((super::Number, super::Number), super::Number)| {
            let (taken, other) = if mask.value != 0.0 { (a, b) } else { (b, a) };
            let error = match mask.error > 0.0 {
                true => taken.error.max((other.value - taken.value).abs() + other.error),
                false => taken.error,
            };
            settled(taken.value, error)
        };
        let errors = mask.iter().zip(a.iter()).zip(b.iter()).map(bound).collect();
        self.hold(result, Some(errors), nonnegative)
    }

    pub(super) fn gather_rows(&self, x: &TensorOf<Self>, ids: &TensorOf<Self>) -> Result<Held> {
        let ids = self.certain(ids)?;
        let result = self.oracle.gather_rows(&self.value_tensor(x), &ids)?;
        let errors = match x.buffer.0.errors {
            Some(_) => Some(self.oracle.gather_rows(&self.error_tensor(x)?, &ids)?),
            None => None,
        };
        self.moved(result, errors, x.buffer.0.nonnegative)
    }

    pub(super) fn replace_rows(&self, into: &TensorOf<Self>, ids: &TensorOf<Self>, x: &TensorOf<Self>) -> Result<Held> {
        let ids = self.certain(ids)?;
        let replace = |into, x| self.oracle.scatter_rows(into, &ids, x, false);
        let result = replace(self.value_tensor(into), self.value_tensor(x))?;
        let errors = match [into, x].iter().any(|x| x.buffer.0.errors.is_some()) {
            true => Some(replace(self.error_tensor(into)?, self.error_tensor(x)?)?),
            false => None,
        };
        self.moved(result, errors, into.buffer.0.nonnegative && x.buffer.0.nonnegative)
    }

    /// Each row is a sum of what was there and the rows that were added.
    pub(super) fn add_rows(&self, into: &TensorOf<Self>, ids: &TensorOf<Self>, x: &TensorOf<Self>) -> Result<Held> {
        let ids = self.certain(ids)?;
        let rounding = &self.elementwise.rounding;
        let add = |into: TensorOf<Oracle>, x: TensorOf<Oracle>| self.oracle.scatter_rows(into, &ids, x, true);
        let mapped = |f: fn(f64) -> f64| -> Result<Vec<f64>> {
            self.read(&add(self.mapped(into, f)?, self.mapped(x, f)?)?, into.shape())
        };
        let result = add(self.value_tensor(into), self.value_tensor(x))?;
        let sums = self.read(&result, into.shape())?;
        let magnitudes = mapped(f64::abs)?;
        let inexact = [into, x].iter().any(|x| x.buffer.0.errors.is_some());
        let errors = match inexact {
            true => self.read(&add(self.error_tensor(into)?, self.error_tensor(x)?)?, into.shape())?,
            false => vec![0.0; sums.len()],
        };
        // What may be no zero on the device counts as a term.
        let counts = mapped(if inexact { |_| 1.0 } else { |x| f64::from(u8::from(x != 0.0)) })?;
        let nonnegative = into.buffer.0.nonnegative && x.buffer.0.nonnegative;
        let c = confidence(sums.len());
        let random = (self.random && !nonnegative).then_some((c, 0.0));
        let squares = if random.is_some() { mapped(super::square)? } else { vec![0.0; sums.len()] };
        let terms = sums.iter().zip(counts).zip(magnitudes).zip(squares).zip(errors);
        let bound = |((((&sum, count), magnitude), squares), error)| {
            settled(sum, Terms { count, sum, magnitude, squares, error }.bound(rounding, random))
        };
        let errors = terms.map(bound).collect();
        self.hold(result, Some(errors), nonnegative)
    }

    fn moved(&self, result: TensorOf<Oracle>, errors: Option<TensorOf<Oracle>>, nonnegative: bool) -> Result<Held> {
        let errors = errors.map(|errors| self.read(&errors, result.shape())).transpose()?;
        self.hold(result, errors, nonnegative)
    }

    /// Ids must be known: a row that may be another has no bound.
    fn certain(&self, ids: &TensorOf<Self>) -> Result<TensorOf<Oracle>> {
        if ids.buffer.0.errors.is_some() {
            return Err(consort_core::Error::Input("ids that are not certain have no bound".to_owned()));
        }
        Ok(Tensor::with_layout(ids.buffer.0.values.clone(), *ids.layout(), ids.dtype()))
    }
}

/// The error of a cast to a narrow type.
fn through(value: f64, error: f64, u: f64, half_least: f64, max: f64) -> f64 {
    let magnitude = value.abs() + error;
    if magnitude > max { f64::INFINITY } else { error + 2.0 * u * magnitude + 2.0 * half_least }
}
