//! One sequence that goes on by the greatest logit or by a draw.

use std::sync::Arc;

use consort_core::sample::{Choice, SampleRow, log_sum_exp, top_tokens};

use crate::{
    constraint::Constraint,
    request::{Finish, Output},
    settings::Settings,
};

/// A new token and what is reported of it.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) token: u32,
    pub(crate) log_probability: Option<f64>,
    pub(crate) alternatives: Arc<[Choice]>,
}

impl Written {
    /// `logits` are the model's own, where reports are asked for.
    pub(crate) fn new(settings: &Settings, token: u32, logits: Option<&[f64]>) -> Self {
        let logits = logits.filter(|_| settings.reports());
        Self {
            token,
            log_probability: logits.and_then(|logits| Some(logits.get(token as usize)? - log_sum_exp(logits))),
            alternatives: match logits {
                Some(logits) if settings.top_log_probabilities > 0 => {
                    top_tokens(logits, settings.top_log_probabilities).into()
                }
                _ => Arc::new([]),
            },
        }
    }
}

impl Output {
    pub(crate) fn new(settings: &Settings, written: &[Written], finish: Finish, score: Option<f64>) -> Self {
        Self {
            tokens: written.iter().map(|written| written.token).collect(),
            log_probabilities: written.iter().filter_map(|written| written.log_probability).collect(),
            alternatives: if settings.top_log_probabilities > 0 {
                written.iter().map(|written| written.alternatives.to_vec()).collect()
            } else {
                Vec::new()
            },
            finish,
            score,
        }
    }
}

impl Settings {
    /// Why a sequence whose newest token is `token` ends, if it does.
    pub(crate) fn finish(&self, token: u32, new: usize, limit: usize) -> Option<Finish> {
        if self.stop_tokens.contains(&token) {
            Some(Finish::Stop)
        } else if new >= limit {
            Some(Finish::Length)
        } else {
            None
        }
    }
}

pub(crate) struct Single<'a> {
    settings: &'a Settings,
    prompt: usize,
    limit: usize,
    /// The prompt and what is new.
    tokens: Vec<u32>,
    written: Vec<Written>,
    suppressed: Arc<[u32]>,
    none: Arc<[u32]>,
}

impl<'a> Single<'a> {
    pub(crate) fn new(settings: &'a Settings, prompt: &[u32], limit: usize) -> Self {
        Self {
            settings,
            prompt: prompt.len(),
            limit,
            tokens: prompt.to_vec(),
            written: Vec::new(),
            suppressed: settings.suppressed.as_slice().into(),
            none: Arc::new([]),
        }
    }

    /// How the next token is to be chosen, or which one it must be.
    pub(crate) fn next(&self) -> (SampleRow, Option<u32>) {
        let settings = self.settings;
        match settings.constraint(&self.tokens, self.prompt, self.limit) {
            // What is sampled then is not used, but logits that are broken are found.
            Constraint::Forced(token) => (SampleRow::greedy(), Some(token)),
            Constraint::Except(mut except) => {
                let suppressed = if except.is_empty() {
                    Arc::clone(&self.suppressed)
                } else {
                    except.extend(&settings.suppressed);
                    except.into()
                };
                let seen = if settings.repetition_penalty == 1.0 {
                    Arc::clone(&self.none)
                } else {
                    self.tokens.as_slice().into()
                };
                let row = SampleRow {
                    temperature: settings.temperature,
                    top_k: settings.top_k,
                    top_p: settings.top_p,
                    min_p: settings.min_p,
                    repetition_penalty: settings.repetition_penalty,
                    seen,
                    suppressed,
                    seed: settings.seed,
                    // Every request is its own sequence 0: its draws do not depend on its place among others.
                    stream: 0,
                    draw: self.written.len() as u64,
                };
                (row, None)
            }
        }
    }

    /// Takes the next token; says whether it is the last.
    pub(crate) fn push(&mut self, token: u32, logits: Option<&[f64]>) -> (&Written, Option<Finish>) {
        self.tokens.push(token);
        let finish = self.settings.finish(token, self.written.len() + 1, self.limit);
        let index = self.written.len();
        self.written.push(Written::new(self.settings, token, logits));
        (&self.written[index], finish)
    }

    /// The token that the next step reads.
    pub(crate) fn last(&self) -> Option<u32> {
        self.tokens.last().copied()
    }

    pub(crate) fn output(&self, finish: Finish) -> Output {
        Output::new(self.settings, &self.written, finish, None)
    }
}
