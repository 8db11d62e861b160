//! The one place where operands are checked, and what their outputs will be.

use smallvec::{SmallVec, smallvec};

use crate::{
    backend::{Backend, FusedOf, PrimitiveOf, Spec, TensorOf},
    compute::Compute,
    decompose::ACTIVATION_BLOCK,
    dtype::DType,
    error::{Error, Result},
    operation::{AttentionAttributes, BinaryKind, Fused, Mask, Primitive, ReduceKind, ScoreBias, Segments},
    positions::relative_buckets_fit,
    shape::Shape,
};

/// Output of a primitive.
///
/// # Errors
/// [`Error::Shape`] says which operands do not fit together.
pub fn primitive<B: Backend>(operation: &PrimitiveOf<B>) -> Result<Spec> {
    let name = operation.name();
    let check = |fits: bool, what: &dyn Fn() -> String| if fits { Ok(()) } else { Err(Error::shape(name, what())) };
    let same_dtype = |a: &TensorOf<B>, b: &TensorOf<B>| {
        check(a.dtype() == b.dtype(), &|| format!("{} beside {}", a.dtype(), b.dtype()))
    };
    let float = |x: &TensorOf<B>| {
        check(matches!(x.dtype(), DType::F32 | DType::F64), &|| format!("{} is not a type to compute in", x.dtype()))
    };
    let ids = |ids: &TensorOf<B>| {
        check(ids.dtype() == DType::U32 && ids.shape().rank() == 1, &|| {
            format!("ids are {} {}, not a vector of u32", ids.dtype(), ids.shape())
        })
    };
    Ok(match operation {
        Primitive::Fill { shape, dtype, .. } => Spec { shape: *shape, dtype: *dtype },
        Primitive::Copy { x, dtype } => Spec { shape: *x.shape(), dtype: *dtype },
        Primitive::Write { into, x, start } => {
            same_dtype(into, x)?;
            let inside = into.shape().rank() == x.shape().rank()
                && start.rank() == x.shape().rank()
                && (0..start.rank()).all(|axis| {
                    start.sizes()[axis].checked_add(x.size(axis)).is_some_and(|end| end <= into.size(axis))
                });
            check(inside, &|| format!("{} at {start} into {}", x.shape(), into.shape()))?;
            Spec { shape: *into.shape(), dtype: into.dtype() }
        }
        Primitive::Unary { x, .. } => {
            float(x)?;
            Spec { shape: *x.shape(), dtype: x.dtype() }
        }
        Primitive::Binary { a, b, kind } => {
            same_dtype(a, b)?;
            let comparison = matches!(kind, BinaryKind::Less | BinaryKind::Equal);
            if !comparison {
                float(a)?;
            }
            let dtype = if comparison { DType::U32 } else { a.dtype() };
            Spec { shape: broadcast(name, a.shape(), b.shape())?, dtype }
        }
        Primitive::Select { mask, a, b } => {
            same_dtype(a, b)?;
            check(mask.dtype() == DType::U32, &|| format!("the mask is {}, not u32", mask.dtype()))?;
            let shape = broadcast(name, &broadcast(name, a.shape(), b.shape())?, mask.shape())?;
            Spec { shape, dtype: a.dtype() }
        }
        Primitive::Reduce { x, axis, kind } => {
            float(x)?;
            check(*axis < x.shape().rank(), &|| format!("axis {axis} of {}", x.shape()))?;
            let empty = x.size(*axis) == 0;
            check(!empty || *kind == ReduceKind::Sum, &|| {
                format!("the greatest of none, axis {axis} of {}", x.shape())
            })?;
            let mut sizes: SmallVec<[usize; 6]> = SmallVec::from_slice(x.sizes());
            sizes[*axis] = 1;
            let dtype = if *kind == ReduceKind::ArgMaximum { DType::U32 } else { x.dtype() };
            Spec { shape: Shape::new(&sizes)?, dtype }
        }
        Primitive::MatMul { a, b } => {
            float(a)?;
            same_dtype(a, b)?;
            let (ra, rb) = (a.shape().rank(), b.shape().rank());
            let fits = ra >= 2 && rb >= 2 && a.size(ra - 1) == b.size(rb - 2);
            check(fits, &|| format!("{} times {}", a.shape(), b.shape()))?;
            let batch = broadcast(name, &Shape::new(&a.sizes()[..ra - 2])?, &Shape::new(&b.sizes()[..rb - 2])?)?;
            let mut sizes: SmallVec<[usize; 6]> = SmallVec::from_slice(batch.sizes());
            sizes.extend([a.size(ra - 2), b.size(rb - 1)]);
            Spec { shape: Shape::new(&sizes)?, dtype: a.dtype() }
        }
        Primitive::GatherRows { x, ids: rows } => {
            ids(rows)?;
            check(x.shape().rank() >= 1, &|| format!("rows of {}", x.shape()))?;
            let mut sizes: SmallVec<[usize; 6]> = SmallVec::from_slice(x.sizes());
            sizes[0] = rows.size(0);
            Spec { shape: Shape::new(&sizes)?, dtype: x.dtype() }
        }
        Primitive::ScatterRows { into, ids: rows, x, add } => {
            ids(rows)?;
            same_dtype(into, x)?;
            if *add {
                float(x)?;
            }
            let fits = into.shape().rank() >= 1
                && into.shape().rank() == x.shape().rank()
                && x.size(0) == rows.size(0)
                && into.sizes()[1..] == x.sizes()[1..];
            check(fits, &|| format!("{} at {} rows into {}", x.shape(), rows.size(0), into.shape()))?;
            Spec { shape: *into.shape(), dtype: into.dtype() }
        }
    })
}

