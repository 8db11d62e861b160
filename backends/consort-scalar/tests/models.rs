//! Small models with random weights, of every shape: what must not matter does not, to the bit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use consort_core::{
    Backend, CacheOf, CacheSpec, CacheStore, DType, Device, Error, Fused, FusedOf, HostData, Lockstep, MapOperands,
    Outputs, PrimitiveOf, Ready, Result, Seen, Spec, StoredTensor, TensorOf, Transformer, TransformerConfig, Watcher,
    WeightDType, WeightOf, WeightStore,
    config::{
        Activation, AttentionConfig, AttentionPositions, EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig,
        NormKind, Placement, Positions, RotaryConfig, RotaryPairing, RotaryScaling, SinusoidLayout, StackConfig,
    },
    model::{AttentionKind, LoadOptions, Observer, StackKind, State, Tokens, WeightMap},
    philox,
    sample::SampleRow,
};
use consort_scalar::{Oracle, Single};

const VOCABULARY: usize = 23;

fn stack(width: usize, heads: usize) -> StackConfig {
    let head_width = (width / heads).max(1);
    StackConfig {
        vocabulary: VOCABULARY,
        context: Some(64),
        layers: 2,
        causal: true,
        embedding: EmbeddingConfig::default(),
        attention: AttentionConfig {
            heads,
            key_value_heads: heads,
            head_width,
            scale: 1.0 / (head_width as f64).sqrt(),
            inverse_layer_scale: false,
            input_bias: true,
            output_bias: true,
            query_key_norm: false,
            soft_cap: None,
            windows: Vec::new(),
            window_rotary: None,
            positions: AttentionPositions::None,
        },
        cross_attention: false,
        feed_forward: FeedForwardConfig {
            width: 2 * width + 1,
            activation: Activation::Relu,
            gated: false,
            bias: true,
        },
        norm: NormConfig { kind: NormKind::Layer, epsilon: 1e-5, bias: true, unit_offset: false },
        placement: Placement::Post,
        final_norm: false,
    }
}

fn decoder_only(width: usize, heads: usize) -> TransformerConfig {
    let head = HeadConfig { tied: true, bias: false, scale: 1.0, soft_cap: None, transform: None };
    TransformerConfig {
        width,
        encoder: None,
        decoder: Some(stack(width, heads)),
        shared_embedding: false,
        head: Some(head),
    }
}

fn with(mut config: TransformerConfig, change: impl Fn(&mut StackConfig)) -> TransformerConfig {
    [&mut config.encoder, &mut config.decoder].into_iter().flatten().for_each(change);
    config
}

fn rotary(config: TransformerConfig, width: usize, pairing: RotaryPairing) -> TransformerConfig {
    let scaling = RotaryScaling::Dynamic { factor: 2.0, original: 6 };
    let rotary = RotaryConfig { width, theta: 50.0, pairing, scaling };
    with(config, |stack| stack.attention.positions = AttentionPositions::Rotary(rotary))
}

fn encoder_decoder(width: usize, heads: usize) -> TransformerConfig {
    let mut config = decoder_only(width, heads);
    config.encoder = Some(StackConfig { causal: false, vocabulary: VOCABULARY + 6, layers: 1, ..stack(width, heads) });
    config = with(config, |stack| {
        stack.embedding.positions = Positions::Sinusoidal { layout: SinusoidLayout::Interleaved };
    });
    config.decoder = config.decoder.map(|stack| StackConfig { cross_attention: true, ..stack });
    config
}

fn weights(config: &TransformerConfig) -> WeightMap {
    let slots = config.slots().into_iter().enumerate();
    slots
        .map(|(stream, slot)| {
            // Projections keep the size of what they are given; norms stay near one.
            let vector = slot.shape[0] == 1;
            let spread = if vector { 0.2 } else { 1.0 / (slot.shape[1] as f64).sqrt() };
            let offset = if slot.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let draw = |at| offset + spread * philox::normal(11, stream as u64, at);
            let values: Vec<f64> = (0..(slot.shape[0] * slot.shape[1]) as u64).map(draw).collect();
            (slot.name.clone(), StoredTensor::from_values(&slot.name, &values, slot.shape).unwrap())
        })
        .collect()
}

