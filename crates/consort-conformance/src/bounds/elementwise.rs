//! Errors of functions of one number or two.
//!
//! A device holds `x̂` where the oracle holds `x`, `|x̂ − x| ≤ e`. What it gets for `f(x̂)` is off by how far f moves over
//! `[x − e, x + e]`, and by the rounding of the result:
//!
//! ```text
//! f monotone     max(f(x + e) − f(x), f(x) − f(x − e)), by forms that do not cancel: e^x (e^e − 1), −ln(1 − e/x), …
//! a ± b          e_a + e_b
//! a · b          |a| e_b + |b| e_a + e_a e_b
//! a / b          (e_a + |a/b| e_b) / (|b| − e_b)
//! ```
//!
//! All hold whatever the size of the errors; no term is left out. A result that the type holds, of operands without error,
//! has none. An operand that may be infinite on the device (beyond its type, finite in f64) is followed where what it gives
//! is known: through sums and products that stay beyond the type, and into quotients, which become 0. Elsewhere the bound is
//! infinite.

use consort_core::operation::{BinaryKind, UnaryKind};

use super::profile::{Accuracy, Compute, Profile, Rounding, power};

/// What is known of one number on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    /// The oracle's value.
    pub(super) value: f64,
    /// How far off the device may be.
    pub(super) error: f64,
}

impl Number {
    fn least_magnitude(self) -> f64 {
        (self.value.abs() - self.error).max(0.0)
    }

    fn is_exact(self) -> bool {
        self.error == 0.0
    }
}

/// Errors under a profile.
#[derive(Clone, Debug)]
pub(super) struct Elementwise {
    pub(super) profile: Profile,
    pub(super) rounding: Rounding,
}

impl Elementwise {
    pub(super) fn new(profile: Profile) -> Self {
        let rounding = Rounding::of(&profile);
        Self { profile, rounding }
    }

    /// The error of `result = kind(x)`; `nonnegative` says that a device's x is, whatever its error.
    pub(super) fn unary(&self, kind: UnaryKind, x: Number, result: f64, nonnegative: bool) -> f64 {
        let functions = &self.profile.functions;
        if kind == UnaryKind::Reciprocal {
            return self.binary(BinaryKind::Divide, Number { value: 1.0, error: 0.0 }, x, result);
        }
        let x = Number { error: self.rounding.with_flush(x.value, x.error), ..x };
        let (v, e) = (x.value, x.error);
        let low = if nonnegative { (v - e).max(0.0) } else { v - e };
        let infinite = self.rounding.may_overflow(v, e);
        let (moved, accuracy) = match kind {
            UnaryKind::Negate | UnaryKind::Reciprocal => return settled(result, self.out(e, result)),
            // Nothing is rounded but what is off: the ends of the interval become numbers that the device may have.
            UnaryKind::Round => return settled(result, self.between(v, e, result, f64::round_ties_even)),
            UnaryKind::Single => {
                return settled(result, self.out(self.between(v, e, result, |x| f64::from(x as f32)), result));
            }
            UnaryKind::Exp => {
                // Far out the ends themselves, near by what does not cancel. e^+∞ on the device is beyond its type here too.
                let up = if e < 1.0 { result * e.exp_m1() } else { (v + e).exp() - result };
                let down = if e < 1.0 { result * -(-e).exp_m1() } else { result - (v - e).exp() };
                (up.max(down), functions.exp)
            }
            UnaryKind::Log if v > 0.0 && (low > 0.0) && !infinite => (-(-(v - low) / v).ln_1p(), functions.log),
            UnaryKind::Log if e > 0.0 || infinite => return f64::INFINITY,
            UnaryKind::Log => (0.0, functions.log),
            UnaryKind::Sqrt if infinite || (e > 0.0 && low < 0.0) => return f64::INFINITY,
            UnaryKind::Sqrt if e > 0.0 => {
                let down = (v - low) / (result + low.sqrt());
                (down.max(e / (result + (v + e).sqrt())), functions.sqrt)
            }
            UnaryKind::Sqrt => (0.0, functions.sqrt),
            // Slopes fall with the distance from 0; the functions stay within −1 and 1, infinities included.
            UnaryKind::Tanh => (limited(e * x.least_magnitude().cosh().recip().powi(2)), functions.tanh),
            UnaryKind::Erf => {
                let slope = std::f64::consts::FRAC_2_SQRT_PI * (-x.least_magnitude().powi(2)).exp();
                (limited(e * slope), functions.erf)
            }
        };
        settled(result, self.function(moved, accuracy, v, result))
    }

