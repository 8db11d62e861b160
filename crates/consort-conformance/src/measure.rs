//! Yardsticks. Each treats NaN as the worst there can be, wherever it stands.
//!
//! ```text
//! error       max_i |a_i − e_i| / (max e − min e)          of the spread of what is expected; 0 where all are equal
//! divergence  Σ_v p_v (ln p_v − ln q_v)                    nats, p = softmax(e), q = softmax(a), row by row
//! top choice  argmax a = argmax e                          in rows where e₍₁₎ − e₍₂₎ > 2·E
//! ```
//!
//! **Why E is not the backend's own error.** In a row whose margin is more than twice the greatest error of that row
//! the same choice follows from arithmetic: counting it would tell nothing. So E comes from elsewhere, the greatest
//! error of scalar f32 on the same model: where that could not change a choice, another f32 backend that does has an
//! error beyond the noise floor.

use serde::Serialize;

use crate::{error::Error, number};

/// Sizes and elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Sizes, outermost first.
    pub sizes: Vec<usize>,
    /// As many elements as the sizes say.
    pub data: Vec<f64>,
}

impl Values {
    /// `data` as `sizes`; `what` names it in the error.
    ///
    /// # Errors
    /// [`Error::Elements`] when the sizes ask for another number of elements.
    pub fn new(what: &str, sizes: Vec<usize>, data: Vec<f64>) -> Result<Self, Error> {
        let expected = sizes.iter().product();
        if data.len() != expected {
            return Err(Error::Elements { what: what.to_owned(), actual: data.len(), expected });
        }
        Ok(Self { sizes, data })
    }

    /// Rows: the elements in pieces of the innermost size.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.sizes.last().copied().unwrap_or(1).max(1))
    }
}

/// How far a tensor is from what is expected, at its worst element.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Name of the tensor.
    pub tensor: String,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// Index of the worst element, one number per dimension.
    pub index: Vec<usize>,
    /// There, what was found.
    #[serde(serialize_with = "number::one")]
    pub actual: f64,
    /// There, what is expected.
    #[serde(serialize_with = "number::one")]
    pub expected: f64,
    /// The difference there, over the spread of what is expected.
    #[serde(serialize_with = "number::one")]
    pub error: f64,
}

impl Deviation {
    /// The worst element of `actual`; the first one on ties. NaN if there is any.
    ///
    /// # Errors
    /// [`Error::Elements`] when the two are not of the same number.
    pub fn measure(tensor: &str, actual: &[f64], expected: &Values) -> Result<Self, Error> {
        same_number(tensor, actual.len(), expected.data.len())?;
        let (mut index, mut worst) = (0, 0.0);
        for (at, (a, e)) in actual.iter().zip(&expected.data).enumerate() {
            let difference = (a - e).abs();
            if difference > worst || difference.is_nan() {
                (index, worst) = (at, difference);
            }
            if difference.is_nan() {
                break;
            }
        }
        let at = |data: &[f64]| data.get(index).copied().unwrap_or(0.0);
        Ok(Self {
            tensor: tensor.to_owned(),
            sizes: expected.sizes.clone(),
            index: split(index, &expected.sizes),
            actual: at(actual),
            expected: at(&expected.data),
            error: if worst == 0.0 { 0.0 } else { worst / spread(&expected.data) },
        })
    }
}

/// Greatest difference over the spread of what is expected; NaN if there is any.
///
/// # Errors
/// [`Error::Elements`] when the two are not of the same number.
pub fn error_over_spread(actual: &[f64], expected: &[f64]) -> Result<f64, Error> {
    let expected = Values { sizes: vec![expected.len()], data: expected.to_vec() };
    Ok(Deviation::measure("values", actual, &expected)?.error)
}

/// Greatest minus smallest.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    high - low
}

/// What choosing by the backend's probabilities loses, in nats a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Over all rows.
    #[serde(serialize_with = "number::one")]
    pub mean: f64,
    /// Of the worst row.
    #[serde(serialize_with = "number::one")]
    pub max: f64,
}

impl Divergence {
    /// Of the oracle's distributions from those of `actual`, both logits.
    ///
    /// # Errors
    /// [`Error::Elements`] when the two are not of the same number.
    pub fn measure(actual: &[f64], oracle: &Values) -> Result<Self, Error> {
        same_number("logits", actual.len(), oracle.data.len())?;
        let (mut sum, mut max, mut rows) = (0.0, 0.0, 0);
        for (p, q) in pairs(actual, oracle) {
            let row = divergence(p, q);
            sum += row;
            rows += 1;
            if row > max || row.is_nan() {
                max = row;
            }
            if row.is_nan() {
                break;
            }
        }
        Ok(Self { mean: if rows == 0 { 0.0 } else { sum / f64::from(rows) }, max })
    }
}

/// Rows in which the greatest logit is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TopChoice {
    /// All rows.
    pub rows: usize,
    /// Rows in which the oracle's choice is clear.
    pub clear: usize,
    /// Clear rows with the same choice.
    pub agreed: usize,
}

impl TopChoice {
    /// Counts rows whose margin is more than `margin`.
    ///
    /// # Errors
    /// [`Error::Elements`] when the two are not of the same number.
    pub fn measure(actual: &[f64], oracle: &Values, margin: f64) -> Result<Self, Error> {
        same_number("logits", actual.len(), oracle.data.len())?;
        let mut count = Self::default();
        for (expected, actual) in pairs(actual, oracle) {
            let (chosen, best) = greatest(expected);
            let second = expected.iter().enumerate().filter(|(at, _)| *at != chosen).map(|(_, x)| *x);
            count.rows += 1;
            if best - second.fold(f64::NEG_INFINITY, f64::max) > margin {
                count.clear += 1;
                count.agreed += usize::from(greatest(actual).0 == chosen);
            }
        }
        Ok(count)
    }
}

