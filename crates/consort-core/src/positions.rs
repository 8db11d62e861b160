//! Positions as numbers: rotary frequencies, sinusoidal tables, relative buckets and linear-bias slopes, all in f64.

use std::f64::consts::PI;

use crate::config::{RotaryConfig, RotaryScaling, SinusoidLayout};

/// Frequencies in radians per position and the factor on sine and cosine, for a sequence of `length` tokens.
///
/// `theta^(−2i/width)` (Su et al. 2021), stretched as [`RotaryScaling`] says. Only dynamic scaling depends on the
/// length. Constants and order of operations follow the reference implementation (transformers,
/// `modeling_rope_utils`).
pub fn rotary_frequencies(config: &RotaryConfig, length: usize) -> (Vec<f64>, f64) {
    let width = config.width as f64;
    let of_base = |base: f64| (0..config.width / 2).map(move |i| base.powf(-(2.0 * i as f64) / width));
    let plain = || of_base(config.theta);
    match config.scaling {
        RotaryScaling::None => (plain().collect(), 1.0),
        RotaryScaling::Linear { factor } => (plain().map(|frequency| frequency / factor).collect(), 1.0),
        RotaryScaling::Dynamic { factor, original } => {
            let stretch = length.max(original) as f64 / original as f64;
            let base = config.theta * (factor * stretch - (factor - 1.0)).powf(width / (width - 2.0));
            (of_base(base).collect(), 1.0)
        }
        RotaryScaling::Llama3 { factor, low, high, original } => {
            let original = original as f64;
            let scaled = plain().map(|frequency| {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            });
            (scaled.collect(), 1.0)
        }
        RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } => {
            // The dimension whose wave turns `turns` times within the original context.
            let dimension =
                |turns: f64| width * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * config.theta.ln());
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(width - 1.0));
            if low == high {
                high += 0.001; // as the reference does, against a division by zero
            }
            let blended = plain().enumerate().map(|(i, frequency)| {
                let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * (1.0 - kept) + frequency * kept
            });
            (blended.collect(), attention_factor)
        }
    }
}

/// Cosines and sines `[T, width/2]` for rows at `positions` of sequences of `lengths` tokens, row-major.
pub fn rotary_table(config: &RotaryConfig, positions: &[usize], lengths: &[usize]) -> [Vec<f64>; 2] {
    // Frequencies are the same for all lengths that `key` gives the same number.
    let key = |length: usize| match config.scaling {
        RotaryScaling::Dynamic { original, .. } => length.max(original),
        _ => 0,
    };
    let first = lengths.first().map_or(0, |&length| key(length));
    let mut current = (first, rotary_frequencies(config, first));
    let elements = positions.len() * (config.width / 2);
    let (mut cos, mut sin) = (Vec::with_capacity(elements), Vec::with_capacity(elements));
    for (&position, &length) in positions.iter().zip(lengths) {
        if current.0 != key(length) {
            current = (key(length), rotary_frequencies(config, length));
        }
        let (frequencies, factor) = &current.1;
        for frequency in frequencies {
            let (s, c) = (position as f64 * frequency).sin_cos();
            cos.push(c * factor);
            sin.push(s * factor);
        }
    }
    [cos, sin]
}

/// Sinusoidal positions `[T, D]` (Vaswani et al. 2017, section 3.5), row-major: row p has `sin(p / 10000^(2i/D))` and its
/// cosine. D must be even.
pub fn sinusoids(width: usize, layout: SinusoidLayout, positions: &[usize]) -> Vec<f64> {
    let divisors: Vec<f64> = (0..width / 2).map(|i| 10000f64.powf(2.0 * i as f64 / width as f64)).collect();
    let mut out = Vec::with_capacity(positions.len() * width);
    for &position in positions {
        let angles = divisors.iter().map(|divisor| position as f64 / divisor);
        match layout {
            SinusoidLayout::Interleaved => out.extend(angles.flat_map(|angle| [angle.sin(), angle.cos()])),
            SinusoidLayout::Halves => {
                out.extend(angles.clone().map(f64::sin));
                out.extend(angles.map(f64::cos));
            }
        }
    }
    out
}

/// Whether [`relative_bucket`] is defined: at least two buckets a direction, and a distance beyond those that have a
/// bucket each.
pub fn relative_buckets_fit(bidirectional: bool, buckets: usize, max_distance: usize) -> bool {
    let usable = if bidirectional { buckets / 2 } else { buckets };
    usable >= 2 && max_distance > usable / 2
}

