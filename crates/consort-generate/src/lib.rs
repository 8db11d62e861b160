//! Sequences of token ids continued by a [`Transformer`](consort_core::Transformer): greedily, by sampling or by beam
//! search, token by token as they are made, many at once.
//!
//! - A [`Request`] is a prompt of token ids with its own [`Settings`]; text is the caller's business.
//! - [`generate`] runs requests side by side as rows of the same steps, without padding. What a request gives does not
//!   depend on its company, nor on how its prompt was cut into steps: a backend keeps a row's bits apart from its
//!   neighbours, and random numbers depend on a request's seed alone.
//! - Greedy search, processors and beam search give what Hugging Face transformers 5 gives for the same settings.
//! - Logits come to the host only where something needs them: log-probabilities and beams.
//!
//! ```no_run
//! # use consort_core::{Backend, Result, Transformer};
//! use consort_generate::{Event, Flow, Request, Settings, generate};
//!
//! # fn example<B: Backend>(model: &Transformer<B>) -> Result<()> {
//! let settings = Settings { max_new_tokens: 20, stop_tokens: vec![2], ..Settings::default() };
//! let request = Request { source: None, prompt: vec![1, 17, 4], settings };
//! let (outputs, timings) = generate(model, &[request], &mut |event| {
//!     if let Event::Token(token) = event {
//!         print!("{} ", token.token);
//!     }
//!     Flow::Continue
//! })?;
//! println!("{:?} after {:?}", outputs[0].finish, timings.prompt + timings.generation);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod beams;
mod check;
mod constraint;
mod request;
mod run;
mod settings;
mod single;

pub use consort_core::sample::Choice;

pub use self::{
    request::{Event, Finish, Flow, Output, Request, Timings, TokenEvent},
    run::generate,
    settings::{EarlyStopping, Settings},
};
