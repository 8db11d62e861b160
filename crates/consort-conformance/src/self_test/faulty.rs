//! A right backend with one fault.
//!
//! Around an f32 backend it is a kernel that is wrong; around the oracle it is a formula that is wrong in the source that
//! both share, which only vectors of other implementations can tell.

use std::{
    marker::PhantomData,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use consort_core::{
    Backend, CacheOf, CacheSpec, CacheStore, Compute, DType, Device, Error, Fused, FusedOf, Host, HostData, Layout,
    MapOperands, Outputs, Primitive, PrimitiveOf, Ready, Result, Spec, StoredTensor, Tensor, TensorOf, Ticket,
    WeightDType, WeightOf, WeightStore,
    cache::{CachePlan, PlanRow, PlanSequence},
    concatenated_shape,
    config::{Activation, RotaryPairing},
    encode,
    operation::{AttentionAttributes, BinaryKind, Mask, ReduceKind, ScoreBias, Segments, UnaryKind},
    unsupported,
};
use half::f16;
use smallvec::SmallVec;

use super::{fault::Fault, quantized};

/// `B` with a fault.
pub struct Faulty<B: Host> {
    inner: Device<B>,
    fault: Fault,
    calls: AtomicU64,
}

/// Memory that a fault can write over.
#[derive(Debug)]
pub struct Shared<Buffer>(Arc<Mutex<Buffer>>);

impl<Buffer> Clone for Shared<Buffer> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Buffer: Clone> Shared<Buffer> {
    fn new(buffer: Buffer) -> Self {
        Self(Arc::new(Mutex::new(buffer)))
    }

    fn get(&self) -> Buffer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn overwrite(&self, buffer: Buffer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
    }
}

impl<B: Host> Faulty<B> {
    /// `inner` with `fault`.
    pub fn new(inner: B, fault: Fault) -> Self {
        Self { inner: Device::new(inner), fault, calls: AtomicU64::new(0) }
    }

    fn shared(&self, x: &TensorOf<B>) -> Result<Shared<B::Buffer>> {
        let whole = x.layout().is_contiguous() && x.layout().offset() == 0;
        Ok(Shared::new(if whole { x.buffer.clone() } else { self.inner.copy(x, x.dtype())?.buffer }))
    }

    /// What the fault makes of a primitive; `None` where it makes nothing of it.
    fn wrong(&self, operation: &PrimitiveOf<B>, original: &PrimitiveOf<Self>) -> Result<Option<TensorOf<B>>> {
        let device = &self.inner;
        Ok(Some(match (self.fault, operation) {
            (Fault::MatmulDropsTail, Primitive::MatMul { a, b }) if inner_size(a) > 1 => {
                part_of_product(device, a, b, 0, inner_size(a) - 1)?
            }
            (Fault::Company, Primitive::MatMul { a, b }) if inner_size(a) > 1 && rows(a) > 1 => {
                let half = inner_size(a) / 2;
                let rest = part_of_product(device, a, b, half, inner_size(a) - half)?;
                device.add(part_of_product(device, a, b, 0, half)?, rest)?
            }
            (Fault::SilentHalf, Primitive::MatMul { a, b }) => {
                let half = |x: &TensorOf<B>| device.copy(&device.copy(x, DType::F16)?, x.dtype());
                device.matmul(&half(a)?, &half(b)?)?
            }
            (Fault::OneWrongOutput, Primitive::MatMul { a, b }) => {
                let right = device.matmul(a, b)?;
                let elements = right.shape().elements();
                if elements < 1000 {
                    return Ok(None);
                }
                changed(device, &right, elements * 2 / 3, |x| x * 1.001)?
            }
            (Fault::ZeroedOutput, Primitive::MatMul { a, b }) => {
                let right = device.matmul(a, b)?;
                let elements = right.shape().elements();
                if elements < 2304 {
                    return Ok(None);
                }
                changed(device, &right, elements - 1, |_| 0.0)?
            }
            (Fault::SumDropsTail, Primitive::Reduce { x, axis, kind: ReduceKind::Sum }) if x.size(*axis) > 32 => {
                device.reduce(&x.slice(*axis, 0, x.size(*axis) / 32 * 32)?, *axis, ReduceKind::Sum)?
            }
            (Fault::Race, Primitive::Reduce { x, axis, kind: ReduceKind::Sum }) if x.size(*axis) > 1 => {
                if self.calls.fetch_add(1, Ordering::Relaxed) % 3 != 2 {
                    return Ok(None);
                }
                device.reduce(&x.slice(*axis, 0, x.size(*axis) - 1)?, *axis, ReduceKind::Sum)?
            }
            (Fault::LastOfEquals, Primitive::Reduce { x, axis, kind: ReduceKind::ArgMaximum }) => {
                // Counted from the end: the first of the reversed ones.
                let size = x.size(*axis);
                let ids = device.upload_ids((0..size as u32).rev().collect())?;
                let front = moved_to_front(x, *axis)?;
                let reversed = device.gather_rows(&front, &ids)?;
                let found = device.download(&device.reduce(&reversed, 0, ReduceKind::ArgMaximum)?)?;
                let found = found.into_u32().unwrap_or_default();
                let last = found.into_iter().map(|at| (size as u32 - 1).wrapping_sub(at)).collect();
                let mut sizes = x.sizes().to_vec();
                if let Some(size) = sizes.get_mut(*axis) {
                    *size = 1;
                }
                device.upload(HostData::U32(last), &sizes)?
            }
            (Fault::BroadcastBroken, Primitive::Binary { a, b, kind: BinaryKind::Add })
                if a.shape().rank() == 2 && a.size(0) > 1 && b.shape().rank() == 2 && b.size(0) == 1 =>
            {
                let zeros = device.fill(a.sizes(), 0.0)?;
                let only_first =
                    device.write(zeros, device.copy(&b.broadcast_to(&[1, a.size(1)])?, b.dtype())?, &[0, 0])?;
                device.add(a.clone(), only_first)?
            }
            (Fault::BroadcastBroken, Primitive::Binary { a, b, kind: BinaryKind::Add })
                if a.shape().rank() == 2 && a.size(0) > 1 && b.shape().rank() == 1 =>
            {
                let zeros = device.fill(a.sizes(), 0.0)?;
                let row = device.copy(&b.broadcast_to(&[1, a.size(1)])?, b.dtype())?;
                device.add(a.clone(), device.write(zeros, row, &[0, 0])?)?
            }
            (Fault::StridesIgnored, Primitive::Unary { x, kind })
                if x.layout().end() - x.layout().offset() == x.shape().elements() =>
            {
                let layout = Layout::contiguous(*x.shape());
                let layout = Layout::strided(*x.shape(), layout.strides(), x.layout().offset())?;
                device.unary(Tensor::with_layout(x.buffer.clone(), layout, x.dtype()), *kind)?
            }
            (Fault::OffsetIgnored, Primitive::Unary { x, kind }) => {
                let layout = Layout::strided(*x.shape(), x.layout().strides(), 0)?;
                device.unary(Tensor::with_layout(x.buffer.clone(), layout, x.dtype()), *kind)?
            }
            (Fault::LostFraction, Primitive::Unary { x, kind: UnaryKind::Exp }) => {
                let right = device.unary(x.clone(), UnaryKind::Exp)?;
                let rough = device.scale(right.clone(), 1.0002)?;
                let low = device.binary(x.clone(), device.fill(&[1], -4.0)?, BinaryKind::Less)?;
                device.select(low, rough, right)?
            }
            (Fault::Aliased, Primitive::Unary { x, kind })
                if x.layout().is_contiguous() && x.layout().offset() == 0 =>
            {
                let right = device.unary(x.clone(), *kind)?;
                if let Primitive::Unary { x: original, .. } = original {
                    original.buffer.overwrite(self.shared(&right)?.get());
                }
                right
            }
            (Fault::MaskedNan, Primitive::Select { mask, a, b }) if a.dtype() == device.float() => {
                let one = device.copy(mask, device.float())?;
                let other = device.subtract(device.fill(&[1], 1.0)?, one.clone())?;
                device.add(device.multiply(a.clone(), one)?, device.multiply(b.clone(), other)?)?
            }
            (Fault::ClampedId, Primitive::GatherRows { x, ids }) => {
                let last = (x.size(0) as u32).saturating_sub(1);
                let ids = device.download(ids)?.into_u32().unwrap_or_default();
                device.gather_rows(x, &device.upload_ids(ids.into_iter().map(|id| id.min(last)).collect())?)?
            }
            (Fault::DuplicatesLost, Primitive::ScatterRows { into, ids, x, add: true }) => {
                let sum = device.add(device.gather_rows(into, ids)?, x.clone())?;
                device.scatter_rows(into.clone(), ids, sum, false)?
            }
            (Fault::TruncatedCast, Primitive::Copy { x, dtype: DType::BF16 }) if x.dtype().is_float() => {
                let cut = |value: f64| f64::from(f32::from_bits((value as f32).to_bits() & 0xffff_0000));
                let values = device.download(x)?.to_f64().into_iter().map(cut);
                device.upload(HostData::from_f64(values, DType::BF16), x.sizes())?
            }
            _ => return Ok(None),
        }))
    }

    /// What the fault makes of a fused operation; `None` where it makes nothing of it.
    fn wrong_fused(&self, operation: FusedOf<B>) -> Result<Option<SmallVec<[TensorOf<B>; 2]>>> {
        let device = &self.inner;
        let one = |x: TensorOf<B>| SmallVec::from_iter([x]);
        let altered = match (self.fault, operation) {
            (Fault::TransposedWeight, Fused::Linear { x, weight, bias, activation, residual, compute })
                if weight.outputs() == weight.inputs() =>
            {
                let transposed = device.copy(&device.unpack(&weight)?.permute(&[1, 0])?, device.float())?;
                let weight = device.repack(&weight, &transposed)?;
                Fused::Linear { x, weight, bias, activation, residual, compute }
            }
            (Fault::LostBias, Fused::Linear { x, weight, bias: Some(_), activation, residual, compute }) => {
                Fused::Linear { x, weight, bias: None, activation, residual, compute }
            }
            (Fault::LostResidual, Fused::Linear { x, weight, bias, activation, residual: Some(_), compute }) => {
                Fused::Linear { x, weight, bias, activation, residual: None, compute }
            }
            (
                Fault::BiasAfterActivation,
                Fused::Linear { x, weight, bias: Some(bias), activation, residual, compute },
            ) if activation.is_some() => {
                let y = device.linear(x, &weight, None, activation, residual, compute)?;
                return Ok(Some(one(device.add(y, bias)?)));
            }
            (Fault::MaskForgotten, Fused::Attention { query, key, value, bias, segments, mut attributes }) => {
                attributes.mask = Mask::All;
                Fused::Attention { query, key, value, bias, segments, attributes }
            }
            (Fault::WindowOffByOne, Fused::Attention { query, key, value, bias, segments, mut attributes }) => {
                attributes.mask = wider(attributes.mask);
                Fused::Attention { query, key, value, bias, segments, attributes }
            }
            (Fault::WindowOffByOne, Fused::CachedAttention { query, cache, bias, layer, plan, mut attributes }) => {
                attributes.mask = wider(attributes.mask);
                Fused::CachedAttention { query, cache, bias, layer, plan, attributes }
            }
            (Fault::MaskOffByOne, Fused::CachedAttention { query, cache, bias, layer, plan, attributes })
                if attributes.mask != Mask::All =>
            {
                let mut plan = CachePlan::clone(&plan);
                for sequence in &mut plan.sequences {
                    sequence.length = sequence.length.saturating_sub(1);
                }
                Fused::CachedAttention { query, cache, bias, layer, plan: Arc::new(plan), attributes }
            }
            (Fault::SegmentsJoined, Fused::Attention { query, key, value, bias, segments, attributes })
                if attributes.bias == ScoreBias::None =>
            {
                let joined = |lengths: &[usize]| vec![lengths.iter().sum()];
                let segments = Arc::new(Segments { queries: joined(&segments.queries), keys: joined(&segments.keys) });
                Fused::Attention { query, key, value, bias, segments, attributes }
            }
            (Fault::HeadsInterleaved, Fused::Attention { query, key, value, bias: None, segments, attributes }) => {
                let [heads, groups] = [query.size(1), key.size(1)];
                let query = interleaved(device, &query, groups)?;
                let out = device.one(Fused::Attention { query, key, value, bias: None, segments, attributes })?;
                let out = interleaved(device, &out, heads / groups.max(1))?;
                let log_sum = device.fill(&[out.size(0), heads], 0.0)?;
                return Ok(Some(SmallVec::from_iter([out, log_sum])));
            }
            (Fault::HeadsInterleaved, Fused::CachedAttention { query, cache, bias: None, layer, plan, attributes }) => {
                let [heads, groups] = [query.size(1), cache.spec().key_value_heads];
                let query = interleaved(device, &query, groups)?;
                let out = device.one(Fused::CachedAttention { query, cache, bias: None, layer, plan, attributes })?;
                return Ok(Some(one(interleaved(device, &out, heads / groups.max(1))?)));
            }
            (fault, Fused::Attention { query, key, value, bias, segments, attributes })
                if other_scores(fault, &attributes).is_some() =>
            {
                let attributes = other_scores(fault, &attributes).unwrap_or(attributes);
                let bias = other_bias(device, fault, bias)?;
                Fused::Attention { query, key, value, bias, segments, attributes }
            }
            (fault, Fused::CachedAttention { query, cache, bias, layer, plan, attributes })
                if other_scores(fault, &attributes).is_some() =>
            {
                let attributes = other_scores(fault, &attributes).unwrap_or(attributes);
                let bias = other_bias(device, fault, bias)?;
                Fused::CachedAttention { query, cache, bias, layer, plan, attributes }
            }
            (Fault::BlocksInOrder, Fused::CachedAttention { query, cache, bias, layer, plan, attributes }) => {
                let in_order = |sequence: &PlanSequence| PlanSequence {
                    blocks: (0..sequence.blocks.len() as u32).collect(),
                    length: sequence.length,
                };
                let sequences = plan.sequences.iter().map(in_order).collect();
                let plan = Arc::new(CachePlan { block: plan.block, rows: plan.rows.clone(), sequences });
                Fused::CachedAttention { query, cache, bias, layer, plan, attributes }
            }
            (Fault::StaleCache, Fused::CacheWrite { plan, .. }) if plan.rows.len() == 1 => {
                return Ok(Some(SmallVec::new()));
            }
            (Fault::ShiftedCache, Fused::CacheWrite { cache, key, value, layer, plan }) => {
                let rows: Vec<PlanRow> = plan.rows.iter().rev().copied().collect();
                let plan = Arc::new(CachePlan { block: plan.block, rows, sequences: plan.sequences.clone() });
                Fused::CacheWrite { cache, key, value, layer, plan }
            }
            (Fault::WrongEpsilon, Fused::LayerNorm { x, weight, bias, epsilon }) => {
                Fused::LayerNorm { x, weight, bias, epsilon: 10.0 * epsilon }
            }
            (Fault::WrongEpsilon, Fused::RmsNorm { x, weight, epsilon, unit_offset }) => {
                Fused::RmsNorm { x, weight, epsilon: 10.0 * epsilon, unit_offset }
            }
            (Fault::MisplacedEpsilon, Fused::RmsNorm { x, weight, epsilon, unit_offset: false }) => {
                let last = x.shape().rank().saturating_sub(1);
                let square = device.multiply(x.clone(), x.clone())?;
                let sum = device.reduce(&square, last, ReduceKind::Sum)?;
                let mean = device.scale(sum, 1.0 / x.size(last) as f64)?;
                let root = device.add(device.unary(mean, UnaryKind::Sqrt)?, device.fill(&[1], epsilon)?)?;
                return Ok(Some(one(device.multiply(device.divide(x, root)?, weight)?)));
            }
            (Fault::LostUnitOffset, Fused::RmsNorm { x, weight, epsilon, unit_offset: true }) => {
                Fused::RmsNorm { x, weight, epsilon, unit_offset: false }
            }
            (Fault::SwappedPairing, Fused::Rotary { x, cos, sin, ids, pairing }) => {
                let pairing = match pairing {
                    RotaryPairing::Halves => RotaryPairing::Interleaved,
                    RotaryPairing::Interleaved => RotaryPairing::Halves,
                };
                Fused::Rotary { x, cos, sin, ids, pairing }
            }
            (Fault::RotaryBackwards, Fused::Rotary { x, cos, sin, ids, pairing }) => {
                let sin = device.unary(sin, UnaryKind::Negate)?;
                Fused::Rotary { x, cos, sin, ids, pairing }
            }
            (Fault::MaximumFromZero | Fault::NoMaximum, Fused::Softmax { x }) => {
                let last = x.shape().rank().saturating_sub(1);
                let x = if self.fault == Fault::MaximumFromZero {
                    let greatest = device.reduce(&x, last, ReduceKind::Maximum)?;
                    let greatest = device.binary(greatest, device.fill(&[1], 0.0)?, BinaryKind::Maximum)?;
                    device.subtract(x, greatest)?
                } else {
                    x
                };
                let weights = device.unary(x, UnaryKind::Exp)?;
                let sum = device.reduce(&weights, last, ReduceKind::Sum)?;
                return Ok(Some(one(device.divide(weights, sum)?)));
            }
            (Fault::WrongGelu, Fused::Activation { x, kind: Activation::Gelu }) => {
                Fused::Activation { x, kind: Activation::GeluTanh }
            }
            (Fault::WrongSilu, Fused::Activation { x, kind: Activation::Silu }) => {
                Fused::Activation { x, kind: Activation::QuickGelu }
            }
            (Fault::GateAndUpSwapped, Fused::Gated { gate, up, kind }) => Fused::Gated { gate: up, up: gate, kind },
            (fault, Fused::QuantizeActivations { x }) if quantized::is_in_codes(fault) => {
                return quantized::wrong(device, fault, &x).map(|codes| Some(codes.into_iter().collect()));
            }
            (
                Fault::NeighbourScale | Fault::OtherCodes,
                Fused::Linear { x, weight, bias, activation, residual, compute: Compute::Int8 },
            ) => {
                let x = quantized::taken(device, self.fault, &x)?;
                Fused::Linear { x, weight, bias, activation, residual, compute: Compute::F32 }
            }
            (Fault::Int8Forgotten, Fused::Linear { x, weight, bias, activation, residual, compute: Compute::Int8 }) => {
                Fused::Linear { x, weight, bias, activation, residual, compute: Compute::F32 }
            }
            (
                Fault::TruncatedOperands,
                Fused::Linear { x, weight, bias, activation, residual, compute: Compute::BF16 },
            ) => {
                let plain = device.unpack(&weight)?;
                let values = device.download(&quantized::truncated(device, &plain)?)?.to_f64();
                let part = StoredTensor::from_values("cut", &values, [weight.outputs(), weight.inputs()])?;
                let (x, weight) = (quantized::truncated(device, &x)?, device.pack(&[part], WeightDType::F64)?);
                Fused::Linear { x, weight, bias, activation, residual, compute: Compute::F32 }
            }
            (Fault::IgnoredTarget, Fused::CrossEntropy { logits, targets, smoothing }) => {
                let last = logits.size(1) as u32 - 1;
                let ids = device.download(&targets)?.into_u32().unwrap_or_default();
                let targets = device.upload_ids(ids.into_iter().map(|id| id.min(last)).collect())?;
                Fused::CrossEntropy { logits, targets, smoothing }
            }
            (Fault::LostSmoothing, Fused::CrossEntropy { logits, targets, .. }) => {
                Fused::CrossEntropy { logits, targets, smoothing: 0.0 }
            }
            (Fault::NoBiasCorrection, Fused::AdamW { parameter, gradient, first, second, mut settings }) => {
                settings.rate *= 1.0 - settings.beta1.powf(f64::from(settings.step));
                settings.weight_decay /= 1.0 - settings.beta1.powf(f64::from(settings.step));
                Fused::AdamW { parameter, gradient, first, second, settings }
            }
            (Fault::CoupledDecay, Fused::AdamW { parameter, gradient, first, second, mut settings }) => {
                let decay = device.scale(parameter.clone(), settings.weight_decay)?;
                let gradient = device.add(gradient, decay)?;
                settings.weight_decay = 0.0;
                Fused::AdamW { parameter, gradient, first, second, settings }
            }
            (Fault::BackwardSign, operation @ Fused::SoftmaxBackward { .. }) => {
                let right = device.one(operation)?;
                return Ok(Some(one(device.unary(right, UnaryKind::Negate)?)));
            }
            (Fault::BackwardFactor, operation @ Fused::ActivationBackward { .. }) => {
                return Ok(Some(one(device.scale(device.one(operation)?, 2.0)?)));
            }
            (Fault::NotCentred, Fused::LayerNormBackward { x, weight, d_y, epsilon }) => {
                let last = x.shape().rank().saturating_sub(1);
                let size = x.size(last) as f64;
                let all = Fused::LayerNormBackward { x: x.clone(), weight: weight.clone(), d_y: d_y.clone(), epsilon };
                let mut all = device.fused(all)?;
                let sum = device.reduce(&x, last, ReduceKind::Sum)?;
                let deviation = device.subtract(x, device.scale(sum, 1.0 / size)?)?;
                let not_centred = Fused::RmsNormBackward { x: deviation, weight, d_y, epsilon, unit_offset: false };
                if let Some(d_x) = all.first_mut() {
                    *d_x = device.one(not_centred)?;
                }
                return Ok(Some(all));
            }
            (
                Fault::DeltaForgotten,
                Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes },
            ) => {
                let y = device.fill(y.sizes(), 0.0)?;
                Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes }
            }
            (Fault::WeightGradientTail, Fused::LinearBackwardWeight { x, d_y, compute }) if x.size(0) > 1 => {
                let rows = x.size(0) - 1;
                Fused::LinearBackwardWeight { x: x.slice(0, 0, rows)?, d_y: d_y.slice(0, 0, rows)?, compute }
            }
            (Fault::EmbeddingOverwritten, Fused::EmbeddingBackward { ids, d_y, rows }) => {
                let zeros = device.fill(&[rows, d_y.size(1)], 0.0)?;
                return Ok(Some(one(device.scatter_rows(zeros, &ids, d_y, false)?)));
            }
            (Fault::TargetForgotten, Fused::CrossEntropyBackward { logits, targets, log_sum, d_loss, smoothing }) => {
                let kept = Fused::CrossEntropyBackward {
                    logits: logits.clone(),
                    targets: targets.clone(),
                    log_sum,
                    d_loss: d_loss.clone(),
                    smoothing,
                };
                let ids = device.download(&targets)?.into_u32().unwrap_or_default();
                let classes = logits.size(1) as u32;
                let one_hot =
                    ids.iter().flat_map(|&id| (0..classes).map(move |class| f64::from(u8::from(class == id))));
                let one_hot = device.upload_floats(&one_hot.collect::<Vec<_>>(), logits.sizes())?;
                let scaled = device.multiply(one_hot, device.reshape(&d_loss, &[logits.size(0), 1])?)?;
                return Ok(Some(one(device.add(device.one(kept)?, scaled)?)));
            }
            _ => return Ok(None),
        };
        device.fused(altered).map(Some)
    }

    /// Whether the fault is in what keeps caches, so that this backend must keep its own.
    fn keeps_caches(&self) -> bool {
        matches!(
            self.fault,
            Fault::StaleCache
                | Fault::ShiftedCache
                | Fault::CacheNotCopied
                | Fault::BlocksInOrder
                | Fault::MaskOffByOne
                | Fault::WindowOffByOne
                | Fault::HeadsInterleaved
                | Fault::UnscaledScores
                | Fault::LostSoftCap
                | Fault::OneSidedBuckets
                | Fault::DistanceReversed
        )
    }
}

