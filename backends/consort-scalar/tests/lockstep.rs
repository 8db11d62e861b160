//! Lockstep finds a fault that is planted in one operation of a model, by its name and place, and nothing without one.

use std::sync::atomic::{AtomicUsize, Ordering};

use consort_core::{
    Backend, DType, Device, Disagreement, Error, Fused, FusedOf, HostData, Lockstep, Nothing, Outputs, Primitive,
    PrimitiveOf, Ready, Result, Shape, Spec, StoredTensor, Trace, Transformer, TransformerConfig,
    config::{
        Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig,
        NormKind, Placement, Positions, RotaryConfig, RotaryPairing, RotaryScaling, StackConfig,
    },
    model::{LoadOptions, Tokens, WeightMap},
    operation::{ReduceKind, UnaryKind},
    philox, scope,
};
use consort_scalar::{Oracle, Single};

/// What is wrong with a [`Faulty`] backend.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// Products leave out the last term.
    ShortMatMul,
    /// A softmax of its own whose sum leaves out the last term.
    ShortSoftmax,
    /// The first element of the error function in the feed-forward network of layer 1 is NaN.
    NanInLayerOne,
    /// Norms add three times their epsilon.
    WrongEpsilon,
    /// Its writes into a cache shift rows by one.
    ShiftedWrite,
    /// Half of the output of an addition is missing.
    ShortOutput,
}

/// Singles, with a fault.
struct Faulty(Fault, AtomicUsize);

impl Backend for Faulty {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = Nothing;
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
        let single = Single::new();
        match (self.0, &mut *operation) {
            (Fault::ShortMatMul, Primitive::MatMul { a, b }) => {
                let (ra, rb) = (a.shape().rank(), b.shape().rank());
                let terms = a.size(ra - 1);
                *a = a.slice(ra - 1, 0, terms - 1)?;
                *b = b.slice(rb - 2, 0, terms - 1)?;
            }
            (Fault::ShiftedWrite, Primitive::ScatterRows { ids, .. }) => {
                let moved = single.download(&ids.buffer)?;
                let moved = consort_core::Ticket::wait(moved)?.into_u32().unwrap_or_default();
                ids.buffer = single.upload(HostData::U32(moved.into_iter().map(|id| id + 1).collect()))?;
            }
            (Fault::NanInLayerOne, Primitive::Unary { kind: UnaryKind::Erf, .. })
                if scope::path() == "decoder.1.feed_forward" =>
            {
                let good = consort_core::Ticket::wait(single.download(&single.primitive(operation, out)?)?)?;
                let mut values = good.to_f64();
                values[0] = f64::NAN;
                return single.upload(HostData::from_f64(values.into_iter(), DType::F32));
            }
            (Fault::ShortOutput, Primitive::Binary { .. }) if out.shape.elements() > 1 => {
                let good = consort_core::Ticket::wait(single.download(&single.primitive(operation, out)?)?)?;
                let half = good.len() / 2;
                return single.upload(HostData::from_f64(good.to_f64().into_iter().take(half), out.dtype));
            }
            _ => {}
        }
        single.primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, out: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let device = Device::new(Single::new());
        match (self.0, &*operation) {
            (Fault::ShortSoftmax, Fused::Softmax { x }) => {
                let last = x.shape().rank() - 1;
                let terms = x.size(last).saturating_sub(1).max(1);
                let greatest = device.reduce(x, last, ReduceKind::Maximum)?;
                let weights = device.unary(device.subtract(x.clone(), greatest)?, UnaryKind::Exp)?;
                let sum = device.reduce(&weights.slice(last, 0, terms)?, last, ReduceKind::Sum)?;
                Ok(Outputs::from_elem(device.divide(weights, sum)?.buffer, 1))
            }
            (Fault::WrongEpsilon, Fused::LayerNorm { x, weight, bias, epsilon }) => {
                let root = device.layer_norm(x.clone(), weight, bias.as_ref(), epsilon * 3.0)?;
                Ok(Outputs::from_elem(root.buffer, 1))
            }
            _ => Single::new().fused(operation, out),
        }
    }
}

fn config() -> TransformerConfig {
    let rotary = RotaryConfig { width: 4, theta: 100.0, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None };
    TransformerConfig {
        width: 12,
        encoder: None,
        decoder: Some(StackConfig {
            vocabulary: 17,
            context: Some(64),
            layers: 2,
            causal: true,
            embedding: EmbeddingConfig { positions: Positions::None, ..EmbeddingConfig::default() },
            attention: AttentionConfig {
                heads: 2,
                key_value_heads: 1,
                head_width: 6,
                scale: 0.4,
                inverse_layer_scale: false,
                input_bias: true,
                output_bias: true,
                query_key_norm: false,
                soft_cap: None,
                windows: vec![0, 3],
                positions: AttentionPositions::Rotary(rotary),
            },
            cross_attention: false,
            feed_forward: FeedForwardConfig { width: 20, activation: Activation::Gelu, gated: true, bias: true },
            norm: NormConfig { kind: NormKind::Layer, epsilon: 1e-2, bias: true, unit_offset: false },
            placement: Placement::Pre,
            final_norm: true,
        }),
        shared_embedding: false,
        head: Some(HeadConfig { tied: true, bias: false, scale: 1.0, soft_cap: None, transform: None }),
    }
}

