//! Gradients of whole programs: through views, tied weights and small models of every shape, against finite differences in
//! f64; what a tape keeps; what has no gradient. The operations one by one are checked by consort-conformance.

mod common;

use std::sync::Arc;

use common::{Draws, assert_bits, assert_close, elements, fixed, offsets};
use consort_core::{
    Backend, Device, Error, Fused, KvCache, StoredTensor, TensorOf, Transformer, TransformerConfig, WeightDType,
    autodiff::{Autodiff, Gradients, Parameter},
    config::{
        Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig,
        NormKind, Placement, Positions, RotaryConfig, RotaryPairing, RotaryScaling, StackConfig,
    },
    model::{LoadOptions, WeightMap},
    operation::{AttentionAttributes, Mask, ReduceKind, ScoreBias, UnaryKind},
    philox,
};
use consort_scalar::{Oracle, Single};
use proptest::prelude::*;

type Tape = Device<Autodiff<Oracle>>;

fn tape() -> (Device<Oracle>, Tape) {
    let device = Device::new(Oracle::new());
    (device.clone(), Device::new(Autodiff::new(device)))
}

fn random<B: Backend>(device: &Device<B>, seed: u64, sizes: &[usize]) -> TensorOf<B> {
    device.upload_floats(&Draws::new(seed).values(sizes.iter().product()), sizes).unwrap()
}

proptest! {
    #![proptest_config(fixed(400))]

    #[test]
    fn a_gradient_goes_back_through_any_view(
        sizes in prop::collection::vec(1usize..5, 1..5),
        steps in prop::collection::vec((0u8..4, 0usize..1000, 0usize..1000), 0..5),
    ) {
        let (device, tape) = tape();
        let base = tape.backend().watch(&random(&device, 1, &sizes));
        let mut x = base.clone();
        for (kind, a, b) in steps {
            let rank = x.shape().rank();
            x = match kind {
                0 => {
                    let mut order: Vec<usize> = (0..rank).collect();
                    order.rotate_left(a % rank);
                    order.swap(0, b % rank);
                    x.permute(&order).unwrap()
                }
                1 => {
                    let axis = a % rank;
                    let start = b % x.size(axis);
                    x.slice(axis, start, 1 + a % (x.size(axis) - start)).unwrap()
                }
                2 if rank < 5 => {
                    let mut sizes = x.sizes().to_vec();
                    let ones = sizes.iter_mut().filter(|size| **size == 1);
                    ones.for_each(|size| *size = 1 + a % 3);
                    sizes.insert(0, 1 + b % 2);
                    x.broadcast_to(&sizes).unwrap()
                }
                3 => x.view(&[x.shape().elements()]).unwrap_or(x),
                _ => x,
            };
        }
        let cotangent = random(&device, 2, x.sizes());
        // Twice, so that a second use is added to the first.
        let y = tape.add(x.clone(), x.clone()).unwrap();
        let gradients = tape.backend().backward(&[(y, cotangent.clone())]).unwrap();
        let mut expected = vec![0.0; base.shape().elements()];
        for (offset, d) in offsets(x.layout()).into_iter().zip(elements(&device, &cotangent)) {
            expected[offset] += 2.0 * d;
        }
        assert_close("base", &elements(&device, &gradients.of(&base).unwrap()), &expected);
    }
}

#[test]
fn a_row_that_begins_inside_another_is_scattered() {
    let (device, tape) = tape();
    let base = tape.backend().watch(&random(&device, 1, &[24]));
    // [5, 17) as [3, 4]: no box of [6, 4].
    let x = base.slice(0, 5, 12).unwrap().view(&[3, 4]).unwrap().slice(1, 1, 2).unwrap();
    let cotangent = random(&device, 2, &[3, 2]);
    let y = tape.unary(x.clone(), UnaryKind::Negate).unwrap();
    let gradients = tape.backend().backward(&[(y, cotangent.clone())]).unwrap();
    let mut expected = vec![0.0; 24];
    for (offset, d) in offsets(x.layout()).into_iter().zip(elements(&device, &cotangent)) {
        expected[offset] -= d;
    }
    assert_close("base", &elements(&device, &gradients.of(&base).unwrap()), &expected);
}

