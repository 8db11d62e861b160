//! The CPU at its limit: kernels in `std::arch` for the instruction set found at run time, on all cores.
//!
//! - **One packed layout a weight type**, panels of 32 outputs along the inputs, serves one row and many: every
//!   output is one ascending chain in a lane of its own, whatever the number of rows. So a row's bits depend on its inputs, the
//!   weight's type and the instruction set, and on nothing else.
//! - **Kernels are written once**, over lanes, and compiled for each set; matrix products, attention and everything
//!   element by element share its lanes. `CONSORT_SIMD=portable|avx2|avx512` asks for a lower set.
//! - **Threads** divide outputs, never sums. A team of their own takes a job over in well under a microsecond;
//!   weights are packed by rayon.
//! - **Memory** is taken from a pool and goes back to it: a decoding step allocates nothing here.
//! - `unsafe` is where memory is read or written by lanes, and in the team.

mod activation;
mod adamw;
mod attention;
mod attention_backward;
mod binary;
mod cache;
mod cached_attention;
mod copy;
mod cross_entropy;
mod elementwise;
mod embedding;
mod embedding_backward;
mod fill;
mod gather_rows;
mod gemm;
mod isa;
mod lanes;
mod limits;
mod linear;
mod math;
mod matmul;
mod norm;
mod packed;
mod quantize;
mod reduce;
mod rotary;
mod sample;
mod scatter_rows;
mod scratch;
mod select;
mod softmax;
mod storage;
mod strided;
mod team;
mod unary;
mod write;

use std::sync::Arc;

use consort_core::{
    Backend, DType, Fused, FusedOf, HostData, Outputs, Primitive, PrimitiveOf, Ready, Result, Spec, StoredTensor,
    Tensor, WeightDType, cache::CacheSpec,
};
use consort_scalar::Single;

pub use self::{
    cache::Store,
    isa::{Level, UnknownLevel},
    limits::{Limits, limits},
    storage::Buffer,
};
use self::{
    packed::Packed,
    storage::{Pool, Rows, filled, misfit},
    team::Team,
};

/// What asks for an instruction set.
pub const LEVEL_VARIABLE: &str = "CONSORT_SIMD";

/// The backend: an instruction set, threads, and memory. Cloning it clones a handle.
#[derive(Clone)]
pub struct Simd {
    level: Level,
    team: Arc<Team>,
    pool: Arc<Pool>,
    /// What stands where a buffer was taken out of an operation.
    none: Buffer,
}

impl Simd {
    /// On all cores that this process may use, with the best instruction set or the one that [`LEVEL_VARIABLE`] names.
    ///
    /// # Errors
    /// [`UnknownLevel`] when that is not one of this machine's.
    pub fn open() -> Result<Self, UnknownLevel> {
        Self::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// As [`open`](Self::open), on so many threads.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_threads(threads: usize) -> Result<Self, UnknownLevel> {
        let level = match std::env::var(LEVEL_VARIABLE) {
            Ok(name) => Level::named(&name)?,
            Err(_) => Level::best(),
        };
        Ok(Self::new(level, threads))
    }

    /// With this instruction set, on so many threads.
    pub fn new(level: Level, threads: usize) -> Self {
        let pool = Pool::new();
        // No elements: nothing to allocate that could fail but its few bytes.
        let none = pool.zeros(DType::U32, 0).expect("a few bytes");
        Self { level, team: Arc::new(Team::new(threads)), pool, none }
    }

    /// The instruction set.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// `x` as rows of `width` elements: as it lies, or copied into `x` where its rows do not lie together.
    pub(crate) fn rows<'a>(&self, x: &'a mut Tensor<Buffer>, width: usize) -> Result<Rows<'a>> {
        if Rows::new(x, width)?.is_none() {
            let dtype = x.dtype();
            *x = Tensor::new(copy::copy(self, x, dtype)?, *x.shape(), dtype);
        }
        Rows::new(x, width)?.ok_or_else(|| misfit("a copy without rows"))
    }
}

impl Backend for Simd {
    type Buffer = Buffer;
    type Packed = Packed;
    type Store = Store;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        self.pool.zeros(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Buffer> {
        self.pool.upload(&data)
    }

    fn download(&self, buffer: &Buffer) -> Result<Ready> {
        Ok(Ready::new(buffer.to_host()))
    }

    fn name(&self) -> &'static str {
        "simd"
    }

    fn pack(&self, parts: &[StoredTensor], dtype: WeightDType) -> Result<Packed> {
        // This backend's floats are f32: that is what f64 is rounded to.
        Packed::new(parts, if dtype == WeightDType::F64 { WeightDType::F32 } else { dtype })
    }

    fn repack(&self, packed: &Packed, x: &Tensor<Buffer>) -> Result<Packed> {
        let mut x = x.clone();
        packed.anew(self, self.rows(&mut x, packed.inputs)?)
    }

    fn unpack(&self, packed: &Packed) -> Result<Buffer> {
        let mut out = self.pool.take::<f32>(packed.outputs * packed.inputs)?;
        packed.unpack(self, filled::<f32>(&mut out)?);
        Ok(out)
    }