fn load<B: Backend>(device: &Device<B>, config: &TransformerConfig) -> Transformer<B> {
    Transformer::load(device, config, &weights(config), LoadOptions::default()).unwrap()
}

fn tokens(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u64).map(|at| (philox::uniform(seed, 1, at) * VOCABULARY as f64) as u32).collect()
}

fn floats<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Vec<f64> {
    device.download(x).unwrap().to_f64()
}

/// A prompt cut into steps of these sizes: hidden states of all rows.
fn in_steps<B: Backend>(model: &Transformer<B>, source: Option<&[u32]>, prompt: &[u32], sizes: &[usize]) -> Vec<f64> {
    let mut state = model.state().unwrap();
    let source = source.map(|source| model.add_sources(&mut state, &[source]).unwrap()[0]);
    let slot = state.open(prompt.len(), source);
    let (mut out, mut rest) = (Vec::new(), prompt);
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            return out;
        }
        let (now, later) = rest.split_at(size.min(rest.len()));
        let hidden = model.step(&mut state, &vec![slot; now.len()], Tokens::Host(now), None).unwrap();
        out.extend(floats(model.device(), &hidden));
        rest = later;
    }
    out
}

/// Cut anywhere, alone or in company, with or without a cache: the same bits.
#[track_caller]
fn consistent<B: Backend>(backend: B, config: &TransformerConfig) {
    let device = Device::new(backend);
    let model = load(&device, config);
    let sources: Vec<Vec<u32>> = (0..3).map(|which| tokens(30 + which, 4 + 3 * which as usize)).collect();
    let prompts: Vec<Vec<u32>> = [9, 1, 14].iter().enumerate().map(|(which, &n)| tokens(which as u64, n)).collect();
    let source = |which: usize| config.encoder.as_ref().map(|_| sources[which].as_slice());
    let whole: Vec<Vec<f64>> =
        (0..3).map(|which| in_steps(&model, source(which), &prompts[which], &[prompts[which].len()])).collect();
    assert!(whole.iter().flatten().all(|value| value.is_finite()));
    for sizes in [&[1][..], &[3, 1, 5]] {
        assert_eq!(in_steps(&model, source(2), &prompts[2], sizes), whole[2], "steps of {sizes:?}");
    }
    // All together, cacheless.
    let references: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let sources: Vec<&[u32]> = (0..3).filter_map(source).collect();
    let packed = model.forward(&sources, &references, None).unwrap();
    assert_eq!(floats(&device, &packed), whole.concat(), "packed");
    // All together, cached, a row of each in turn.
    let mut state = model.state().unwrap();
    let ids = if sources.is_empty() { vec![] } else { model.add_sources(&mut state, &sources).unwrap() };
    let slots: Vec<_> =
        prompts.iter().enumerate().map(|(which, p)| state.open(p.len(), ids.get(which).copied())).collect();
    let mut found = vec![Vec::new(); 3];
    for position in 0..14 {
        let now: Vec<usize> = (0..3).filter(|&which| position < prompts[which].len()).collect();
        let step: Vec<_> = now.iter().map(|&which| slots[which]).collect();
        let ids: Vec<u32> = now.iter().map(|&which| prompts[which][position]).collect();
        let hidden = floats(&device, &model.step(&mut state, &step, Tokens::Host(&ids), None).unwrap());
        for (row, &which) in hidden.chunks(config.width).zip(&now) {
            found[which].extend_from_slice(row);
        }
    }
    assert_eq!(found, whole, "ragged");
}

#[test]
fn head_counts_from_1_to_128() {
    for heads in [1, 2, 4, 8, 16, 32, 64, 128] {
        consistent(Single::new(), &with(decoder_only(128, heads), |stack| stack.layers = 1));
    }
    // Any count: H · C need not be D.
    for heads in 1..=128 {
        let config = with(decoder_only(6, 1), |stack| {
            stack.layers = 1;
            stack.attention.heads = heads;
            stack.attention.head_width = 3;
            stack.attention.positions = AttentionPositions::LinearBias;
            let divisors = (1..=heads).filter(|k| heads.is_multiple_of(*k));
            stack.attention.key_value_heads = divisors.take(2).last().unwrap_or(1);
        });
        let device = Device::new(Single::new());
        let model = load(&device, &config);
        let prompt = tokens(heads as u64, 5);
        let whole = in_steps(&model, None, &prompt, &[5]);
        assert_eq!(whole.len(), 30);
        assert_eq!(in_steps(&model, None, &prompt, &[1]), whole, "{heads} heads");
    }
    consistent(Oracle::new(), &decoder_only(15, 3));
}