fn inner_size<T: Clone>(a: &Tensor<T>) -> usize {
    a.size(a.shape().rank().saturating_sub(1))
}

fn rows<T: Clone>(a: &Tensor<T>) -> usize {
    a.size(a.shape().rank().saturating_sub(2))
}

/// The product of terms `start ..+ length` only.
fn part_of_product<B: Backend>(
    device: &Device<B>,
    a: &TensorOf<B>,
    b: &TensorOf<B>,
    start: usize,
    length: usize,
) -> Result<TensorOf<B>> {
    let a = a.slice(a.shape().rank() - 1, start, length)?;
    let b = b.slice(b.shape().rank() - 2, start, length)?;
    device.matmul(&a, &b)
}

/// `x` with one element changed.
fn changed<B: Backend>(
    device: &Device<B>,
    x: &TensorOf<B>,
    at: usize,
    change: impl Fn(f64) -> f64,
) -> Result<TensorOf<B>> {
    let mut values = device.download(x)?.to_f64();
    if let Some(value) = values.get_mut(at) {
        *value = change(*value);
    }
    device.upload_floats(&values, x.sizes())
}

fn moved_to_front<T: Clone>(x: &Tensor<T>, axis: usize) -> Result<Tensor<T>> {
    let mut order: Vec<usize> = (0..x.shape().rank()).filter(|&other| other != axis).collect();
    order.insert(0, axis);
    x.permute(&order)
}

