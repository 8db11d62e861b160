//! What products are computed in: codes and scales to the bit, on f32 and on the oracle alike; gradients where there are
//! some.

mod common;

use common::{Draws, assert_close, elements};
use consort_core::{
    Backend, Compute, Device, Error, Fused, StoredTensor, Trace, WeightDType, autodiff::Autodiff, decompose, to_bf16,
};
use consort_scalar::{Oracle, Single};

/// Codes and scales of one row, written out in f32.
fn quantized(row: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in row.chunks(32) {
        let strange = block.iter().any(|x| !x.is_finite());
        let greatest = block.iter().fold(0f32, |most, x| most.max(x.abs()));
        if strange || f64::from(greatest) < 2f64.powi(-100) {
            codes.extend(block.iter().map(|_| 0.0));
            scales.push(if strange { f64::NAN } else { 0.0 });
            continue;
        }
        let inverse = 127.0 / greatest;
        codes.extend(block.iter().map(|x| f64::from((x * inverse).round_ties_even())));
        scales.push(f64::from(greatest / 127.0));
    }
    (codes, scales)
}

fn check<B: Backend>(backend: B, row: &[f32]) {
    let device = Device::new(backend);
    let values: Vec<f64> = row.iter().copied().map(f64::from).collect();
    let x = device.upload_floats(&values, &[1, row.len()]).unwrap();
    let [codes, scales] = device.quantize_activations(x).unwrap();
    assert_eq!((codes.sizes(), scales.sizes()), (&[1, row.len()][..], &[1, row.len().div_ceil(32)][..]));
    let (expected_codes, expected_scales) = quantized(row);
    assert_eq!(elements(&device, &codes), expected_codes, "{row:?}");
    let bits = |values: &[f64]| values.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }).collect::<Vec<_>>();
    assert_eq!(bits(&elements(&device, &scales)), bits(&expected_scales), "{row:?}");
}

#[test]
fn codes_are_the_same_bits_on_f32_and_on_the_oracle() {
    let mut rows: Vec<Vec<f32>> = vec![
        vec![0.0; 40],
        vec![-3.0],
        vec![127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5],
        vec![1e-45, -1e-39, 1e-30],
        vec![1e-45, 3e-31, 1.0],
        vec![f32::MAX, f32::MIN, 1e38, -1e30],
        vec![-5.0, -4.0, -3.0],
        vec![f32::NAN, 1.0],
        vec![1.0, f32::NEG_INFINITY, 2.0],
        // Beside a block that is no number, one that is as it should be.
        [vec![f32::INFINITY; 32], vec![1.0, 2.0]].concat(),
        vec![7.888609e-31, 7.88e-31],
    ];
    let mut draws = Draws::new(1);
    for length in [1, 2, 31, 32, 33, 63, 64, 65, 300, 4096] {
        for scale in [1.0, 1e-30, 1e30, 37.0] {
            rows.push(draws.values(length).iter().map(|x| (x * scale) as f32).collect());
        }
    }
    for row in &rows {
        check(Single::new(), row);
        check(Oracle::new(), row);
    }
}

#[test]
fn codes_give_back_what_they_stand_for() {
    let device = Device::new(Single::new());
    let values = Draws::new(2).values(3 * 70);
    let x = device.upload_floats(&values, &[3, 70]).unwrap();
    let [codes, scales] = device.quantize_activations(x).unwrap();
    let steps = elements(&device, &scales);
    let again = elements(&device, &decompose::dequantize_activations(&device, codes, &scales).unwrap());
    for (at, (value, again)) in values.iter().zip(again).enumerate() {
        let step = steps[at / 70 * 3 + at % 70 / 32];
        assert!((value - again).abs() <= 0.500_01 * step, "{at}: {value} became {again}");
    }
}

