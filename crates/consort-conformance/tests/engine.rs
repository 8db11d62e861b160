//! Bounds hold for backends that are right, and not for those that are a little wrong.

mod common;

use std::time::Instant;

use common::{Draw, every};
use consort_conformance::{
    bounds::{Profile, expected},
    judge::judge,
    oracle::{Oracle, Single},
    problem::How,
};
use consort_core::Device;

#[test]
fn scalar_f32_is_within_every_bound() {
    let device = Device::new(Single::new());
    let mut failures = Vec::new();
    for (label, problem) in every(&mut Draw::new(1)) {
        let start = Instant::now();
        let expected = expected(&problem, &Profile::ieee()).unwrap_or_else(|error| panic!("{label}: {error}"));
        let bounding = start.elapsed();
        for how in [How::AsAsked, How::Decomposed] {
            let actual = problem.run(&device, how).unwrap_or_else(|error| panic!("{label}: {error}"));
            let judgement = judge(&actual, &expected);
            if how == How::AsAsked {
                println!("{label:45} {:9.5} {:8.1?} {:?}", judgement.budget, bounding, judgement.vague);
            }
            if !judgement.passed() {
                failures.push(format!("{label}: {:?}", judgement.failure()));
            }
        }
        let (actual, changed) = problem.run_checked(&device).unwrap();
        assert_eq!(changed, Vec::<String>::new(), "{label}");
        assert!(judge(&actual, &expected).budget <= 1.0, "{label}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_oracle_is_within_its_own_bounds() {
    let device = Device::new(Oracle::new());
    for (label, problem) in every(&mut Draw::new(2)) {
        let expected = expected(&problem, &Profile::f64()).unwrap_or_else(|error| panic!("{label}: {error}"));
        let judgement = judge(&problem.run(&device, How::AsAsked).unwrap(), &expected);
        assert!(judgement.passed(), "{label}: {:?}", judgement.failure());
    }
}

#[test]
fn rows_alone_have_the_bits_of_rows_in_company() {
    let device = Device::new(Single::new());
    let mut operations = std::collections::BTreeSet::new();
    for (label, problem) in every(&mut Draw::new(3)) {
        let Some(rows) = problem.rows() else {
            assert!(problem.restricted(0..1).is_none() && problem.by_row().is_empty(), "{label}");
            continue;
        };
        let whole = problem.run(&device, How::AsAsked).unwrap();
        let names = problem.by_row();
        for range in [0..1, 0..rows, 0..rows.div_ceil(2), rows / 2..rows, rows - 1..rows] {
            // Positions count from the first row of a sequence: 9 and 9 of 17 here.
            let Some(part) = problem.restricted(range.clone()) else {
                assert!(label.starts_with("attention") && range.start > 0, "{label} {range:?}");
                continue;
            };
            let found = part.run(&device, How::AsAsked).unwrap_or_else(|error| panic!("{label}: {error}"));
            for name in &names {
                let [whole, found] =
                    [&whole, &found].map(|all| all.iter().find(|output| output.name == *name).unwrap());
                assert_eq!((whole.sizes[0], found.sizes[0]), (rows, range.len()), "{label} {name}");
                let width: usize = whole.sizes[1..].iter().product();
                let expected = &whole.data.to_f64()[range.start * width..range.end * width];
                assert_eq!(found.data.to_f64(), expected, "{label} {name} {range:?}");
            }
            operations.insert(problem.op.clone());
        }
    }
    assert!(operations.len() >= 30, "{operations:?}");
    println!("{} operations have rows: {operations:?}", operations.len());
}