/// Heads `[T, H, C]` as rows of `[groups, H/groups]` read column by column.
fn interleaved<B: Backend>(device: &Device<B>, x: &TensorOf<B>, groups: usize) -> Result<TensorOf<B>> {
    let [tokens, heads, width] = [x.size(0), x.size(1), x.size(2)];
    let split = device.reshape(x, &[tokens, heads / groups.max(1), groups, width])?;
    device.reshape(&split.permute(&[0, 2, 1, 3])?, &[tokens, heads, width])
}

fn wider(mask: Mask) -> Mask {
    match mask {
        Mask::Causal { window: Some(window) } => Mask::Causal { window: Some(window + 1) },
        other => other,
    }
}

/// The attributes as a fault of the scores has them; `None` where it changes nothing.
fn other_scores(fault: Fault, attributes: &AttentionAttributes) -> Option<AttentionAttributes> {
    let mut other = *attributes;
    match (fault, attributes.bias) {
        (Fault::UnscaledScores, _) => other.scale = 1.0,
        (Fault::LostSoftCap, _) => other.soft_cap = None,
        (Fault::OneSidedBuckets, ScoreBias::Relative { buckets, max_distance, bidirectional: true }) => {
            other.bias = ScoreBias::Relative { buckets, max_distance, bidirectional: false };
        }
        (Fault::DistanceReversed, ScoreBias::Linear) => return Some(other),
        _ => {}
    }
    (other != *attributes).then_some(other)
}