#[test]
fn every_kind_of_position() {
    consistent(Oracle::new(), &rotary(decoder_only(12, 2), 4, RotaryPairing::Interleaved));
    consistent(Oracle::new(), &rotary(decoder_only(12, 2), 6, RotaryPairing::Halves));
    consistent(Oracle::new(), &rotary(encoder_decoder(12, 3), 4, RotaryPairing::Interleaved));
    let positions = |positions| with(encoder_decoder(12, 3), |stack| stack.attention.positions = positions);
    consistent(Oracle::new(), &positions(AttentionPositions::LinearBias));
    consistent(Oracle::new(), &positions(AttentionPositions::Relative { buckets: 7, max_distance: 9 }));
    consistent(
        Oracle::new(),
        &with(decoder_only(12, 3), |stack| {
            stack.embedding.positions = Positions::Learned { count: 66, offset: 2 };
            stack.embedding.token_types = 2;
            stack.embedding.norm = true;
        }),
    );
}

#[test]
fn windows_norms_placements_and_caps() {
    for windows in [vec![1, 1], vec![1, 0], vec![2, 5]] {
        consistent(
            Oracle::new(),
            &with(decoder_only(12, 3), |stack| {
                stack.attention.windows = windows.clone();
                stack.attention.soft_cap = Some(1.5);
                stack.attention.query_key_norm = true;
                stack.placement = Placement::Sandwich;
                stack.norm = NormConfig { kind: NormKind::Rms, epsilon: 1e-6, bias: false, unit_offset: true };
                stack.feed_forward.gated = true;
                stack.final_norm = true;
            }),
        );
    }
}

#[test]
fn parallel_blocks_and_rotations_by_layer() {
    for placement in [Placement::Parallel, Placement::ParallelSharedNorm] {
        let rotary =
            |theta| RotaryConfig { width: 2, theta, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None };
        let config = with(decoder_only(12, 3), |stack| {
            stack.placement = placement;
            stack.attention.windows = vec![2, 0];
            stack.attention.positions = AttentionPositions::Rotary(rotary(1e4));
            stack.attention.window_rotary = Some(rotary(9.0));
        });
        consistent(Oracle::new(), &config);
        let norms = config.slots().iter().filter(|slot| slot.name.ends_with("feed_forward.norm.weight")).count();
        assert_eq!(norms, if placement == Placement::Parallel { 2 } else { 0 });

        let refused = |change: fn(&mut StackConfig)| match with(config.clone(), change).validate() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let odd =
            |stack: &mut StackConfig| stack.attention.window_rotary.iter_mut().for_each(|rotary| rotary.width = 3);
        assert_eq!(refused(odd), "decoder.attention.window_rotary.width");
        let unrotated = |stack: &mut StackConfig| stack.attention.positions = AttentionPositions::LinearBias;
        assert_eq!(refused(unrotated), "decoder.attention.window_rotary");
        let mut reading = encoder_decoder(12, 3);
        if let Some(stack) = &mut reading.decoder {
            stack.placement = placement;
        }
        assert!(matches!(reading.validate(), Err(Error::Config { field, .. }) if field == "decoder.placement"));
    }
}

#[test]
fn stacks_without_layers() {
    let none = |config| with(config, |stack| stack.layers = 0);
    consistent(Oracle::new(), &none(encoder_decoder(12, 3)));
    let config = with(none(decoder_only(12, 3)), |stack| {
        stack.context = Some(14);
        stack.embedding.positions = Positions::Learned { count: 14, offset: 0 };
        stack.final_norm = true;
    });
    consistent(Oracle::new(), &config);
    // It has a context all the same.
    let model = load(&Device::new(Oracle::new()), &config);
    let mut state = model.state().unwrap();
    let slot = state.open(14, None);
    model.step(&mut state, &[slot; 14], Tokens::Host(&[1; 14]), None).unwrap();
    assert!(matches!(model.step(&mut state, &[slot], Tokens::Host(&[1]), None), Err(Error::Input(_))));
}

