//! Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! A draw is a function of a key and a counter, with no state: the same on every backend, in any order.

/// Four random words for `(key, counter)`.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    // Multipliers and Weyl increments of the paper's table 2.
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [key as u32, (key >> 32) as u32];
    let mut x = counter;
    for _ in 0..10 {
        let product = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(x[2 * i]));
        let (high, low) = (product.map(|p| (p >> 32) as u32), product.map(|p| p as u32));
        x = [high[1] ^ x[1] ^ key[0], low[1], high[0] ^ x[3] ^ key[1], low[0]];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    x
}

/// A uniform number in `[0, 1)` with 53 random bits, for draw `index` of `stream`.
pub fn uniform(key: u64, stream: u64, index: u64) -> f64 {
    let words = philox(key, [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32]);
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    bits as f64 * (-53f64).exp2()
}

/// A standard normal number (Box & Muller 1958) for draw `index` of `stream`.
pub fn normal(key: u64, stream: u64, index: u64) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(key, stream, 2 * index)).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * uniform(key, stream, 2 * index + 1)).cos()
}

/// Four standard normal numbers (Box & Muller 1958, both of a pair) for draw `index` of `stream`, of 32 random bits each: for
/// many at once.
pub fn four_normals(key: u64, stream: u64, index: u64) -> [f64; 4] {
    let words = philox(key, [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32]);
    // In the middle of 2³² intervals: never 0, whose logarithm is none.
    let uniform = words.map(|word| (f64::from(word) + 0.5) * (-32f64).exp2());
    let pair = |radius: f64, angle: f64| {
        let (sine, cosine) = (2.0 * std::f64::consts::PI * angle).sin_cos();
        let radius = (-2.0 * radius.ln()).sqrt();
        [radius * cosine, radius * sine]
    };
    let [[a, b], [c, d]] = [pair(uniform[0], uniform[1]), pair(uniform[2], uniform[3])];
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors() {
        // Known answers distributed with the authors' Random123 library.
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval() {
        let draws: Vec<f64> = (0..4000).map(|index| uniform(7, 3, index)).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        // Five standard errors of the mean of 4,000 uniform numbers.
        assert!((mean - 0.5).abs() < 5.0 * (1.0f64 / 12.0 / 4000.0).sqrt());
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let draws: Vec<f64> = (0..5000).flat_map(|index| four_normals(5, 2, index)).collect();
        let moment = |power: i32| draws.iter().map(|draw| draw.powi(power)).sum::<f64>() / draws.len() as f64;
        // Five standard errors of 20,000 draws: variances of x, x², x⁴ are 1, 2, 96.
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)] {
            assert!((moment(power) - expected).abs() < 5.0 * (variance / 20_000f64).sqrt(), "moment {power}");
        }
        let together: f64 = draws.chunks(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / 10_000.0;
        assert!(together.abs() < 0.05, "neighbours are correlated: {together}");
    }
}
