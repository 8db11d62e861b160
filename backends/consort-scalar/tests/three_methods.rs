//! A backend of three methods runs everything, with the bits of its host, and says how.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Draws, elements};
use consort_core::{
    Backend, CacheSpec, Compute, Counts, DType, Device, Error, Fused, FusedOf, HostData, KvCache, Nothing, Policy,
    Primitive, Ready, Result, StoredTensor, TensorOf, WeightDType,
    config::{Activation, RotaryPairing},
    operation::{AdamWSettings, AttentionAttributes, BinaryKind, Mask, ReduceKind, ScoreBias, Segments, UnaryKind},
    sample::SampleRow,
};
use consort_scalar::Single;

/// Memory, and nothing else.
struct ThreeMethods;

impl Backend for ThreeMethods {
    type Buffer = Arc<HostData>;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        Ok(Arc::new(HostData::from_f64(std::iter::repeat_n(0.0, elements), dtype)))
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        Ok(Arc::new(data))
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        Ok(Ready::new(HostData::clone(buffer)))
    }
}

/// An operation and how to run it.
type Case<B> = (&'static str, Box<dyn Fn(&Device<B>) -> Result<Vec<TensorOf<B>>>>);

fn floats<B: Backend>(device: &Device<B>, seed: u64, sizes: &[usize]) -> TensorOf<B> {
    device.upload_floats(&Draws::new(seed).values(sizes.iter().product()), sizes).unwrap()
}

fn one<B: Backend>(name: &'static str, run: impl Fn(&Device<B>) -> Result<TensorOf<B>> + 'static) -> Case<B> {
    (name, Box::new(move |device| Ok(vec![run(device)?])))
}

fn all<B: Backend>(name: &'static str, operation: impl Fn(&Device<B>) -> FusedOf<B> + 'static) -> Case<B> {
    (name, Box::new(move |device| Ok(device.fused(operation(device))?.into_vec())))
}

/// Every primitive, by its name.
fn primitives<B: Backend>() -> Vec<Case<B>> {
    let x = |device: &Device<B>| floats(device, 1, &[4, 6]).permute(&[1, 0]).unwrap().slice(0, 1, 3).unwrap(); // [3, 4]
    let ids = |device: &Device<B>| device.upload_ids(vec![2, 0, 9]).unwrap();
    vec![
        one("fill", |device| device.fill(&[2, 3], 0.1)),
        one("copy", move |device| device.copy(&x(device), DType::BF16)),
        one("write", move |device| device.write(x(device), floats(device, 2, &[1, 2]), &[2, 1])),
        one("unary", move |device| device.unary(x(device), UnaryKind::Tanh)),
        one("binary", move |device| device.binary(x(device), floats(device, 3, &[4]), BinaryKind::Divide)),
        one("select", move |device| {
            device.select(device.upload_ids(vec![0, 1, 1, 0])?, x(device), floats(device, 4, &[1]))
        }),
        one("reduce", move |device| device.reduce(&x(device), 0, ReduceKind::Sum)),
        one("matmul", move |device| device.matmul(&x(device), &floats(device, 5, &[2, 4, 5]))),
        one("gather_rows", move |device| device.gather_rows(&x(device), &ids(device))),
        one("scatter_rows", move |device| device.scatter_rows(x(device), &ids(device), x(device), true)),
    ]
}

/// Every fused operation, by its name.
fn fused<B: Backend>() -> Vec<Case<B>> {
    let x = |device: &Device<B>| floats(device, 1, &[3, 8]);
    let d = |device: &Device<B>| floats(device, 9, &[3, 8]);
    let vector = |device: &Device<B>, seed| floats(device, seed, &[8]);
    let weight = |device: &Device<B>| {
        let part = StoredTensor::from_values("w", &Draws::new(6).values(40), [5, 8]).unwrap();
        device.pack(&[part], WeightDType::BF16).unwrap()
    };
    let attributes = |mask| AttentionAttributes { scale: 0.5, soft_cap: Some(30.0), mask, bias: ScoreBias::Linear };
    let causal = Mask::Causal { window: Some(2) };
    vec![
        one("softmax", move |device| device.softmax(x(device))),
        one("layer_norm", move |device| {
            device.layer_norm(x(device), &vector(device, 2), Some(&vector(device, 3)), 1e-5)
        }),
        one("rms_norm", move |device| device.rms_norm(x(device), &vector(device, 2), 1e-6, true)),
        one("rotary", |device| {
            let tables = [floats(device, 2, &[4, 2]), floats(device, 3, &[4, 2])];
            let ids = device.upload_ids(vec![3, 0, 1])?;
            device.rotary(floats(device, 1, &[3, 2, 4]), &tables, &ids, RotaryPairing::Interleaved)
        }),
        one("activation", move |device| device.activation(x(device), Activation::Gelu)),
        one("gated", move |device| device.gated(x(device), floats(device, 2, &[3, 8]), Activation::Silu)),
        one("soft_cap", move |device| device.soft_cap(x(device), 1.5)),
        all("quantize_activations", |device| Fused::QuantizeActivations { x: floats(device, 1, &[3, 37]) }),
        one("linear", move |device| {
            let (bias, residual) = (floats(device, 2, &[5]), floats(device, 3, &[3, 5]));
            let kind = Some(Activation::GeluTanh);
            device.linear(x(device), &weight(device), Some(&bias), kind, Some(residual), Compute::Int8)
        }),
        one("embedding", move |device| device.embedding(&weight(device), &device.upload_ids(vec![4, 1, 1])?)),
        one("attention", move |device| {
            device.one(Fused::Attention {
                query: floats(device, 1, &[5, 4, 6]),
                key: floats(device, 2, &[5, 2, 6]),
                value: floats(device, 3, &[5, 2, 6]),
                bias: Some(floats(device, 4, &[4])),
                segments: Arc::new(Segments::within(vec![3, 2])),
                attributes: attributes(causal),
            })
        }),
        (
            "cache_write",
            Box::new(|device| {
                let mut cache = KvCache::new(device, &[None], 2, 6)?;
                let slot = cache.open();
                let (plan, _) = cache.append(&[slot; 5])?;
                let (cache, layer, plan) = plan.layer(0);
                let (key, value) = (floats(device, 2, &[5, 2, 6]), floats(device, 3, &[5, 2, 6]));
                let (cache, plan) = (cache.clone(), plan.clone());
                let rows = plan.targets();
                device.fused(Fused::CacheWrite { cache: cache.clone(), key, value, layer, plan })?;
                Ok(device.cache_read(&cache, layer, &rows)?.into())
            }),
        ),
        one("cached_attention", move |device| {
            let mut cache = KvCache::new(device, &[Some(2)], 2, 6)?;
            let slot = cache.open();
            let mut out = device.zeros(consort_core::Shape::new(&[1])?, device.float())?;
            for step in [3, 2] {
                let (plan, _) = cache.append(&vec![slot; step])?;
                let (cache, layer, plan) = plan.layer(0);
                let (key, value) = (floats(device, 2, &[step, 2, 6]), floats(device, 3, &[step, 2, 6]));
                let (cache, plan) = (cache.clone(), plan.clone());
                device.fused(Fused::CacheWrite { cache: cache.clone(), key, value, layer, plan: plan.clone() })?;
                out = device.one(Fused::CachedAttention {
                    query: floats(device, 1, &[step, 4, 6]),
                    cache,
                    bias: Some(floats(device, 4, &[4])),
                    layer,
                    plan,
                    attributes: attributes(causal),
                })?;
            }
            Ok(out)
        }),
        (
            "cross_entropy",
            Box::new(move |device| {
                let targets = device.upload_ids(vec![2, 0, 9])?;
                let logits = x(device);
                Ok(device.fused(Fused::CrossEntropy { logits, targets, smoothing: 0.1 })?.into_vec())
            }),
        ),
        (
            "adamw",
            Box::new(move |device| {
                let settings =
                    AdamWSettings { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 3 };
                let second = device.multiply(x(device), x(device))?;
                let [parameter, gradient, first] = [x(device), floats(device, 2, &[3, 8]), x(device)];
                Ok(device.fused(Fused::AdamW { parameter, gradient, first, second, settings })?.into_vec())
            }),
        ),
        one("sample", move |device| {
            let warm = SampleRow { temperature: 0.8, top_k: 5, seed: 3, ..SampleRow::greedy() };
            let rows = Arc::new([SampleRow::greedy(), warm.clone(), SampleRow { stream: 1, ..warm }]);
            device.one(Fused::Sample { logits: x(device), rows })
        }),
        all("softmax_backward", move |device| Fused::SoftmaxBackward { y: x(device), d_y: d(device) }),
        all("layer_norm_backward", move |device| Fused::LayerNormBackward {
            x: x(device),
            weight: vector(device, 2),
            d_y: d(device),
            epsilon: 1e-5,
        }),
        all("rms_norm_backward", move |device| Fused::RmsNormBackward {
            x: x(device),
            weight: vector(device, 2),
            d_y: d(device),
            epsilon: 1e-5,
            unit_offset: true,
        }),
        all("activation_backward", move |device| Fused::ActivationBackward {
            x: x(device),
            d_y: d(device),
            kind: Activation::GeluTanh,
        }),
        all("gated_backward", move |device| Fused::GatedBackward {
            gate: x(device),
            up: d(device),
            d_y: d(device),
            kind: Activation::Silu,
        }),
        all("soft_cap_backward", move |device| Fused::SoftCapBackward { x: x(device), d_y: d(device), cap: 1.5 }),
        all("linear_backward_input", move |device| Fused::LinearBackwardInput {
            d_y: floats(device, 2, &[3, 5]),
            weight: weight(device),
            compute: Compute::F32,
        }),
        all("linear_backward_weight", move |device| Fused::LinearBackwardWeight {
            x: x(device),
            d_y: floats(device, 2, &[3, 5]),
            compute: Compute::BF16,
        }),
        all("embedding_backward", move |device| Fused::EmbeddingBackward {
            ids: device.upload_ids(vec![4, 1, 4]).unwrap(),
            d_y: d(device),
            rows: 5,
        }),
        all("attention_backward", move |device| Fused::AttentionBackward {
            query: floats(device, 1, &[5, 4, 6]),
            key: floats(device, 2, &[5, 2, 6]),
            value: floats(device, 3, &[5, 2, 6]),
            bias: Some(floats(device, 4, &[4])),
            y: floats(device, 5, &[5, 4, 6]),
            log_sum: floats(device, 6, &[5, 4]),
            d_y: floats(device, 7, &[5, 4, 6]),
            segments: Arc::new(Segments::within(vec![3, 2])),
            attributes: attributes(causal),
        }),
        all("cross_entropy_backward", move |device| Fused::CrossEntropyBackward {
            logits: x(device),
            targets: device.upload_ids(vec![2, 0, 9]).unwrap(),
            log_sum: floats(device, 2, &[3]),
            d_loss: floats(device, 3, &[3]),
            smoothing: 0.1,
        }),
    ]
}

/// The bits of every case's results, by name.
fn results<B: Backend>(device: &Device<B>, cases: Vec<Case<B>>) -> BTreeMap<&'static str, Vec<Vec<u64>>> {
    let bits = |x: &TensorOf<B>| elements(device, x).iter().map(|value| value.to_bits()).collect();
    cases.into_iter().map(|(name, run)| (name, run(device).unwrap().iter().map(bits).collect())).collect()
}

