//! What must not pass: the faults that a norm over the whole tensor lets through.

mod common;

use common::{Draw, every, problem};
use consort_conformance::{
    bounds::{Bounded, Profile, expected},
    judge::judge,
    oracle::Single,
    problem::{Elements, How, Operand, Output, Problem},
};
use consort_core::{Device, HostData, to_f16};
use serde_json::json;

fn run(problem: &Problem) -> Vec<Output> {
    problem.run(&Device::new(Single::new()), How::AsAsked).unwrap()
}

fn with(outputs: &[Output], output: usize, change: impl FnOnce(&mut Vec<f32>)) -> Vec<Output> {
    let mut changed = outputs.to_vec();
    if let HostData::F32(data) = &mut changed[output].data {
        change(data);
    }
    changed
}

fn caught(outputs: &[Output], expected: &[Bounded]) -> bool {
    judge(outputs, expected).budget > 1.0
}

/// Of a float, the one so many places on.
fn later(value: f32, places: i32) -> f32 {
    f32::from_bits(value.to_bits().wrapping_add_signed(places))
}

/// The greatest of the elements that a device computed.
fn greatest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap()
}

#[test]
fn eight_places_in_one_element_are_seen() {
    let profile = Profile::ieee();
    let (mut widest, mut checked) = (0f64, 0);
    for (label, problem) in every(&mut Draw::new(4)) {
        let everywhere = matches!(problem.op.as_str(), "unary" | "binary" | "rotary" | "copy" | "select");
        let somewhere = matches!(
            problem.op.as_str(),
            "activation"
                | "activation_backward"
                | "gated"
                | "gated_backward"
                | "soft_cap"
                | "soft_cap_backward"
                | "adamw"
        );
        // Far out, 1 − tanh² is a rounding times the cube of x.
        let flat = label.ends_with(" 20");
        if problem.backward.is_some() || !(everywhere || somewhere) || flat {
            continue;
        }
        let (right, expected) = (run(&problem), expected(&problem, &profile).unwrap());
        for (output, expected) in expected.iter().enumerate() {
            let wanted = std::slice::from_ref(expected);
            if !matches!(right[output].data, HostData::F32(_)) {
                continue;
            }
            let elements: Vec<usize> = match everywhere {
                // Where two terms cancel, an ulp of their sum is no measure of what they are rounded to.
                true if problem.op == "rotary" => vec![greatest(&expected.values)],
                true => (0..expected.values.len()).collect(),
                false => vec![greatest(&expected.values)],
            };
            for element in elements {
                let value = f64::from(expected.values[element] as f32);
                let ulp = f64::from(later(value.abs() as f32, 1)) - value.abs();
                widest = widest.max(expected.errors[element] / ulp);
                if !everywhere {
                    println!("{label} {}: bound {:.2} places", expected.name, expected.errors[element] / ulp);
                }
                for places in [-8, 8] {
                    let wrong = with(&right, output, |data| data[element] = later(data[element], places));
                    assert!(caught(&wrong, wanted), "{label} {element}: {}", expected.errors[element] / ulp);
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} faults of 8 places seen; the widest bound there is {widest:.2} places");
    assert!(checked > 1000);
}

#[test]
fn one_term_of_4096_is_missed_in_no_product() {
    let mut draw = Draw::new(5);
    let [m, k, n] = [8, 4096, 12];
    let (a, b) = (draw.normals(m * k, 1.0), draw.normals(k * n, 1.0));
    let of = |a: &[f64]| {
        let operands = vec![
            ("a", Operand::floats(a.to_vec(), &[m, k]).unwrap()),
            ("b", Operand::floats(b.clone(), &[k, n]).unwrap()),
        ];
        problem("matmul", json!({}), operands)
    };
    let problem = of(&a);
    let (right, expected) = (run(&problem), expected(&problem, &Profile::ieee()).unwrap());
    assert!(!caught(&right, &expected));
    // The last term of every output: the tail that a vector loop forgets.
    let mut without = a.clone();
    (0..m).for_each(|row| without[row * k + k - 1] = 0.0);
    assert!(caught(&run(&of(&without)), &expected));
    // Any term of any one output, seen by itself.
    let mut seen = 0;
    for output in 0..m * n {
        for term in (0..k).step_by(37) {
            let lost = a[output / n * k + term] * b[term * n + output % n];
            let wrong = with(&right, 0, |data| data[output] = (f64::from(data[output]) - lost) as f32);
            seen += usize::from(caught(&wrong, &expected));
        }
    }
    let all = m * n * k.div_ceil(37);
    println!("{seen} of {all} single terms of 4096 seen, bound {:.4}", expected[0].errors[0]);
    assert!(seen as f64 > 0.95 * all as f64, "{seen} of {all}");
}

#[test]
fn one_zeroed_output_of_2304_is_seen() {
    let mut draw = Draw::new(6);
    for random in [true, false] {
        for (op, operands) in [
            ("matmul", vec![("a", draw.floats(&[48, 768], 1.0)), ("b", draw.floats(&[768, 48], 0.02))]),
            ("linear", vec![("x", draw.floats(&[48, 768], 1.0)), ("weight", draw.floats(&[48, 768], 0.02))]),
            ("softmax", vec![("x", draw.floats(&[48, 48], 3.0))]),
            ("layer_norm", vec![("x", draw.floats(&[48, 48], 3.0)), ("weight", draw.floats(&[48], 1.0))]),
        ] {
            let attributes = if op == "layer_norm" { json!({"epsilon": 1e-5}) } else { json!({}) };
            let problem = Problem { random, ..problem(op, attributes, operands) };
            let (right, expected) = (run(&problem), expected(&problem, &Profile::ieee()).unwrap());
            assert!(!caught(&right, &expected), "{op}");
            let seen = (0..2304).filter(|&at| caught(&with(&right, 0, |data| data[at] = 0.0), &expected)).count();
            println!("{op}, random {random}: {seen} of 2304 zeroed outputs seen");
            assert!(seen >= 2300, "{op}: {seen}");
        }
    }
}

#[test]
fn inputs_in_half_precision_are_seen() {
    let mut draw = Draw::new(7);
    let narrow = |operand: &Operand| {
        let values = operand.values().into_iter().map(|value| to_f16(value).to_f64()).collect();
        Operand { elements: Elements::Float(values), ..operand.clone() }
    };
    for k in [64, 4096] {
        for (op, first, second, sizes) in
            [("matmul", "a", "b", [[4, k], [k, 8]]), ("linear", "x", "weight", [[4, k], [8, k]])]
        {
            let problem = problem(
                op,
                json!({}),
                vec![(first, draw.floats(&sizes[0], 1.0)), (second, draw.floats(&sizes[1], 1.0))],
            );
            let expected = expected(&problem, &Profile::ieee()).unwrap();
            assert!(!caught(&run(&problem), &expected));
            // One operand alone is enough.
            for which in [0, 1] {
                let mut half = problem.clone();
                half.operands[which].1 = narrow(&half.operands[which].1);
                let judgement = judge(&run(&half), &expected);
                println!("{op} of {k}, operand {which} in f16: budget {:.2}", judgement.budget);
                assert!(judgement.budget > 1.0, "{op} {k} {which}");
            }
        }
    }
}

#[test]
fn what_a_norm_cannot_tell_is_told() {
    // Row maxima that start at 0, seen where every number of a row is far below.
    let mut draw = Draw::new(8);
    let shifted = draw.floats(&[2, 40], 1.0).values().into_iter().map(|x| f64::from((x - 100.0) as f32)).collect();
    let problem = problem("softmax", json!({}), vec![("x", Operand::floats(shifted, &[2, 40]).unwrap())]);
    let expected = expected(&problem, &Profile::ieee()).unwrap();
    let right = run(&problem);
    assert!(!caught(&right, &expected));
    let wrong = with(&right, 0, |data| data[..40].fill(f32::NAN));
    assert!(caught(&wrong, &expected));
    // Zeros of the wrong sign, where bits are owed and where they are not.
    let zeros = || Operand::floats(vec![0.0, -0.0], &[2]).unwrap();
    for (op, attributes, owed) in
        [("copy", json!({"dtype": "float"}), true), ("activation", json!({"kind": "relu"}), false)]
    {
        let problem = common::problem(op, attributes, vec![("x", zeros())]);
        let expected = consort_conformance::bounds::expected(&problem, &Profile::ieee()).unwrap();
        let wrong = with(&run(&problem), 0, |data| data[0] = -0.0);
        assert_eq!(caught(&wrong, &expected), owed, "{op}");
    }
}
