//! Whole models in lockstep: nothing wrong is found where nothing is, and what is wrong is found at its place.

mod support;

use consort_conformance::{
    bounds::Profile,
    golden::goldens,
    lockstep::{Settings, lockstep},
    oracle::{Oracle, Single},
};
use consort_core::{Device, WeightDType};
use support::golden_path;

#[test]
fn every_operation_of_scalar_is_within_its_bound_in_every_golden() {
    for golden in goldens(&golden_path("")).unwrap() {
        let profile = Profile::ieee();
        let settings = Settings { dtype: WeightDType::F32, profile: &profile, cases: None };
        let start = std::time::Instant::now();
        let report = lockstep(&golden, &Device::new(Single::new()), &settings).unwrap();
        let time = start.elapsed();
        let worst = report.operations.iter().max_by(|a, b| a.budget.total_cmp(&b.budget)).unwrap();
        println!(
            "{}: {} judged, {} vague, worst {:.3} {} {} in {time:?}",
            golden.name, report.judged, report.vague, worst.budget, worst.place, worst.operation
        );
        for own in report.operations.iter().filter(|own| own.vague > 0) {
            println!("   vague {} of {} {} {}", own.vague, own.calls, own.place, own.operation);
        }
        assert!(report.agrees(), "{}: {:?}", golden.name, report.failures());
    }
}

#[test]
fn the_oracle_is_within_the_bounds_of_its_own_type() {
    let profile = Profile::f64();
    let settings = Settings { dtype: WeightDType::F32, profile: &profile, cases: None };
    for name in ["llama", "t5", "bert"] {
        let report = lockstep(&support::golden(name), &Device::new(Oracle::new()), &settings).unwrap();
        assert!(report.agrees(), "{name}: {:?}", report.failures());
    }
}
