//! Every primitive against plain loops over row-major copies, on views with any strides, in f32 and f64.

mod common;

use common::{Draws, assert_bits, broadcast_index, elements, fixed, view};
use consort_core::{
    DType, Device, Error, HostData, TensorOf,
    operation::{BinaryKind, ReduceKind, UnaryKind},
};
use consort_scalar::{Element, Oracle, Scalar, Single};
use proptest::prelude::*;

const ALL: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::U32];

type UnaryCase<E> = (UnaryKind, fn(E) -> E);
type BinaryCase<E> = (BinaryKind, fn(E, E) -> E);

fn device<E: Element>() -> Device<Scalar<E>> {
    Device::new(Scalar::new())
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..5, 0..5)
}

/// The types that a backend of E holds.
fn dtypes<E: Element>() -> [DType; 4] {
    ALL.map(|dtype| if dtype == DType::F32 { E::DTYPE } else { dtype })
}

/// `sizes` with some dimensions of size 1 and some leading ones dropped.
fn narrowed(draws: &mut Draws, sizes: &[usize]) -> Vec<usize> {
    let kept = if sizes.is_empty() || draws.below(3) > 0 { 0 } else { draws.below(sizes.len()) };
    sizes[kept..].iter().map(|&size| if draws.below(4) == 0 { 1 } else { size }).collect()
}

fn check_unary<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    let (x, values) = view(&device, &mut draws, sizes, E::DTYPE);
    let kinds: [UnaryCase<E>; 9] = [
        (UnaryKind::Negate, |x| -x),
        (UnaryKind::Exp, E::exp),
        (UnaryKind::Log, E::ln),
        (UnaryKind::Sqrt, E::sqrt),
        (UnaryKind::Tanh, E::tanh),
        (UnaryKind::Erf, E::erf),
        (UnaryKind::Reciprocal, |x| E::ONE / x),
        (UnaryKind::Round, |x| E::from_f64(x.to_f64().round_ties_even())),
        (UnaryKind::Single, |x| E::from_f64(f64::from(x.to_f64() as f32))),
    ];
    for (kind, f) in kinds {
        let expected: Vec<f64> = values.iter().map(|&x| f(E::from_f64(x)).to_f64()).collect();
        let strided = device.unary(x.clone(), kind).unwrap();
        assert_bits(&format!("{kind:?}"), &elements(&device, &strided), &expected);
        let owned = device.unary(device.copy(&x, E::DTYPE).unwrap(), kind).unwrap();
        assert_bits(&format!("{kind:?} in place"), &elements(&device, &owned), &expected);
        assert_bits("operand", &elements(&device, &x), &values);
    }
}

fn check_binary<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    let (a_sizes, b_sizes) = (narrowed(&mut draws, sizes), narrowed(&mut draws, sizes));
    let kinds: [BinaryCase<E>; 8] = [
        (BinaryKind::Add, |a, b| a + b),
        (BinaryKind::Subtract, |a, b| a - b),
        (BinaryKind::Multiply, |a, b| a * b),
        (BinaryKind::Divide, |a, b| a / b),
        (BinaryKind::Maximum, |a, b| if a < b { b } else { a }),
        (BinaryKind::Minimum, |a, b| if b < a { b } else { a }),
        (BinaryKind::Less, |a, b| if a < b { E::ONE } else { E::ZERO }),
        (BinaryKind::Equal, |a, b| if a == b { E::ONE } else { E::ZERO }),
    ];
    let (a, a_values) = view(&device, &mut draws, &a_sizes, E::DTYPE);
    let (b, b_values) = view(&device, &mut draws, &b_sizes, E::DTYPE);
    for (kind, f) in kinds {
        let out = device.binary(a.clone(), b.clone(), kind).unwrap();
        let expected: Vec<f64> = (0..out.shape().elements())
            .map(|flat| {
                let a = a_values[broadcast_index(out.sizes(), &a_sizes, flat)];
                let b = b_values[broadcast_index(out.sizes(), &b_sizes, flat)];
                f(E::from_f64(a), E::from_f64(b)).to_f64()
            })
            .collect();
        assert_bits(&format!("{kind:?}"), &elements(&device, &out), &expected);
        let own = |x| device.copy(x, E::DTYPE).unwrap();
        for (name, a, b) in [("left", own(&a), b.clone()), ("right", a.clone(), own(&b)), ("both", own(&a), own(&b))] {
            let out = device.binary(a, b, kind).unwrap();
            assert_bits(&format!("{kind:?} in place {name}"), &elements(&device, &out), &expected);
        }
        assert_bits("left operand", &elements(&device, &a), &a_values);
        assert_bits("right operand", &elements(&device, &b), &b_values);
    }
}