fn weights(config: &TransformerConfig) -> WeightMap {
    let slots = config.slots().into_iter().enumerate();
    slots
        .map(|(stream, slot)| {
            let values: Vec<f64> =
                (0..(slot.shape[0] * slot.shape[1]) as u64).map(|at| philox::normal(4, stream as u64, at)).collect();
            (slot.name.clone(), StoredTensor::from_values(&slot.name, &values, slot.shape).unwrap())
        })
        .collect()
}

/// A prompt and two steps on any device; the logits of the last.
fn run<B: Backend>(device: &Device<B>) -> Result<Vec<f64>> {
    let config = config();
    let model = Transformer::load(device, &config, &weights(&config), LoadOptions::default())?;
    let mut state = model.state()?;
    let slot = state.open(5, None);
    model.step(&mut state, &[slot; 5], Tokens::Host(&[3, 1, 4, 1, 5]), None)?;
    model.step(&mut state, &[slot], Tokens::Host(&[9]), None)?;
    let hidden = model.step(&mut state, &[slot], Tokens::Host(&[2]), None)?;
    Ok(device.download(&model.logits(&hidden, None)?)?.to_f64())
}

fn lockstep(fault: Fault) -> Vec<Disagreement> {
    let faulty = Faulty(fault, AtomicUsize::new(0));
    let device = Device::new(Lockstep::new(Device::new(faulty), Device::new(Oracle::new())));
    run(&device).unwrap();
    device.backend().take()
}

/// Sums of up to 20 terms in f32 stay within 20 · 2⁻²⁴ of the greatest term, and the error is measured against the
/// greatest output: a mean of one row here cancels to a 60th of its terms. Faults are at least 100 times this.
const BOUND: f64 = 1e-4;

#[track_caller]
fn guilty(fault: Fault) -> Vec<Disagreement> {
    let guilty: Vec<_> = lockstep(fault).into_iter().filter(|found| found.error > BOUND).collect();
    assert!(!guilty.is_empty(), "{fault:?} was not found");
    guilty
}

#[test]
fn without_a_fault_every_operation_is_within_its_rounding() {
    let found = lockstep(Fault::Nothing);
    for found in &found {
        assert!(found.error <= BOUND, "{found:?}");
    }
    for (place, operation) in [
        ("decoder.embedding", "gather_rows"),
        ("decoder.0.attention.rotary", "multiply"),
        ("decoder.1.attention", "matmul"),
        ("decoder.1.attention", "cache_read"),
        ("decoder.norm", "reduce"),
        ("head", "matmul"),
    ] {
        let operation = if operation == "multiply" { "binary" } else { operation };
        assert!(found.iter().any(|f| f.place == place && f.operation == operation), "{operation} at {place}");
    }
}

#[test]
fn a_product_that_drops_its_last_term_is_named() {
    let found = guilty(Fault::ShortMatMul);
    assert!(found.iter().all(|found| found.operation == "matmul"), "{found:?}");
    assert_eq!(found[0].place, "decoder.0.attention");
    let places: Vec<&str> = found.iter().map(|found| found.place.as_str()).collect();
    for place in ["decoder.0.feed_forward", "decoder.1.attention", "decoder.1.feed_forward", "head"] {
        assert!(places.contains(&place), "{place}");
    }
}

#[test]
fn a_wrong_softmax_of_its_own_is_named_and_its_users_are_not() {
    let found = guilty(Fault::ShortSoftmax);
    assert!(found.iter().all(|found| found.operation == "softmax" && found.place.ends_with(".attention")), "{found:?}");
}

#[test]
fn one_nan_is_named_where_it_arose_and_nowhere_else() {
    let found = guilty(Fault::NanInLayerOne);
    assert_eq!(found.len(), 1, "{found:?}");
    let Disagreement { place, operation, index, actual, error, .. } = &found[0];
    assert_eq!((place.as_str(), *operation, *index), ("decoder.1.feed_forward", "unary", 0));
    assert!(actual.is_nan() && *error == f64::INFINITY);
}

#[test]
fn a_wrong_epsilon_is_named() {
    let found = guilty(Fault::WrongEpsilon);
    assert!(found.iter().all(|found| found.operation == "layer_norm"), "{found:?}");
}

#[test]
fn a_shifted_cache_shows_where_it_is_read() {
    let found = guilty(Fault::ShiftedWrite);
    assert!(found.iter().all(|found| found.operation == "cache_read"), "{found:?}");
    assert_eq!(found[0].place, "decoder.0.attention");
}

