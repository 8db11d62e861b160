//! Every decomposition in f64 against its formula written out, index by index.

mod common;

use common::{Draws, assert_close, elements};
use consort_core::{
    Compute, Device, StoredTensor, TensorOf, WeightDType,
    config::{Activation, RotaryPairing},
    operation::{AdamWSettings, Fused},
};
use consort_scalar::Oracle;

fn device() -> Device<Oracle> {
    Device::new(Oracle::new())
}

fn tensor(device: &Device<Oracle>, values: &[f64], sizes: &[usize]) -> TensorOf<Oracle> {
    device.upload_floats(values, sizes).unwrap()
}

fn by_row(values: &[f64], width: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    values.chunks(width).flat_map(f).collect()
}

#[test]
fn softmax() {
    let device = device();
    let mut values = Draws::new(1).values(4 * 7);
    values[7..14].iter_mut().for_each(|value| *value *= 1e4);
    values[14..21].fill(-1e4);
    values[21] = 1e4;
    let expected = by_row(&values, 7, |row| {
        // Each weight from differences alone: 1 / Σ_j e^(x_j − x_i).
        row.iter().map(|x| 1.0 / row.iter().map(|other| (other - x).exp()).sum::<f64>()).collect()
    });
    let out = device.softmax(tensor(&device, &values, &[2, 2, 7])).unwrap();
    assert_close("softmax", &elements(&device, &out), &expected);
}

#[test]
fn layer_norm() {
    let device = device();
    let mut draws = Draws::new(2);
    let (values, weight, bias) = (draws.values(3 * 8), draws.values(8), draws.values(8));
    for with_bias in [false, true] {
        let expected = by_row(&values, 8, |row| {
            let mean = row.iter().sum::<f64>() / 8.0;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 8.0;
            let unit = |i: usize| (row[i] - mean) / (variance + 1e-5).sqrt();
            (0..8).map(|i| unit(i) * weight[i] + if with_bias { bias[i] } else { 0.0 }).collect()
        });
        let bias = tensor(&device, &bias, &[8]);
        let x = tensor(&device, &values, &[3, 8]);
        let out = device.layer_norm(x, &tensor(&device, &weight, &[8]), with_bias.then_some(&bias), 1e-5).unwrap();
        assert_close("layer_norm", &elements(&device, &out), &expected);
    }
}

#[test]
fn rms_norm() {
    let device = device();
    let mut draws = Draws::new(3);
    let (values, weight) = (draws.values(3 * 8), draws.values(8));
    for unit_offset in [false, true] {
        let offset = if unit_offset { 1.0 } else { 0.0 };
        let expected = by_row(&values, 8, |row| {
            let mean_square = row.iter().map(|x| x * x).sum::<f64>() / 8.0;
            row.iter().zip(&weight).map(|(x, w)| x / (mean_square + 1e-6).sqrt() * (offset + w)).collect()
        });
        let x = tensor(&device, &values, &[3, 8]);
        let out = device.rms_norm(x, &tensor(&device, &weight, &[8]), 1e-6, unit_offset).unwrap();
        assert_close("rms_norm", &elements(&device, &out), &expected);
    }
}

#[test]
fn rotary() {
    let device = device();
    let [tokens, heads, width] = [3, 2, 6];
    let values = Draws::new(4).values(tokens * heads * width);
    let ids = [4usize, 0, 2];
    for pairs in [3, 2, 1] {
        let angle = |position: usize, pair: usize| position as f64 * 100f64.powf(-(pair as f64) / pairs as f64);
        let table = |f: fn(f64) -> f64| {
            let entries: Vec<f64> = (0..5 * pairs).map(|entry| f(angle(entry / pairs, entry % pairs))).collect();
            tensor(&device, &entries, &[5, pairs])
        };
        let tables = [table(f64::cos), table(f64::sin)];
        for pairing in [RotaryPairing::Halves, RotaryPairing::Interleaved] {
            let mut expected = values.clone();
            for (head, out) in expected.chunks_mut(width).enumerate() {
                for pair in 0..pairs {
                    let [first, second] = match pairing {
                        RotaryPairing::Halves => [pair, pair + pairs],
                        RotaryPairing::Interleaved => [2 * pair, 2 * pair + 1],
                    };
                    let (a, b) = (out[first], out[second]);
                    let (sin, cos) = angle(ids[head / heads], pair).sin_cos();
                    out[first] = a * cos - b * sin;
                    out[second] = b * cos + a * sin;
                }
            }
            let x = tensor(&device, &values, &[tokens, heads, width]);
            let rows = device.upload_ids(ids.map(|id| id as u32).to_vec()).unwrap();
            let out = device.rotary(x.clone(), &tables, &rows, pairing).unwrap();
            assert_close(&format!("{pairing:?} of {pairs} pairs"), &elements(&device, &out), &expected);
            assert_close("operand", &elements(&device, &x), &values);
        }
    }
}