fn check_comparisons_of_all_types<E: Element>(seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    for dtype in dtypes::<E>() {
        let (a, a_values) = view(&device, &mut draws, &[3, 4], dtype);
        let (b, b_values) = view(&device, &mut draws, &[3, 4], dtype);
        let pairs = || a_values.iter().zip(&b_values);
        let less: Vec<f64> = pairs().map(|(a, b)| f64::from(a < b)).collect();
        let equal: Vec<f64> = pairs().map(|(a, b)| f64::from(a == b)).collect();
        let out = device.binary(a.clone(), b.clone(), BinaryKind::Less).unwrap();
        assert_eq!(out.dtype(), DType::U32);
        assert_bits("less", &elements(&device, &out), &less);
        assert_bits("equal", &elements(&device, &device.binary(a, b, BinaryKind::Equal).unwrap()), &equal);
    }
}

fn check_select<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    for dtype in dtypes::<E>() {
        let each = [0; 3].map(|_| narrowed(&mut draws, sizes));
        let (mask, mask_values) = view(&device, &mut draws, &each[0], DType::U32);
        let (a, a_values) = view(&device, &mut draws, &each[1], dtype);
        let (b, b_values) = view(&device, &mut draws, &each[2], dtype);
        let out = device.select(mask, a, b).unwrap();
        let expected: Vec<f64> = (0..out.shape().elements())
            .map(|flat| {
                let index = |which: usize| broadcast_index(out.sizes(), &each[which], flat);
                if mask_values[index(0)] != 0.0 { a_values[index(1)] } else { b_values[index(2)] }
            })
            .collect();
        assert_bits("select", &elements(&device, &out), &expected);
    }
}

fn check_reduce<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    // Coarse values, so that there are ties.
    let values: Vec<f64> = draws.values(sizes.iter().product()).iter().map(|value| value.round()).collect();
    let x = device.upload_floats(&values, sizes).unwrap();
    let order: Vec<usize> = (0..sizes.len()).rev().collect();
    for axis in 0..sizes.len() {
        let inner: usize = sizes[axis + 1..].iter().product();
        let lanes: Vec<Vec<E>> = (0..values.len() / sizes[axis])
            .map(|lane| {
                let first = lane / inner * inner * sizes[axis] + lane % inner;
                (0..sizes[axis]).map(|index| E::from_f64(values[first + index * inner])).collect()
            })
            .collect();
        let greatest =
            |lane: &[E]| (0..lane.len()).fold(0, |best, index| if lane[index] > lane[best] { index } else { best });
        let sums: Vec<f64> =
            lanes.iter().map(|lane| lane.iter().fold(E::ZERO, |sum, &term| sum + term).to_f64()).collect();
        let maxima: Vec<f64> = lanes.iter().map(|lane| lane[greatest(lane)].to_f64()).collect();
        let places: Vec<f64> = lanes.iter().map(|lane| greatest(lane) as f64).collect();
        let cases = [(ReduceKind::Sum, sums), (ReduceKind::Maximum, maxima), (ReduceKind::ArgMaximum, places)];
        for (kind, expected) in cases {
            let out = device.reduce(&x, axis, kind).unwrap();
            assert_bits(&format!("{kind:?}"), &elements(&device, &out), &expected);
            let turned = device.copy(&x.permute(&order).unwrap(), E::DTYPE).unwrap().permute(&order).unwrap();
            let out = device.reduce(&turned, axis, kind).unwrap();
            assert_bits(&format!("{kind:?} of a view"), &elements(&device, &out), &expected);
        }
    }
}

