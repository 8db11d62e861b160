//! What goes into [`generate`](crate::generate), what it tells on its way, and what comes out.

use std::time::Duration;

use consort_core::sample::Choice;

use crate::settings::Settings;

/// One sequence to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// What the encoder reads: token ids for an encoder-decoder, `None` for a decoder-only model.
    pub source: Option<Vec<u32>>,
    /// What the decoder begins with: at least one token, for an encoder-decoder its start token.
    pub prompt: Vec<u32>,
    /// How it goes on.
    pub settings: Settings,
}

/// What a caller is told while [`generate`](crate::generate) works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A step of the model is about to run: the moment to stop work that has no tokens to show yet, like a long prompt or
    /// a beam search. [`Flow::Finish`] is [`Flow::Continue`] here.
    Step,
    /// A token was chosen. A beam search's tokens come when it has ended, all in a row.
    Token(TokenEvent<'a>),
}

/// A token of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenEvent<'a> {
    /// Index of the request.
    pub request: usize,
    /// The token, a stop token included.
    pub token: u32,
    /// Natural logarithm of its probability under the model's own logits, before any setting; where
    /// [`Settings::log_probabilities`] asks for it.
    pub log_probability: Option<f64>,
    /// The [`Settings::top_log_probabilities`] most likely tokens, most likely first.
    pub alternatives: &'a [Choice],
    /// Set with the request's last token, unless the caller ends it here.
    pub finish: Option<Finish>,
}

/// A caller's answer to an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// This token was the request's last: its text has reached what the caller waited for.
    Finish,
    /// Nothing more is wanted of any request; what was made is returned.
    Cancel,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It has as many tokens as were asked for, or the model's context is full.
    Length,
    /// Its last token is a stop token.
    Stop,
    /// The caller ended it.
    Cancelled,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The new tokens, a stop token included (see `finish`); without the prompt.
    pub tokens: Vec<u32>,
    /// Per token, where asked for; else empty.
    pub log_probabilities: Vec<f64>,
    /// Per token, the most likely tokens, where asked for; else empty.
    pub alternatives: Vec<Vec<Choice>>,
    /// Why there is no more.
    pub finish: Finish,
    /// The score that won a beam search; see [`Settings::length_penalty`].
    pub score: Option<f64>,
}

/// Where the time went, and on how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of all prompts and sources that were read.
    pub prompt_tokens: usize,
    /// Time for them, up to and with the choice of each request's first token.
    pub prompt: Duration,
    /// Tokens of all outputs.
    pub new_tokens: usize,
    /// Time for the steps after the prompts.
    pub generation: Duration,
    /// Tokens that `generation` made: without each request's first one; beams side by side count as one.
    pub generation_tokens: usize,
}

impl Timings {
    /// Prompt tokens per second; `None` where no time was measured.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens, self.prompt)
    }

    /// Tokens per second after the prompts; `None` where there were none.
    pub fn generation_rate(&self) -> Option<f64> {
        rate(self.generation_tokens, self.generation)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && time > Duration::ZERO).then(|| tokens as f64 / time.as_secs_f64())
}
