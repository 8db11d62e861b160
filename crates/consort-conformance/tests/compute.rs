//! Products in bf16 and int8: what is judged of them, how closely, and whole models.

mod common;

use std::path::Path;

use common::{Draw, problem};
use consort_conformance::{
    bounds::{Bounded, Profile, expected},
    compare::{Exact, ModelReport},
    golden::{Golden, goldens},
    judge::judge,
    lockstep::{Settings, lockstep},
    oracle::{Oracle, Single},
    problem::{How, Output, Problem},
};
use consort_core::{Compute, Device, HostData, WeightDType};
use serde_json::json;

fn run(problem: &Problem) -> Vec<Output> {
    problem.run(&Device::new(Single::new()), How::AsAsked).unwrap()
}

fn caught(outputs: &[Output], expected: &[Bounded]) -> bool {
    judge(outputs, expected).budget > 1.0
}

fn with(outputs: &[Output], output: usize, change: impl FnOnce(&mut Vec<f32>)) -> Vec<Output> {
    let mut changed = outputs.to_vec();
    if let HostData::F32(data) = &mut changed[output].data {
        change(data);
    }
    changed
}

fn product(draw: &mut Draw, compute: &str, [rows, inputs, outputs]: [usize; 3]) -> Problem {
    let operands = vec![("x", draw.floats(&[rows, inputs], 1.0)), ("weight", draw.floats(&[outputs, inputs], 0.05))];
    Problem { random: true, ..problem("linear", json!({"compute": compute}), operands) }
}

#[test]
fn one_zeroed_output_of_2304_is_seen() {
    let mut draw = Draw::new(1);
    for compute in ["bf16", "int8"] {
        let problem = product(&mut draw, compute, [4, 768, 576]);
        let (right, expected) = (run(&problem), expected(&problem, &Profile::ieee()).unwrap());
        assert!(!caught(&right, &expected), "{compute}");
        let seen = (0..2304).filter(|&at| caught(&with(&right, 0, |data| data[at] = 0.0), &expected)).count();
        println!("{compute}: {seen} of 2304 zeroed outputs seen");
        assert!(seen >= 2300, "{compute}: {seen}");
        // The other computes are something else.
        for other in ["f32", "bf16", "int8"].into_iter().filter(|other| *other != compute) {
            let mut wrong = problem.clone();
            wrong.attributes.insert("compute".to_owned(), json!(other));
            assert!(caught(&run(&wrong), &expected), "{other} instead of {compute}");
        }
    }
}

#[test]
fn codes_and_scales_are_judged_to_the_bit() {
    let mut draw = Draw::new(2);
    let problem = problem("quantize_activations", json!({}), vec![("x", draw.floats(&[3, 77], 1.0))]);
    let (right, expected) = (run(&problem), expected(&problem, &Profile::ieee()).unwrap());
    assert!(expected.iter().all(|output| output.errors.iter().all(|error| *error == 0.0)));
    assert!(!caught(&right, &expected));
    for at in 0..3 * 77 {
        for by in [-1.0, 1.0] {
            assert!(caught(&with(&right, 0, |codes| codes[at] += by), &expected), "code {at}");
        }
    }
    for at in 0..9 {
        for by in [-1, 1] {
            let wrong =
                with(&right, 1, |scales| scales[at] = f32::from_bits(scales[at].to_bits().wrapping_add_signed(by)));
            assert!(caught(&wrong, &expected), "scale {at}");
        }
    }
}

/// Under WGSL a quotient is off by up to 2.5 ulps: a code may be another where it is nearly a tie, and nowhere else.
#[test]
fn a_rough_division_moves_codes_at_near_ties_alone() {
    let mut draw = Draw::new(3);
    let problem = problem("quantize_activations", json!({}), vec![("x", draw.floats(&[300, 320], 1.0))]);
    let expected = expected(&problem, &Profile::wgsl()).unwrap();
    let open = expected[0].errors.iter().filter(|error| **error > 0.0).count();
    assert!(expected[0].errors.iter().all(|error| *error == 0.0 || *error == 1.0));
    println!("{open} of {} codes may be off by one", expected[0].errors.len());
    assert!(open < 96, "{open} of 96,000");
    for (scale, error) in expected[1].values.iter().zip(&expected[1].errors) {
        assert!(*error > 0.0 && *error <= 4.0 * f64::from(f32::EPSILON) * scale, "{scale}: {error}");
    }
}

fn golden(name: &str) -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    goldens(&folder).unwrap().into_iter().find(|golden| golden.name == name).unwrap()
}

fn compared(golden: &Golden, compute: Compute) -> [ModelReport; 2] {
    let exact = Exact::compute(golden).unwrap();
    let reference = exact.computed(WeightDType::F32, compute).unwrap();
    [
        reference.compare(&Device::new(Single::new()), "ieee").unwrap(),
        reference.compare(&Device::new(Oracle::new()), "f64").unwrap(),
    ]
}

#[test]
fn whole_models_are_within_what_the_oracle_loses() {
    for name in ["llama", "bert", "t5"] {
        let golden = golden(name);
        for compute in [Compute::BF16, Compute::Int8] {
            for report in compared(&golden, compute) {
                assert!(report.agrees(), "{name} in {compute}: {:?}", report.failures());
                assert_eq!(report.compute, compute.name());
                // Rounding is seen: this is no model in f32.
                assert!(report.output.error > 1e-4, "{name} in {compute}: {:e}", report.output.error);
                if let (Some(divergence), Some(budget)) = (report.divergence, report.divergence_budget) {
                    println!("{name} in {compute} on {}: {:.2e} of {budget:.2e} nats", report.backend, divergence.mean);
                    assert!(divergence.mean > 0.0 && divergence.mean <= budget);
                }
            }
        }
    }
}

#[test]
fn a_model_that_diverges_says_so() {
    let mut report = compared(&golden("llama"), Compute::Int8)[0].clone();
    report.divergence_budget = report.divergence.map(|divergence| divergence.mean / 2.0);
    let failures = report.failures();
    assert!(failures.len() == 1 && failures[0].contains("nats") && failures[0].contains("int8"), "{failures:?}");
}

#[test]
fn lockstep_judges_every_part() {
    let golden = golden("llama");
    let profile = Profile::ieee();
    for compute in [Compute::BF16, Compute::Int8] {
        let settings = Settings { dtype: WeightDType::F32, compute, profile: &profile, cases: None };
        let report = lockstep(&golden, &Device::new(Single::new()), &settings).unwrap();
        assert!(report.agrees(), "{compute}: {:?}", report.failures());
        assert!(report.judged > 100, "{compute}: {}", report.judged);
        let rounds = report.operations.iter().any(|own| own.operation == "unary" && own.place.contains("feed_forward"));
        assert!(rounds || compute != Compute::Int8, "activations are quantised");
    }
}