#[test]
fn separate_vocabularies_and_shared_ones() {
    let separate = encoder_decoder(12, 3);
    let device = Device::new(Single::new());
    let model = load(&device, &separate);
    // The encoder's vocabulary is larger.
    assert!(model.forward(&[&[VOCABULARY as u32 + 5]], &[&[0]], None).is_ok());
    assert!(model.forward(&[&[VOCABULARY as u32 + 6]], &[&[0]], None).is_err());
    assert!(model.forward(&[&[0]], &[&[VOCABULARY as u32]], None).is_err());
    let mut shared = separate.clone();
    shared.shared_embedding = true;
    assert!(matches!(shared.validate(), Err(Error::Config { .. })));
    shared.encoder.as_mut().unwrap().vocabulary = VOCABULARY;
    consistent(Single::new(), &shared);
    assert_eq!(load(&device, &shared).logits(&device.fill(&[1, 12], 0.5).unwrap(), None).unwrap().sizes(), [1, 23]);
}

#[test]
fn encoders_alone() {
    let mut config = decoder_only(12, 3);
    config.encoder = config.decoder.take().map(|stack| StackConfig { causal: false, ..stack });
    config.head =
        Some(HeadConfig { tied: true, bias: true, scale: 0.5, soft_cap: Some(3.0), transform: Some(Activation::Gelu) });
    let device = Device::new(Oracle::new());
    let model = load(&device, &config);
    let sequences: Vec<Vec<u32>> = (1..5).map(|which| tokens(which, 3 * which as usize)).collect();
    let references: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let together = floats(&device, &model.encode(&references, None).unwrap());
    let alone: Vec<f64> =
        references.iter().flat_map(|one| floats(&device, &model.encode(&[one], None).unwrap())).collect();
    assert_eq!(together, alone);
    assert_eq!(floats(&device, &model.forward(&[], &references, None).unwrap()), alone);
    let logits = model.logits(&model.encode(&references, None).unwrap(), Some(&[0, 2])).unwrap();
    assert_eq!(logits.sizes(), [2, VOCABULARY]);
    assert!(matches!(model.state().map(|_| ()), Err(Error::Input(_))));
}

#[test]
fn nothing_to_do_and_bad_input() {
    let device = Device::new(Single::new());
    let model = load(&device, &encoder_decoder(12, 3));
    let input = |result: Result<TensorOf<Single>>| match result {
        Err(Error::Input(message)) => message,
        other => panic!("{:?}", other.map(|x| *x.shape())),
    };
    input(model.encode(&[&[]], None));
    input(model.forward(&[&[1]], &[&[]], None));
    input(model.forward(&[], &[&[1]], None));
    input(model.encode(&[&[1; 65]], None));
    assert_eq!(model.encode(&[], None).unwrap().sizes(), [0, 12]);
    assert_eq!(model.forward(&[], &[], None).unwrap().sizes(), [0, 12]);

    let mut state = model.state().unwrap();
    assert!(model.add_sources(&mut state, &[]).unwrap().is_empty());
    let source = model.add_sources(&mut state, &[&[1, 2]]).unwrap()[0];
    let hidden = model.encode(&[&[1, 2, 3]], None).unwrap();
    assert!(model.keep_sources(&mut state, &hidden, &[&[1, 2]]).is_err());
    let slot = state.open(0, Some(source));
    assert_eq!(model.step(&mut state, &[], Tokens::Host(&[]), None).unwrap().sizes(), [0, 12]);
    let none = model.step(&mut state, &[], Tokens::Device(device.upload_ids(vec![]).unwrap()), None).unwrap();
    assert_eq!(model.logits(&none, None).unwrap().sizes(), [0, VOCABULARY]);
    input(model.step(&mut state, &[slot], Tokens::Host(&[]), None));
    input(model.step(&mut state, &[slot], Tokens::Host(&[VOCABULARY as u32]), None));
    input(model.step(&mut state, &[slot; 65], Tokens::Host(&[1; 65]), None));
    let orphan = state.open(0, None);
    input(model.step(&mut state, &[slot, orphan], Tokens::Host(&[1, 1]), None));
    let hidden = model.step(&mut state, &[slot, slot], Tokens::Host(&[1, 1]), None).unwrap();
    input(model.logits(&hidden, Some(&[2])));
    input(model.logits(&hidden, Some(&[usize::MAX])));
    assert_eq!(state.length(slot).unwrap(), 2);
    state.remove_source(source);
    input(model.step(&mut state, &[slot], Tokens::Host(&[1]), None));
    assert_eq!(state.length(slot).unwrap(), 2);
    state.close(slot);
    input(model.step(&mut state, &[slot], Tokens::Host(&[1]), None));
}