/// The first place in which bits differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherBits {
    /// Index of the element, row-major.
    pub index: usize,
    /// What was found.
    #[serde(serialize_with = "number::one")]
    pub actual: f64,
    /// What it should be, bit for bit.
    #[serde(serialize_with = "number::one")]
    pub expected: f64,
}

/// Where two results differ, if they do. Zeros of both signs differ; the same NaN does not.
///
/// # Errors
/// [`Error::Elements`] when the two are not of the same number.
pub fn other_bits(what: &str, actual: &[f64], expected: &[f64]) -> Result<Option<OtherBits>, Error> {
    same_number(what, actual.len(), expected.len())?;
    let mut pairs = actual.iter().zip(expected).enumerate();
    Ok(pairs.find(|(_, (a, e))| a.to_bits() != e.to_bits()).map(|(index, (&actual, &expected))| OtherBits {
        index,
        actual,
        expected,
    }))
}

fn same_number(what: &str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Elements { what: what.to_owned(), actual, expected }) }
}

/// Rows of the oracle with the same rows of `actual`.
fn pairs<'a>(actual: &'a [f64], oracle: &'a Values) -> impl Iterator<Item = (&'a [f64], &'a [f64])> {
    let width = oracle.sizes.last().copied().unwrap_or(1).max(1);
    oracle.rows().zip(actual.chunks_exact(width))
}

/// `ln Σ exp x`, with the greatest taken out.
fn log_sum_exp(row: &[f64]) -> f64 {
    let (_, greatest) = greatest(row);
    greatest + row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
    let sum: f64 = p.iter().zip(q).map(|(p, q)| (p - of_p).exp() * ((p - of_p) - (q - of_q))).sum();
    // Not negative but for rounding; `max` would hide NaN.
    if sum < 0.0 { 0.0 } else { sum }
}

/// The greatest element, the first one on ties; a NaN counts as greatest.
fn greatest(row: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, &x) in row.iter().enumerate() {
        if x.is_nan() {
            return (at, x);
        }
        if x > best.1 {
            best = (at, x);
        }
    }
    best
}

/// A row-major index as one number per dimension.
fn split(mut index: usize, sizes: &[usize]) -> Vec<usize> {
    let mut parts: Vec<usize> = sizes
        .iter()
        .rev()
        .map(|&size| {
            let part = index % size.max(1);
            index /= size.max(1);
            part
        })
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &[f64]) -> Values {
        Values { sizes: vec![1, data.len()], data: data.to_vec() }
    }

    #[test]
    fn nan_is_the_worst_wherever_it_stands() {
        let expected = [1.0, 2.0, 3.0];
        for at in 0..3 {
            let mut actual = expected;
            actual[at] = f64::NAN;
            assert!(error_over_spread(&actual, &expected).unwrap().is_nan(), "at {at}");
            assert!(Divergence::measure(&actual, &row(&expected)).unwrap().max.is_nan(), "at {at}");
        }
        // In front of the greatest, so that it is not hidden by it.
        let top = TopChoice::measure(&[f64::NAN, 2.0, 3.0], &row(&expected), 0.1).unwrap();
        assert_eq!(top, TopChoice { rows: 1, clear: 1, agreed: 0 });
    }

    #[test]
    fn errors_are_over_the_spread_and_say_where() {
        let expected = Values { sizes: vec![2, 3], data: vec![-1.0, 0.0, 1.0, 2.0, 3.0, 0.0] };
        let worst = Deviation::measure("x", &[-1.0, 0.0, 1.0, 2.0, 2.0, 0.5], &expected).unwrap();
        assert_eq!((worst.error, worst.index.as_slice()), (0.25, &[1, 1][..]));
        assert_eq!(error_over_spread(&[5.0, 5.0], &[5.0, 5.0]).unwrap(), 0.0);
        assert_eq!(error_over_spread(&[], &[]).unwrap(), 0.0);
        assert_eq!(error_over_spread(&[5.0, 6.0], &[5.0, 5.0]).unwrap(), f64::INFINITY);
        assert!(matches!(error_over_spread(&[1.0], &[]), Err(Error::Elements { actual: 1, expected: 0, .. })));
    }

    #[test]
    fn divergence_of_two_coins() {
        // p = (3/4, 1/4), q = (1/2, 1/2): 3/4·ln(3/2) + 1/4·ln(1/2).
        let found = Divergence::measure(&[0.0, 0.0], &row(&[3f64.ln(), 0.0])).unwrap();
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((found.max - expected).abs() < 1e-15 && found.mean == found.max, "{found:?}");
        // A shift of all logits changes nothing, however far.
        let same = Divergence::measure(&[1e3, 1e3 + 1.0], &row(&[0.0, 1.0])).unwrap();
        assert!(same.max < 1e-12, "{same:?}");
    }

    #[test]
    fn unclear_rows_are_not_counted() {
        let oracle = Values { sizes: vec![2, 2], data: vec![0.0, 1.0, 0.0, 0.01] };
        let found = TopChoice::measure(&[0.0, 1.0, 0.01, 0.0], &oracle, 0.1).unwrap();
        assert_eq!(found, TopChoice { rows: 2, clear: 1, agreed: 1 });
    }

    #[test]
    fn bits_tell_zeros_apart() {
        assert_eq!(other_bits("x", &[f64::NAN, 1.0], &[f64::NAN, 1.0]).unwrap(), None);
        assert_eq!(other_bits("x", &[1.0, -0.0], &[1.0, 0.0]).unwrap().unwrap().index, 1);
    }
}
