//! The types that elements have, and the functions of those that can be computed in.

use std::{
    fmt::Debug,
    ops::{Add, Div, Mul, Neg, Sub},
};

use consort_core::{DType, HostData, to_bf16, to_f16};
use half::{bf16, f16};

/// A type that a buffer can hold.
pub trait Cast: Copy + Debug + PartialEq + PartialOrd + Send + Sync + 'static {
    /// 0.
    const ZERO: Self;

    /// The value, exactly.
    fn to_f64(self) -> f64;

    /// `value` rounded once, to the nearest, ties to even; u32 truncates towards zero, clamps, and takes NaN as 0.
    fn from_f64(value: f64) -> Self;
}

/// A type to compute in: f32 or f64.
///
/// The functions are those of the standard library in this very type.
pub trait Element:
    Cast + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// Its name in the contract.
    const DTYPE: DType;
    /// What the backend that computes in it calls itself.
    const BACKEND: &'static str;
    /// 1.
    const ONE: Self;

    /// eˣ.
    fn exp(self) -> Self;

    /// Natural logarithm.
    fn ln(self) -> Self;

    /// √x.
    fn sqrt(self) -> Self;

    /// tanh x.
    fn tanh(self) -> Self;

    /// The error function, computed in f64 and rounded.
    fn erf(self) -> Self {
        Self::from_f64(libm::erf(self.to_f64()))
    }

    /// The nearest whole number, ties to even.
    fn round(self) -> Self;

    /// The nearest f32, ties to even.
    fn single(self) -> Self;

    /// Whether this is not a number.
    fn is_nan(self) -> bool;

    /// The elements as data of the host.
    fn to_host(elements: Vec<Self>) -> HostData;

    /// Data of the host as elements, or back as they were if they are of another type.
    ///
    /// # Errors
    /// The data.
    fn from_host(data: HostData) -> Result<Vec<Self>, HostData>;
}

macro_rules! floats {
    ($($float:ident $dtype:ident $backend:literal),*) => { $(
        impl Cast for $float {
            const ZERO: Self = 0.0;

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn from_f64(value: f64) -> Self {
                value as $float
            }
        }

        impl Element for $float {
            const DTYPE: DType = DType::$dtype;
            const BACKEND: &'static str = $backend;
            const ONE: Self = 1.0;

            fn exp(self) -> Self {
                $float::exp(self)
            }

            fn ln(self) -> Self {
                $float::ln(self)
            }

            fn sqrt(self) -> Self {
                $float::sqrt(self)
            }

            fn tanh(self) -> Self {
                $float::tanh(self)
            }

            fn round(self) -> Self {
                self.round_ties_even()
            }

            #[allow(clippy::unnecessary_cast, reason = "of one of the two types it is none")]
            fn single(self) -> Self {
                (self as f32) as $float
            }

            fn is_nan(self) -> bool {
                $float::is_nan(self)
            }

            fn to_host(elements: Vec<Self>) -> HostData {
                HostData::$dtype(elements)
            }

            fn from_host(data: HostData) -> Result<Vec<Self>, HostData> {
                if let HostData::$dtype(elements) = data { Ok(elements) } else { Err(data) }
            }
        }
    )* };
}

floats!(f32 F32 "scalar", f64 F64 "scalar-f64");

impl Cast for f16 {
    const ZERO: Self = f16::ZERO;

    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }

    fn from_f64(value: f64) -> Self {
        to_f16(value)
    }
}

impl Cast for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }

    fn from_f64(value: f64) -> Self {
        to_bf16(value)
    }
}

impl Cast for u32 {
    const ZERO: Self = 0;

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> Self {
        value as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_truncated_and_clamped() {
        let cast = <u32 as Cast>::from_f64;
        assert_eq!([2.9, -2.9, -0.1, 1e20, f64::NAN].map(cast), [2, 0, 0, u32::MAX, 0]);
    }
}
