//! What a backend author depends on to show that a backend is right.
//!
//! - [`golden`] reads models with what a reference implementation computes for them in f64.
//! - [`pass`] runs a model the ways it can be run: looking inside, in steps, beside others.
//! - [`measure`] has the yardsticks: error over spread, divergence, clear top choices, bits. NaN is always the worst.
//! - [`compare`](mod@compare) puts them together: one report per model and backend, with a verdict.
//! - [`lockstep`] judges a model operation by operation and names the first guilty one.
//! - [`training`] holds gradients and steps of whole models against a reference.
//! - [`models`] runs all that on any number of backends.
//! - [`oracle`] is what everything is compared with: the scalar backend, in f64. Never another fast backend.
//!
//! ```no_run
//! use consort_conformance::{compare, golden::Golden, oracle};
//! use consort_core::Device;
//!
//! let golden = Golden::read("tests/golden/llama".as_ref())?;
//! let device = Device::new(oracle::Single::new()); // your backend here
//! let report = compare::compare(&golden, &device)?;
//! assert!(report.agrees(), "{}", report.failures().join("\n"));
//! # Ok::<(), consort_conformance::Error>(())
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

pub mod bounds;
pub mod case_file;
pub mod codec;
pub mod compare;
mod error;
pub mod golden;
pub mod gradient;
mod isolate;
pub mod judge;
pub mod lockstep;
pub mod measure;
pub mod memory;
pub mod models;
mod number;
pub mod ops;
pub mod pass;
pub mod problem;
mod quantized;
pub mod recipe;
mod recipes;
pub mod report;
pub mod self_test;
pub mod suite;
pub mod sweep;
pub mod training;

pub use consort_scalar as oracle;

pub use self::{compare::compare, error::Error};