#[test]
fn entries_save_what_their_rules_declare() {
    let (device, tape) = tape();
    let x = tape.backend().watch(&random(&device, 1, &[2, 3]));
    let constant = tape.backend().constant(&random(&device, 2, &[2, 3]));
    let x2 = tape.add(x.clone(), constant.clone()).unwrap();
    let x3 = tape.multiply(x2.clone(), constant).unwrap();
    let x4 = tape.softmax(x3).unwrap();
    let x5 = tape.unary(x4, UnaryKind::Exp).unwrap();
    tape.reduce(&x5, 1, ReduceKind::Sum).unwrap();
    let expected =
        [("binary", vec![]), ("binary", vec![6]), ("softmax", vec![6]), ("unary", vec![6]), ("reduce", vec![])];
    assert_eq!(tape.backend().saved(), expected);
    tape.backend().paused(|| tape.softmax(x.clone())).unwrap();
    assert_eq!(tape.backend().saved().len(), 5);
    tape.backend().clear();
    assert!(tape.backend().saved().is_empty());
}

#[test]
fn what_has_no_gradient_says_so() {
    let (device, tape) = tape();
    let refused = |result: Result<_, Error>, words: &str| match result {
        Err(Error::Input(what)) => assert!(what.contains(words), "{what}"),
        other => panic!("expected an error about {words}, found {:?}", other.map(|_: ()| ())),
    };
    let x = tape.backend().watch(&random(&device, 1, &[1, 2, 4]));
    // A tape that was consumed.
    let y = tape.unary(x.clone(), UnaryKind::Tanh).unwrap();
    let d = random(&device, 2, &[1, 2, 4]);
    tape.backend().backward(&[(y.clone(), d.clone())]).unwrap();
    refused(tape.unary(y.clone(), UnaryKind::Tanh).map(drop), "tape that was consumed");
    refused(tape.backend().backward(&[(y, d.clone())]).map(drop), "tape that was consumed");
    // A cache.
    let mut cache = KvCache::new(&tape, &[None], 2, 4).unwrap();
    let slot = cache.open();
    let (plan, _) = cache.append(&[slot]).unwrap();
    let (cache, layer, plan) = plan.layer(0);
    let (cache, plan) = (cache.clone(), Arc::clone(plan));
    let write =
        || Fused::CacheWrite { cache: cache.clone(), key: x.clone(), value: x.clone(), layer, plan: plan.clone() };
    refused(tape.fused(write()).map(drop), "cache_write");
    tape.backend().paused(|| tape.fused(write())).unwrap();
    let attributes =
        AttentionAttributes { scale: 1.0, soft_cap: None, mask: Mask::Causal { window: None }, bias: ScoreBias::None };
    let attend = Fused::CachedAttention { query: x.clone(), cache, bias: None, layer, plan, attributes };
    refused(tape.one(attend).map(drop), "cached_attention");
    // A second derivative.
    let y = tape.softmax(x.clone()).unwrap();
    refused(tape.one(Fused::SoftmaxBackward { y: y.clone(), d_y: y.clone() }).map(drop), "softmax_backward");
    // A cotangent of other sizes.
    let short = random(&device, 3, &[1, 2, 3]);
    assert!(matches!(tape.backend().backward(&[(y, short)]), Err(Error::Shape { .. })));
}

#[test]
fn nothing_comes_back_to_what_was_not_used() {
    let (device, tape) = tape();
    let [x, unused] = [1, 2].map(|seed| tape.backend().watch(&random(&device, seed, &[3])));
    let y = tape.unary(x.clone(), UnaryKind::Exp).unwrap();
    tape.add(unused.clone(), y.clone()).unwrap();
    let gradients = tape.backend().backward(&[(y, random(&device, 3, &[3]))]).unwrap();
    assert!(gradients.of(&x).is_some());
    assert!(gradients.of(&unused).is_none());
}

const VOCABULARY: usize = 13;

