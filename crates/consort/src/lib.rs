//! Consort: one transformer, written once, played by every backend.
//!
//! ```no_run
//! use consort::{LoadOptions, Model, Settings};
//!
//! fn main() -> Result<(), consort::Error> {
//!     let model = Model::open("path/to/model-directory")?.load(&LoadOptions::default())?;
//!     let settings = Settings { max_new_tokens: 40, ..Settings::default() };
//!     let output = model.generate_text("Once upon a time", settings, |text| print!("{text}"))?;
//!     println!("\n{} tokens", output.tokens.len());
//!     Ok(())
//! }
//! ```
//!
//! The same by token ids, on a model of the tests:
//!
//! ```
//! # fn main() -> Result<(), consort::Error> {
//! use consort::{LoadOptions, Model, Settings, generate::Flow};
//!
//! let model = Model::open("../../tests/golden/llama")?.load(&LoadOptions::default())?;
//! let settings = Settings { max_new_tokens: 12, ..Settings::default() };
//! let request = model.files().request(vec![11, 36, 27, 5], settings)?;
//! let (outputs, _) = model.generate(&[request], &mut |_| Flow::Continue)?;
//! assert_eq!(outputs[0].tokens, [5, 14, 80, 47, 15, 41, 66, 92, 100, 69, 90, 54]);
//! # Ok(())
//! # }
//! ```
//!
//! - [`Model::open`] reads and checks a Hugging Face directory; [`OpenModel::load`] puts it on a backend.
//! - Backends are cargo features (`simd`, `scalar`); [`backends::compiled`] says which are in.
//! - The parts are crates of their own: [`core`] (contract and graph), [`formats`], [`text`], [`generate`].

#![forbid(unsafe_code)]

pub mod backends;
pub mod bench;
pub mod command;
mod divergence;
mod error;
mod forward;
mod model;
mod runner;
mod source;
mod vocabulary;

pub use consort_core as core;
pub use consort_formats as formats;
pub use consort_generate as generate;
pub use consort_generate::Settings;
pub use consort_text as text;

pub use self::{
    divergence::{Divergence, divergence},
    error::Error,
    forward::{ForwardInput, NamedTensor},
    model::{LoadOptions, Model, OpenModel},
};
