//! A row's bits depend on that row alone: not on how many there are, where they lie, what is beside them, or on threads.

use consort_core::{
    Device, Fused, FusedOf, HostData, TensorOf,
    config::{Activation, RotaryPairing},
};
use consort_simd::{Level, Simd};

const WIDTHS: [usize; 10] = [1, 2, 7, 16, 17, 33, 64, 100, 129, 1000];
const ROWS: usize = 70;
/// A row of it has a NaN.
const SPOILT: usize = 3;

/// An operation of rows: of one or more `[rows, width]` and a vector `[width]`.
type Operation = fn(Vec<TensorOf<Simd>>, &TensorOf<Simd>) -> FusedOf<Simd>;

fn operations() -> Vec<(usize, Operation)> {
    fn next(x: &mut Vec<TensorOf<Simd>>) -> TensorOf<Simd> {
        x.remove(0)
    }
    vec![
        (1, |mut x, _| Fused::Softmax { x: next(&mut x) }),
        (2, |mut x, _| Fused::SoftmaxBackward { y: next(&mut x), d_y: next(&mut x) }),
        (1, |mut x, w| Fused::LayerNorm { x: next(&mut x), weight: w.clone(), bias: Some(w.clone()), epsilon: 1e-5 }),
        (1, |mut x, w| Fused::RmsNorm { x: next(&mut x), weight: w.clone(), epsilon: 1e-5, unit_offset: true }),
        (2, |mut x, w| Fused::LayerNormBackward {
            x: next(&mut x),
            weight: w.clone(),
            d_y: next(&mut x),
            epsilon: 1e-5,
        }),
        (1, |mut x, _| Fused::Activation { x: next(&mut x), kind: Activation::Gelu }),
        (1, |mut x, _| Fused::Activation { x: next(&mut x), kind: Activation::Tanh }),
        (2, |mut x, _| Fused::Gated { gate: next(&mut x), up: next(&mut x), kind: Activation::Silu }),
        (3, |mut x, _| Fused::GatedBackward {
            gate: next(&mut x),
            up: next(&mut x),
            d_y: next(&mut x),
            kind: Activation::GeluTanh,
        }),
        (2, |mut x, _| Fused::SoftCapBackward { x: next(&mut x), d_y: next(&mut x), cap: 30.0 }),
    ]
}

/// Numbers between −4 and 4, others for each seed.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 + seed * 104_729) % 8009) as f32 / 1001.0 - 4.0).collect()
}

fn bits(device: &Device<Simd>, x: &TensorOf<Simd>) -> Vec<u32> {
    let HostData::F32(all) = device.download(x).unwrap() else { panic!("not f32") };
    all.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
}

#[test]
fn rows_alone_are_rows_among_many() {
    for level in Level::available() {
        for threads in [1, 3] {
            let device = Device::new(Simd::new(level, threads));
            for width in WIDTHS {
                // Rows that begin anywhere.
                let wide = |seed| {
                    let mut numbers = numbers(ROWS * (width + 3), seed);
                    numbers[SPOILT * (width + 3) + 1 + width / 2] = f32::NAN;
                    let all = device.upload(HostData::F32(numbers), &[ROWS, width + 3]).unwrap();
                    all.slice(1, 1, width).unwrap()
                };
                let weight = device.upload(HostData::F32(numbers(width, 9)), &[width]).unwrap();
                for (index, (count, operation)) in operations().into_iter().enumerate() {
                    let operands: Vec<_> = (0..count).map(wide).collect();
                    let together = device.fused(operation(operands.clone(), &weight)).unwrap();
                    let outputs: Vec<_> = together.iter().filter(|out| out.sizes() == [ROWS, width]).collect();
                    let outputs: Vec<_> = outputs.into_iter().map(|out| bits(&device, out)).collect();
                    for row in [0, 1, SPOILT, ROWS - 1] {
                        // By itself, where nobody else holds it: in place.
                        let own = operands.iter().map(|x| {
                            let row = x.slice(0, row, 1).unwrap();
                            device.copy(&row, row.dtype()).unwrap()
                        });
                        let alone = device.fused(operation(own.collect(), &weight)).unwrap();
                        for (alone, together) in alone.iter().zip(&outputs) {
                            let what =
                                format!("{level:?}, {threads} threads, width {width}, operation {index}, row {row}");
                            assert_eq!(bits(&device, alone), together[row * width..][..width], "{what}");
                        }
                    }
                    let spoilt = |(at, bits): (usize, &u32)| *bits == u32::MAX && at / width != SPOILT;
                    assert!(!outputs.iter().any(|out| out.iter().enumerate().any(spoilt)), "operation {index}");
                }
            }
        }
    }
}

#[test]
fn sums_over_rows_do_not_depend_on_threads() {
    for level in Level::available() {
        let sums = [1, 2, 5].map(|threads| {
            let device = Device::new(Simd::new(level, threads));
            let [rows, width] = [1000, 70];
            let upload =
                |count, seed, sizes: &[usize]| device.upload(HostData::F32(numbers(count, seed)), sizes).unwrap();
            let outputs = device.fused(Fused::LayerNormBackward {
                x: upload(rows * width, 1, &[rows, width]),
                weight: upload(width, 2, &[width]),
                d_y: upload(rows * width, 3, &[rows, width]),
                epsilon: 1e-5,
            });
            outputs.unwrap().iter().map(|out| bits(&device, out)).collect::<Vec<_>>()
        });
        assert!(sums[0] == sums[1] && sums[1] == sums[2], "{level:?}");
        assert!(sums[0][1].iter().any(|&bits| bits != 0));
    }
}

#[test]
fn tokens_are_turned_alone_as_among_many() {
    for level in Level::available() {
        let device = Device::new(Simd::new(level, 2));
        let [tokens, heads] = [60, 3];
        for width in [2, 6, 16, 34, 64, 130] {
            let pairs = width / 2;
            let x = device.upload(HostData::F32(numbers(tokens * heads * width, 1)), &[tokens, heads, width]).unwrap();
            let table = |seed| device.upload(HostData::F32(numbers(9 * pairs, seed)), &[9, pairs]).unwrap();
            let tables = [table(2), table(3)];
            for pairing in [RotaryPairing::Halves, RotaryPairing::Interleaved] {
                let id = |token: usize| (token * 5 % 10) as u32;
                let ids = device.upload_ids((0..tokens).map(id).collect()).unwrap();
                let together = bits(&device, &device.rotary(x.clone(), &tables, &ids, pairing).unwrap());
                for token in [0, 7, tokens - 1] {
                    let ids = device.upload_ids(vec![id(token)]).unwrap();
                    let own = device.copy(&x.slice(0, token, 1).unwrap(), x.dtype()).unwrap();
                    let alone = bits(&device, &device.rotary(own, &tables, &ids, pairing).unwrap());
                    assert_eq!(alone, together[token * heads * width..][..heads * width], "{level:?} {width} {token}");
                }
            }
        }
    }
}