/// The formulas of [`Activation`], with σ(z) = ½(1 + tanh(z/2)), which never overflows.
fn formula(kind: Activation, x: f64) -> f64 {
    let sigmoid = |z: f64| 0.5 * (1.0 + (z / 2.0).tanh());
    match kind {
        Activation::Relu => {
            if x > 0.0 {
                x
            } else {
                0.0
            }
        }
        Activation::Tanh => x.tanh(),
        Activation::Silu => x * sigmoid(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::GeluTanh => {
            // ½(1 + tanh z) = σ(2z).
            x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3)))
        }
        Activation::Gelu => x * normal_distribution(x),
    }
}

/// Φ(x) by its series (Marsaglia 2004): ½ + φ(x)(x + x³/3 + x⁵/15 + …); near 0 and 1 beyond |x| = 9.
fn normal_distribution(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Relu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
    Activation::Tanh,
];

#[test]
fn activation_and_gated() {
    let device = device();
    let mut draws = Draws::new(5);
    let mut values = draws.values(24);
    values.extend([0.0, 30.0, -30.0, 1e4, -1e4, 1e-300]);
    let up = draws.values(30);
    for kind in ACTIVATIONS {
        let expected: Vec<f64> = values.iter().map(|&x| formula(kind, x)).collect();
        let x = || tensor(&device, &values, &[5, 6]);
        let out = device.activation(x(), kind).unwrap();
        assert_close(&format!("{kind:?}"), &elements(&device, &out), &expected);
        let expected: Vec<f64> = expected.iter().zip(&up).map(|(gate, up)| gate * up).collect();
        let out = device.gated(x(), tensor(&device, &up, &[5, 6]), kind).unwrap();
        assert_close(&format!("gated {kind:?}"), &elements(&device, &out), &expected);
    }
}

#[test]
fn soft_cap() {
    let device = device();
    let values = [-1e4, -3.0, 0.0, 0.1, 29.0, 1e6];
    let expected = values.map(|x: f64| 30.0 * (x / 30.0).tanh());
    let out = device.soft_cap(tensor(&device, &values, &[6]), 30.0).unwrap();
    assert_close("soft_cap", &elements(&device, &out), &expected);
}