/// A stack that has about everything.
fn stack(causal: bool, cross: bool) -> StackConfig {
    StackConfig {
        vocabulary: VOCABULARY,
        context: Some(16),
        layers: 2,
        causal,
        embedding: EmbeddingConfig {
            scale: 1.5,
            positions: Positions::Learned { count: 18, offset: 2 },
            token_types: 2,
            norm: true,
        },
        attention: AttentionConfig {
            heads: 4,
            key_value_heads: 2,
            head_width: 4,
            scale: 0.6,
            inverse_layer_scale: true,
            input_bias: true,
            output_bias: true,
            query_key_norm: true,
            soft_cap: Some(5.0),
            windows: if causal { vec![3, 0] } else { Vec::new() },
            window_rotary: None,
            positions: AttentionPositions::Relative { buckets: 6, max_distance: 5 },
        },
        cross_attention: cross,
        feed_forward: FeedForwardConfig { width: 9, activation: Activation::Gelu, gated: false, bias: true },
        norm: NormConfig { kind: NormKind::Layer, epsilon: 1e-5, bias: true, unit_offset: false },
        placement: Placement::Post,
        final_norm: true,
    }
}

fn llama_like() -> TransformerConfig {
    let rotary = RotaryConfig { width: 4, theta: 50.0, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None };
    let plain = stack(true, false);
    let decoder = StackConfig {
        embedding: EmbeddingConfig::default(),
        attention: AttentionConfig {
            positions: AttentionPositions::Rotary(rotary),
            input_bias: false,
            output_bias: false,
            ..plain.attention.clone()
        },
        feed_forward: FeedForwardConfig { width: 9, activation: Activation::Silu, gated: true, bias: false },
        norm: NormConfig { kind: NormKind::Rms, epsilon: 1e-5, bias: false, unit_offset: true },
        placement: Placement::Sandwich,
        ..plain
    };
    let head = HeadConfig { tied: true, bias: true, scale: 0.5, soft_cap: Some(9.0), transform: None };
    TransformerConfig { width: 10, encoder: None, decoder: Some(decoder), shared_embedding: false, head: Some(head) }
}

/// Attention and feed-forward network side by side, with a rotation of its own for the layer that has a window.
fn parallel() -> TransformerConfig {
    let mut config = llama_like();
    if let Some(stack) = &mut config.decoder {
        let rotary =
            RotaryConfig { width: 2, theta: 9.0, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None };
        stack.attention.window_rotary = Some(rotary);
        stack.placement = Placement::ParallelSharedNorm;
    }
    config
}

fn bert_like() -> TransformerConfig {
    let head = HeadConfig { tied: true, bias: true, scale: 1.0, soft_cap: None, transform: Some(Activation::GeluTanh) };
    TransformerConfig {
        width: 10,
        encoder: Some(stack(false, false)),
        decoder: None,
        shared_embedding: false,
        head: Some(head),
    }
}

fn t5_like() -> TransformerConfig {
    let head = HeadConfig { tied: true, bias: false, scale: 1.0, soft_cap: None, transform: None };
    let pre = |stack: StackConfig| StackConfig { placement: Placement::Pre, ..stack };
    TransformerConfig {
        width: 10,
        encoder: Some(pre(stack(false, false))),
        decoder: Some(pre(stack(true, true))),
        shared_embedding: true,
        head: Some(head),
    }
}

fn weights(config: &TransformerConfig) -> WeightMap {
    let slots = config.slots().into_iter().enumerate();
    slots
        .map(|(stream, slot)| {
            let draw = |at| 0.4 * philox::normal(11, stream as u64, at);
            let values: Vec<f64> = (0..(slot.shape[0] * slot.shape[1]) as u64).map(draw).collect();
            (slot.name.clone(), StoredTensor::from_values(&slot.name, &values, slot.shape).unwrap())
        })
        .collect()
}

/// The mean loss of two packed sequences, one target of which is none.
fn loss<B: Backend>(model: &Transformer<B>) -> TensorOf<B> {
    let targets: [&[u32]; 2] = [&[3, 1, 4, 1, 5], &[9, 2, 6]];
    let sources: &[&[u32]] = if model.config().encoder.is_some() && model.config().decoder.is_some() {
        &[&[8, 7], &[6, 5, 12, 1]]
    } else {
        &[]
    };
    let hidden = model.forward(sources, &targets, None).unwrap();
    let logits = model.logits(&hidden, None).unwrap();
    let device = model.device();
    let targets = device.upload_ids(vec![1, 4, 1, 5, u32::MAX, 2, 6, 0]).unwrap();
    let losses = device.one(Fused::CrossEntropy { logits, targets, smoothing: 0.1 }).unwrap();
    device.scale(device.reduce(&losses, 0, ReduceKind::Sum).unwrap(), 1.0 / 7.0).unwrap()
}

