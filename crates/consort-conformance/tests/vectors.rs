//! The committed vectors of PyTorch in f64: the oracle and scalar f32 are within what is derived around them.

use std::{collections::BTreeMap, path::Path};

use consort_conformance::{
    bounds::Profile,
    case_file::cases,
    judge::judge,
    oracle::{Oracle, Single},
    problem::How,
};
use consort_core::{Backend, Device};

fn within<B: Backend>(device: &Device<B>, profile: &Profile) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let mut failures = Vec::new();
    let mut most: BTreeMap<String, f64> = BTreeMap::new();
    let mut unfit = 0;
    for case in cases(&folder).unwrap() {
        if case.problem.unfit(device.float()).is_some() {
            unfit += 1;
            continue;
        }
        let expected = case.expected(profile).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let actual = case.problem.run(device, How::AsAsked).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let judgement = judge(&actual, &expected);
        if let Some(failure) = judgement.failure() {
            failures.push(format!("{}: {failure}", case.name));
        }
        let used = most.entry(case.problem.op.clone()).or_default();
        *used = used.max(judgement.budget);
    }
    for (op, used) in &most {
        println!("{op:30} {used:.5}");
    }
    println!("{unfit} are for devices of another type");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_oracle_is_within_its_bounds_around_them() {
    within(&Device::new(Oracle::new()), &Profile::f64());
}

#[test]
fn scalar_f32_is_within_its_bounds_around_them() {
    within(&Device::new(Single::new()), &Profile::ieee());
}