    /// How far `f` leads from `result = f(v)` over `[v − e, v + e]`, f a rounding.
    fn between(&self, v: f64, e: f64, result: f64, f: impl Fn(f64) -> f64) -> f64 {
        match e > 0.0 {
            // The ends themselves are rounded here.
            true => (f((v + e).next_up()) - result).max(result - f((v - e).next_down())),
            false => 0.0,
        }
    }

    /// Whether a device with this profile rounds the very result of `kind`, of exact operands, to the nearest number.
    pub(super) fn is_nearest(&self, kind: BinaryKind) -> bool {
        let divide = self.profile.functions.divide;
        let correct = divide.ulps <= 0.5 && divide.ulps_by_argument == 0.0 && divide.absolute == 0.0;
        let kind = match kind {
            BinaryKind::Add | BinaryKind::Subtract | BinaryKind::Multiply => true,
            BinaryKind::Divide => correct,
            _ => false,
        };
        kind && !self.profile.flush_denormals
    }

    /// The error of rounding to f32 what is [nearest](Self::is_nearest): the oracle's value, rounded to f64 first, gives the
    /// same f32 (Figueroa 1995), but below the normal numbers the neighbour of it where it was nearly a tie.
    pub(super) fn of_nearest(&self, value: f64) -> f64 {
        let normal = value == 0.0 || value.abs() >= f64::from(f32::MIN_POSITIVE);
        if normal || !value.is_finite() { 0.0 } else { f64::from(f32::from_bits(1)) }
    }

    /// The error of `result = kind(a, b)`; of comparisons, 1 where it may be the other.
    pub(super) fn binary(&self, kind: BinaryKind, a: Number, b: Number, result: f64) -> f64 {
        let rounding = &self.rounding;
        let flush = |x: Number| Number { error: rounding.with_flush(x.value, x.error), ..x };
        let (a, b) = (flush(a), flush(b));
        match kind {
            // The greater of two is no further off than either; where one is always taken, than that one.
            BinaryKind::Maximum | BinaryKind::Minimum => {
                let apart = (a.value - b.value).abs() > a.error + b.error;
                let error = match apart {
                    true if result == a.value => a.error,
                    true => b.error,
                    false => a.error.max(b.error),
                };
                return settled(result, error);
            }
            BinaryKind::Less | BinaryKind::Equal => {
                // Equal numbers without error are equal on the device.
                let unclear = a.error + b.error;
                return f64::from(u8::from(unclear > 0.0 && (a.value - b.value).abs() <= unclear));
            }
            _ => {}
        }
        let [wide_a, wide_b] = [a, b].map(|x| rounding.may_overflow(x.value, x.error));
        let exact = a.is_exact() && b.is_exact();
        // Times a power of two the other's significand stays.
        let power = |x: Number| x.is_exact() && x.value.is_normal() && x.value.to_bits() << 12 == 0;
        let error = match kind {
            BinaryKind::Add | BinaryKind::Subtract => {
                let moved = a.error + b.error;
                let same_sign = (a.value < 0.0) == ((b.value < 0.0) != (kind == BinaryKind::Subtract));
                if (wide_a && wide_b && !same_sign) || ((wide_a || wide_b) && !self.stays_wide(result, moved)) {
                    return f64::INFINITY;
                }
                let signed_b = if kind == BinaryKind::Subtract { -b.value } else { b.value };
                // Either operand is a number of the type, as far from the sum as the other one is large.
                let most = (a.value.abs() + a.error).min(b.value.abs() + b.error);
                let exact = exact && self.sum_is_exact(a.value, signed_b, result);
                self.rounded(moved, result, if exact { 0.0 } else { most })
            }
            BinaryKind::Multiply => {
                let moved = a.value.abs() * b.error + b.value.abs() * a.error + a.error * b.error;
                if (wide_a || wide_b)
                    && !(self.stays_wide(result, moved) && a.least_magnitude() > 0.0 && b.least_magnitude() > 0.0)
                {
                    return f64::INFINITY;
                }
                if exact && self.product_is_exact(a.value, b.value, result) {
                    moved
                } else if power(a) || power(b) {
                    let subnormal = result.abs() - moved < rounding.normal;
                    self.out(if subnormal { moved + rounding.half_least() } else { moved }, result)
                } else {
                    self.rounded(moved, result, f64::INFINITY)
                }
            }
            _ => self.quotient(a, b, result, [wide_a, wide_b], exact && power(b)),
        };
        settled(result, error)
    }

