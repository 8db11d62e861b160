//! Elementary functions in lanes: exp, log, tanh, erf, correct over all of f32.
//!
//! Greatest errors in units in the last place, among all arguments where they can be great (`every_argument_that_matters`)
//! and some millions of all others:
//!
//! | | with multiply-add | without |
//! |---|---|---|
//! | exp | 0.88 | 0.90 |
//! | log | 0.83 | 0.84 |
//! | tanh | 1.33 | 1.33 |
//! | erf | 0.83 | 0.99 |
//!
//! Polynomials are minimax fits to the function over the interval that is named with each (weighted least squares iterated
//! after Lawson; coefficients rounded to f32 one after another, lowest first, the rest fitted again after each). What is added
//! last is exact or large beside a small correction, so that no multiply-add is needed to stay within an ulp. NaN gives NaN.

use crate::isa::Isa;

/// 1.5 · 2²³: added to a small number, it leaves the nearest whole one in the last bits.
const WHOLE: f32 = 12_582_912.0;
/// ln 2 in two parts, the first of 15 bits, so that its product with an exponent is exact.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

/// `eˣ`: denormals are rounded once, beyond them 0; ∞ above 88.72.
///
/// `x = n ln 2 + r` with `|r| ≤ ½ ln 2`, `eʳ = 1 + r + r² p(r)`.
#[inline(always)]
pub(crate) fn exp<S: Isa>(isa: S, x: S::F) -> S::F {
    // Beyond these it is ∞ or 0; in this order a NaN stays.
    let x = isa.max(isa.splat(-104.0), isa.min(isa.splat(89.0), x));
    let whole = isa.splat(WHOLE);
    let n = isa.sub(isa.mul_add(x, isa.splat(std::f32::consts::LOG2_E), whole), whole);
    let high = isa.neg_mul_add(n, isa.splat(LN_2[0]), x);
    let low = isa.mul(n, isa.splat(-LN_2[1]));
    let r = isa.add(high, low);
    // (eʳ − 1 − r) / r², |r| ≤ 0.3475: 2^−28.2 of eʳ.
    let p = polynomial(isa, r, [0.499_999_94, 0.166_665_21, 0.041_668_296, 8.368_716e-3, 1.381_835_9e-3]);
    let rest = isa.add(high, isa.mul_add(isa.mul(r, r), p, low));
    isa.scale(isa.add(isa.splat(1.0), rest), n)
}

/// `ln x`; −∞ of zeros, NaN below.
///
/// `x = 2ᵏ (1 + f)` with `√½ ≤ 1 + f < √2`, and with `s = f / (2 + f)`, `ln(1 + f) = 2s + s·s² p(s²) = f − (f²/2 − s (f²/2 +
/// s² p(s²)))` (the form of fdlibm's `log`).
#[inline(always)]
pub(crate) fn log<S: Isa>(isa: S, x: S::F) -> S::F {
    const ROOT: i32 = 0x3f35_04f3; // √½
    const ONE: i32 = 0x3f80_0000;
    let one = isa.splat(1.0);
    let denormal = isa.less(x, isa.splat(f32::MIN_POSITIVE));
    let normal = isa.select(denormal, isa.mul(x, isa.splat(33_554_432.0)), x);
    let bits = isa.add_i(isa.bits(normal), isa.splat_i(ONE - ROOT));
    let k = isa.to_f(isa.sub_i(isa.shift_right::<23>(bits), isa.splat_i(127)));
    let k = isa.select(denormal, isa.sub(k, isa.splat(25.0)), k);
    let significand = isa.add_i(isa.and(bits, isa.splat_i(0x007f_ffff)), isa.splat_i(ROOT));
    let f = isa.sub(isa.from_bits(significand), one);
    let s = isa.div(f, isa.add(f, isa.splat(2.0)));
    let z = isa.mul(s, s);
    // (ln((1 + s)/(1 − s)) − 2s) / s³ over z, s ≤ 0.1725: 2^−34.2 of s.
    let p = polynomial(isa, z, [0.666_666_6, 0.400_009_7, 0.284_991_68, 0.242_683_19]);
    let half_square = isa.mul(isa.mul(f, f), isa.splat(0.5));
    let sum = isa.mul_add(z, p, half_square);
    let small = isa.mul_add(s, sum, isa.mul(k, isa.splat(LN_2[1])));
    let rest = isa.sub(isa.sub(half_square, small), f);
    let result = isa.sub(isa.mul(k, isa.splat(LN_2[0])), rest);
    // ∞ and NaN are their own logarithms.
    let result = isa.select(isa.less(x, isa.splat(f32::INFINITY)), result, x);
    let result = isa.select(isa.equal(x, isa.zero()), isa.splat(f32::NEG_INFINITY), result);
    isa.select(isa.less(x, isa.zero()), isa.splat(f32::NAN), result)
}

