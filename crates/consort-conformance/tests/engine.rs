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
