//! The operations of the contract, as data.
//!
//! An operation is a value: its operands and its attributes. A backend is a function of such values, so a decorator has
//! one method to forward and cannot miss an operation, and the same value can be run, traced, compared, recorded on a
//! tape or written to a file. The operand types are parameters: `Primitive<Tensor<…>>` is run, `Primitive<String>`
//! names files, [`Primitive::try_map`] goes from one to the other.
//!
//! [`Primitive`]s are what a backend is made of. [`Fused`] operations are what the graph asks for; each has a
//! decomposition in [`decompose`](crate::decompose) that is its specification, and that runs where a backend has no
//! fused form.
//!
//! Shapes are checked before a backend sees an operation ([`infer`](crate::infer)); operands may have any strides;
//! outputs are contiguous. Float operands of one operation have one type. No operation changes an operand that
//! another handle can still see.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cache::CachePlan,
    compute::Compute,
    config::{Activation, RotaryPairing},
    dtype::DType,
    error::Result,
    sample::SampleRow,
    shape::Shape,
};

/// Converts the operands of an operation from one representation to another.
pub trait MapOperands<T, W, C> {
    /// What tensors become.
    type Tensor;
    /// What packed weights become.
    type Weight;
    /// What caches become.
    type Cache;

    /// Converts a tensor.
    ///
    /// # Errors
    /// Whatever the conversion meets.
    fn tensor(&mut self, tensor: &T) -> Result<Self::Tensor>;

    /// Converts a packed weight.
    ///
    /// # Errors
    /// Whatever the conversion meets.
    fn weight(&mut self, weight: &W) -> Result<Self::Weight>;

    /// Converts a cache.
    ///
    /// # Errors
    /// Whatever the conversion meets.
    fn cache(&mut self, cache: &C) -> Result<Self::Cache>;
}