fn names(names: &[&'static str]) -> Vec<&'static str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

#[test]
fn every_operation_gives_the_bits_of_the_host() {
    for (all, minimal, host) in [
        (Primitive::<()>::NAMES, primitives::<ThreeMethods>(), primitives::<Single>()),
        (Fused::<(), (), ()>::NAMES, fused(), fused()),
    ] {
        let minimal = results(&Device::new(ThreeMethods), minimal);
        assert_eq!(minimal.keys().copied().collect::<Vec<_>>(), names(all), "a case for every operation");
        assert_eq!(minimal, results(&Device::new(Single::new()), host));
    }
}

#[test]
fn the_report_says_where_operations_ran() {
    let device = Device::new(ThreeMethods);
    results(&device, primitives());
    let report = device.report();
    assert_eq!(report.keys().copied().collect::<Vec<_>>(), names(Primitive::<()>::NAMES));
    assert!(report.values().all(|counts| counts.host > 0 && counts.native == 0 && counts.composed == 0));

    for (name, run) in fused() {
        let device = Device::new(ThreeMethods);
        run(&device).unwrap();
        let Counts { native, composed, host } = device.report()[name];
        assert!(host > 0 && native + composed == 0, "{name}: {native} {composed} {host}");
    }

    let device = Device::new(Single::new());
    results(&device, primitives());
    results(&device, fused());
    for (name, counts) in device.report() {
        let native = name == "sample" || Primitive::<()>::NAMES.contains(&name);
        let of_kind = if native { counts.native } else { counts.composed };
        assert!(of_kind > 0 && counts.native + counts.composed + counts.host == of_kind, "{name}: {counts:?}");
    }
}

#[test]
fn denied_fall_back_is_an_error_with_the_operations_name() {
    let device = Device::with_policy(ThreeMethods, Policy::Deny);
    let (cases, host) = (primitives(), Device::new(ThreeMethods));
    for (name, run) in cases {
        let error = run(&device).unwrap_err();
        assert_eq!(error, Error::FallbackDenied { backend: device.backend().name(), operation: name });
        assert!(run(&host).is_ok());
    }
    let error = device.softmax(floats(&device, 1, &[2, 3])).unwrap_err();
    assert!(matches!(error, Error::FallbackDenied { operation: "reduce", .. }), "{error}");
    // What the host need not do is allowed.
    assert!(device.cache(CacheSpec { layers: 1, key_value_heads: 1, head_width: 2, block: 4 }).is_ok());
}

#[test]
fn warnings_name_each_operation_once() {
    let device = Device::with_policy(ThreeMethods, Policy::Warn);
    assert!(device.warnings().is_empty());
    results(&device, primitives());
    results(&device, primitives());
    assert_eq!(names(&device.warnings()), names(Primitive::<()>::NAMES));
    let device = Device::with_policy(Single::new(), Policy::Warn);
    results(&device, fused());
    assert!(device.warnings().is_empty());
}