/// The bucket of `distance = key − query` (Raffel et al. 2020; formula of the reference implementation): one bucket per
/// distance up to half of them, then logarithmically wider ones up to `max_distance`.
///
/// # Panics
/// Where [`relative_buckets_fit`] says no.
pub fn relative_bucket(distance: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let (mut first, mut buckets) = (0, buckets);
    let magnitude = if bidirectional {
        buckets /= 2;
        if distance > 0 {
            first = buckets;
        }
        distance.unsigned_abs() as usize
    } else {
        (-distance).max(0) as usize
    };
    let exact = buckets / 2;
    if magnitude < exact {
        return first + magnitude;
    }
    let ratio = (magnitude as f64 / exact as f64).ln() / (max_distance as f64 / exact as f64).ln();
    // Where a bucket begins at a whole distance, the rounding of the logarithms must not put it into the one before.
    let wide = exact + (ratio * (buckets - exact) as f64 * (1.0 + 1e-12)) as usize;
    first + wide.min(buckets - 1)
}

/// Slopes of linear biases per head (Press et al. 2022): `2^(−8i/n)` for the largest power of two n within `heads`; the
/// rest take every other slope of 2n.
pub fn linear_bias_slopes(heads: usize) -> Vec<f64> {
    let geometric = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2());
    let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    geometric(power).chain(geometric(2 * power).step_by(2)).take(heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_buckets_match_the_published_ones() {
        // transformers' T5Attention._relative_position_bucket, 32 buckets, distance 128.
        let bucket = |distance| relative_bucket(distance, true, 32, 128);
        let expected = [(0, 0), (1, 17), (-1, 1), (7, 23), (8, 24), (-8, 8), (12, 25), (64, 30), (127, 31), (500, 31)];
        for (distance, expected) in expected {
            assert_eq!(bucket(distance), expected, "distance {distance}");
        }
        let bucket = |distance| relative_bucket(distance, false, 32, 128);
        assert_eq!([3, 0, -1, -15, -16, -40, -127, -4000].map(bucket), [0, 0, 1, 15, 16, 23, 31, 31]);
        // 128 is 4 · 2⁵: buckets begin at 4, 8, 16, 32, 64.
        let bucket = |distance| relative_bucket(distance, false, 9, 128);
        assert_eq!([-7, -8, -15, -16, -31, -32, -63, -64].map(bucket), [4, 5, 5, 6, 6, 7, 7, 8]);
    }

    #[test]
    fn tables_stay_defined_far_out() {
        let scalings = [
            RotaryScaling::None,
            RotaryScaling::Linear { factor: 1e9 },
            RotaryScaling::Dynamic { factor: 1e9, original: 1 },
            RotaryScaling::Llama3 { factor: 8.0, low: 1e-300, high: 1e300, original: usize::MAX },
            RotaryScaling::Yarn {
                factor: 40.0,
                beta_fast: 1e300,
                beta_slow: 1e-300,
                original: 1,
                attention_factor: 1.0,
                truncate: true,
            },
        ];
        for scaling in scalings {
            for pairing in [crate::config::RotaryPairing::Halves, crate::config::RotaryPairing::Interleaved] {
                let config = RotaryConfig { width: 4, theta: 1e4, pairing, scaling };
                // A length that nothing can have is announced by nobody, and still must not lose rows.
                let [cos, sin] = rotary_table(&config, &[0, usize::MAX >> 12], &[usize::MAX, 1]);
                assert_eq!([cos.len(), sin.len()], [4, 4]);
                assert!(cos.iter().chain(&sin).all(|value| value.abs() <= 1.0), "{scaling:?}");
            }
        }
    }

    #[test]
    fn slopes_match_the_paper() {
        assert_eq!(linear_bias_slopes(8)[..3], [0.5, 0.25, 0.125]);
        let twelve = linear_bias_slopes(12);
        assert_eq!(twelve.len(), 12);
        assert_eq!(twelve[8], (-0.5f64).exp2());
        for heads in 1..=128 {
            let slopes = linear_bias_slopes(heads);
            assert_eq!(slopes.len(), heads);
            assert!(slopes.iter().all(|slope| (1.0 / 256.0..1.0).contains(slope)));
        }
    }
}
