//! Measures.
mod support;
use consort_conformance::{
    golden::goldens,
    oracle::{Oracle, Single},
    training::TrainingReference,
};
use consort_core::Device;
#[test]
fn measure() {
    for golden in goldens(&support::golden_path("")).unwrap() {
        let t = std::time::Instant::now();
        let Some(reference) = TrainingReference::compute(&golden).unwrap() else { continue };
        let t1 = t.elapsed();
        let o = reference.train(&Device::new(Oracle::new()), "f64").unwrap();
        let s = reference.train(&Device::new(Single::new()), "ieee").unwrap();
        let ow = o.worst().unwrap();
        let sw = s.worst().unwrap();
        println!(
            "{}: ref {t1:?} oracle grad {:.2e} ({}) loss {:.2e} steps {:.2e}; f32 grad {:.2e} ({} exp {:.2e}) loss {:.2e} floors {:?} steps {:.2e}",
            golden.name,
            ow.worst.error,
            ow.worst.tensor,
            o.losses.error(),
            o.steps.error(),
            sw.worst.error,
            sw.worst.tensor,
            sw.worst.expected,
            s.losses.error(),
            s.losses.floors.iter().map(|f| format!("{f:.1e}")).collect::<Vec<_>>().join(" "),
            s.steps.error()
        );
        println!("   {:?} {:?}", o.failures(), s.failures());
    }
}
