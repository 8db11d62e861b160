//! One transformer, written once, played by every backend.
//!
//! - [`Backend`] is the contract: three required methods, and operations as data ([`Primitive`], [`Fused`]).
//! - [`Device`] opens a backend for use: it checks shapes once, falls back where an operation is missing, and counts
//!   how each one ran.
//! - [`decompose`] has every fused operation in primitives: fall-back and specification in one.
//! - [`Transformer`] is the graph, for every shape of transformer; [`TransformerConfig`] is its choices as data.
//! - [`Trace`] and [`Lockstep`] are backends over backends.
//!
//! No input or output happens here; no file format, model family or backend is known by name.

#![forbid(unsafe_code)]

pub mod autodiff;
pub mod backend;
mod blocks;
pub mod cache;
mod compute;
pub mod config;
pub mod decompose;
mod device;
mod dtype;
mod error;
pub mod infer;
mod kv_cache;
mod lockstep;
pub mod model;
mod named;
pub mod operation;
pub mod philox;
pub mod positions;
pub mod sample;
pub mod scope;
mod shape;
mod slots;
mod stored;
mod tensor;
mod trace;
mod weight;
mod weight_dtype;

pub use self::{
    backend::{
        Backend, CacheOf, FusedOf, Host, Nothing, Outputs, PrimitiveOf, Ready, Spec, TensorOf, Ticket, WeightOf,
        unsupported,
    },
    cache::{Cache, CacheSpec, CacheStore},
    compute::Compute,
    config::TransformerConfig,
    device::{Counts, Device, Level, Policy},
    dtype::{DType, to_bf16, to_f16},
    error::{Error, Result},
    kv_cache::{BLOCK, ExportedSequence, KvCache, SlotId, StepPlan},
    lockstep::{Both, HostCache, HostOperation, HostTensor, HostWeight, Lockstep, Seen, Watcher},
    model::Transformer,
    operation::{Assemble, Describe, Fused, MapOperands, Primitive},
    shape::{Layout, MAX_RANK, Shape},
    slots::Slot,
    stored::{ByteSource, StoredTensor},
    tensor::{HostData, Tensor},
    trace::{Record, Trace},
    weight::{Weight, WeightStore, concatenated_shape, decode, encode},
    weight_dtype::WeightDType,
};
