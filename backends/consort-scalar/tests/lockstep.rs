//! Lockstep shows what both backends made of every operation, with its operands and its place: a fault that is planted in one
//! operation of a model is seen there and nowhere else. What an error may be is consort-conformance's to say; here faults are
//! coarse.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use consort_core::{
    Backend, Both, Compute, DType, Device, Error, Fused, FusedOf, HostData, HostOperation, Lockstep, Nothing, Outputs,
    Primitive, PrimitiveOf, Ready, Result, Seen, Shape, Spec, StoredTensor, Trace, Transformer, TransformerConfig,
    Watcher,
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
    type Packed = consort_scalar::Packed;
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
                window_rotary: None,
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

/// Writes down what it is shown.
#[derive(Default)]
struct Recorder {
    all: Mutex<Vec<Disagreement>>,
    operations: Mutex<Vec<HostOperation>>,
    absent: Mutex<Vec<(String, &'static str)>>,
}

/// How far one operation was off.
#[derive(Clone, Debug)]
struct Disagreement {
    place: String,
    operation: &'static str,
    actual: f64,
    /// Over the greatest magnitude of the oracle's output; infinite where only one of the two is NaN.
    error: f64,
    index: usize,
}

impl Watcher for Recorder {
    fn seen(&self, seen: &Seen<'_>) -> Result<()> {
        for Both { sizes, actual, expected } in &seen.outputs {
            assert_eq!(sizes.iter().product::<usize>(), expected.len());
            let (actual, expected) = (actual.to_f64(), expected.to_f64());
            let greatest = expected.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
            let mut worst = Disagreement {
                place: seen.place.clone(),
                operation: seen.operation,
                actual: 0.0,
                error: 0.0,
                index: 0,
            };
            for (index, expected) in expected.iter().enumerate() {
                let actual = actual.get(index).copied().unwrap_or(f64::NAN);
                let error = (actual - expected).abs() / greatest;
                let error = if error.is_nan() { f64::INFINITY } else { error };
                if error > worst.error {
                    worst = Disagreement { actual, error, index, ..worst };
                }
            }
            self.all.lock().unwrap().push(worst);
        }
        self.operations.lock().unwrap().push(seen.operation()?);
        Ok(())
    }

    fn absent(&self, place: &str, operation: &'static str) {
        self.absent.lock().unwrap().push((place.to_owned(), operation));
    }
}

fn watched(fault: Fault) -> (Device<Lockstep<Faulty, Oracle>>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let faulty = Device::new(Faulty(fault, AtomicUsize::new(0)));
    (Device::new(Lockstep::new(faulty, Device::new(Oracle::new()), recorder.clone())), recorder)
}

fn lockstep(fault: Fault) -> Vec<Disagreement> {
    let (device, recorder) = watched(fault);
    run(&device).unwrap();
    recorder.all.lock().unwrap().clone()
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
    assert_eq!(found.len(), 3, "one in each step: {found:?}");
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
fn a_shifted_cache_shows_where_it_is_written() {
    let found = guilty(Fault::ShiftedWrite);
    assert_eq!((found[0].place.as_str(), found[0].operation), ("decoder.0.attention", "cache_write"));
    // What is read later is inherited.
    assert!(found.iter().all(|found| found.operation.starts_with("cache_")), "{found:?}");
}

#[test]
fn missing_elements_are_infinitely_wrong() {
    let found = guilty(Fault::ShortOutput);
    assert!(found.iter().all(|found| found.operation == "binary"), "{found:?}");
    assert!(found.iter().all(|found| found.error == f64::INFINITY && found.actual.is_nan()), "{found:?}");
}

#[test]
fn operands_are_shown_as_the_tested_backend_had_them() {
    let (device, recorder) = watched(Fault::Nothing);
    let x = device.upload_floats(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], &[2, 3]).unwrap();
    // A view: its buffer and layout, and values rounded to singles.
    device.unary(x.permute(&[1, 0]).unwrap().slice(0, 1, 2).unwrap(), UnaryKind::Exp).unwrap();
    let weight = StoredTensor::from_values("w", &[1.0, 1.0 / 3.0, 2.0], [1, 3]).unwrap();
    let weight = device.pack(&[weight], consort_core::WeightDType::BF16).unwrap();
    device.linear(x, &weight, None, None, None, Compute::F32).unwrap();
    let operations = recorder.operations.lock().unwrap();
    let HostOperation::Primitive(primitive) = &operations[0] else { panic!("a fused operation") };
    let Primitive::Unary { x, kind: UnaryKind::Exp } = &**primitive else { panic!("{}", primitive.name()) };
    assert_eq!((x.layout.sizes_and_strides(), x.layout.offset()), (([2, 2], [1, 3]), 1));
    assert_eq!(x.data.to_f64()[..2], [f64::from(0.1f32), f64::from(0.2f32)]);
    // Linear is not native: its parts are shown, over the weight as it is held.
    let HostOperation::Primitive(primitive) = &operations[1] else { panic!("a fused operation") };
    let Primitive::MatMul { b, .. } = &**primitive else { panic!("{}", primitive.name()) };
    assert_eq!(b.data.to_f64(), [1.0, f64::from(consort_core::to_bf16(1.0 / 3.0)), 2.0]);
}

/// For brevity.
trait SizesAndStrides {
    fn sizes_and_strides(&self) -> ([usize; 2], [usize; 2]);
}

impl SizesAndStrides for consort_core::Layout {
    fn sizes_and_strides(&self) -> ([usize; 2], [usize; 2]) {
        (self.shape().sizes().try_into().unwrap(), self.strides().try_into().unwrap())
    }
}

#[test]
fn caches_are_shown_before_and_after() {
    let (device, recorder) = watched(Fault::Nothing);
    run(&device).unwrap();
    let operations = recorder.operations.lock().unwrap();
    let writes: Vec<_> = operations
        .iter()
        .filter_map(|operation| match operation {
            HostOperation::Fused(fused) => match &**fused {
                Fused::CacheWrite { cache, key, plan, .. } => Some((cache, key, plan)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    // Two layers, three steps; the second step finds the five rows of the first.
    assert_eq!(writes.len(), 6);
    let (cache, key, plan) = writes[2];
    let width = cache.spec.key_value_heads * cache.spec.head_width;
    assert_eq!((cache.rows % cache.spec.block, plan.rows.len(), key.data.len()), (0, 1, width));
    assert!(cache.keys[..5 * width].iter().all(|value| *value != 0.0));
    assert!(cache.keys[5 * width..].iter().all(|value| *value == 0.0));
}

#[test]
fn what_the_tested_backend_does_not_have_is_told() {
    let recorder = Arc::new(Recorder::default());
    let device = Device::new(Lockstep::new(Device::new(Memory), Device::new(Oracle::new()), recorder.clone()));
    run(&device).unwrap();
    assert!(recorder.absent.lock().unwrap().iter().any(|found| *found == ("head".to_owned(), "matmul")));
    let operations = recorder.operations.lock().unwrap();
    assert!(operations.iter().all(|operation| !matches!(operation, HostOperation::Primitive(_))));
}

/// Three methods.
struct Memory;

impl Backend for Memory {
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
}

#[test]
fn decorators_keep_their_own_account_of_levels() {
    // The oracle composes its softmax; the device in lockstep was answered at once.
    let (device, _) = watched(Fault::ShortSoftmax);
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