/// Remembers what it was shown; fails on request.
#[derive(Default)]
struct Watch {
    hidden: Vec<(StackKind, usize, Vec<usize>)>,
    attention: Vec<(StackKind, AttentionKind, usize, Vec<usize>)>,
    fails_at: Option<usize>,
}

impl<B: Backend> Observer<B> for Watch {
    fn hidden(&mut self, stack: StackKind, index: usize, hidden: &TensorOf<B>) -> Result<()> {
        self.hidden.push((stack, index, hidden.sizes().to_vec()));
        if self.fails_at == Some(index) { Err(Error::Input("seen enough".into())) } else { Ok(()) }
    }

    fn wants_attention(&self) -> bool {
        self.fails_at.is_none()
    }

    fn attention(&mut self, stack: StackKind, kind: AttentionKind, layer: usize, p: &TensorOf<B>) -> Result<()> {
        self.attention.push((stack, kind, layer, p.sizes().to_vec()));
        Ok(())
    }
}

#[test]
fn observers_see_every_layer_and_a_failed_step_is_taken_back() {
    let device = Device::new(Oracle::new());
    let config = with(encoder_decoder(12, 3), |stack| stack.final_norm = true);
    let model = load(&device, &config);
    let mut watch = Watch::default();
    model.encode(&[&[1, 2, 3, 4]], Some(&mut watch)).unwrap();
    let mut state = model.state().unwrap();
    let source = model.add_sources(&mut state, &[&[1, 2, 3, 4]]).unwrap()[0];
    let slot = state.open(3, Some(source));
    let first = model.step(&mut state, &[slot; 3], Tokens::Host(&[5, 6, 7]), Some(&mut watch)).unwrap();
    let seen: Vec<_> = watch.hidden.iter().map(|(stack, index, sizes)| (*stack, *index, sizes[0])).collect();
    let (e, d) = (StackKind::Encoder, StackKind::Decoder);
    assert_eq!(seen, [(e, 0, 4), (e, 1, 4), (d, 0, 3), (d, 1, 3), (d, 2, 3)]);
    let (own, cross) = (AttentionKind::Own, AttentionKind::Cross);
    let expected = [
        (e, own, 0, vec![3, 4, 4]),
        (d, own, 0, vec![3, 3, 3]),
        (d, cross, 0, vec![3, 3, 4]),
        (d, own, 1, vec![3, 3, 3]),
        (d, cross, 1, vec![3, 3, 4]),
    ];
    assert_eq!(watch.attention, expected);

    // A step that fails half way leaves the sequence as it was, and what comes then is what would have come.
    let undisturbed = floats(&device, &model.step(&mut state, &[slot], Tokens::Host(&[8]), None).unwrap());
    state.truncate(slot, 3).unwrap();
    for fails_at in 0..3 {
        let mut failing = Watch { fails_at: Some(fails_at), ..Watch::default() };
        let result = model.step(&mut state, &[slot; 2], Tokens::Host(&[9, 9]), Some(&mut failing));
        assert_eq!(result.map(|_| ()), Err(Error::Input("seen enough".into())));
        assert_eq!(state.length(slot).unwrap(), 3);
    }
    let again = floats(&device, &model.step(&mut state, &[slot], Tokens::Host(&[8]), None).unwrap());
    assert_eq!(again, undisturbed);
    assert_eq!(first.sizes(), [3, 12]);
    // Attention cannot be shown of a step that goes on: that is an error, and is taken back as well.
    assert!(model.step(&mut state, &[slot], Tokens::Host(&[8]), Some(&mut Watch::default())).is_err());
    assert_eq!(state.length(slot).unwrap(), 4);
}

