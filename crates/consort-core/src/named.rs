//! Operations by name: methods of [`Device`] that build the values of [`Primitive`] and [`Fused`] and run them.

use crate::{
    backend::{Backend, TensorOf, WeightOf},
    compute::Compute,
    config::{Activation, RotaryPairing},
    device::Device,
    dtype::DType,
    error::{Error, Result},
    operation::{BinaryKind, Fused, Primitive, ReduceKind, UnaryKind},
    shape::Shape,
};

/// Primitives by name; see [`Primitive`] for shapes and meaning. All return what [`Device::primitive`] does.
#[allow(clippy::missing_errors_doc)]
impl<B: Backend> Device<B> {
    /// [`Primitive::Fill`] of the float type.
    pub fn fill(&self, sizes: &[usize], value: f64) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Fill { shape: Shape::new(sizes)?, value, dtype: self.float() })
    }

    /// [`Primitive::Copy`].
    pub fn copy(&self, x: &TensorOf<B>, dtype: DType) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Copy { x: x.clone(), dtype })
    }

    /// [`Primitive::Write`].
    pub fn write(&self, into: TensorOf<B>, x: TensorOf<B>, start: &[usize]) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Write { into, x, start: Shape::new(start)? })
    }

    /// [`Primitive::Unary`].
    pub fn unary(&self, x: TensorOf<B>, kind: UnaryKind) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Unary { x, kind })
    }

    /// [`Primitive::Binary`].
    pub fn binary(&self, a: TensorOf<B>, b: TensorOf<B>, kind: BinaryKind) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Binary { a, b, kind })
    }

    /// `a + b`.
    pub fn add(&self, a: TensorOf<B>, b: TensorOf<B>) -> Result<TensorOf<B>> {
        self.binary(a, b, BinaryKind::Add)
    }

    /// `a − b`.
    pub fn subtract(&self, a: TensorOf<B>, b: TensorOf<B>) -> Result<TensorOf<B>> {
        self.binary(a, b, BinaryKind::Subtract)
    }

    /// `a · b`, element by element.
    pub fn multiply(&self, a: TensorOf<B>, b: TensorOf<B>) -> Result<TensorOf<B>> {
        self.binary(a, b, BinaryKind::Multiply)
    }

    /// `a / b`.
    pub fn divide(&self, a: TensorOf<B>, b: TensorOf<B>) -> Result<TensorOf<B>> {
        self.binary(a, b, BinaryKind::Divide)
    }

    /// `a · factor`; `a` itself for a factor of 1.
    pub fn scale(&self, a: TensorOf<B>, factor: f64) -> Result<TensorOf<B>> {
        if factor == 1.0 {
            return Ok(a);
        }
        let factor = self.fill(&[1], factor)?;
        self.multiply(a, factor)
    }

    /// [`Primitive::Select`].
    pub fn select(&self, mask: TensorOf<B>, a: TensorOf<B>, b: TensorOf<B>) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Select { mask, a, b })
    }

    /// [`Primitive::Reduce`].
    pub fn reduce(&self, x: &TensorOf<B>, axis: usize, kind: ReduceKind) -> Result<TensorOf<B>> {
        self.primitive(Primitive::Reduce { x: x.clone(), axis, kind })
    }

    /// [`Primitive::MatMul`].
    pub fn matmul(&self, a: &TensorOf<B>, b: &TensorOf<B>) -> Result<TensorOf<B>> {
        self.primitive(Primitive::MatMul { a: a.clone(), b: b.clone() })
    }

    /// [`Primitive::GatherRows`].
    pub fn gather_rows(&self, x: &TensorOf<B>, ids: &TensorOf<B>) -> Result<TensorOf<B>> {
        self.primitive(Primitive::GatherRows { x: x.clone(), ids: ids.clone() })
    }

    /// [`Primitive::ScatterRows`].
    pub fn scatter_rows(&self, into: TensorOf<B>, ids: &TensorOf<B>, x: TensorOf<B>, add: bool) -> Result<TensorOf<B>> {
        self.primitive(Primitive::ScatterRows { into, ids: ids.clone(), x, add })
    }
}