/// `tanh x`: near 0 a polynomial, else `1 − 2 / (e^2|x| + 1)`.
#[inline(always)]
pub(crate) fn tanh<S: Isa>(isa: S, x: S::F) -> S::F {
    let (one, magnitude) = (isa.splat(1.0), isa.abs(x));
    let z = isa.mul(x, x);
    // (tanh x − x) / x³ over z, |x| ≤ 0.625: 2^−27.8 of x.
    let p = polynomial(isa, z, [-0.333_332_84, 0.133_314_85, -0.053_743_005, 0.020_649_103, -5.715_498_7e-3]);
    let near = isa.mul_add(isa.mul(z, p), magnitude, magnitude);
    let exponential = exp(isa, isa.add(magnitude, magnitude));
    let far = isa.sub(one, isa.div(isa.splat(2.0), isa.add(exponential, one)));
    with_sign_of(isa, isa.select(isa.less(magnitude, isa.splat(0.625)), near, far), x)
}

/// The error function: near 0 `x + x p(x²)`, else `1 − q(|x| − m)²`, q a polynomial for the root of erfc.
#[inline(always)]
pub(crate) fn erf<S: Isa>(isa: S, x: S::F) -> S::F {
    /// erf x / x − 1 over x², |x| ≤ 0.875: 2^−30.1 of it.
    const NEAR: [f32; 7] =
        [0.128_379_17, -0.376_126_3, 0.112_836_23, -0.026_855_359, 5.190_895_4e-3, -8.025_360_3e-4, 7.860_295e-5];
    /// √erfc from 0.875 to 4 over x − [`MIDDLE`]: 2^−29.3 of erf.
    const FAR: [f32; 12] = [
        0.407_092_4,
        -0.530_332_6,
        0.174_339_59,
        0.064_267_82,
        -0.047_065_303,
        -3.250_345_6e-3,
        7.397_973e-3,
        7.047_422e-6,
        -1.495_620_2e-3,
        5.837_895e-4,
        -9.676_292e-5,
        6.261_047e-6,
    ];
    /// Where the root of erfc is nearly an f32.
    const MIDDLE: f32 = 0.980_102_54;
    let magnitude = isa.abs(x);
    let near = isa.mul_add(magnitude, polynomial(isa, isa.mul(x, x), NEAR), magnitude);
    // From 3.92 on it is 1; in this order a NaN stays.
    let t = isa.sub(isa.min(isa.splat(4.0), magnitude), isa.splat(MIDDLE));
    let root = polynomial(isa, t, FAR);
    let far = isa.neg_mul_add(root, root, isa.splat(1.0));
    with_sign_of(isa, isa.select(isa.less(magnitude, isa.splat(0.875)), near, far), x)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Isa>(isa: S, x: S::F) -> S::F {
    let one = isa.splat(1.0);
    isa.div(one, isa.add(one, exp(isa, isa.negate(x))))
}

/// `Σ cᵢ xⁱ`.
#[inline(always)]
fn polynomial<S: Isa, const N: usize>(isa: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut sum = isa.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = isa.mul_add(sum, x, isa.splat(coefficient));
    }
    sum
}