#[test]
fn broken_weights_and_configs_are_named() {
    let device = Device::new(Single::new());
    let relative = AttentionPositions::Relative { buckets: 7, max_distance: 9 };
    let config = with(decoder_only(12, 3), |stack| stack.attention.positions = relative);
    for slot in config.slots() {
        for broken in [f64::NAN, f64::INFINITY, 1e300] {
            let mut weights = weights(&config);
            let mut values = vec![0.5; slot.shape[0] * slot.shape[1]];
            *values.last_mut().unwrap() = broken;
            weights.insert(slot.name.clone(), StoredTensor::from_values(&slot.name, &values, slot.shape).unwrap());
            let refused = Transformer::load(&device, &config, &weights, LoadOptions::default()).map(|_| ());
            assert!(matches!(&refused, Err(Error::Weight { slot: named, .. }) if *named == slot.name), "{refused:?}");
        }
    }
    let refused = |change: &dyn Fn(&mut StackConfig)| {
        let error = with(decoder_only(12, 3), change).validate().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    };
    refused(&|stack| stack.layers = usize::MAX);
    refused(&|stack| stack.layers = 1 << 20);
    refused(&|stack| stack.causal = false);
    refused(&|stack| stack.embedding.token_types = usize::MAX);
    refused(&|stack| stack.attention.positions = AttentionPositions::Relative { buckets: 1, max_distance: 9 });
    // A context without bound costs nothing.
    consistent(Single::new(), &with(decoder_only(12, 3), |stack| stack.context = Some(usize::MAX)));
}

#[test]
fn parts_of_different_types_are_kept_in_one_that_holds_both() {
    let device = Device::new(Oracle::new());
    let config = decoder_only(12, 3);
    let mut mixed = weights(&config);
    let name = "decoder.0.attention.query.weight";
    let ones: Vec<u8> = std::iter::repeat_n([0x80, 0x3f], 144).flatten().collect();
    mixed.insert(name.into(), StoredTensor::new(name, Arc::new(ones), 0, WeightDType::BF16, [12, 12]).unwrap());
    let mut wide = mixed.clone();
    wide.insert(name.into(), StoredTensor::from_values(name, &[1.0; 144], [12, 12]).unwrap());
    let run = |weights: &WeightMap| {
        let model = Transformer::load(&device, &config, weights, LoadOptions::default()).unwrap();
        in_steps(&model, None, &[1, 2, 3], &[3])
    };
    assert_eq!(run(&mixed), run(&wide));
}

/// Everything natively, in singles: with its own weights and caches. Counts downloads.
#[derive(Clone)]
struct Native {
    device: Device<Single>,
    downloads: Arc<AtomicUsize>,
}

impl Backend for Native {
    type Buffer = <Single as Backend>::Buffer;
    type Packed = WeightOf<Single>;
    type Store = CacheOf<Single>;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.device.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.device.backend().upload(data)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        self.device.backend().download(buffer)
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Self::Buffer> {
        self.device.backend().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let operation: FusedOf<Single> = operation.try_map(&mut Inside)?;
        Ok(self.device.fused(operation)?.into_iter().map(|tensor| tensor.buffer).collect())
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        self.device.pack(parts, dtype)
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        Ok(self.device.unpack(packed)?.buffer)
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        self.device.cache(*spec)
    }

    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        self.device.cache_reserve(store, blocks)
    }

    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        self.device.cache_copy(store, pairs)
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        Ok(self.device.cache_read(store, layer, rows)?.map(|tensor| tensor.buffer))
    }
}

/// Operands as the inner device knows them.
struct Inside;

impl MapOperands<TensorOf<Native>, WeightOf<Native>, CacheOf<Native>> for Inside {
    type Tensor = TensorOf<Single>;
    type Weight = WeightOf<Single>;
    type Cache = CacheOf<Single>;