struct Trained {
    device: Device<Oracle>,
    tape: Tape,
    model: Transformer<Autodiff<Oracle>>,
}

impl Trained {
    fn load(config: &TransformerConfig) -> Self {
        let (device, tape) = tape();
        let model = Transformer::load(&tape, config, &weights(config), LoadOptions::default()).unwrap();
        Self { device, tape, model }
    }

    fn gradients(&self) -> Gradients<Oracle> {
        let one = self.device.upload_floats(&[1.0], &[1]).unwrap();
        self.tape.backend().backward(&[(loss(&self.model), one)]).unwrap()
    }

    fn loss(&self) -> f64 {
        self.tape.backend().paused(|| elements(&self.tape, &loss(&self.model))[0])
    }

    /// The loss with a parameter moved.
    fn moved(&self, parameter: &Parameter<Oracle>, direction: &[f64], by: f64) -> f64 {
        let before = parameter.value();
        let values: Vec<f64> =
            elements(&self.device, &before).iter().zip(direction).map(|(x, direction)| x + by * direction).collect();
        let after = self.device.upload_floats(&values, before.sizes()).unwrap();
        self.tape.backend().set(parameter, after).unwrap();
        let loss = self.loss();
        self.tape.backend().set(parameter, before).unwrap();
        loss
    }
}

/// Every parameter's gradient along a random direction, against central differences with one step of Richardson: the rest
/// is of order h⁴ = 1e-12 and the rounding of the loss over h, 1e-13.
#[test]
fn models_of_every_shape_against_finite_differences() {
    for (name, config) in [("llama", llama_like()), ("parallel", parallel()), ("bert", bert_like()), ("t5", t5_like())]
    {
        let trained = Trained::load(&config);
        let gradients = trained.gradients();
        let parameters = trained.tape.backend().parameters();
        let slots: usize = parameters.iter().map(|parameter| parameter.slots().len()).sum();
        assert_eq!(slots, config.slots().len(), "{name}: every slot is a parameter");
        let mut greatest = 0f64;
        for (at, parameter) in parameters.iter().enumerate() {
            let gradient = gradients.parameter(parameter).map(|d| elements(&trained.device, &d));
            let gradient = gradient.unwrap_or_else(|| panic!("{name}: no gradient for {:?}", parameter.slots()));
            let direction: Vec<f64> = Draws::new(50 + at as u64).values(gradient.len());
            let along: f64 = gradient.iter().zip(&direction).map(|(d, direction)| d * direction).sum();
            let central = |h: f64| {
                (trained.moved(parameter, &direction, h) - trained.moved(parameter, &direction, -h)) / (2.0 * h)
            };
            let h = 2e-4;
            let numeric = (4.0 * central(h) - central(2.0 * h)) / 3.0;
            let error = (along - numeric).abs();
            assert!(error <= 1e-9 * numeric.abs().max(1.0), "{name} {:?}: {along:e}, {numeric:e}", parameter.slots());
            greatest = greatest.max(numeric.abs());
        }
        assert!(greatest > 0.1, "{name}: the loss hardly moves: {greatest}");
    }
}

#[test]
fn a_tied_weight_gets_one_gradient_of_both_uses() {
    let tied = llama_like();
    let mut untied = tied.clone();
    untied.head.as_mut().unwrap().tied = false;
    let by_slot = |config: &TransformerConfig| {
        // The same weights in both: their draws depend on which slots there are.
        let mut map = weights(&llama_like());
        map.insert("head.output.weight".into(), map["decoder.embedding.tokens.weight"].clone());
        let (device, tape) = tape();
        let model = Transformer::load(&tape, config, &map, LoadOptions::default()).unwrap();
        let trained = Trained { device, tape, model };
        let gradients = trained.gradients();
        let of = |slot: &str| {
            let parameters = trained.tape.backend().parameters();
            let found: Vec<_> = parameters.iter().filter(|p| p.slots().iter().any(|(name, _)| name == slot)).collect();
            assert!(found.len() < 2, "{slot} is a parameter twice");
            found.first().map(|parameter| elements(&trained.device, &gradients.parameter(parameter).unwrap()))
        };
        (of("decoder.embedding.tokens.weight").unwrap(), of("head.output.weight"))
    };
    let (both, none) = by_slot(&tied);
    let (of_embedding, of_head) = by_slot(&untied);
    assert!(none.is_none());
    let sum: Vec<f64> = of_embedding.iter().zip(of_head.unwrap()).map(|(a, b)| a + b).collect();
    assert_close("tied", &both, &sum);
}