fn check_matmul<E: Element>(batch: &[usize], [rows, inner, columns]: [usize; 3], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    let a_sizes = [narrowed(&mut draws, batch), vec![rows, inner]].concat();
    let b_sizes = [narrowed(&mut draws, batch), vec![inner, columns]].concat();
    let (a, a_values) = view(&device, &mut draws, &a_sizes, E::DTYPE);
    let (b, b_values) = view(&device, &mut draws, &b_sizes, E::DTYPE);
    let out = device.matmul(&a, &b).unwrap();
    let (out_batch, _) = out.sizes().split_at(out.shape().rank() - 2);
    let expected: Vec<f64> = (0..out.shape().elements())
        .map(|flat| {
            let (matrix, row, column) = (flat / (rows * columns), flat / columns % rows, flat % columns);
            let a_first = broadcast_index(out_batch, &a_sizes[..a_sizes.len() - 2], matrix) * rows * inner;
            let b_first = broadcast_index(out_batch, &b_sizes[..b_sizes.len() - 2], matrix) * inner * columns;
            (0..inner)
                .fold(E::ZERO, |sum, k| {
                    let a = E::from_f64(a_values[a_first + row * inner + k]);
                    sum + a * E::from_f64(b_values[b_first + k * columns + column])
                })
                .to_f64()
        })
        .collect();
    assert_bits("matmul", &elements(&device, &out), &expected);
}

fn check_copy<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    for from in dtypes::<E>() {
        let (x, values) = view(&device, &mut draws, sizes, from);
        for to in dtypes::<E>() {
            let out = device.copy(&x, to).unwrap();
            assert_eq!(out.dtype(), to);
            // Values of few bits, where the host's conversions are exact or rounded once.
            let expected = HostData::from_f64(values.iter().copied(), to).to_f64();
            if from != E::DTYPE || to == E::DTYPE || to == DType::U32 {
                assert_bits(&format!("{from} to {to}"), &elements(&device, &out), &expected);
            } else {
                // One unit in the last place of bf16, the coarsest: rounding itself is tested in the crate.
                let near = elements(&device, &out).iter().zip(&values).all(|(a, b)| (a - b).abs() <= b.abs() / 256.0);
                assert!(near, "{from} to {to}");
            }
        }
    }
}

fn check_rows<E: Element>(row: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    let width: usize = row.iter().product();
    for dtype in dtypes::<E>() {
        let (rows, count) = (1 + draws.below(5), 1 + draws.below(7));
        let (x, x_values) = view(&device, &mut draws, &[&[rows], row].concat(), dtype);
        let (y, y_values) = view(&device, &mut draws, &[&[count], row].concat(), dtype);
        // Beyond the rows too, and every other one of a longer vector.
        let picks: Vec<usize> = (0..count).map(|_| draws.below(rows + 2)).collect();
        let padded = picks.iter().flat_map(|&id| [id as u32, 99]).collect();
        let ids = device.upload_ids(padded).unwrap().view(&[count, 2]).unwrap().slice(1, 0, 1).unwrap();
        let ids = ids.view(&[count]).unwrap();

        let gathered: Vec<f64> = picks
            .iter()
            .flat_map(|&id| x_values.chunks(width).nth(id).map_or(vec![0.0; width], <[f64]>::to_vec))
            .collect();
        assert_bits("gather_rows", &elements(&device, &device.gather_rows(&x, &ids).unwrap()), &gathered);

        for add in [false, true] {
            if add && dtype != E::DTYPE {
                continue;
            }
            let mut expected = x_values.clone();
            for (&id, new) in picks.iter().zip(y_values.chunks(width)) {
                if let Some(old) = expected.chunks_mut(width).nth(id) {
                    old.iter_mut().zip(new).for_each(|(old, &new)| {
                        *old = if add { (E::from_f64(*old) + E::from_f64(new)).to_f64() } else { new };
                    });
                }
            }
            let out = device.scatter_rows(x.clone(), &ids, y.clone(), add).unwrap();
            assert_bits("scatter_rows", &elements(&device, &out), &expected);
            let owned = device.copy(&x, dtype).unwrap();
            let out = device.scatter_rows(owned, &ids, y.clone(), add).unwrap();
            assert_bits("scatter_rows in place", &elements(&device, &out), &expected);
            assert_bits("operand", &elements(&device, &x), &x_values);
        }
    }
}

