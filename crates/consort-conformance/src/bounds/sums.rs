//! Errors of sums.
//!
//! A sum of n numbers on a device, in any order: each addition is off by at most u times the partial sum that it gives, so
//! with partial sums never beyond Σ|x| the whole is off by at most
//!
//! ```text
//! worst     γ(n − 1) Σ|x|,  γ(k) = k u / (1 − k u)                                   (Higham 2002, section 4.2)
//! ```
//!
//! That is what constant or correlated data can reach. Where data are independent draws, the roundings are independent and
//! around zero, and by Hoeffding's inequality their sum is beyond `c √(Σ (u s_k)²)` with a probability of `p/N`, where
//! `c = √(2 ln(2N/p))`, s_k are the partial sums, N outputs are looked at, and p = 1e-9 is what a whole case may go wrong by:
//!
//! ```text
//! walk      c u √n Σ|x|                                   from |s_k| ≤ Σ|x|
//! drift     c u (√(n/3) |Σx| + b √n ‖x − x̄‖₂)             b = min(c/π, √(n/6))
//! ```
//!
//! The second because partial sums of draws are a straight line, `(k/n) Σx`, and a bridge over it, whose square summed over k
//! is never beyond `n²/6 ‖x − x̄‖²` (by Cauchy and Schwarz) and, being that of a Brownian bridge, beyond `n t ‖x − x̄‖²` with
//! a probability of about `e^(−π² t/2)` (Anderson & Darling 1952, on the Cramér–von Mises statistic). Roundings are not around
//! zero where a number is below half an ulp of the partial sum, and so is lost whole: for these terms their sum is added. The
//! least of the three holds. A number that is exactly zero is no term: adding it rounds nothing.
//!
//! Products are rounded before they are added, at most u each: `u Σ|a b|`, or `c u ‖a∘b‖₂`.

use std::f64::consts::PI;

use super::profile::Rounding;

/// What a whole case may go wrong by, where roundings are taken for independent.
const RISK: f64 = 1e-9;

/// `√(2 ln(2N/p))`.
pub(crate) fn confidence(outputs: usize) -> f64 {
    (2.0 * (2.0 * outputs.max(1) as f64 / RISK).ln()).sqrt()
}

/// What a sum is of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// How many are not exactly zero.
    pub(super) count: f64,
    /// Their sum.
    pub(super) sum: f64,
    /// The sum of their magnitudes.
    pub(super) magnitude: f64,
    /// The sum of their squares.
    pub(super) squares: f64,
    /// The sum of what they are off by.
    pub(super) error: f64,
}

impl Terms {
    /// A number below this one may be lost whole.
    pub(super) fn lost_below(&self, rounding: &Rounding, c: f64) -> f64 {
        rounding.u * (self.magnitude + self.error).min(self.sum.abs() + c * self.deviation() + self.error)
    }

    /// `‖x − x̄‖₂`.
    fn deviation(&self) -> f64 {
        (self.squares - self.sum * self.sum / self.count.max(1.0)).max(0.0).sqrt()
    }

    /// The error of their sum, that of the terms themselves included. `random` has c and the sum of what may be lost, where
    /// the terms are independent draws.
    pub(super) fn bound(&self, rounding: &Rounding, random: Option<(f64, f64)>) -> f64 {
        let Self { count: n, sum, magnitude, error, .. } = *self;
        if !(magnitude + error).is_finite() {
            // An infinity or NaN among the terms; the value tells which.
            return if sum.is_finite() { f64::INFINITY } else { 0.0 };
        }
        if n < 2.0 {
            return error;
        }
        // Partial sums beyond the type, though not the sum itself.
        if magnitude + error > rounding.max && !(sum.abs() + error > rounding.max && error < sum.abs()) {
            return f64::INFINITY;
        }
        if n == 2.0 {
            return error + rounding.half_ulp(sum.abs() + error) + n * rounding.flushed;
        }
        let u = rounding.u;
        let magnitude = magnitude + error;
        let steps = (n - 1.0) * u;
        let worst = if steps < 1.0 { steps / (1.0 - steps) * magnitude } else { f64::INFINITY };
        let rounded = match random {
            None => worst,
            Some((c, lost)) => {
                let walk = c * u * n.sqrt() * magnitude;
                let bridge = (c / PI).min((n / 6.0).sqrt()) * n.sqrt();
                let drift = c * u * ((n / 3.0).sqrt() * (sum.abs() + error) + bridge * (self.deviation() + error));
                worst.min(walk.min(drift) + lost)
            }
        };
        error + rounded * rounding.both + n * rounding.flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Profile;

    fn terms(x: &[f64]) -> Terms {
        Terms {
            count: x.iter().filter(|x| **x != 0.0).count() as f64,
            sum: x.iter().sum(),
            magnitude: x.iter().map(|x| x.abs()).sum(),
            squares: x.iter().map(|x| x * x).sum(),
            error: 0.0,
        }
    }

    #[test]
    fn sums_are_bounded_by_what_is_known_of_them() {
        let single = Rounding::of(&Profile::ieee());
        assert_eq!(terms(&[0.1, 0.0, 0.0]).bound(&single, None), 0.0);
        assert_eq!(terms(&[1.0, 2.0]).bound(&single, None), single.half_ulp(3.0));
        let many = vec![1.0; 1000];
        let worst = terms(&many).bound(&single, None);
        assert!((worst / (999.0 * 1000.0 * single.u) - 1.0).abs() < 1e-3, "{worst}");
        let c = confidence(1);
        assert!((c - 6.54).abs() < 0.01, "{c}");
        // Of equal terms nothing walks: only the line is left.
        let drift = terms(&many).bound(&single, Some((c, 0.0)));
        assert!((drift / (c * single.u * (1000f64 / 3.0).sqrt() * 1000.0) - 1.0).abs() < 1e-3, "{drift}");
        assert_eq!(terms(&[3e38, 3e38, -3e38]).bound(&single, None), f64::INFINITY);
        assert!(terms(&[3e38, 3e38, 1.0]).bound(&single, None).is_finite());
    }
}
