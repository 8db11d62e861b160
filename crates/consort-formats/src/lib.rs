//! Reads and writes model directories and GGUF files: a configuration becomes a
//! [`TransformerConfig`](consort_core::TransformerConfig), tensors become the weights of its slots.
//!
//! - **A family is a mapping table, not a model.** `families/` has one file for each `model_type`: which configuration
//!   keys make which choices, with the reference's defaults, and which tensor fills which slot. Adding a family adds a
//!   file there and nothing to the graph.
//! - **A GGUF file is a directory by other names.** `gguf/architectures/` has, for each `general.architecture`, tables of
//!   metadata keys and of tensor names beside those of Hugging Face files; with them the same families read both: all but
//!   BART and Marian, which llama.cpp does not run. Messages call keys and tensors as the file does.
//! - **Files are not trusted.** Sizes, offsets, types and paths are checked before anything is used; no file makes this
//!   crate panic, read outside of it, or take more memory than a small multiple of its size.
//! - **Everything is accounted for.** Each slot is filled or named as missing, each shape is checked against the
//!   configuration, each tensor is used or named as unused.
//! - **What is written is whole.** `write/` uses the same tables the other way; a file has a temporary name until all of it is
//!   there, and a GGUF file is read again first: what it cannot say is an error.
//! - **Weights stay in their files,** memory-mapped, with their stored type, blocks of quantised ones included; transposed and fused
//!   matrices are strides, interleaved rows a list.
//!
//! The reference for what keys mean and what they default to is `transformers` 5.23, which also reads what version 4
//! wrote.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod directory;
mod error;
mod families;
mod generation;
mod gguf;
mod json;
mod map;
mod safetensors;
mod weights;
mod write;

#[doc(hidden)]
pub mod fuzzing;

pub use directory::{Model, open};
pub use error::Error;
pub use generation::{EarlyStopping, GenerationConfig};
pub use gguf::vocabulary::Vocabulary;
pub use weights::Weights;
pub use write::{Parts, Progress, Written, write_directory, write_gguf};