fn check_write<E: Element>(sizes: &[usize], seed: u64) {
    let (device, mut draws) = (device::<E>(), Draws::new(seed));
    for dtype in dtypes::<E>() {
        let (into, mut expected) = view(&device, &mut draws, sizes, dtype);
        let before = expected.clone();
        let inner: Vec<usize> = sizes.iter().map(|&size| 1 + draws.below(size)).collect();
        let start: Vec<usize> = sizes.iter().zip(&inner).map(|(size, inner)| draws.below(size - inner + 1)).collect();
        let (x, x_values) = view(&device, &mut draws, &inner, dtype);
        for (flat, &value) in x_values.iter().enumerate() {
            let (mut rest, mut index, mut stride) = (flat, 0, 1);
            for axis in (0..sizes.len()).rev() {
                index += (start[axis] + rest % inner[axis]) * stride;
                rest /= inner[axis];
                stride *= sizes[axis];
            }
            expected[index] = value;
        }
        let out = device.write(into.clone(), x.clone(), &start).unwrap();
        assert_bits("write", &elements(&device, &out), &expected);
        let out = device.write(device.copy(&into, dtype).unwrap(), x, &start).unwrap();
        assert_bits("write in place", &elements(&device, &out), &expected);
        assert_bits("operand", &elements(&device, &into), &before);
    }
}

proptest! {
    #![proptest_config(fixed(64))]

    #[test]
    fn unary(sizes in sizes(), seed: u64) {
        check_unary::<f32>(&sizes, seed);
        check_unary::<f64>(&sizes, seed);
    }

    #[test]
    fn binary(sizes in sizes(), seed: u64) {
        check_binary::<f32>(&sizes, seed);
        check_binary::<f64>(&sizes, seed);
        check_comparisons_of_all_types::<f32>(seed);
        check_comparisons_of_all_types::<f64>(seed);
    }

    #[test]
    fn select(sizes in sizes(), seed: u64) {
        check_select::<f32>(&sizes, seed);
        check_select::<f64>(&sizes, seed);
    }

    #[test]
    fn reduce(sizes in sizes(), seed: u64) {
        check_reduce::<f32>(&sizes, seed);
        check_reduce::<f64>(&sizes, seed);
    }

    #[test]
    fn matmul(
        batch in prop::collection::vec(1usize..4, 0..3),
        // Columns from 1 to beyond two panels of 16.
        sizes in (1usize..5, 1usize..20, 1usize..36),
        seed: u64,
    ) {
        check_matmul::<f32>(&batch, sizes.into(), seed);
        check_matmul::<f64>(&batch, sizes.into(), seed);
    }

    #[test]
    fn copy(sizes in sizes(), seed: u64) {
        check_copy::<f32>(&sizes, seed);
        check_copy::<f64>(&sizes, seed);
    }

    #[test]
    fn rows(row in prop::collection::vec(1usize..4, 0..4), seed: u64) {
        check_rows::<f32>(&row, seed);
        check_rows::<f64>(&row, seed);
    }

    #[test]
    fn write(sizes in sizes(), seed: u64) {
        check_write::<f32>(&sizes, seed);
        check_write::<f64>(&sizes, seed);
    }
}

#[test]
fn fill_rounds_to_its_type() {
    let device = Device::new(Single::new());
    for (dtype, expected) in [(DType::F32, f64::from(0.1f32)), (DType::U32, 0.0), (DType::BF16, 0.10009765625)] {
        let shape = consort_core::Shape::new(&[2, 1]).unwrap();
        let out = device.primitive(consort_core::Primitive::Fill { shape, value: 0.1, dtype }).unwrap();
        assert_eq!(out.dtype(), dtype);
        assert_bits("fill", &elements(&device, &out), &[expected; 2]);
    }
}

/// A row's bits depend neither on the number of rows nor on how the operands lie in memory.
#[test]
fn matmul_bits_are_those_of_one_row_and_of_any_layout() {
    let device = Device::new(Single::new());
    let mut draws = Draws::new(3);
    for columns in [1, 15, 16, 17, 40] {
        let (rows, inner) = (9, 130);
        let a = device.upload_floats(&draws.values(rows * inner), &[rows, inner]).unwrap();
        let by_rows = device.upload_floats(&draws.values(inner * columns), &[inner, columns]).unwrap();
        let turned = |x: &TensorOf<Single>| device.copy(x, DType::F32).unwrap().permute(&[1, 0]).unwrap();
        let by_columns = turned(&by_rows.permute(&[1, 0]).unwrap());
        let all = elements(&device, &device.matmul(&a, &by_rows).unwrap());
        assert_bits("by columns", &elements(&device, &device.matmul(&a, &by_columns).unwrap()), &all);
        let a_turned = turned(&a.permute(&[1, 0]).unwrap());
        assert_bits("left by columns", &elements(&device, &device.matmul(&a_turned, &by_rows).unwrap()), &all);
        for row in 0..rows {
            for b in [&by_rows, &by_columns] {
                let one = device.matmul(&a.slice(0, row, 1).unwrap(), b).unwrap();
                assert_bits("one row", &elements(&device, &one), &all[row * columns..(row + 1) * columns]);
            }
        }
    }
}