    fn tensor(&mut self, tensor: &TensorOf<Native>) -> Result<TensorOf<Single>> {
        Ok(tensor.clone())
    }

    fn weight(&mut self, weight: &WeightOf<Native>) -> Result<WeightOf<Single>> {
        match weight.store() {
            WeightStore::Packed(packed) => Ok(packed.clone()),
            WeightStore::Plain(_) => Err(Error::weight("test", "not packed")),
        }
    }

    fn cache(&mut self, cache: &CacheOf<Native>) -> Result<CacheOf<Single>> {
        match cache.store() {
            CacheStore::Native(store) => Ok(store.clone()),
            CacheStore::Plain(_) => Err(Error::Input("not native".into())),
        }
    }
}

fn native() -> Native {
    Native { device: Device::new(Single::new()), downloads: Arc::new(AtomicUsize::new(0)) }
}

/// Asks for every operand: looking changes nothing.
struct Asks;

impl Watcher for Asks {
    fn seen(&self, seen: &Seen<'_>) -> Result<()> {
        seen.operation().map(drop)
    }
}

#[test]
fn a_backend_with_weights_and_caches_of_its_own_gives_the_same_bits() {
    consistent(native(), &rotary(encoder_decoder(12, 3), 4, RotaryPairing::Halves));
    let config = with(decoder_only(12, 3), |stack| stack.attention.windows = vec![3, 0]);
    consistent(native(), &config);
    consistent(Lockstep::new(Device::new(native()), Device::new(Oracle::new()), Arc::new(Asks)), &config);
    let prompt = tokens(1, 9);
    let plain = in_steps(&load(&Device::new(Single::new()), &config), None, &prompt, &[4]);
    assert_eq!(in_steps(&load(&Device::new(native()), &config), None, &prompt, &[4]), plain);
}

#[test]
fn decoding_downloads_nothing() {
    let configs = [
        rotary(encoder_decoder(12, 3), 4, RotaryPairing::Interleaved),
        with(decoder_only(12, 3), |stack| {
            stack.embedding.positions = Positions::Learned { count: 64, offset: 0 };
            stack.embedding.scale = 2.0;
            stack.attention.windows = vec![2, 0];
            stack.attention.positions = AttentionPositions::Relative { buckets: 8, max_distance: 20 };
            stack.feed_forward.gated = true;
        }),
    ];
    for config in configs {
        let backend = native();
        let downloads = Arc::clone(&backend.downloads);
        let device = Device::with_policy(backend, consort_core::Policy::Deny);
        let model = load(&device, &config);
        let mut state: State<Native> = model.state().unwrap();
        let source = config.encoder.as_ref().map(|_| model.add_sources(&mut state, &[&[1, 2, 3]]).unwrap()[0]);
        let first = state.open(3, source);
        let hidden = model.step(&mut state, &[first; 3], Tokens::Host(&[4, 5, 6]), None).unwrap();
        let second = state.fork(first).unwrap();
        let rows: Arc<[SampleRow]> = Arc::new([SampleRow::greedy(), SampleRow::greedy()]);
        let mut logits = model.logits(&hidden, Some(&[2, 2])).unwrap();
        // Forty tokens of two beams, across a block's end, without a look at any of them.
        for _ in 0..40 {
            let chosen = device.one(Fused::Sample { logits, rows: Arc::clone(&rows) }).unwrap();
            let hidden = model.step(&mut state, &[first, second], Tokens::Device(chosen), None).unwrap();
            logits = model.logits(&hidden, None).unwrap();
        }
        assert_eq!(downloads.load(Ordering::Relaxed), 0);
        let report = device.report();
        assert!(report.values().all(|counts| counts.composed + counts.host == 0), "{report:?}");
    }
}

#[test]
fn models_and_states_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Transformer<Single>>();
    crosses::<State<Single>>();
    crosses::<Transformer<Lockstep<Native, Oracle>>>();
    let config = decoder_only(12, 3);
    let model = load(&Device::new(Single::new()), &config);
    let alone = in_steps(&model, None, &tokens(3, 12), &[5]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(in_steps(&model, None, &tokens(3, 12), &[5]), alone));
        }
    });
}