/// Fused operations by name; see [`Fused`] for shapes and meaning. All return what [`Device::fused`] does.
#[allow(clippy::missing_errors_doc)]
impl<B: Backend> Device<B> {
    /// [`Fused::Softmax`].
    pub fn softmax(&self, x: TensorOf<B>) -> Result<TensorOf<B>> {
        self.one(Fused::Softmax { x })
    }

    /// [`Fused::LayerNorm`].
    pub fn layer_norm(
        &self,
        x: TensorOf<B>,
        weight: &TensorOf<B>,
        bias: Option<&TensorOf<B>>,
        epsilon: f64,
    ) -> Result<TensorOf<B>> {
        self.one(Fused::LayerNorm { x, weight: weight.clone(), bias: bias.cloned(), epsilon })
    }

    /// [`Fused::RmsNorm`].
    pub fn rms_norm(
        &self,
        x: TensorOf<B>,
        weight: &TensorOf<B>,
        epsilon: f64,
        unit_offset: bool,
    ) -> Result<TensorOf<B>> {
        self.one(Fused::RmsNorm { x, weight: weight.clone(), epsilon, unit_offset })
    }

    /// [`Fused::Rotary`].
    pub fn rotary(
        &self,
        x: TensorOf<B>,
        [cos, sin]: &[TensorOf<B>; 2],
        ids: &TensorOf<B>,
        pairing: RotaryPairing,
    ) -> Result<TensorOf<B>> {
        self.one(Fused::Rotary { x, cos: cos.clone(), sin: sin.clone(), ids: ids.clone(), pairing })
    }

    /// [`Fused::Activation`].
    pub fn activation(&self, x: TensorOf<B>, kind: Activation) -> Result<TensorOf<B>> {
        self.one(Fused::Activation { x, kind })
    }

    /// [`Fused::Gated`].
    pub fn gated(&self, gate: TensorOf<B>, up: TensorOf<B>, kind: Activation) -> Result<TensorOf<B>> {
        self.one(Fused::Gated { gate, up, kind })
    }

    /// [`Fused::SoftCap`].
    pub fn soft_cap(&self, x: TensorOf<B>, cap: f64) -> Result<TensorOf<B>> {
        self.one(Fused::SoftCap { x, cap })
    }

    /// [`Fused::QuantizeActivations`]: codes and scales.
    pub fn quantize_activations(&self, x: TensorOf<B>) -> Result<[TensorOf<B>; 2]> {
        let outputs = self.fused(Fused::QuantizeActivations { x })?;
        <[TensorOf<B>; 2]>::try_from(outputs.into_vec())
            .map_err(|outputs| Error::shape("quantize_activations", format!("{} outputs, expected 2", outputs.len())))
    }

    /// [`Fused::Linear`].
    pub fn linear(
        &self,
        x: TensorOf<B>,
        weight: &WeightOf<B>,
        bias: Option<&TensorOf<B>>,
        activation: Option<Activation>,
        residual: Option<TensorOf<B>>,
        compute: Compute,
    ) -> Result<TensorOf<B>> {
        self.one(Fused::Linear { x, weight: weight.clone(), bias: bias.cloned(), activation, residual, compute })
    }

    /// [`Fused::Embedding`].
    pub fn embedding(&self, weight: &WeightOf<B>, ids: &TensorOf<B>) -> Result<TensorOf<B>> {
        self.one(Fused::Embedding { weight: weight.clone(), ids: ids.clone() })
    }

    /// [`Fused::ActivationBackward`].
    pub fn activation_backward(&self, x: TensorOf<B>, d_y: TensorOf<B>, kind: Activation) -> Result<TensorOf<B>> {
        self.one(Fused::ActivationBackward { x, d_y, kind })
    }

    /// [`Fused::SoftCapBackward`].
    pub fn soft_cap_backward(&self, x: TensorOf<B>, d_y: TensorOf<B>, cap: f64) -> Result<TensorOf<B>> {
        self.one(Fused::SoftCapBackward { x, d_y, cap })
    }
}