    fn cache_new(&self, spec: &CacheSpec) -> Result<Store> {
        Ok(Store::new(spec))
    }

    fn cache_reserve(&self, store: &Store, blocks: usize) -> Result<()> {
        store.reserve(blocks)
    }

    fn cache_copy(&self, store: &Store, pairs: &[(u32, u32)]) -> Result<()> {
        store.copy(pairs)
    }

    fn cache_read(&self, store: &Store, layer: usize, rows: &[u32]) -> Result<[Buffer; 2]> {
        store.read(self, layer, rows)
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer> {
        match operation {
            Primitive::Fill { shape, value, dtype } => fill::fill(self, shape, *value, *dtype),
            Primitive::Copy { x, dtype } => copy::copy(self, x, *dtype),
            Primitive::Write { into, x, start } => write::write(self, into, x, start),
            Primitive::Unary { x, kind } => unary::unary(self, x, *kind),
            Primitive::Binary { a, b, kind } => binary::binary(self, a, b, *kind, out),
            Primitive::Select { mask, a, b } => select::select(self, mask, a, b, out),
            Primitive::Reduce { x, axis, kind } => reduce::reduce(self, x, *axis, *kind),
            Primitive::MatMul { a, b } => matmul::matmul(self, a, b, out),
            Primitive::GatherRows { x, ids } => gather_rows::gather_rows(self, x, ids),
            Primitive::ScatterRows { into, ids, x, add } => scatter_rows::scatter_rows(self, into, ids, x, *add),
        }
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _out: &[Spec]) -> Result<Outputs<Buffer>> {
        match operation {
            Fused::Softmax { x } => softmax::softmax(self, x),
            Fused::SoftmaxBackward { y, d_y } => softmax::softmax_backward(self, y, d_y),
            Fused::LayerNorm { x, weight, bias, epsilon } => norm::layer_norm(self, x, weight, bias, *epsilon),
            Fused::RmsNorm { x, weight, epsilon, unit_offset } => {
                norm::rms_norm(self, x, weight, *epsilon, *unit_offset)
            }
            Fused::LayerNormBackward { x, weight, d_y, epsilon } => {
                norm::layer_norm_backward(self, x, weight, d_y, *epsilon)
            }
            Fused::RmsNormBackward { x, weight, d_y, epsilon, unit_offset } => {
                norm::rms_norm_backward(self, x, weight, d_y, *epsilon, *unit_offset)
            }
            Fused::Rotary { x, cos, sin, ids, pairing } => rotary::rotary(self, x, cos, sin, ids, *pairing),
            Fused::Activation { x, kind } => activation::activation(self, x, *kind),
            Fused::Gated { gate, up, kind } => activation::gated(self, gate, up, *kind),
            Fused::SoftCap { x, cap } => activation::soft_cap(self, x, *cap),
            Fused::ActivationBackward { x, d_y, kind } => activation::activation_backward(self, x, d_y, *kind),
            Fused::GatedBackward { gate, up, d_y, kind } => activation::gated_backward(self, gate, up, d_y, *kind),
            Fused::SoftCapBackward { x, d_y, cap } => activation::soft_cap_backward(self, x, d_y, *cap),
            Fused::QuantizeActivations { x } => quantize::quantize_activations(self, x),
            Fused::Linear { x, weight, bias, activation, residual, compute } => {
                linear::linear(self, x, weight, bias, *activation, residual, *compute)
            }
            Fused::LinearBackwardInput { d_y, weight, compute } => {
                linear::linear_backward_input(self, d_y, weight, *compute)
            }
            Fused::LinearBackwardWeight { x, d_y, compute } => linear::linear_backward_weight(self, x, d_y, *compute),
            Fused::Embedding { weight, ids } => embedding::embedding(self, weight, ids),
            Fused::EmbeddingBackward { ids, d_y, rows } => {
                embedding_backward::embedding_backward(self, ids, d_y, *rows)
            }
            Fused::Attention { query, key, value, bias, segments, attributes } => {
                attention::attention(self, query, key, value, bias, segments, attributes)
            }
            Fused::AttentionBackward { query, key, value, bias, y, log_sum, d_y, segments, attributes } => {
                attention_backward::attention_backward(
                    self, query, key, value, bias, y, log_sum, d_y, segments, attributes,
                )
            }
            Fused::CachedAttention { query, cache, bias, layer, plan, attributes } => {
                cached_attention::cached_attention(self, query, cache, bias, *layer, plan, attributes)
            }
            Fused::CacheWrite { cache, key, value, layer, plan } => {
                cache::cache_write(self, cache, key, value, *layer, plan)
            }
            Fused::CrossEntropy { logits, targets, smoothing } => {
                cross_entropy::cross_entropy(self, logits, targets, *smoothing)
            }
            Fused::CrossEntropyBackward { logits, targets, log_sum, d_loss, smoothing } => {
                cross_entropy::cross_entropy_backward(self, logits, targets, log_sum, d_loss, *smoothing)
            }
            Fused::AdamW { parameter, gradient, first, second, settings } => {
                adamw::adamw(self, parameter, gradient, first, second, settings)
            }
            Fused::Sample { logits, rows } => sample::sample(self, logits, rows),
        }
    }
}