/// Outputs of a fused operation, as many as it has.
///
/// # Errors
/// [`Error::Shape`] says which operands do not fit together.
pub fn fused<B: Backend>(operation: &FusedOf<B>, float: DType) -> Result<SmallVec<[Spec; 2]>> {
    let name = operation.name();
    let check = |fits: bool, what: &dyn Fn() -> String| if fits { Ok(()) } else { Err(Error::shape(name, what())) };
    let mut wrong_dtype = None;
    // These take ids beside floats and say so below.
    let takes_ids = matches!(
        operation,
        Fused::Rotary { .. }
            | Fused::Embedding { .. }
            | Fused::EmbeddingBackward { .. }
            | Fused::CrossEntropy { .. }
            | Fused::CrossEntropyBackward { .. }
    );
    operation.for_each_tensor(&mut |tensor| {
        if tensor.dtype() != float && !(takes_ids && tensor.dtype() == DType::U32) {
            wrong_dtype = Some(tensor.dtype());
        }
    });
    if let Some(dtype) = wrong_dtype {
        return Err(Error::shape(name, format!("an operand of {dtype}, the device computes in {float}")));
    }
    let same = |x: &TensorOf<B>| smallvec![Spec { shape: *x.shape(), dtype: x.dtype() }];
    let vector = |what: &str, x: &TensorOf<B>, n: usize| {
        check(x.sizes() == [n], &|| format!("{what} of {}, expected [{n}]", x.shape()))
    };
    let alike = |what: &str, x: &TensorOf<B>, like: &TensorOf<B>| {
        check(x.shape() == like.shape(), &|| format!("{what} {}, expected {}", x.shape(), like.shape()))
    };
    let last = |x: &TensorOf<B>| match x.sizes().last() {
        Some(&n) => Ok(n),
        None => Err(Error::shape(name, "a scalar has no last axis")),
    };
    let heads = |query: &TensorOf<B>, keys: usize, head_width: usize| {
        let fits = query.shape().rank() == 3
            && query.size(2) == head_width
            && keys > 0
            && query.size(1) > 0
            && query.size(1).is_multiple_of(keys);
        check(fits, &|| format!("queries {} over {keys} key heads of width {head_width}", query.shape()))
    };
    let score_bias = |query: &TensorOf<B>, bias: &Option<TensorOf<B>>, kind: ScoreBias| match (kind, bias) {
        (ScoreBias::None, None) => Ok(()),
        (ScoreBias::Relative { bidirectional, buckets, max_distance }, Some(table)) => {
            check(relative_buckets_fit(bidirectional, buckets, max_distance), &|| {
                format!("{buckets} relative buckets cannot cover a distance of {max_distance}")
            })?;
            check(table.sizes() == [buckets, query.size(1)], &|| {
                format!("bias table {}, expected [{buckets}, {}]", table.shape(), query.size(1))
            })
        }
        (ScoreBias::Linear, Some(slopes)) => vector("slopes", slopes, query.size(1)),
        (kind, bias) => Err(Error::shape(name, format!("{kind:?} with bias {:?}", bias.as_ref().map(|b| *b.shape())))),
    };
    let packed_attention = |query: &TensorOf<B>,
                            key: &TensorOf<B>,
                            value: &TensorOf<B>,
                            bias: &Option<TensorOf<B>>,
                            segments: &Segments,
                            attributes: &AttentionAttributes| {
        check(key.shape().rank() == 3 && key.shape() == value.shape(), &|| {
            format!("keys {} beside values {}", key.shape(), value.shape())
        })?;
        heads(query, key.size(1), key.size(2))?;
        score_bias(query, bias, attributes.bias)?;
        let causal = matches!(attributes.mask, Mask::Causal { .. });
        let covers = |lengths: &[usize], rows: usize| {
            lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) == Some(rows)
        };
        let fits = segments.queries.len() == segments.keys.len()
            && covers(&segments.queries, query.size(0))
            && covers(&segments.keys, key.size(0))
            && (!causal || segments.queries == segments.keys);
        check(fits, &|| format!("segments {segments:?} over {} queries and {} keys", query.size(0), key.size(0)))
    };
    let cross_entropy = |logits: &TensorOf<B>, targets: &TensorOf<B>, smoothing: f64| {
        let fits = logits.shape().rank() == 2
            && logits.size(1) > 0
            && targets.sizes() == [logits.size(0)]
            && targets.dtype() == DType::U32
            && logits.dtype() == float
            && (0.0..1.0).contains(&smoothing);
        check(fits, &|| format!("logits {}, targets {}, smoothing {smoothing}", logits.shape(), targets.shape()))
    };
    let has_gradient = |compute: Compute| {
        check(compute != Compute::Int8, &|| "products in int8 have no gradient, expected f32 or bf16".into())
    };
    let spec_of = |sizes: &[usize]| Ok::<_, Error>(Spec { shape: Shape::new(sizes)?, dtype: float });
    Ok(match operation {
        Fused::Softmax { x } => {
            last(x)?;
            same(x)
        }
        Fused::LayerNorm { x, weight, bias, .. } => {
            let n = last(x)?;
            vector("weight", weight, n)?;
            if let Some(bias) = bias {
                vector("bias", bias, n)?;
            }
            same(x)
        }
        Fused::RmsNorm { x, weight, .. } => {
            vector("weight", weight, last(x)?)?;
            same(x)
        }
        Fused::Rotary { x, cos, sin, ids, .. } => {
            let fits = x.shape().rank() == 3
                && cos.shape().rank() == 2
                && cos.sizes() == sin.sizes()
                && cos.size(1) <= x.size(2) / 2
                && [x, cos, sin].iter().all(|x| x.dtype() == float)
                && ids.sizes() == [x.size(0)]
                && ids.dtype() == DType::U32;
            check(fits, &|| format!("{} with tables {} and ids {}", x.shape(), cos.shape(), ids.shape()))?;
            same(x)
        }
        Fused::Activation { x, .. } | Fused::SoftCap { x, .. } => same(x),
        Fused::Gated { gate, up, .. } => {
            check(gate.shape() == up.shape(), &|| format!("gate {} beside up {}", gate.shape(), up.shape()))?;
            same(up)
        }
        Fused::QuantizeActivations { x } => {
            check(x.shape().rank() == 2, &|| format!("{}, expected [T, D]", x.shape()))?;
            let scales = spec_of(&[x.size(0), x.size(1).div_ceil(ACTIVATION_BLOCK)])?;
            smallvec![Spec { shape: *x.shape(), dtype: float }, scales]
        }
        Fused::Linear { x, weight, bias, residual, .. } => {
            check(x.shape().rank() == 2 && x.size(1) == weight.inputs(), &|| {
                format!("{} times a weight of {} inputs", x.shape(), weight.inputs())
            })?;
            let shape = Shape::new(&[x.size(0), weight.outputs()])?;
            if let Some(bias) = bias {
                vector("bias", bias, weight.outputs())?;
            }
            if let Some(residual) = residual {
                check(*residual.shape() == shape, &|| format!("residual {}, expected {shape}", residual.shape()))?;
            }
            smallvec![Spec { shape, dtype: x.dtype() }]
        }
        Fused::Embedding { weight, ids } => {
            check(ids.dtype() == DType::U32 && ids.shape().rank() == 1, &|| format!("ids {}", ids.shape()))?;
            smallvec![Spec { shape: Shape::new(&[ids.size(0), weight.inputs()])?, dtype: float }]
        }
        Fused::Attention { query, key, value, bias, segments, attributes } => {
            packed_attention(query, key, value, bias, segments, attributes)?;
            let log_sum = Shape::new(&query.sizes()[..2])?;
            smallvec![
                Spec { shape: *query.shape(), dtype: query.dtype() },
                Spec { shape: log_sum, dtype: query.dtype() }
            ]
        }
        Fused::CacheWrite { cache, key, value, layer, plan } => {
            let spec = cache.spec();
            let expected = [plan.rows.len(), spec.key_value_heads, spec.head_width];
            check(key.sizes() == expected && value.sizes() == expected && *layer < spec.layers, &|| {
                format!("keys {} and values {} at layer {layer}, expected {expected:?}", key.shape(), value.shape())
            })?;
            check(plan.is_consistent(spec.block, true), &|| "a plan that contradicts itself".into())?;
            smallvec![]
        }
        Fused::CachedAttention { query, cache, bias, layer, plan, attributes } => {
            let spec = cache.spec();
            heads(query, spec.key_value_heads, spec.head_width)?;
            score_bias(query, bias, attributes.bias)?;
            check(query.size(0) == plan.rows.len() && *layer < spec.layers, &|| {
                format!("{} planned rows for queries {} at layer {layer}", plan.rows.len(), query.shape())
            })?;
            check(plan.is_consistent(spec.block, false), &|| "a plan that contradicts itself".into())?;
            same(query)
        }
        Fused::CrossEntropy { logits, targets, smoothing } => {
            cross_entropy(logits, targets, *smoothing)?;
            let spec = spec_of(&[logits.size(0)])?;
            smallvec![spec, spec]
        }
        Fused::AdamW { parameter, gradient, first, second, settings } => {
            let shape = parameter.shape();
            let fits = [gradient, first, second].iter().all(|other| other.shape() == shape) && settings.step > 0;
            check(fits, &|| {
                format!(
                    "{shape} with {}, {}, {} at step {}",
                    gradient.shape(),
                    first.shape(),
                    second.shape(),
                    settings.step
                )
            })?;
            smallvec![Spec { shape: *shape, dtype: parameter.dtype() }; 3]
        }
        Fused::Sample { logits, rows } => {
            check(logits.shape().rank() == 2 && logits.size(0) == rows.len() && logits.size(1) > 0, &|| {
                format!("logits {} for {} rows", logits.shape(), rows.len())
            })?;
            smallvec![Spec { shape: Shape::new(&[rows.len()])?, dtype: DType::U32 }]
        }
        Fused::SoftmaxBackward { y, d_y } => {
            last(y)?;
            alike("d_y", d_y, y)?;
            same(y)
        }
        Fused::LayerNormBackward { x, weight, d_y, .. } => {
            let n = last(x)?;
            vector("weight", weight, n)?;
            alike("d_y", d_y, x)?;
            smallvec![Spec { shape: *x.shape(), dtype: float }, spec_of(&[n])?, spec_of(&[n])?]
        }
        Fused::RmsNormBackward { x, weight, d_y, .. } => {
            let n = last(x)?;
            vector("weight", weight, n)?;
            alike("d_y", d_y, x)?;
            smallvec![Spec { shape: *x.shape(), dtype: float }, spec_of(&[n])?]
        }
        Fused::ActivationBackward { x, d_y, .. } | Fused::SoftCapBackward { x, d_y, .. } => {
            alike("d_y", d_y, x)?;
            same(x)
        }
        Fused::GatedBackward { gate, up, d_y, .. } => {
            alike("up", up, gate)?;
            alike("d_y", d_y, gate)?;
            smallvec![Spec { shape: *gate.shape(), dtype: float }; 2]
        }
        Fused::LinearBackwardInput { d_y, weight, compute } => {
            has_gradient(*compute)?;
            check(d_y.shape().rank() == 2 && d_y.size(1) == weight.outputs(), &|| {
                format!("{} through a weight of {} outputs", d_y.shape(), weight.outputs())
            })?;
            smallvec![spec_of(&[d_y.size(0), weight.inputs()])?]
        }
        Fused::LinearBackwardWeight { x, d_y, compute } => {
            has_gradient(*compute)?;
            check(x.shape().rank() == 2 && d_y.shape().rank() == 2 && x.size(0) == d_y.size(0), &|| {
                format!("inputs {} beside cotangents {}", x.shape(), d_y.shape())
            })?;
            smallvec![spec_of(&[d_y.size(1), x.size(1)])?]
        }
        Fused::EmbeddingBackward { ids, d_y, rows } => {
            let fits = ids.dtype() == DType::U32
                && ids.shape().rank() == 1
                && d_y.dtype() == float
                && d_y.shape().rank() == 2
                && d_y.size(0) == ids.size(0);
            check(fits, &|| format!("ids {} beside cotangents {}", ids.shape(), d_y.shape()))?;
            smallvec![spec_of(&[*rows, d_y.size(1)])?]
        }
        Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes } => {
            packed_attention(query, key, value, bias, segments, attributes)?;
            alike("y", y, query)?;
            alike("d_y", d_y, query)?;
            check(log_sum.sizes() == &query.sizes()[..2], &|| {
                format!("log_sum {} of queries {}", log_sum.shape(), query.shape())
            })?;
            [Some(query), Some(key), Some(value), bias.as_ref()]
                .into_iter()
                .flatten()
                .map(|x| Spec { shape: *x.shape(), dtype: float })
                .collect()
        }
        Fused::CrossEntropyBackward { logits, targets, log_sum, d_loss, smoothing } => {
            cross_entropy(logits, targets, *smoothing)?;
            vector("log_sum", log_sum, logits.size(0))?;
            vector("d_loss", d_loss, logits.size(0))?;
            same(logits)
        }
    })
}

fn broadcast(operation: &'static str, a: &Shape, b: &Shape) -> Result<Shape> {
    a.broadcast(b).map_err(|_| Error::shape(operation, format!("{a} does not broadcast with {b}")))
}
