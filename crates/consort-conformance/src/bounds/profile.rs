//! How a device computes: the one knob that bounds have. Everything in a profile comes from what the platform documents.

use std::borrow::Cow;

use consort_core::{DType, WeightDType};
use serde::Serialize;

/// What a device may do to a number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Its name, for reports.
    pub name: Cow<'static, str>,
    /// What weights are kept as, for reports: a problem says what its own weight is kept as, and bounds begin from that.
    pub weight: WeightDType,
    /// The type of arithmetic. Sums and products of two numbers are rounded to nearest in it.
    pub compute: Compute,
    /// How good the functions are.
    pub functions: Functions,
    /// Whether numbers below the normal range may be taken for zero, going in and coming out.
    pub flush_denormals: bool,
}

/// A type to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
}

/// Errors of functions, beside what an inexact argument brings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Functions {
    /// `eˣ`.
    pub exp: Accuracy,
    /// Natural logarithm.
    pub log: Accuracy,
    /// `√x`.
    pub sqrt: Accuracy,
    /// `tanh x`.
    pub tanh: Accuracy,
    /// The error function.
    pub erf: Accuracy,
    /// `a / b` and `1 / x`. Where it is below 2 ulps, a quotient or a reciprocal is taken to be correctly rounded, so that
    /// division by a power of two is exact.
    pub divide: Accuracy,
}

/// Greatest error of a function: `(ulps + ulps_by_argument · |x|) · ulp(f(x)) + absolute`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// In units in the last place of the result.
    pub ulps: f64,
    /// In the same units, for each unit of the argument.
    pub ulps_by_argument: f64,
    /// Whatever the result.
    pub absolute: f64,
}

impl Accuracy {
    /// So many units in the last place of the result.
    pub const fn ulps(ulps: f64) -> Self {
        Self { ulps, ulps_by_argument: 0.0, absolute: 0.0 }
    }
}

impl Profile {
    /// A CPU: IEEE arithmetic in f32 with denormals, and functions as good as the C library's.
    ///
    /// Ulps of exp and log are the greatest that glibc's manual knows of in f32 (section "Known Maximum Errors in Math
    /// Functions", x86_64 and aarch64). The manual rounds: tanh is off by up to 2.19 in f32 and 2.22 in f64 (Gladman, Innocente,
    /// Mather & Zimmermann, "Accuracy of Mathematical Functions"; 2.18 was found here among a third of all f32). Division and
    /// root are correctly rounded (IEEE 754, 5.4.1); erf is computed in f64 and rounded.
    pub fn ieee() -> Self {
        Self {
            name: Cow::Borrowed("ieee"),
            weight: WeightDType::F32,
            compute: Compute::F32,
            functions: Functions {
                exp: Accuracy::ulps(1.0),
                log: Accuracy::ulps(1.0),
                sqrt: Accuracy::ulps(0.5),
                tanh: Accuracy::ulps(2.25),
                erf: Accuracy::ulps(1.0),
                divide: Accuracy::ulps(0.5),
            },
            flush_denormals: false,
        }
    }

    /// The same in f64: what the oracle itself is held to. (erf: 1 ulp, as libm's and glibc's.)
    pub fn f64() -> Self {
        Self { name: Cow::Borrowed("f64"), compute: Compute::F64, weight: WeightDType::F64, ..Self::ieee() }
    }

    /// The type of floats on such a device.
    pub fn float(&self) -> DType {
        match self.compute {
            Compute::F32 => DType::F32,
            Compute::F64 => DType::F64,
        }
    }

    /// A GPU, by what WGSL promises for f32 (W3C, "WebGPU Shading Language", 15.7.4.1): quotients 2.5 ulps; exp
    /// `3 + 2·|x|`; log 3, or 2⁻²¹ between ½ and 2; √x as the quotient of 1 and an inverse root of 2 ulps, 9u in all; tanh
    /// 10⁻⁵, or what `sinh / cosh` brings. There is no erf: Abramowitz & Stegun 7.1.26 is within 1.5·10⁻⁷, and its exp of
    /// −x² and its sum of five terms bring up to 2⁻²⁰.
    pub fn wgsl() -> Self {
        Self {
            name: Cow::Borrowed("wgsl"),
            weight: WeightDType::F32,
            compute: Compute::F32,
            functions: Functions {
                exp: Accuracy { ulps: 3.0, ulps_by_argument: 2.0, absolute: 0.0 },
                log: Accuracy { ulps: 3.0, ulps_by_argument: 0.0, absolute: power(-21) },
                sqrt: Accuracy::ulps(9.0),
                tanh: Accuracy { ulps: 0.5, ulps_by_argument: 0.0, absolute: 1e-5 },
                erf: Accuracy { ulps: 0.5, ulps_by_argument: 0.0, absolute: 1.5e-7 + power(-20) },
                divide: Accuracy::ulps(2.5),
            },
            flush_denormals: true,
        }
    }
}