#[test]
fn what_is_not_trained_has_no_gradient_and_lets_others_through() {
    let device = Device::new(Oracle::new());
    let config = llama_like();
    let autodiff = Autodiff::training(device.clone(), |slot| slot.contains("decoder.0.attention.query"));
    let tape = Device::new(autodiff);
    let model = Transformer::load(&tape, &config, &weights(&config), LoadOptions::default()).unwrap();
    let trained = Trained { device, tape, model };
    let gradients = trained.gradients();
    let parameters = trained.tape.backend().parameters();
    let names: Vec<&str> = parameters.iter().flat_map(|p| p.slots().iter().map(|(name, _)| name.as_str())).collect();
    assert!(names.contains(&"decoder.0.attention.query.weight"), "{names:?}");
    let all = Trained::load(&config);
    let everything = all.gradients();
    for parameter in parameters {
        let same =
            all.tape.backend().parameters().into_iter().find(|other| other.slots() == parameter.slots()).unwrap();
        let [some, all] = [
            elements(&trained.device, &gradients.parameter(&parameter).unwrap()),
            elements(&all.device, &everything.parameter(&same).unwrap()),
        ];
        assert_bits("partly trained", &some, &all);
    }
}

#[test]
fn a_master_is_packed_anew() {
    let device = Device::new(Single::new());
    let tape = Device::new(Autodiff::new(device.clone()));
    let stored = StoredTensor::from_values("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]).unwrap();
    let weight = tape.pack(&[stored], WeightDType::BF16).unwrap();
    let parameter = tape.backend().parameters().remove(0);
    let third = 1.0 / 3.0;
    tape.backend().set(&parameter, device.upload_floats(&[third; 6], &[2, 3]).unwrap()).unwrap();
    assert_bits("master", &elements(&device, &parameter.value()), &[f64::from(third as f32); 6]);
    // What operations compute with is rounded as it was asked for: 1/3 in eight bits.
    assert_bits("packed", &elements(&tape, &tape.unpack(&weight).unwrap()), &[0.333984375; 6]);
    let other = device.upload_floats(&[third; 6], &[3, 2]).unwrap();
    assert!(matches!(tape.backend().set(&parameter, other), Err(Error::Shape { .. })));
}

#[test]
fn recording_does_not_change_what_is_computed() {
    for config in [llama_like(), parallel(), bert_like(), t5_like()] {
        let device = Device::new(Single::new());
        let plain = Transformer::load(&device, &config, &weights(&config), LoadOptions::default()).unwrap();
        let tape = Device::new(Autodiff::new(Device::new(Single::new())));
        let taped = Transformer::load(&tape, &config, &weights(&config), LoadOptions::default()).unwrap();
        assert_bits("loss", &elements(&tape, &loss(&taped)), &elements(&device, &loss(&plain)));
    }
}

/// Constants of one dimension within rules and decompositions made vectors of one element of scalars.
#[test]
fn a_scalar_stays_a_scalar() {
    let (device, tape) = tape();
    let x = device.upload_floats(&[3.0, 2.0, 0.5, 1.0], &[4]).unwrap().slice(0, 2, 1).unwrap().view(&[]).unwrap();
    let y = device.activation(x.clone(), Activation::Silu).unwrap();
    assert!(y.sizes().is_empty());
    let watched = tape.backend().watch(&x);
    let y = tape.activation(tape.unary(watched.clone(), UnaryKind::Sqrt).unwrap(), Activation::Tanh).unwrap();
    assert!(y.sizes().is_empty());
    let d_y = device.upload_floats(&[1.0], &[]).unwrap();
    tape.backend().backward(&[(y, d_y)]).unwrap();
}