/// Is told what an operation is made of, by name: for writing it down.
pub trait Describe<T, W, C> {
    /// A tensor.
    fn tensor(&mut self, name: &'static str, tensor: &T);

    /// A tensor that may be absent.
    fn optional(&mut self, name: &'static str, tensor: Option<&T>) {
        if let Some(tensor) = tensor {
            self.tensor(name, tensor);
        }
    }

    /// A packed weight.
    fn weight(&mut self, name: &'static str, weight: &W);

    /// A cache.
    fn cache(&mut self, name: &'static str, cache: &C);

    /// An attribute.
    fn attribute<A: Serialize>(&mut self, name: &'static str, attribute: &A);
}

/// Provides what an operation is made of, by name: for reading it back.
pub trait Assemble<T, W, C> {
    /// Why something cannot be provided.
    type Error;

    /// A tensor.
    ///
    /// # Errors
    /// Where there is none of this name.
    fn tensor(&mut self, name: &'static str) -> Result<T, Self::Error>;

    /// A tensor that may be absent.
    ///
    /// # Errors
    /// Where there is one that cannot be read.
    fn optional(&mut self, name: &'static str) -> Result<Option<T>, Self::Error>;

    /// A packed weight.
    ///
    /// # Errors
    /// Where there is none of this name.
    fn weight(&mut self, name: &'static str) -> Result<W, Self::Error>;

    /// A cache.
    ///
    /// # Errors
    /// Where there is none of this name.
    fn cache(&mut self, name: &'static str) -> Result<C, Self::Error>;

    /// An attribute.
    ///
    /// # Errors
    /// Where there is none of this name, or it is not what it should be.
    fn attribute<A: DeserializeOwned>(&mut self, name: &'static str) -> Result<A, Self::Error>;
}

macro_rules! describe_operand {
    (tensor, $field:ident, $to:expr) => {
        $to.tensor(stringify!($field), $field)
    };
    (optional, $field:ident, $to:expr) => {
        $to.optional(stringify!($field), $field.as_ref())
    };
    (weight, $field:ident, $to:expr) => {
        $to.weight(stringify!($field), $field)
    };
    (cache, $field:ident, $to:expr) => {
        $to.cache(stringify!($field), $field)
    };
    (($Type:ty), $field:ident, $to:expr) => {
        $to.attribute(stringify!($field), $field)
    };
}

macro_rules! assemble_operand {
    (tensor, $field:ident, $from:expr) => {
        $from.tensor(stringify!($field))?
    };
    (optional, $field:ident, $from:expr) => {
        $from.optional(stringify!($field))?
    };
    (weight, $field:ident, $from:expr) => {
        $from.weight(stringify!($field))?
    };
    (cache, $field:ident, $from:expr) => {
        $from.cache(stringify!($field))?
    };
    (($Type:ty), $field:ident, $from:expr) => {
        $from.attribute::<$Type>(stringify!($field))?
    };
}

macro_rules! operand_type {
    (tensor, $T:ident, $W:ident, $C:ident) => { $T };
    (optional, $T:ident, $W:ident, $C:ident) => { Option<$T> };
    (weight, $T:ident, $W:ident, $C:ident) => { $W };
    (cache, $T:ident, $W:ident, $C:ident) => { $C };
    (($Type:ty), $T:ident, $W:ident, $C:ident) => { $Type };
}

macro_rules! map_operand {
    (tensor, $field:expr, $map:expr) => {
        $map.tensor($field)?
    };
    (optional, $field:expr, $map:expr) => {
        $field.as_ref().map(|tensor| $map.tensor(tensor)).transpose()?
    };
    (weight, $field:expr, $map:expr) => {
        $map.weight($field)?
    };
    (cache, $field:expr, $map:expr) => {
        $map.cache($field)?
    };
    (($Type:ty), $field:expr, $map:expr) => {
        $field.clone()
    };
}

macro_rules! visit_tensor {
    (tensor, $field:expr, $visit:expr) => {
        $visit($field)
    };
    (optional, $field:expr, $visit:expr) => {
        $field.iter().for_each(&mut *$visit)
    };
    ($other:tt, $field:expr, $visit:expr) => {
        let _ = $field;
    };
}

macro_rules! operations {
    (
        $(#[$enum_doc:meta])*
        // Type parameters, what a map converts, and what the result's parameters are.
        pub enum $Enum:ident<$($G:ident),*> by MapOperands<$($from:ty),*> to <$($to:ty),*> {
            $(
                $(#[$doc:meta])*
                $Name:ident = $snake:literal {
                    $( $(#[$field_doc:meta])* $field:ident : $kind:tt ),* $(,)?
                }
            ),* $(,)?
        }
    ) => {
        $(#[$enum_doc])*
        pub enum $Enum<$($G),*> {
            $(
                $(#[$doc])*
                $Name { $( $(#[$field_doc])* $field: operand_type!($kind, T, W, C), )* },
            )*
        }

        // By hand: a derive does not see through the macro that gives the fields' types.
        impl<$($G: Clone),*> Clone for $Enum<$($G),*> {
            fn clone(&self) -> Self {
                match self {
                    $( Self::$Name { $($field),* } => Self::$Name { $($field: $field.clone()),* }, )*
                }
            }
        }

        impl<$($G),*> $Enum<$($G),*> {
            /// Snake-case names of all operations, in the order of [`index`](Self::index).
            pub const NAMES: &'static [&'static str] = &[$($snake),*];

            /// Snake-case name: what traces, reports and case files call it.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$Name { .. } => $snake, )*
                }
            }

            /// Place in [`NAMES`](Self::NAMES).
            pub fn index(&self) -> usize {
                #[derive(Clone, Copy)]
                enum Index { $($Name),* }
                (match self { $( Self::$Name { .. } => Index::$Name, )* }) as usize
            }

            /// The same operation over other operands.
            ///
            /// # Errors
            /// The first that `map` meets.
            pub fn try_map<M: MapOperands<$($from),*>>(&self, map: &mut M) -> Result<$Enum<$($to),*>> {
                Ok(match self {
                    $( Self::$Name { $($field),* } => $Enum::$Name { $($field: map_operand!($kind, $field, map)),* }, )*
                })
            }

            /// Tells `to` every operand and attribute, in order of declaration.
            pub fn describe<D: Describe<$($from),*>>(&self, to: &mut D) {
                match self {
                    $( Self::$Name { $($field),* } => { $( describe_operand!($kind, $field, to); )* } )*
                }
            }

            /// The operation called `name`, of what `from` provides in order of declaration; `None` when none is called so.
            ///
            /// # Errors
            /// The first that `from` meets.
            pub fn assemble<S: Assemble<$($from),*>>(name: &str, from: &mut S) -> Option<Result<Self, S::Error>> {
                let mut assemble = |name: &str| -> Result<Option<Self>, S::Error> {
                    Ok(match name {
                        $( $snake => Some(Self::$Name { $($field: assemble_operand!($kind, $field, from)),* }), )*
                        _ => None,
                    })
                };
                assemble(name).transpose()
            }

            /// Calls `visit` for every tensor operand, in order of declaration.
            pub fn for_each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'a T)) {
                match self {
                    $( Self::$Name { $($field),* } => { $( visit_tensor!($kind, $field, visit); )* } )*
                }
            }
        }
    };
}

operations! {
    /// What every backend is made of. One output each, contiguous, of the type named.
    pub enum Primitive<T> by MapOperands<T, (), ()> to <M::Tensor> {
        /// A tensor of one value.
        Fill = "fill" {
            /// Shape of the output.
            shape: (Shape),
            /// The value, rounded to `dtype`.
            value: (f64),
            /// Type of the output.
            dtype: (DType),
        },
        /// The elements in row-major order, cast to `dtype` (to nearest even; whole numbers are truncated and clamped).
        Copy = "copy" {
            /// Any type and strides.
            x: tensor,
            /// Type of the output.
            dtype: (DType),
        },
        /// `into` with the box from `start` on replaced by `x`; in place when no other handle of `into` is left.
        Write = "write" {
            /// The whole; its shape and type are the output's.
            into: tensor,
            /// The box, of the same rank and type.
            x: tensor,
            /// First index of the box, per dimension.
            start: (Shape),
        },
        /// `f(x)`, element by element. NaN gives NaN.
        Unary = "unary" {
            /// Floats.
            x: tensor,
            /// f.
            kind: (UnaryKind),
        },
        /// `f(a, b)`, element by element, broadcast. Comparisons give u32 0 or 1.
        Binary = "binary" {
            /// Left operand.
            a: tensor,
            /// Right operand, of the same type.
            b: tensor,
            /// f.
            kind: (BinaryKind),
        },
        /// `mask ≠ 0 ? a : b`, element by element, broadcast. What is not chosen leaves no trace, NaN or not.
        Select = "select" {
            /// u32.
            mask: tensor,
            /// Where the mask is set.
            a: tensor,
            /// Where it is not; of the same type as `a`.
            b: tensor,
        },
        /// A reduction over one axis, which stays with size 1. Terms are taken in ascending order of the index.
        /// Over no elements: sum 0, maximum is refused by the core.
        Reduce = "reduce" {
            /// Floats.
            x: tensor,
            /// The axis.
            axis: (usize),
            /// Which reduction.
            kind: (ReduceKind),
        },
        /// `[…, M, K] · […, K, N] → […, M, N]`, leading dimensions broadcast. Every output is one chain
        /// `((0 + a₀b₀) + a₁b₁) + …` in ascending k, or at least as accurate; it does not depend on M.
        MatMul = "matmul" {
            /// Left, floats.
            a: tensor,
            /// Right, floats.
            b: tensor,
        },
        /// `x[ids[r], …]` for every r: `[N, …], [R] → [R, …]`. An id from N on gives zeros.
        GatherRows = "gather_rows" {
            /// Any type.
            x: tensor,
            /// u32 `[R]`.
            ids: tensor,
        },
        /// `into` with row `ids[r]` replaced by, or increased by, row r of `x`, in ascending r; in place when no other
        /// handle of `into` is left. Ids beyond the rows are left out.
        ScatterRows = "scatter_rows" {
            /// `[N, …]`.
            into: tensor,
            /// u32 `[R]`.
            ids: tensor,
            /// `[R, …]`, of the same type as `into`.
            x: tensor,
            /// Add instead of replacing (floats).
            add: (bool),
        },
    }
}

operations! {
    /// What the graph asks for. Specified by the functions of the same names in [`decompose`](crate::decompose).
    pub enum Fused<T, W, C> by MapOperands<T, W, C> to <M::Tensor, M::Weight, M::Cache> {
        /// `exp(x − max) / Σ exp(x − max)` over the last axis.
        Softmax = "softmax" {
            /// Floats `[…, n]`.
            x: tensor,
        },
        /// `(x − mean) / √(var + ε) · w + b` over the last axis, var the mean squared deviation.
        LayerNorm = "layer_norm" {
            /// `[…, n]`.
            x: tensor,
            /// `[n]`.
            weight: tensor,
            /// `[n]`.
            bias: optional,
            /// ε.
            epsilon: (f64),
        },
        /// `x / √(mean(x²) + ε) · w` over the last axis, `1 + w` with `unit_offset`.
        RmsNorm = "rms_norm" {
            /// `[…, n]`.
            x: tensor,
            /// `[n]`.
            weight: tensor,
            /// ε.
            epsilon: (f64),
            /// The weight is the difference from one.
            unit_offset: (bool),
        },
        /// Rotates pairs `(a, b)` of each head's first 2P components to `(a·cos − b·sin, b·cos + a·sin)`.
        Rotary = "rotary" {
            /// `[T, H, C]`.
            x: tensor,
            /// `[N, P]`.
            cos: tensor,
            /// `[N, P]`.
            sin: tensor,
            /// u32 `[T]`: the table row of each token.
            ids: tensor,
            /// Which components form a pair.
            pairing: (RotaryPairing),
        },
        /// `f(x)`, element by element.
        Activation = "activation" {
            /// Floats.
            x: tensor,
            /// f.
            kind: (Activation),
        },
        /// `f(gate) · up`, element by element.
        Gated = "gated" {
            /// Floats.
            gate: tensor,
            /// Of the same shape.
            up: tensor,
            /// f.
            kind: (Activation),
        },
        /// `cap · tanh(x / cap)`.
        SoftCap = "soft_cap" {
            /// Floats.
            x: tensor,
            /// cap.
            cap: (f64),
        },
        /// x in blocks of 32 neighbours as whole numbers times a scale: codes `[T, D]`, from −127 to 127 in the float type,
        /// and scales `[T, ⌈D/32⌉]`. [`decompose::quantize_activations`](crate::decompose::quantize_activations) defines them
        /// to the bit, in f32 whatever a backend computes in.
        QuantizeActivations = "quantize_activations" {
            /// `[T, D]`.
            x: tensor,
        },
        /// `f(x · Wᵀ + b) + residual`.
        Linear = "linear" {
            /// `[T, inputs]`.
            x: tensor,
            /// `[outputs, inputs]`.
            weight: weight,
            /// `[outputs]`.
            bias: optional,
            /// f; none is the identity.
            activation: (Option<Activation>),
            /// `[T, outputs]`.
            residual: optional,
            /// What x and W are taken as in the product.
            compute: (Compute),
        },
        /// Rows of a packed table: `[R] → [R, inputs]`. The table may be a tied output projection.
        Embedding = "embedding" {
            /// `[rows, inputs]`.
            weight: weight,
            /// u32 `[R]`.
            ids: tensor,
        },
        /// Multi-head attention over packed sequences, without a cache: segment s of the queries sees segment s of the
        /// keys. `[T, H, C], [S, K, C], [S, K, C] → [T, H, C]`, and `ln Σ exp(score)` `[T, H]` of the keys that each
        /// query sees, which a backward needs; 0 where it sees none.
        Attention = "attention" {
            /// `[T, H, C]`.
            query: tensor,
            /// `[S, K, C]`.
            key: tensor,
            /// `[S, K, C]`.
            value: tensor,
            /// What [`ScoreBias`] reads: a table `[buckets, H]` or slopes `[H]`.
            bias: optional,
            /// Lengths of the query and key segments, equally many.
            segments: (Arc<Segments>),
            /// The rest.
            attributes: (AttentionAttributes),
        },
        /// Stores keys and values of new rows in the cache's blocks. No output.
        CacheWrite = "cache_write" {
            /// The cache.
            cache: cache,
            /// `[T, K, C]`.
            key: tensor,
            /// `[T, K, C]`.
            value: tensor,
            /// Layer within the cache.
            layer: (usize),
            /// Where the rows go.
            plan: (Arc<CachePlan>),
        },
        /// Multi-head attention of rows over what the cache holds of their sequences: `[T, H, C] → [T, H, C]`.
        CachedAttention = "cached_attention" {
            /// `[T, H, C]`.
            query: tensor,
            /// The cache.
            cache: cache,
            /// What [`ScoreBias`] reads: a table `[buckets, H]` or slopes `[H]`.
            bias: optional,
            /// Layer within the cache.
            layer: (usize),
            /// Whose rows these are and where their keys lie.
            plan: (Arc<CachePlan>),
            /// The rest.
            attributes: (AttentionAttributes),
        },
        /// `−ln p` of each row's target under the softmax of its logits, smoothed: with s the smoothing and V classes,
        /// `ln Σ eˣ − (1 − s)·x[target] − s/V · Σ x`. Outputs: losses `[R]` and `ln Σ eˣ` `[R]`, which a backward needs.
        /// A target from V on is no target: its loss is 0.
        CrossEntropy = "cross_entropy" {
            /// `[R, V]`.
            logits: tensor,
            /// u32 `[R]`.
            targets: tensor,
            /// s, in `[0, 1)`.
            smoothing: (f64),
        },
        /// One step of AdamW (Loshchilov & Hutter 2019), element by element. Outputs: parameter, first and second
        /// moment, all of the same shape; in place where no other handle is left.
        AdamW = "adamw" {
            /// The parameter.
            parameter: tensor,
            /// Its gradient.
            gradient: tensor,
            /// Mean of the gradients, zeros at first.
            first: tensor,
            /// Mean of their squares, zeros at first.
            second: tensor,
            /// The rest.
            settings: (AdamWSettings),
        },
        /// Chooses a token for each row of logits: `[R, V] → u32 [R]`.
        Sample = "sample" {
            /// `[R, V]`.
            logits: tensor,
            /// Settings of each row.
            rows: (Arc<[SampleRow]>),
        },
        /// Of [`Softmax`](Fused::Softmax): `y · (d_y − Σ y·d_y)`. Saved: y.
        SoftmaxBackward = "softmax_backward" {
            /// What the forward gave, `[…, n]`.
            y: tensor,
            /// The cotangent of y.
            d_y: tensor,
        },
        /// Of [`LayerNorm`](Fused::LayerNorm), with x̂ the normed row and g = d_y·w:
        /// `(g − mean(g) − x̂ · mean(g·x̂)) / √(var + ε)`; then `Σ d_y·x̂` `[n]` and `Σ d_y` `[n]` over the rows, for weight and
        /// bias. Saved: x.
        LayerNormBackward = "layer_norm_backward" {
            /// `[…, n]`.
            x: tensor,
            /// `[n]`.
            weight: tensor,
            /// The cotangent of the output.
            d_y: tensor,
            /// ε.
            epsilon: (f64),
        },
        /// Of [`RmsNorm`](Fused::RmsNorm), with x̂ the normed row and g = d_y·w (or `1 + w`):
        /// `(g − x̂ · mean(g·x̂)) / √(mean(x²) + ε)`; then `Σ d_y·x̂` `[n]` over the rows, for the weight. Saved: x.
        RmsNormBackward = "rms_norm_backward" {
            /// `[…, n]`.
            x: tensor,
            /// `[n]`.
            weight: tensor,
            /// The cotangent of the output.
            d_y: tensor,
            /// ε.
            epsilon: (f64),
            /// The weight is the difference from one.
            unit_offset: (bool),
        },
        /// Of [`Activation`](Fused::Activation): `f′(x) · d_y`; relu has slope 0 at 0. Saved: x.
        ActivationBackward = "activation_backward" {
            /// Floats.
            x: tensor,
            /// The cotangent of the output.
            d_y: tensor,
            /// f.
            kind: (Activation),
        },
        /// Of [`Gated`](Fused::Gated): `f′(gate) · up · d_y` and `f(gate) · d_y`. Saved: gate and up.
        GatedBackward = "gated_backward" {
            /// Floats.
            gate: tensor,
            /// Of the same shape.
            up: tensor,
            /// The cotangent of the output.
            d_y: tensor,
            /// f.
            kind: (Activation),
        },
        /// Of [`SoftCap`](Fused::SoftCap): `(1 − tanh²(x / cap)) · d_y`. Saved: x.
        SoftCapBackward = "soft_cap_backward" {
            /// Floats.
            x: tensor,
            /// The cotangent of the output.
            d_y: tensor,
            /// cap.
            cap: (f64),
        },
        /// Of [`Linear`](Fused::Linear), for its input: `d_y · W`: `[T, outputs] → [T, inputs]`. Saved: the weight.
        LinearBackwardInput = "linear_backward_input" {
            /// The cotangent of `x · Wᵀ`.
            d_y: tensor,
            /// `[outputs, inputs]`.
            weight: weight,
            /// What both are taken as in the product: f32 or bf16.
            compute: (Compute),
        },
        /// Of [`Linear`](Fused::Linear), for its weight: `d_yᵀ · x`: `[outputs, inputs]`. Saved: x.
        LinearBackwardWeight = "linear_backward_weight" {
            /// `[T, inputs]`.
            x: tensor,
            /// The cotangent of `x · Wᵀ`, `[T, outputs]`.
            d_y: tensor,
            /// What both are taken as in the product: f32 or bf16.
            compute: (Compute),
        },
        /// Of [`Embedding`](Fused::Embedding): rows of zeros increased by those of d_y, in ascending r. Saved: ids.
        EmbeddingBackward = "embedding_backward" {
            /// u32 `[R]`; ids beyond the rows are left out.
            ids: tensor,
            /// The cotangent of the output, `[R, D]`.
            d_y: tensor,
            /// Rows of the table.
            rows: (usize),
        },
        /// Of [`Attention`](Fused::Attention), for query, key, value and, where there is one, bias. With p the
        /// probabilities and δ = `Σ_c y·d_y`, the scores' cotangent is `p · (d_y·v − δ)`. Saved: operands, y and log_sum.
        AttentionBackward = "attention_backward" {
            /// `[T, H, C]`.
            query: tensor,
            /// `[S, K, C]`.
            key: tensor,
            /// `[S, K, C]`.
            value: tensor,
            /// What [`ScoreBias`] reads: a table `[buckets, H]` or slopes `[H]`.
            bias: optional,
            /// What the forward gave, `[T, H, C]`.
            y: tensor,
            /// Its second output, `[T, H]`.
            log_sum: tensor,
            /// The cotangent of y.
            d_y: tensor,
            /// As in the forward.
            segments: (Arc<Segments>),
            /// As in the forward.
            attributes: (AttentionAttributes),
        },
        /// Of [`CrossEntropy`](Fused::CrossEntropy): `d_loss · (softmax − (1 − s)·[v = target] − s/V)`; 0 in rows without a
        /// target. Saved: logits, targets and log_sum.
        CrossEntropyBackward = "cross_entropy_backward" {
            /// `[R, V]`.
            logits: tensor,
            /// u32 `[R]`.
            targets: tensor,
            /// The forward's second output, `[R]`.
            log_sum: tensor,
            /// The cotangent of the losses, `[R]`.
            d_loss: tensor,
            /// s.
            smoothing: (f64),
        },
    }
}

impl<T, W, C> Fused<T, W, C> {
    /// What a product takes its operands as; `None` for what is no projection.
    pub fn compute(&self) -> Option<Compute> {
        match self {
            Self::Linear { compute, .. }
            | Self::LinearBackwardInput { compute, .. }
            | Self::LinearBackwardWeight { compute, .. } => Some(*compute),
            _ => None,
        }
    }
}

/// Element-wise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryKind {
    /// `−x`.
    Negate,
    /// `eˣ`.
    Exp,
    /// Natural logarithm.
    Log,
    /// `√x`.
    Sqrt,
    /// `tanh x`.
    Tanh,
    /// The error function.
    Erf,
    /// `1/x`.
    Reciprocal,
    /// The nearest whole number, the even one of two.
    Round,
    /// The nearest f32, the even one of two: the number itself where the backend computes in f32.
    Single,
}

/// Element-wise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryKind {
    /// `a + b`.
    Add,
    /// `a − b`.
    Subtract,
    /// `a · b`.
    Multiply,
    /// `a / b`.
    Divide,
    /// The greater; NaN if either is NaN.
    Maximum,
    /// The smaller; NaN if either is NaN.
    Minimum,
    /// `a < b` as u32.
    Less,
    /// `a = b` as u32.
    Equal,
}

/// Reductions over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceKind {
    /// Sum, from 0, in ascending order.
    Sum,
    /// Greatest; NaN if any is NaN.
    Maximum,
    /// Index of the greatest as u32, the lowest one on ties; a NaN counts as greatest.
    ArgMaximum,
}

/// Which keys a query at position p sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of its sequence.
    All,
    /// Positions up to p; with a window w only those after `p − w`.
    Causal {
        /// How many latest positions are seen, p included.
        window: Option<usize>,
    },
}

/// Positions inside the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScoreBias {
    /// None.
    None,
    /// `table[bucket(key − query), h]` (Raffel et al. 2020; [`relative_bucket`](crate::positions::relative_bucket)).
    Relative {
        /// Half of the buckets are for keys after the query.
        bidirectional: bool,
        /// Rows of the table.
        buckets: usize,
        /// Distances from here on share a bucket.
        max_distance: usize,
    },
    /// `slope[h] · (key − query)` (Press et al. 2022).
    Linear,
}

/// What attention needs to know besides its operands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenAttributes", into = "WrittenAttributes")]
pub struct AttentionAttributes {
    /// Factor on `q·k`.
    pub scale: f64,
    /// Scores become `cap · tanh(score / cap)`, before the bias.
    pub soft_cap: Option<f64>,
    /// Who sees whom.
    pub mask: Mask,
    /// How `bias` is read.
    pub bias: ScoreBias,
}

/// [`AttentionAttributes`] as case files write them.
#[derive(Serialize, Deserialize)]
struct WrittenAttributes {
    scale: f64,
    mask: WrittenMask,
    #[serde(default)]
    window: Option<usize>,
    #[serde(default)]
    soft_cap: Option<f64>,
    #[serde(default)]
    score_bias: Option<ScoreBias>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenMask {
    All,
    Causal,
}

impl From<AttentionAttributes> for WrittenAttributes {
    fn from(AttentionAttributes { scale, soft_cap, mask, bias }: AttentionAttributes) -> Self {
        let (mask, window) = match mask {
            Mask::All => (WrittenMask::All, None),
            Mask::Causal { window } => (WrittenMask::Causal, window),
        };
        Self { scale, mask, window, soft_cap, score_bias: Some(bias).filter(|bias| *bias != ScoreBias::None) }
    }
}

impl TryFrom<WrittenAttributes> for AttentionAttributes {
    type Error = &'static str;

    fn try_from(written: WrittenAttributes) -> Result<Self, Self::Error> {
        let WrittenAttributes { scale, mask, window, soft_cap, score_bias } = written;
        let mask = match (mask, window) {
            (WrittenMask::All, Some(_)) => return Err("a window needs a causal mask"),
            (WrittenMask::All, None) => Mask::All,
            (WrittenMask::Causal, window) => Mask::Causal { window },
        };
        Ok(Self { scale, soft_cap, mask, bias: score_bias.unwrap_or(ScoreBias::None) })
    }
}

/// What a step of AdamW needs to know besides its operands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWSettings {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the parameter itself, times the rate (decoupled from the gradient).
    pub weight_decay: f64,
    /// Which step this is, from 1.
    pub step: u32,
}

/// Lengths of packed sequences, in rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segments {
    /// Per sequence, rows of the queries.
    pub queries: Vec<usize>,
    /// Per sequence, rows of the keys and values.
    pub keys: Vec<usize>,
}

impl Segments {
    /// Sequences that attend to themselves.
    pub fn within(lengths: Vec<usize>) -> Self {
        Self { keys: lengths.clone(), queries: lengths }
    }
}