#[test]
fn missing_elements_are_infinitely_wrong() {
    let found = guilty(Fault::ShortOutput);
    assert!(found.iter().all(|found| found.operation == "binary"), "{found:?}");
    assert!(found.iter().all(|found| found.error == f64::INFINITY && found.actual.is_nan()), "{found:?}");
}

#[test]
fn equal_infinities_hide_nothing_behind_them() {
    /// e^x with one wrong element behind an infinity.
    struct Wrong;
    impl Backend for Wrong {
        type Buffer = <Single as Backend>::Buffer;
        type Packed = Nothing;
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

        fn primitive(&self, operation: &mut PrimitiveOf<Self>, _: &Spec) -> Result<Self::Buffer> {
            match operation {
                Primitive::Unary { .. } => Single::new().upload(HostData::F32(vec![f32::INFINITY, 1.5, f32::NAN])),
                _ => Err(consort_core::unsupported(self, "anything else")),
            }
        }
    }
    let device = Device::new(Lockstep::new(Device::new(Wrong), Device::new(Oracle::new())));
    let x = device.upload_floats(&[f64::INFINITY, 0.0, f64::NAN], &[3]).unwrap();
    device.unary(x, UnaryKind::Exp).unwrap();
    let found = device.backend().take();
    assert_eq!((found[0].index, found[0].actual, found[0].expected, found[0].error), (1, 1.5, 1.0, 0.5));
}

#[test]
fn decorators_keep_their_own_account_of_levels() {
    // The oracle composes its softmax; the device in lockstep was answered at once.
    let device = Device::new(Lockstep::new(
        Device::new(Faulty(Fault::ShortSoftmax, AtomicUsize::new(0))),
        Device::new(Oracle::new()),
    ));
    device.softmax(device.upload_floats(&[1.0, 2.0], &[1, 2]).unwrap()).unwrap();
    let counts = device.report()["softmax"];
    assert_eq!((counts.native, counts.composed, counts.host), (1, 0, 0));
    device.activation(device.upload_floats(&[1.0, 2.0], &[1, 2]).unwrap(), Activation::Gelu).unwrap();
    let counts = device.report()["activation"];
    assert_eq!((counts.native, counts.composed, counts.host), (0, 1, 0));
}

#[test]
fn an_error_inside_a_decomposition_does_not_spoil_later_accounts() {
    struct NoExp;
    impl Backend for NoExp {
        type Buffer = <Single as Backend>::Buffer;
        type Packed = Nothing;
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
            match operation {
                Primitive::Unary { kind: UnaryKind::Exp, .. } => Err(Error::DeviceLost("planted".into())),
                Primitive::Reduce { .. } => Err(consort_core::unsupported(self, "reduce")),
                _ => Single::new().primitive(operation, out),
            }
        }
    }
    let device = Device::new(NoExp);
    let x = || device.upload_floats(&[1.0, -2.0], &[1, 2]).unwrap();
    // Its reduction runs on the host, then it fails.
    assert_eq!(device.softmax(x()).unwrap_err(), Error::DeviceLost("planted".into()));
    device.activation(x(), Activation::Relu).unwrap();
    assert_eq!(device.report()["activation"].composed, 1);
    assert!(!device.report().contains_key("softmax"));
}

#[test]
fn a_trace_lists_an_operation_before_its_parts() {
    let device = Device::new(Trace::new(Single::new()));
    device.softmax(device.upload_floats(&[1.0, 2.0, 3.0], &[1, 3]).unwrap()).unwrap();
    let records = device.backend().take();
    let found: Vec<(&str, bool)> = records.iter().map(|record| (record.operation, record.native)).collect();
    let parts = [("reduce", true), ("binary", true), ("unary", true), ("reduce", true), ("binary", true)];
    assert_eq!(found[0], ("softmax", false));
    assert_eq!(found[1..], parts);
    assert_eq!(records[0].outputs, [(Shape::new(&[1, 3]).unwrap(), DType::F32)]);
}

#[test]
fn a_host_of_another_type_is_refused_and_named() {
    struct Doubles;
    impl Backend for Doubles {
        type Buffer = <Oracle as Backend>::Buffer;
        type Packed = Nothing;
        type Store = Nothing;
        type Ticket = Ready;
        type Host = Single;

        fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
            Oracle::new().alloc(dtype, elements)
        }

        fn upload(&self, data: HostData) -> Result<Self::Buffer> {
            Oracle::new().upload(data)
        }

        fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
            Oracle::new().download(buffer)
        }

        fn float(&self) -> DType {
            DType::F64
        }
    }
    let error = Device::new(Doubles).fill(&[2], 1.0).unwrap_err();
    assert!(matches!(error, Error::Unsupported { operation: "fill", .. }), "{error}");
}