#[test]
fn products_are_of_what_their_operands_became() {
    let device = Device::new(Oracle::new());
    let (x, w) = (Draws::new(3).values(2 * 40), Draws::new(4).values(5 * 40));
    let single = |x: &f64| f64::from(*x as f32);
    let (x, w): (Vec<f64>, Vec<f64>) = (x.iter().map(single).collect(), w.iter().map(single).collect());
    let weight = device.pack(&[StoredTensor::from_values("w", &w, [5, 40]).unwrap()], WeightDType::F32).unwrap();
    for compute in Compute::ALL {
        let taken: Vec<f64> = match compute {
            Compute::F32 => x.clone(),
            Compute::BF16 => x.iter().map(|x| to_bf16(*x).to_f64()).collect(),
            Compute::Int8 => x
                .chunks(40)
                .flat_map(|row| {
                    let row: Vec<f32> = row.iter().map(|x| *x as f32).collect();
                    let (codes, scales) = quantized(&row);
                    codes.into_iter().enumerate().map(move |(at, code)| code * scales[at / 32]).collect::<Vec<_>>()
                })
                .collect(),
        };
        let kept = |w: f64| if compute == Compute::BF16 { to_bf16(w).to_f64() } else { w };
        let expected: Vec<f64> =
            (0..10).map(|at| (0..40).map(|i| taken[at / 5 * 40 + i] * kept(w[at % 5 * 40 + i])).sum::<f64>()).collect();
        let x = device.upload_floats(&x, &[2, 40]).unwrap();
        assert_close(
            compute.name(),
            &elements(&device, &device.linear(x, &weight, None, None, None, compute).unwrap()),
            &expected,
        );
    }
}

#[test]
fn a_row_that_is_no_number_gives_none() {
    let device = Device::new(Single::new());
    let part = StoredTensor::from_values("w", &Draws::new(5).values(3 * 40), [3, 40]).unwrap();
    let weight = device.pack(&[part], WeightDType::F32).unwrap();
    for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut values = Draws::new(6).values(2 * 40);
        values[47] = strange;
        let x = device.upload_floats(&values, &[2, 40]).unwrap();
        let y = elements(&device, &device.linear(x, &weight, None, None, None, Compute::Int8).unwrap());
        assert!(y[..3].iter().all(|y| y.is_finite()) && y[3..].iter().all(|y| y.is_nan()), "{y:?}");
    }
}

#[test]
fn int8_has_no_gradient_and_bf16_has_one_of_rounded_operands() {
    let tape = Device::new(Autodiff::new(Device::new(Single::new())));
    let part = StoredTensor::from_values("w", &Draws::new(7).values(15), [3, 5]).unwrap();
    let weight = tape.pack(&[part], WeightDType::F32).unwrap();
    let values = Draws::new(8).values(10);
    let x = || tape.backend().watch(&Device::new(Single::new()).upload_floats(&values, &[2, 5]).unwrap());
    let refused = tape.linear(x(), &weight, None, None, None, Compute::Int8).map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Input(what) if what.contains("int8") && what.contains("bf16")), "{refused}");

    let plain = Device::new(Single::new());
    let leaf = x();
    let y = tape.linear(leaf.clone(), &weight, None, None, None, Compute::BF16).unwrap();
    let cotangent = Draws::new(9).values(6);
    let d_y = plain.upload_floats(&cotangent, &[2, 3]).unwrap();
    let gradients = tape.backend().backward(&[(y, d_y)]).unwrap();
    let rounded = |values: &[f64]| values.iter().map(|x| to_bf16(f64::from(*x as f32)).to_f64()).collect::<Vec<_>>();
    let (d, w) = (rounded(&cotangent), rounded(&Draws::new(7).values(15)));
    let expected: Vec<f64> =
        (0..10).map(|at| (0..3).map(|o| d[at / 5 * 3 + o] * w[o * 5 + at % 5]).sum::<f64>()).collect();
    let found = elements(&plain, &gradients.of(&leaf).unwrap());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    let weight = plain.pack(&[StoredTensor::from_values("w", &[1.0; 6], [2, 3]).unwrap()], WeightDType::F32).unwrap();
    let d_y = plain.upload_floats(&[1.0; 4], &[2, 2]).unwrap();
    let backward = Fused::LinearBackwardInput { d_y, weight, compute: Compute::Int8 };
    let refused = plain.fused(backward).map(drop).unwrap_err();
    assert!(matches!(refused, Error::Shape { operation: "linear_backward_input", .. }), "{refused}");
}

#[test]
fn a_trace_says_what_products_are_computed_in() {
    let device = Device::new(Trace::new(Single::new()));
    let part = StoredTensor::from_values("w", &[1.0; 6], [2, 3]).unwrap();
    let weight = device.pack(&[part], WeightDType::F32).unwrap();
    let x = device.upload_floats(&[1.0; 3], &[1, 3]).unwrap();
    device.linear(x, &weight, None, None, None, Compute::Int8).unwrap();
    let records = device.backend().take();
    assert_eq!((records[0].operation, records[0].compute), ("linear", Some(Compute::Int8)));
    assert!(records.iter().any(|record| record.operation == "quantize_activations" && record.compute.is_none()));
}