/// How a type rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounding {
    /// Bits of a significand.
    precision: i32,
    /// Exponent of the smallest number.
    least: i32,
    /// The greatest finite number.
    pub(super) max: f64,
    /// The smallest number of full precision.
    pub(super) normal: f64,
    /// Numbers below may be taken for zero; 0 where they are not.
    pub(super) flushed: f64,
    /// Unit roundoff.
    pub(super) u: f64,
    /// What the oracle's own rounding, in f64, makes of a bound on the device's.
    pub(super) both: f64,
}

impl Rounding {
    pub(super) fn of(profile: &Profile) -> Self {
        let (precision, least, max, normal) = match profile.compute {
            Compute::F32 => (24, -149, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE)),
            Compute::F64 => (53, -1074, f64::MAX, f64::MIN_POSITIVE),
        };
        let u = power(-precision);
        let flushed = if profile.flush_denormals { normal } else { 0.0 };
        Self { precision, least, max, normal, flushed, u, both: 1.0 + power(-53) / u }
    }

    /// The nearest number of the type.
    pub(super) fn nearest(&self, value: f64) -> f64 {
        if self.precision == 24 { f64::from(value as f32) } else { value }
    }

    /// The distance of neighbours at the magnitude of `value`, which may be beyond the type's greatest.
    pub(super) fn ulp(&self, value: f64) -> f64 {
        if !value.is_finite() {
            return f64::INFINITY;
        }
        // f64's own subnormals are below the least of every type but f64, where they are the least.
        let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        power((exponent - self.precision + 1).max(self.least))
    }

    /// Greatest error of rounding a number of magnitude up to `magnitude` to nearest: half an ulp, and never more than the
    /// number itself. With the oracle's own.
    pub(super) fn half_ulp(&self, magnitude: f64) -> f64 {
        (0.5 * self.ulp(magnitude)).min(magnitude) * self.both
    }

    /// Greatest error of rounding below the normal range.
    pub(super) fn half_least(&self) -> f64 {
        power(self.least - 1) * self.both
    }

    /// Whether `|value| + error` is beyond the type, so that a device may have an infinity there.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "an error that is not a number is beyond every type")]
    pub(super) fn may_overflow(&self, value: f64, error: f64) -> bool {
        value.is_finite() && !(value.abs() + error <= self.max)
    }

    /// The error of `value` once a device may have taken it for zero.
    pub(super) fn with_flush(&self, value: f64, error: f64) -> f64 {
        if value.abs() - error < self.flushed { error + (value.abs() + error).min(self.flushed) } else { error }
    }
}

/// `2ⁿ`; 0 below the smallest f64.
pub(super) fn power(n: i32) -> f64 {
    match n {
        ..-1074 => 0.0,
        -1074..-1022 => f64::from_bits(1 << (n + 1074)),
        -1022..1024 => f64::from_bits(((n + 1023) as u64) << 52),
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_are_distances_of_neighbours() {
        let single = Rounding::of(&Profile::ieee());
        for value in [1f32, 1.5, 0.99999994, 3e38, 1e-40, f32::MIN_POSITIVE, 16777216.0, 1e-45] {
            let next = f64::from(f32::from_bits(value.to_bits() + 1));
            assert_eq!(single.ulp(f64::from(value)), next - f64::from(value), "{value}");
        }
        assert_eq!(single.ulp(0.0), 2f64.powi(-149));
        let double = Rounding::of(&Profile::f64());
        for value in [1f64, 1.5, 1e300, 1e-310, 5e-324] {
            assert_eq!(double.ulp(value), f64::from_bits(value.to_bits() + 1) - value, "{value}");
        }
        for n in [-1074, -1030, -1022, -1, 0, 10, 1023] {
            assert_eq!(power(n), 2f64.powi(n), "{n}");
        }
        assert_eq!((power(-1075), power(1024)), (0.0, f64::INFINITY));
    }

    #[test]
    fn rounding_is_within_half_an_ulp() {
        let single = Rounding::of(&Profile::ieee());
        for value in [1.0 + 1e-9, 0.1, 1e-46, 7e-46, 3.4e38, 1e-39] {
            assert!((single.nearest(value) - value).abs() <= single.half_ulp(value), "{value}");
        }
        assert_eq!(single.half_ulp(0.0), 0.0);
    }
}
