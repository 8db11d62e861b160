//! Training compared: what is wrong with a backward operation or an optimizer's step must be seen in a whole model.
//!
//! tests/goldens.rs of the workspace trains every golden that has training; here faults are planted.

mod support;

use std::fs;

use consort_conformance::{
    Error,
    golden::Golden,
    oracle::{Oracle, Single},
    training::{BAR_GRADIENT_F32, SMALL, Training, TrainingReference, train},
};
use consort_core::{
    Backend, DType, Device, Fused, FusedOf, HostData, Nothing, Outputs, PrimitiveOf, Ready, Result, Spec, TensorOf,
    unsupported,
};
use support::{Folder, golden};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// The sign of an output of an operation.
    Sign(&'static str, usize),
    /// One output is a thousandth too great.
    Factor(&'static str, usize),
    /// One element of one output is zero.
    Zero(&'static str, usize),
    /// Rows that are used twice have the gradient of one use.
    LastUseOnly,
    /// The optimizer's bias correction is one step ahead.
    LateStep,
    /// The decay of the parameters is left out.
    NoDecay,
    /// Weights are not packed anew after the third step.
    StaleWeights,
}

/// Singles, with a fault.
struct Faulty(Fault);

impl Faulty {
    fn changed(
        &self,
        outputs: &[TensorOf<Single>],
        which: usize,
        f: impl Fn(usize, f64) -> f64,
    ) -> Result<Outputs<<Single as Backend>::Buffer>> {
        let device = Device::new(Single::new());
        let change = |(at, output): (usize, &TensorOf<Single>)| {
            let values = device.download(output)?.to_f64();
            let changed: Vec<f64> = match at == which {
                true => values.into_iter().enumerate().map(|(at, value)| f(at, value)).collect(),
                false => values,
            };
            Ok(device.upload_floats(&changed, output.sizes())?.buffer)
        };
        outputs.iter().enumerate().map(change).collect()
    }
}

impl Backend for Faulty {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = consort_conformance::oracle::Packed;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        Single::new().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        Single::new().upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        Single::new().download(buffer)
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        Single::new().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let device = Device::new(Single::new());
        let right = || device.decomposed(operation.clone());
        match self.0 {
            Fault::Sign(name, which) if operation.name() == name => self.changed(&right()?, which, |_, value| -value),
            Fault::Factor(name, which) if operation.name() == name => {
                self.changed(&right()?, which, |_, value| value * 1.001)
            }
            Fault::Zero(name, which) if operation.name() == name => {
                self.changed(&right()?, which, |at, value| if at == 7 { 0.0 } else { value })
            }
            _ => match (self.0, &*operation) {
                (Fault::LastUseOnly, Fused::EmbeddingBackward { ids, d_y, rows }) => {
                    let zeros = device.fill(&[*rows, d_y.size(1)], 0.0)?;
                    Ok(Outputs::from_elem(device.scatter_rows(zeros, ids, d_y.clone(), false)?.buffer, 1))
                }
                (Fault::LateStep | Fault::NoDecay, Fused::AdamW { parameter, gradient, first, second, settings }) => {
                    let mut settings = *settings;
                    match self.0 {
                        Fault::LateStep => settings.step += 1,
                        _ => settings.weight_decay = 0.0,
                    }
                    let [parameter, gradient, first, second] = [parameter, gradient, first, second].map(Clone::clone);
                    let wrong = device.fused(Fused::AdamW { parameter, gradient, first, second, settings })?;
                    Ok(wrong.into_iter().map(|output| output.buffer).collect())
                }
                (Fault::StaleWeights, Fused::AdamW { parameter, first, second, settings, .. }) if settings.step > 3 => {
                    Ok([parameter, first, second].into_iter().map(|x| x.buffer.clone()).collect())
                }
                _ => Err(unsupported(self, operation.name())),
            },
        }
    }
}

#[test]
fn the_oracle_and_single_precision_agree_with_the_reference() {
    let golden = golden("llama-tied-bias");
    let oracle = train(&golden, &Device::new(Oracle::new())).unwrap();
    assert!(oracle.agrees(), "{:?}", oracle.failures());
    let single = train(&golden, &Device::new(Single::new())).unwrap();
    assert!(single.agrees(), "{:?}", single.failures());
    // A tied embedding is one parameter with one gradient, the sum of its uses.
    let table = "decoder.embedding.tokens.weight";
    assert_eq!(single.gradients.iter().filter(|gradient| gradient.worst.tensor == table).count(), 1);
    assert!(!single.gradients.iter().any(|gradient| gradient.worst.tensor.starts_with("head.output")));
    let worst = single.worst().unwrap();
    assert!(worst.worst.error > 0.0 && worst.worst.error == worst.floor);
    let losses = &single.losses.found;
    assert!((losses.len(), single.steps.found.len()) == (11, 10) && losses[10] < 0.9 * losses[0], "{losses:?}");
}

#[test]
fn every_fault_of_a_backward_operation_or_a_step_is_caught() {
    let paper = [
        Fault::Sign("attention_backward", 0),
        Fault::Sign("attention_backward", 1),
        Fault::Sign("attention_backward", 2),
        Fault::Factor("attention_backward", 2),
        Fault::Sign("layer_norm_backward", 0),
        Fault::Factor("layer_norm_backward", 1),
        Fault::Zero("layer_norm_backward", 2),
        Fault::Sign("activation_backward", 0),
        Fault::Factor("linear_backward_input", 0),
        Fault::Factor("linear_backward_weight", 0),
        Fault::Zero("linear_backward_weight", 0),
        Fault::Factor("embedding_backward", 0),
        Fault::LastUseOnly,
        Fault::Factor("cross_entropy_backward", 0),
        Fault::LateStep,
        Fault::NoDecay,
        Fault::StaleWeights,
    ];
    let gemma = [
        Fault::Factor("rms_norm_backward", 0),
        Fault::Sign("rms_norm_backward", 1),
        Fault::Zero("rms_norm_backward", 1),
        Fault::Sign("gated_backward", 0),
        Fault::Factor("gated_backward", 1),
        Fault::Factor("soft_cap_backward", 0),
        Fault::LastUseOnly,
    ];
    let mut missed = Vec::new();
    for (name, faults) in [("attention-is-all-you-need", &paper[..]), ("gemma2", &gemma[..])] {
        let golden = golden(name);
        let reference = TrainingReference::compute(&golden).unwrap().unwrap();
        let right = reference.train(&Device::new(Faulty(Fault::Nothing)), "ieee").unwrap();
        assert!(right.agrees(), "{:?}", right.failures());
        for &fault in faults {
            let found = reference.train(&Device::new(Faulty(fault)), "ieee").unwrap();
            println!("{name} {fault:?}: {}", found.failures().first().map_or("MISSED", String::as_str));
            println!("    losses {:.1e}, steps {:.1e}", found.losses.error(), found.steps.error());
            if found.agrees() {
                missed.push(fault);
            }
            // Gradients are before the first step.
            let of_step = matches!(fault, Fault::LateStep | Fault::NoDecay | Fault::StaleWeights);
            assert_eq!(of_step, found.worst().unwrap().worst.error < BAR_GRADIENT_F32, "{fault:?}");
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn nothing_is_measured_by_a_gradient_of_zero() {
    let training = Training::read(&golden("gpt2")).unwrap().unwrap();
    let greatest = |values: &[f64]| values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let all = training.gradients.values().map(|values| greatest(values)).fold(0.0, f64::max);
    let key = greatest(&training.gradients["decoder.0.attention.key.bias"]);
    assert!(key < SMALL * 1e-9 * all, "{key:e} of {all:e}");
}

#[test]
fn training_that_contradicts_itself_is_refused() {
    let folder = Folder::of_golden("llama-tied-bias");
    let golden = Golden::drawn(&folder.0).unwrap();
    assert!(Training::read(&golden).unwrap().is_none() && !Training::is_there(&golden));
    assert!(matches!(train(&golden, &Device::new(Single::new())), Err(Error::Malformed { .. })));
    let adamw = r#""adamw": {"rate": 1, "beta1": 0, "beta2": 0, "epsilon": 1, "weight_decay": 0}"#;
    for (rest, what) in [
        (r#""inputs": [[1]], "targets": [[1]]"#, "missing field `losses`"),
        (r#""inputs": [[1]], "targets": [[1]], "losses": [1], "steps": 3"#, "unknown field `steps`"),
        (r#""inputs": [[1]], "targets": [[1, 2]], "losses": [1]"#, "2 targets of a sequence, expected 1"),
        (r#""inputs": [[1], [2]], "targets": [[1]], "losses": [1]"#, "1 lists of targets, expected 2"),
        (r#""sources": [[1], [2]], "inputs": [[1]], "targets": [[1]], "losses": [1]"#, "2 sources, expected 1"),
        (r#""inputs": [[1]], "targets": [[null]], "losses": [1]"#, "no target that counts"),
        (r#""inputs": [[1]], "targets": [[1]], "losses": []"#, "no losses"),
    ] {
        fs::write(folder.0.join("training.json"), format!("{{{rest}, {adamw}}}")).unwrap();
        let error = Training::read(&golden).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }) && error.to_string().contains(what), "{error}");
    }
    fs::write(
        folder.0.join("training.json"),
        format!("{{\"inputs\": [[1]], \"targets\": [[1]], \"losses\": [1], {adamw}}}"),
    )
    .unwrap();
    assert!(matches!(Training::read(&golden), Err(Error::Model(_))), "no gradients");
}
