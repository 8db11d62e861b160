use super::*;

#[test]
fn types_are_written_by_their_names() {
    use serde::de::{IntoDeserializer, value::Error};
    for dtype in WeightDType::ALL {
        let name = IntoDeserializer::<Error>::into_deserializer(dtype.name());
        assert_eq!(WeightDType::deserialize(name), Ok(dtype));
        assert_eq!(WeightDType::from_name(dtype.name()), Some(dtype));
    }
}

#[test]
fn floats_are_rounded_once() {
    let tie = 1.0 + (-8f64).exp2();
    let mut one = [tie + (-23f64).exp2()];
    WeightDType::BF16.round(&mut one);
    assert_eq!(one, [1.0 + (-7f64).exp2()]);
}

/// Draws that look like weights, with zeros, outliers and a drift.
fn draws(elements: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    (0..elements)
        .map(|i| {
            let value = (0..4).map(|_| uniform()).sum::<f64>() * 0.1 + 0.02;
            if i % 97 == 5 {
                value * 8.0
            } else if i % 41 == 0 {
                0.0
            } else {
                value
            }
        })
        .collect()
}

const BLOCKS: [WeightDType; 10] = [
    WeightDType::Q8_0,
    WeightDType::Q4_0,
    WeightDType::Q4_1,
    WeightDType::Q5_0,
    WeightDType::Q5_1,
    WeightDType::Q2_K,
    WeightDType::Q3_K,
    WeightDType::Q4_K,
    WeightDType::Q5_K,
    WeightDType::Q6_K,
];

#[test]
fn more_bits_keep_more() {
    let values = draws(256 * 64, 7);
    let error = |dtype: WeightDType| {
        let mut kept = values.clone();
        dtype.round(&mut kept);
        let squares: f64 = values.iter().zip(&kept).map(|(x, y)| (x - y).powi(2)).sum();
        (squares / values.iter().map(|x| x * x).sum::<f64>()).sqrt()
    };
    // Twice the error that 2ᵇ even steps over ±3 standard deviations would make, and half of it.
    for (dtype, bits) in BLOCKS.into_iter().zip([8, 4, 4, 5, 5, 2, 3, 4, 5, 6]) {
        let even = 6.0 / f64::from(1 << bits) / 12f64.sqrt();
        let error = error(dtype);
        eprintln!("{dtype}: {error:.4}, even steps {even:.4}");
        assert!(error < 2.0 * even && error > 0.2 * even, "{dtype}: {error}, even steps {even}");
    }
}

#[test]
fn edges_stay_numbers() {
    let mut edges = vec![vec![0.0; 256], vec![1.0; 256], vec![-1.0; 256], vec![65504.0; 256], vec![-6e4; 256]];
    edges.push((0..256).map(|i| if i == 255 { -3.0 } else { 0.0 }).collect());
    edges.push(vec![1e-7; 256]);
    edges.push(vec![-1e-30; 256]);
    edges.push((0..256).map(|i| if i % 2 == 0 { 1e4 } else { -1e-4 }).collect());
    for dtype in BLOCKS {
        for values in &edges {
            let mut kept = values.clone();
            dtype.round(&mut kept);
            let greatest = values.iter().fold(0f64, |most, x| most.max(x.abs()));
            for (value, kept) in values.iter().zip(&kept) {
                assert!((value - kept).abs() <= greatest * 0.35 + 1e-6, "{dtype}: {value} as {kept}");
            }
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut values = vec![0.5; 256];
            values[37] = bad;
            dtype.round(&mut values);
            assert!(values.iter().any(|value| !value.is_finite()), "{dtype} hides {bad}");
        }
    }
}

#[test]
fn what_a_small_block_keeps_is_kept_again() {
    for dtype in [WeightDType::Q8_0, WeightDType::Q4_0, WeightDType::Q5_0] {
        let mut values: Vec<f64> = (0..40).map(|i| f64::from(i * 37 % 41 - 20) / 16.0).collect();
        dtype.round(&mut values);
        let once = values.clone();
        dtype.round(&mut values);
        assert_eq!(values, once, "{dtype}");
    }
}

#[test]
fn every_bit_of_a_block_counts() {
    // A bit that no value depends on would be one that is read at the wrong place.
    for dtype in BLOCKS {
        let mut bytes = Vec::new();
        dtype.encode(&draws(dtype.block(), 3), &mut bytes);
        let decode = |bytes: &[u8]| {
            let mut values = vec![0.0; dtype.block()];
            dtype.decode(bytes, &mut values);
            values
        };
        let whole = decode(&bytes);
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode(&other), whole, "{dtype}: bit {bit}");
        }
    }
}

#[test]
fn rows_that_do_not_fit_take_more_bits() {
    use WeightDType::*;
    for (asked, head, inputs, kept) in [
        (Q4_K, false, 512, Q4_K),
        (Q4_K, true, 512, Q6_K),
        (Q4_0, true, 512, Q6_K),
        (Q8_0, true, 512, Q8_0),
        (BF16, true, 512, BF16),
        (Q4_K, false, 288, Q5_0),
        (Q4_K, true, 288, Q8_0),
        (Q3_K, false, 288, Q4_0),
        (Q5_K, false, 32, Q5_1),
        (Q6_K, false, 36, F16),
        (Q8_0, false, 36, F16),
        (F32, false, 37, F32),
    ] {
        assert_eq!(asked.mixed(head, inputs), kept, "{asked} of {inputs}");
    }
}