fn other_bias<B: Backend>(device: &Device<B>, fault: Fault, bias: Option<TensorOf<B>>) -> Result<Option<TensorOf<B>>> {
    match bias {
        Some(bias) if fault == Fault::DistanceReversed => device.unary(bias, UnaryKind::Negate).map(Some),
        other => Ok(other),
    }
}

impl<B: Host> Backend for Faulty<B> {
    type Buffer = Shared<B::Buffer>;
    type Packed = WeightOf<B>;
    type Store = CacheOf<B>;
    type Ticket = Ready;
    type Host = B;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Self::Buffer> {
        self.inner.backend().alloc(dtype, elements).map(Shared::new)
    }

    fn upload(&self, data: HostData) -> Result<Self::Buffer> {
        self.inner.backend().upload(data).map(Shared::new)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Ready> {
        self.inner.backend().download(&buffer.get())?.wait().map(Ready::new)
    }

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn float(&self) -> DType {
        self.inner.float()
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, _: &Spec) -> Result<Self::Buffer> {
        let inner = operation.try_map(&mut ToInner::<B>(PhantomData))?;
        let result = match self.wrong(&inner, operation)? {
            Some(wrong) => wrong,
            None => self.inner.primitive(inner)?,
        };
        self.shared(&result)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Self::Buffer>> {
        let cached = matches!(operation, Fused::CacheWrite { .. } | Fused::CachedAttention { .. });
        if cached && !self.keeps_caches() {
            return Err(unsupported(self, operation.name()));
        }
        let inner = operation.try_map(&mut ToInner::<B>(PhantomData))?;
        let result = match self.wrong_fused(inner)? {
            Some(wrong) => wrong,
            None if cached => self.inner.fused(operation.try_map(&mut ToInner::<B>(PhantomData))?)?,
            None => return Err(unsupported(self, operation.name())),
        };
        result.iter().map(|x| self.shared(x)).collect()
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Self::Packed> {
        let Some((range, wrong)) = wrong_block(self.fault, dtype) else { return self.inner.pack(parts, dtype) };
        let shape = concatenated_shape(parts)?;
        let bytes = encode(parts, dtype)?;
        let mut values = vec![0.0; shape[0] * shape[1]];
        for (block, values) in bytes.chunks(dtype.block_bytes()).zip(values.chunks_mut(dtype.block())) {
            let mut block = block.to_vec();
            if let Some(bytes) = block.get_mut(range.clone()) {
                wrong(bytes);
            }
            dtype.decode(&block, values);
            if let (Fault::UnsignedQuants, [low, high, quants @ ..]) = (self.fault, block.as_slice()) {
                let scale = f16::from_le_bytes([*low, *high]).to_f64();
                for (value, _) in values.iter_mut().zip(quants).filter(|(_, quant)| (**quant as i8) < 0) {
                    *value += 256.0 * scale;
                }
            }
        }
        let plain = WeightStore::Plain(self.inner.upload_floats(&values, &shape)?);
        Ok(consort_core::Weight::new(shape, dtype, plain))
    }

    fn unpack(&self, packed: &Self::Packed) -> Result<Self::Buffer> {
        self.shared(&self.inner.unpack(packed)?)
    }

    fn repack(&self, packed: &Self::Packed, x: &TensorOf<Self>) -> Result<Self::Packed> {
        let x = ToInner::<B>(PhantomData).take(x);
        self.inner.repack(packed, &x)
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Self::Store> {
        if self.keeps_caches() { self.inner.cache(*spec) } else { Err(unsupported(self, "cache_new")) }
    }

    fn cache_reserve(&self, store: &Self::Store, blocks: usize) -> Result<()> {
        self.inner.cache_reserve(store, blocks)
    }

    fn cache_copy(&self, store: &Self::Store, pairs: &[(u32, u32)]) -> Result<()> {
        if self.fault == Fault::CacheNotCopied { Ok(()) } else { self.inner.cache_copy(store, pairs) }
    }

    fn cache_read(&self, store: &Self::Store, layer: usize, rows: &[u32]) -> Result<[Self::Buffer; 2]> {
        let [key, value] = self.inner.cache_read(store, layer, rows)?;
        Ok([self.shared(&key)?, self.shared(&value)?])
    }
}

/// Takes operands to the device inside.
struct ToInner<B>(PhantomData<B>);

impl<B: Host> ToInner<B> {
    fn take(&mut self, tensor: &TensorOf<Faulty<B>>) -> TensorOf<B> {
        Tensor::with_layout(tensor.buffer.get(), *tensor.layout(), tensor.dtype())
    }
}

impl<B: Host> MapOperands<TensorOf<Faulty<B>>, (), ()> for ToInner<B> {
    type Tensor = TensorOf<B>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, tensor: &TensorOf<Faulty<B>>) -> Result<TensorOf<B>> {
        Ok(self.take(tensor))
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl<B: Host> MapOperands<TensorOf<Faulty<B>>, WeightOf<Faulty<B>>, CacheOf<Faulty<B>>> for ToInner<B> {
    type Tensor = TensorOf<B>;
    type Weight = WeightOf<B>;
    type Cache = CacheOf<B>;

    fn tensor(&mut self, tensor: &TensorOf<Faulty<B>>) -> Result<TensorOf<B>> {
        Ok(self.take(tensor))
    }

    fn weight(&mut self, weight: &WeightOf<Faulty<B>>) -> Result<WeightOf<B>> {
        match weight.store() {
            WeightStore::Packed(weight) => Ok(weight.clone()),
            WeightStore::Plain(_) => Err(Error::weight("faulty", "was not packed here")),
        }
    }

    fn cache(&mut self, cache: &CacheOf<Faulty<B>>) -> Result<CacheOf<B>> {
        match cache.store() {
            CacheStore::Native(cache) => Ok(cache.clone()),
            CacheStore::Plain(_) => Err(Error::Input("a cache that is not kept here".into())),
        }
    }
}

/// Changes bytes.
type Damage = fn(&mut [u8]);

/// Which bytes of a block of this type a fault changes, and how, if any.
fn wrong_block(fault: Fault, dtype: WeightDType) -> Option<(Range<usize>, Damage)> {
    use WeightDType::{Q2_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let lost: Damage = |bytes| bytes.fill(0);
    Some(match (fault, dtype) {
        (Fault::UnsignedQuants, Q8_0) => (0..0, lost), // more than a byte can say: see `pack`
        (Fault::NibblesSwapped, Q4_0) => (2..18, |bytes| bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4))),
        (Fault::MinimumForgotten, Q4_1 | Q5_1 | Q4_K | Q5_K) => (2..4, lost),
        (Fault::MinimumForgotten, Q2_K) => (82..84, lost),
        (Fault::FifthBitLost, Q5_0) => (2..6, lost),
        (Fault::FifthBitLost, Q5_1) => (4..8, lost),
        (Fault::FifthBitLost, Q5_K) => (16..48, lost),
        (Fault::NeighboursScale, Q6_K) => (192..208, |scales| scales.rotate_left(1)),
        (Fault::NeighboursScale, Q2_K) => (0..16, |scales| scales.rotate_left(1)),
        _ => return None,
    })
}