#[test]
fn linear_and_embedding() {
    let device = device();
    let mut draws = Draws::new(6);
    let [tokens, inputs, outputs] = [3, 7, 20];
    let (x, w, bias, residual) =
        (draws.values(tokens * inputs), draws.values(outputs * inputs), draws.values(outputs), draws.values(60));
    // Two parts, the second stored the other way round.
    let upper = StoredTensor::from_values("upper", &w[..8 * inputs], [8, inputs]).unwrap();
    let turned: Vec<f64> = (0..12 * inputs).map(|at| w[(8 + at % 12) * inputs + at / 12]).collect();
    let lower = StoredTensor::from_values("lower", &turned, [inputs, 12]).unwrap().transposed();
    let weight = device.pack(&[upper, lower], WeightDType::F64).unwrap();
    for (with_bias, activation, with_residual) in [
        (false, None, false),
        (true, None, false),
        (false, Some(Activation::Silu), false),
        (true, Some(Activation::Gelu), true),
        (true, None, true),
    ] {
        let expected: Vec<f64> = (0..tokens * outputs)
            .map(|at| {
                let (token, output) = (at / outputs, at % outputs);
                let product: f64 = (0..inputs).map(|i| x[token * inputs + i] * w[output * inputs + i]).sum();
                let sum = product + if with_bias { bias[output] } else { 0.0 };
                activation.map_or(sum, |kind| formula(kind, sum)) + if with_residual { residual[at] } else { 0.0 }
            })
            .collect();
        let bias = tensor(&device, &bias, &[outputs]);
        let residual = with_residual.then(|| tensor(&device, &residual, &[tokens, outputs]));
        let x = tensor(&device, &x, &[tokens, inputs]);
        let out = device.linear(x, &weight, with_bias.then_some(&bias), activation, residual, Compute::F32).unwrap();
        assert_close("linear", &elements(&device, &out), &expected);
    }
    let ids = [19usize, 0, 8, 8];
    let out = device.embedding(&weight, &device.upload_ids(ids.map(|id| id as u32).to_vec()).unwrap()).unwrap();
    let expected: Vec<f64> = ids.iter().flat_map(|id| w[id * inputs..(id + 1) * inputs].to_vec()).collect();
    assert_close("embedding", &elements(&device, &out), &expected);
}

#[test]
fn cross_entropy() {
    let device = device();
    let mut values = Draws::new(21).values(4 * 6);
    values[6] = 1e4; // must not overflow
    let targets = [3, 0, 6, 5]; // 6 is beyond the classes: no target
    for smoothing in [0.0, 0.1] {
        let logits = tensor(&device, &values, &[4, 6]);
        let ids = device.upload_ids(targets.to_vec()).unwrap();
        let out = device.fused(Fused::CrossEntropy { logits, targets: ids, smoothing }).unwrap();
        let mut losses = Vec::new();
        let mut log_sums = Vec::new();
        for (row, target) in values.chunks(6).zip(targets) {
            let greatest = row.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = greatest + row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln();
            log_sums.push(log_sum);
            // Minus the expected log-probability under the smoothed target distribution.
            losses.push(if target < 6 {
                (0..6)
                    .map(|class| {
                        let share = smoothing / 6.0 + if class == target as usize { 1.0 - smoothing } else { 0.0 };
                        share * (log_sum - row[class])
                    })
                    .sum()
            } else {
                0.0
            });
        }
        assert_close("cross_entropy", &elements(&device, &out[0]), &losses);
        assert_close("log_sum", &elements(&device, &out[1]), &log_sums);
    }
}

#[test]
fn adamw() {
    let device = device();
    let mut draws = Draws::new(22);
    let (mut parameter, mut first, mut second) = (draws.values(10), vec![0.0; 10], vec![0.0; 10]);
    let mut on_device =
        [tensor(&device, &parameter, &[2, 5]), tensor(&device, &first, &[2, 5]), tensor(&device, &second, &[2, 5])];
    for step in 1..=4 {
        let gradient = draws.values(10);
        let settings =
            AdamWSettings { rate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1, step: step as u32 };
        let [p, m, v] = on_device;
        let gradients = tensor(&device, &gradient, &[2, 5]);
        let out =
            device.fused(Fused::AdamW { parameter: p, gradient: gradients, first: m, second: v, settings }).unwrap();
        on_device = [out[0].clone(), out[1].clone(), out[2].clone()];
        for i in 0..10 {
            parameter[i] -= 0.01 * 0.1 * parameter[i];
            first[i] = 0.9 * first[i] + 0.1 * gradient[i];
            second[i] = 0.99 * second[i] + 0.01 * gradient[i] * gradient[i];
            let (mean, square) = (first[i] / (1.0 - 0.9f64.powi(step)), second[i] / (1.0 - 0.99f64.powi(step)));
            parameter[i] -= 0.01 * mean / (square.sqrt() + 1e-3);
        }
    }
    assert_close("parameter", &elements(&device, &on_device[0]), &parameter);
    assert_close("first", &elements(&device, &on_device[1]), &first);
    assert_close("second", &elements(&device, &on_device[2]), &second);
}
