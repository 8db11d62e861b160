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

use crate::{
    cache::CachePlan,
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
        },
        /// Rows of a packed table: `[R] → [R, inputs]`. The table may be a tied output projection.
        Embedding = "embedding" {
            /// `[rows, inputs]`.
            weight: weight,
            /// u32 `[R]`.
            ids: tensor,
        },
        /// Multi-head attention over packed sequences, without a cache: segment s of the queries sees segment s of the
        /// keys. `[T, H, C], [S, K, C], [S, K, C] → [T, H, C]`.
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
    }
}

/// Element-wise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Element-wise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq)]
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

/// What a step of AdamW needs to know besides its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