    fn quotient(&self, a: Number, b: Number, result: f64, [wide_a, wide_b]: [bool; 2], scaled: bool) -> f64 {
        let least = b.least_magnitude();
        if least == 0.0 && (b.error > 0.0 || a.error > 0.0) {
            return f64::INFINITY;
        }
        let moved = if a.is_exact() && b.is_exact() { 0.0 } else { (a.error + result.abs() * b.error) / least };
        if wide_a && (wide_b || !self.stays_wide(result, moved)) {
            return f64::INFINITY;
        }
        let accuracy = self.profile.functions.divide;
        // A division by a power of two is exact by way of the reciprocal, too; unless neither is correctly rounded.
        let careful = accuracy.ulps < 2.0 && accuracy.ulps_by_argument == 0.0 && accuracy.absolute == 0.0;
        if scaled && careful && self.holds(result) {
            return moved;
        }
        // Divided by an infinity it is 0.
        let moved = if wide_b { moved.max(result.abs()) } else { moved };
        self.function(moved, accuracy, 0.0, result)
    }

    /// Whether `value` with this error is beyond the type with a sign that is certain.
    fn stays_wide(&self, value: f64, error: f64) -> bool {
        self.rounding.may_overflow(value, error) && error < value.abs()
    }

    /// Whether the type has `value` itself.
    pub(super) fn holds(&self, value: f64) -> bool {
        self.rounding.nearest(value) == value && (value == 0.0 || value.abs() >= self.rounding.flushed)
    }

    /// Whether `a + b` is `sum` and the type has it (Knuth's two-sum gives what is left).
    fn sum_is_exact(&self, a: f64, b: f64, sum: f64) -> bool {
        let part = sum - a;
        let left = (a - (sum - part)) + (b - part);
        self.holds(sum) && left == 0.0
    }

    fn product_is_exact(&self, a: f64, b: f64, product: f64) -> bool {
        // Two significands of 24 bits fit one of 53.
        self.holds(product) && (self.profile.compute == Compute::F32 || a.mul_add(b, -product) == 0.0)
    }

    /// `moved` and one rounding to nearest, which is known to be off by `most` at most.
    fn rounded(&self, moved: f64, result: f64, most: f64) -> f64 {
        if !result.is_finite() {
            return 0.0;
        }
        // Beside a far smaller operand the oracle rounds, too.
        let own = if most > 0.0 { power(-53) * result.abs() } else { 0.0 };
        let rounding = self.rounding.half_ulp(result.abs() + moved).min(most * self.rounding.both + own);
        self.out(moved + rounding, result)
    }

    /// `moved` and the error of a function.
    fn function(&self, moved: f64, accuracy: Accuracy, argument: f64, result: f64) -> f64 {
        let Accuracy { ulps, ulps_by_argument, absolute } = accuracy;
        if !result.is_finite() || (result == 0.0 && moved == 0.0 && absolute == 0.0) {
            return 0.0;
        }
        let ulps = ulps + ulps_by_argument * argument.abs();
        // Of a result that is rounded to nearest, no more than the result itself is lost.
        // What was rounded here, in f64, may hide that a device is just beyond a power of two, where ulps double.
        let units = ulps * self.rounding.ulp((result.abs() + moved) * (1.0 + 4.0 * f64::EPSILON));
        let units = if ulps <= 0.5 { units.min(result.abs() + moved) } else { units };
        self.out(moved + (units + absolute) * self.rounding.both, result)
    }

    /// A result below the normal range may come out as zero.
    fn out(&self, error: f64, result: f64) -> f64 {
        if error == 0.0 && self.holds(result) { 0.0 } else { self.rounding.with_flush(result, error) }
    }
}

/// No error where the very infinity or NaN is expected; what is not known is infinite.
pub(super) fn settled(result: f64, error: f64) -> f64 {
    if !result.is_finite() && error.is_finite() {
        0.0
    } else if error.is_nan() {
        if result.is_finite() { f64::INFINITY } else { 0.0 }
    } else {
        error
    }
}

/// Two numbers between −1 and 1 are no further apart than 2.
fn limited(error: f64) -> f64 {
    if error <= 2.0 { error } else { 2.0 }
}