#[test]
fn nan_and_ties() {
    let device = Device::new(Oracle::new());
    let nan = f64::NAN;
    let x = device.upload_floats(&[1.0, nan, 3.0, nan, 2.0, 2.0, 1.0, 2.0], &[2, 4]).unwrap();
    let reduce = |kind| elements(&device, &device.reduce(&x, 1, kind).unwrap());
    assert_bits("sum", &reduce(ReduceKind::Sum), &[nan, 7.0]);
    assert_bits("maximum", &reduce(ReduceKind::Maximum), &[nan, 2.0]);
    assert_bits("argmaximum", &reduce(ReduceKind::ArgMaximum), &[1.0, 0.0]);
    let infinite = device.upload_floats(&[f64::NEG_INFINITY; 2], &[2]).unwrap();
    let place = device.reduce(&infinite, 0, ReduceKind::ArgMaximum).unwrap();
    assert_bits("argmaximum of −∞", &elements(&device, &place), &[0.0]);

    let (a, b) = ([nan, 1.0, nan, 0.0], [1.0, nan, nan, 1.0]);
    let a = device.upload_floats(&a, &[4]).unwrap();
    let b = device.upload_floats(&b, &[4]).unwrap();
    let binary = |kind| elements(&device, &device.binary(a.clone(), b.clone(), kind).unwrap());
    assert_bits("maximum", &binary(BinaryKind::Maximum), &[nan, nan, nan, 1.0]);
    assert_bits("minimum", &binary(BinaryKind::Minimum), &[nan, nan, nan, 0.0]);
    assert_bits("less", &binary(BinaryKind::Less), &[0.0, 0.0, 0.0, 1.0]);
    assert_bits("equal", &binary(BinaryKind::Equal), &[0.0; 4]);

    let mask = device.upload_ids(vec![0, 1, 7, 0]).unwrap();
    assert_bits("select", &elements(&device, &device.select(mask, a, b).unwrap()), &[1.0, 1.0, nan, 1.0]);
    let kinds = [UnaryKind::Negate, UnaryKind::Exp, UnaryKind::Log, UnaryKind::Sqrt, UnaryKind::Tanh, UnaryKind::Erf];
    for kind in kinds {
        let x = device.upload_floats(&[nan], &[1]).unwrap();
        assert_bits(&format!("{kind:?}"), &elements(&device, &device.unary(x, kind).unwrap()), &[nan]);
    }
}

#[test]
fn the_error_function_matches_published_values() {
    // Abramowitz & Stegun, table 7.1, extended by mpmath.
    let device = Device::new(Oracle::new());
    let x = device.upload_floats(&[0.0, 0.5, 1.0, -2.0, 6.0], &[5]).unwrap();
    let expected = [0.0, 0.520_499_877_813_046_5, 0.842_700_792_949_714_9, -0.995_322_265_018_952_7, 1.0];
    for (actual, expected) in elements(&device, &device.unary(x, UnaryKind::Erf).unwrap()).iter().zip(expected) {
        assert!((actual - expected).abs() <= f64::EPSILON, "{actual} beside {expected}");
    }
}

#[test]
fn the_other_float_type_is_refused() {
    let device = Device::new(Single::new());
    assert!(matches!(device.upload(HostData::F64(vec![1.0]), &[1]), Err(Error::Shape { .. })));
    let x = device.upload_floats(&[1.0], &[1]).unwrap();
    let error = device.copy(&x, DType::F64).unwrap_err();
    assert!(error.to_string().contains("computes in f32 and does not hold f64"), "{error}");
    assert!(device.zeros(*x.shape(), DType::F64).is_err());
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let device = Device::new(Single::new());
    let error = device.fill(&[1 << 30, 1 << 25], 0.0).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { asked, .. } if asked == 1 << 57), "{error}");
}