/// `magnitude`, which is not negative, with the sign of x.
#[inline(always)]
fn with_sign_of<S: Isa>(isa: S, magnitude: S::F, x: S::F) -> S::F {
    isa.from_bits(isa.or(isa.bits(magnitude), isa.and(isa.bits(x), isa.splat_i(i32::MIN))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Kernel, Level};

    /// A function in lanes, as it should be, and the greatest error that is allowed, in ulps.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Log,
        Tanh,
        Erf,
    }

    const ALL: [Function; 4] = [Function::Exp, Function::Log, Function::Tanh, Function::Erf];

    impl Function {
        fn exact(self, x: f64) -> f64 {
            match self {
                Self::Exp => x.exp(),
                Self::Log => x.ln(),
                Self::Tanh => x.tanh(),
                Self::Erf => libm::erf(x),
            }
        }

        fn bound(self) -> f64 {
            match self {
                Self::Exp | Self::Log => 0.9,
                Self::Tanh => 1.4,
                Self::Erf => 0.99,
            }
        }
    }

    struct Run<'a>(Function, &'a mut [f32]);

    impl Kernel for Run<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Isa>(self, isa: S) {
            for x in self.1.chunks_mut(S::LANES) {
                let y = match self.0 {
                    Function::Exp => exp(isa, isa.read(x)),
                    Function::Log => log(isa, isa.read(x)),
                    Function::Tanh => tanh(isa, isa.read(x)),
                    Function::Erf => erf(isa, isa.read(x)),
                };
                isa.write(x, y);
            }
        }
    }

    /// Distance of neighbours at this magnitude.
    fn ulp(value: f64) -> f64 {
        2f64.powi((value.abs().log2().floor() as i32 - 23).clamp(-149, 104))
    }

    /// Error in ulps; infinite where one is a NaN or an infinity and the other is not.
    fn error(actual: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        if actual.to_bits() == nearest.to_bits() || (actual.is_nan() && nearest.is_nan()) {
            return 0.5;
        }
        if exact.is_finite() && actual.is_finite() && actual.is_sign_negative() == exact.is_sign_negative() {
            (f64::from(actual) - exact).abs() / ulp(exact)
        } else if exact.is_finite() && actual.is_infinite() {
            // Near the end of the range.
            (2f64.powi(128) * f64::from(actual.signum()) - exact).abs() / ulp(exact)
        } else {
            f64::INFINITY
        }
    }

    /// Greatest error of each of the functions on each level over these bit patterns.
    fn greatest_errors(
        functions: &[Function],
        patterns: impl Iterator<Item = u32>,
    ) -> Vec<(Function, Level, f64, f32)> {
        let levels = Level::available();
        let pairs = functions.iter().flat_map(|&function| levels.iter().map(move |&level| (function, level, 0.0, 0.0)));
        let mut greatest: Vec<_> = pairs.collect();
        let mut patterns = patterns.peekable();
        while patterns.peek().is_some() {
            let x: Vec<f32> = patterns.by_ref().take(1 << 14).map(f32::from_bits).collect();
            for of_function in greatest.chunks_mut(levels.len()) {
                let function = of_function[0].0;
                let exact: Vec<f64> = x.iter().map(|&x| function.exact(x.into())).collect();
                for (_, level, most, place) in of_function {
                    let mut y = x.clone();
                    level.run(Run(function, &mut y));
                    for ((&x, &y), &exact) in x.iter().zip(&y).zip(&exact) {
                        let error = error(y, exact);
                        if error > *most {
                            (*most, *place) = (error, x);
                        }
                    }
                }
            }
        }
        greatest
    }

    fn check(functions: &[Function], patterns: impl Iterator<Item = u32>) {
        for (function, level, error, x) in greatest_errors(functions, patterns) {
            println!("{function:?} {level:?}: {error:.4} ulp at {x:e}");
            assert!(error <= function.bound(), "{function:?} on {level:?} is off by {error} ulp at {x:e}");
        }
    }

    #[test]
    fn errors_are_as_stated() {
        // A prime distance, so that all exponents and endings of significands come.
        check(&ALL, (0..=u32::MAX).step_by(1021));
    }

    #[test]
    #[ignore = "takes a minute of a core"]
    fn every_argument_that_matters() {
        let magnitudes = |from: f32, to: f32| from.to_bits()..to.to_bits();
        let negative = |bits: u32| bits | 1 << 31;
        check(&[Function::Exp], magnitudes(0.0078125, 104.0).chain(magnitudes(0.0078125, 104.0).map(negative)));
        check(&[Function::Log], magnitudes(0.25, 4.0));
        check(&[Function::Tanh, Function::Erf], magnitudes(0.0078125, 16.0));
    }

    #[test]
    fn ends_and_signs() {
        let check = |function, x: f32, expected: f32| {
            for level in Level::available() {
                let mut y = [x; 5];
                level.run(Run(function, &mut y));
                let same = |y: &f32| y.to_bits() == expected.to_bits() || (y.is_nan() && expected.is_nan());
                assert!(y.iter().all(same), "{function:?} of {x} on {level:?}: {y:?}, not {expected}");
            }
        };
        for function in ALL {
            check(function, f32::NAN, f32::NAN);
            check(function, -f32::NAN, f32::NAN);
        }
        for (x, y) in [(0.0, 1.0), (-0.0, 1.0), (f32::INFINITY, f32::INFINITY), (f32::NEG_INFINITY, 0.0)] {
            check(Function::Exp, x, y);
        }
        check(Function::Exp, 88.722_84, f32::INFINITY);
        check(Function::Exp, 88.722_83, 3.402_798_5e38);
        check(Function::Exp, -103.972_08, f32::from_bits(1));
        check(Function::Exp, -103.973, 0.0);
        let infinite = f32::INFINITY;
        for (x, y) in [(1.0, 0.0), (0.0, -infinite), (-0.0, -infinite), (infinite, infinite)] {
            check(Function::Log, x, y);
        }
        for x in [-1.0, f32::NEG_INFINITY, -f32::from_bits(1)] {
            check(Function::Log, x, f32::NAN);
        }
        for function in [Function::Tanh, Function::Erf] {
            for (x, y) in [(0.0, 0.0), (infinite, 1.0), (f32::MAX, 1.0), (10.0, 1.0)] {
                check(function, x, y);
                check(function, -x, -y);
            }
        }
        check(Function::Tanh, f32::from_bits(3), f32::from_bits(3));
        check(Function::Erf, 4.0, 1.0);
    }
}
