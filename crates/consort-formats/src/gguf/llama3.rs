//! Llama 3's rotary scaling from the divisors of frequencies that a GGUF file keeps in its place.
//!
//! Frequency i is divided by 1 where its wave is short, by `factor` where it is long, and between by
//! `1 / ((1 − s)/factor + s)` with `s = (original/wavelength − low) / (high − low)`: s is a line in 1/wavelength, whose slope
//! and offset are all that `original`, `low` and `high` say. Two divisors between give the line. Fewer give none: then
//! the usual `low` = 1 and `high` = 4 are tried with every power of two.

use std::f64::consts::TAU;

/// The parameters, all that `config.json` has of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Llama3 {
    pub(crate) factor: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) original: u64,
}

/// Divisors are kept in f32; their recomputation from rounded parameters is a little further away.
const TOLERANCE: f64 = 1e-5;
/// The context of every published model with this scaling.
const ORIGINAL: u64 = 8192;

/// The parameters that give `divisors`, one for each frequency `theta^(−i/n)`.
pub(crate) fn recover(divisors: &[f64], theta: f64) -> Option<Llama3> {
    let factor = divisors.iter().copied().fold(1.0, f64::max);
    let turns: Vec<f64> = (0..divisors.len()).map(|i| theta.powf(-(i as f64) / divisors.len() as f64) / TAU).collect();
    let fits = |candidate: &Llama3| {
        turns.iter().zip(divisors).all(|(&turns, &divisor)| {
            let expected = candidate.divisor(turns);
            (divisor - expected).abs() <= TOLERANCE * expected
        })
    };
    let usual = |original| Llama3 { factor, low: 1.0, high: 4.0, original };
    let powers = std::iter::once(ORIGINAL).chain((0..31).map(|power| 1 << power));
    powers.map(usual).chain(line(divisors, &turns, factor)).find(fits)
}

/// The parameters of the line through the first and the last divisor between.
fn line(divisors: &[f64], turns: &[f64], factor: f64) -> Option<Llama3> {
    let between =
        || turns.iter().zip(divisors).filter(|&(_, &d)| d > 1.0 + TOLERANCE && d < factor * (1.0 - TOLERANCE));
    let smooth = |divisor: f64| (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
    let (&from, first) = between().next()?;
    let (&to, last) = between().next_back().filter(|(to, _)| **to != from)?;
    let slope = (smooth(*first) - smooth(*last)) / (from - to);
    let offset = smooth(*first) - slope * from;
    let width = ORIGINAL as f64 / slope;
    let round = |number: f64| (number * 1e4).round() / 1e4;
    let (low, high) = (round(-offset * width), round((1.0 - offset) * width));
    (low > 0.0 && high > low && high.is_finite()).then_some(Llama3 { factor, low, high, original: ORIGINAL })
}

impl Llama3 {
    fn divisor(&self, turns: f64) -> f64 {
        let smooth = (self.original as f64 * turns - self.low) / (self.high - self.low);
        let smooth = smooth.clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(of: Llama3, theta: f64, count: usize) -> Vec<f64> {
        let turns = |i: usize| theta.powf(-(i as f64) / count as f64) / TAU;
        (0..count).map(|i| f64::from(of.divisor(turns(i)) as f32)).collect()
    }

    #[test]
    fn parameters_come_back() {
        for (factor, low, high, original) in
            [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 4.0, 64), (8.0, 2.0, 5.5, 8192)]
        {
            let of = Llama3 { factor, low, high, original };
            for width in [8, 64] {
                let kept = divisors(of, 500_000.0, width);
                let back = recover(&kept, 500_000.0).expect("a fit");
                for (one, other) in kept.iter().zip(divisors(back, 500_000.0, width)) {
                    assert!((one - other).abs() <= 2e-5 * one, "{of:?} {back:?}: {one} {other}");
                }
                if width == 64 && low == 1.0 {
                    assert_eq!(back, of);
                }
            }
        }
    }

    #[test]
    fn other_divisors_have_none() {
        assert_eq!(recover(&[1.0, 2.0, 1.0, 4.0], 10_000.0), None);
        assert_eq!(recover(&[1.0, f64::NAN, 4.0], 10_000.0), None);
        assert_eq!(recover(&[0.5, 1.0], 10_000.0), None);
    }
}
