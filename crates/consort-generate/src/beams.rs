//! Beam search over one request, as transformers 5 has it (`GenerationMixin._beam_search` without sampling).
//!
//! Each step extends every running hypothesis by every token; the sum of its tokens' scores ranks an extension, a score
//! being the log-softmax of the logits after penalties and constraints. Of the best `(1 + stop tokens) · beams`
//! extensions
//! - those that end, by a stop token or by length, and are among the first `beams`, join the finished ones, of which the
//!   `beams` best by `score / n^length_penalty` stay (n: new tokens, the stop token included);
//! - the best `beams` of those that do not end run on.
//!
//! The search is over when nothing runs on, when `beams` have finished and it stops early, or when the best running one,
//! ended now, would not beat the worst of `beams` finished ones. Ties go to the earlier hypothesis, then the lower id.

use consort_core::{
    Error, Result,
    sample::{SampleRow, log_sum_exp, sample_row},
};

use crate::{
    constraint::Constraint,
    request::{Finish, Output},
    settings::Settings,
    single::Written,
};

pub(crate) struct BeamSearch<'a> {
    settings: &'a Settings,
    prompt: usize,
    limit: usize,
    /// Best first; all of one length.
    running: Vec<Hypothesis>,
    /// Best first.
    finished: Vec<Hypothesis>,
}

#[derive(Clone)]
struct Hypothesis {
    /// The prompt and what is new.
    tokens: Vec<u32>,
    written: Vec<Written>,
    /// Sum of the tokens' scores while it runs, divided by its length once it has finished.
    score: f64,
}

/// An extension of a running hypothesis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    score: f64,
    beam: usize,
    token: u32,
}

impl<'a> BeamSearch<'a> {
    /// Begins with one hypothesis, the prompt.
    pub(crate) fn new(settings: &'a Settings, prompt: &[u32], limit: usize) -> Self {
        let start = Hypothesis { tokens: prompt.to_vec(), written: Vec::new(), score: 0.0 };
        Self { settings, prompt: prompt.len(), limit, running: vec![start], finished: Vec::new() }
    }

    /// The tokens that the next step reads, one per running hypothesis.
    pub(crate) fn last(&self) -> impl Iterator<Item = u32> {
        self.running.iter().filter_map(|hypothesis| hypothesis.tokens.last().copied())
    }

    /// Takes the logits of each running hypothesis; says of which one each new running hypothesis is an extension, or
    /// `None` when the search is over.
    ///
    /// # Errors
    /// [`Error::Input`] when a logit is NaN or +∞, or when nothing is left to choose from.
    pub(crate) fn advance(&mut self, logits: &[&[f64]]) -> Result<Option<Vec<usize>>> {
        let beams = self.settings.beams;
        let wanted = (1 + self.settings.stop_tokens.len()).max(2).saturating_mul(beams);
        let mut candidates = Vec::new();
        for (beam, (hypothesis, logits)) in self.running.iter().zip(logits).enumerate() {
            for (token, score) in self.scores(hypothesis, logits)?.into_iter().enumerate() {
                let score = score + hypothesis.score;
                if score > f64::NEG_INFINITY {
                    offer(&mut candidates, wanted, Candidate { score, beam, token: token as u32 });
                }
            }
        }
        if candidates.is_empty() && self.finished.is_empty() {
            return Err(Error::Input("every token is suppressed: nothing is left to choose".into()));
        }

        let new = self.written() + 1;
        let mut parents = Vec::new();
        let mut running = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let ends = self.settings.finish(candidate.token, new, self.limit).is_some();
            if ends && rank < beams {
                let mut hypothesis = self.extend(candidate, logits);
                hypothesis.score = self.ranking(hypothesis.score, new);
                let place = self.finished.partition_point(|other| other.score >= hypothesis.score);
                self.finished.insert(place, hypothesis);
                self.finished.truncate(beams);
            } else if !ends && running.len() < beams {
                running.push(self.extend(candidate, logits));
                parents.push(candidate.beam);
            }
        }
        self.running = running;
        Ok(self.goes_on(new).then_some(parents))
    }

    fn goes_on(&self, new: usize) -> bool {
        let Some(best) = self.running.first() else { return false };
        match self.finished.last() {
            Some(worst) if self.finished.len() == self.settings.beams => {
                !self.settings.early_stopping && self.ranking(best.score, new) > worst.score
            }
            _ => true,
        }
    }

    /// New tokens of the best finished hypothesis, or of the best running one, with its score and why it ended: for good
    /// or, when the search was not over, because it was cancelled.
    pub(crate) fn winner(&self) -> (&[Written], Finish, Option<f64>) {
        if let Some(best) = self.finished.first() {
            let stopped = best.written.last().is_some_and(|last| self.settings.stop_tokens.contains(&last.token));
            return (&best.written, if stopped { Finish::Stop } else { Finish::Length }, Some(best.score));
        }
        match self.running.first() {
            Some(best) if !best.written.is_empty() => {
                (&best.written, Finish::Cancelled, Some(self.ranking(best.score, best.written.len())))
            }
            _ => (&[], Finish::Cancelled, None),
        }
    }

    /// The winner's first `length` tokens.
    pub(crate) fn output(&self, length: usize, finish: Finish) -> Output {
        let (written, _, score) = self.winner();
        Output::new(self.settings, &written[..length.min(written.len())], finish, score)
    }

    fn written(&self) -> usize {
        self.running.first().map_or(0, |hypothesis| hypothesis.written.len())
    }

    fn ranking(&self, score: f64, new: usize) -> f64 {
        score / (new as f64).powf(self.settings.length_penalty)
    }

    fn extend(&self, candidate: Candidate, logits: &[&[f64]]) -> Hypothesis {
        let mut hypothesis = self.running[candidate.beam].clone();
        hypothesis.tokens.push(candidate.token);
        hypothesis.written.push(Written::new(self.settings, candidate.token, logits.get(candidate.beam).copied()));
        hypothesis.score = candidate.score;
        hypothesis
    }

    /// Log-softmax of the logits, then the repetition penalty, then the constraints; −∞ is never chosen.
    fn scores(&self, hypothesis: &Hypothesis, logits: &[f64]) -> Result<Vec<f64>> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f64::INFINITY) {
            // The core says which one, in the same words as for a sample.
            sample_row(logits, &SampleRow::greedy())?;
        }
        let settings = self.settings;
        match settings.constraint(&hypothesis.tokens, self.prompt, self.limit) {
            Constraint::Forced(forced) => {
                let score = |token| if token == forced as usize { 0.0 } else { f64::NEG_INFINITY };
                Ok((0..logits.len()).map(score).collect())
            }
            Constraint::Except(except) => {
                let total = log_sum_exp(logits);
                let mut scores: Vec<f64> = logits.iter().map(|logit| logit - total).collect();
                if settings.repetition_penalty != 1.0 {
                    let mut seen = hypothesis.tokens.clone();
                    seen.sort_unstable();
                    seen.dedup();
                    for token in seen {
                        if let Some(score) = scores.get_mut(token as usize) {
                            // A log-probability is not above 0.
                            *score *= settings.repetition_penalty;
                        }
                    }
                }
                for &token in except.iter().chain(&settings.suppressed) {
                    if let Some(score) = scores.get_mut(token as usize) {
                        *score = f64::NEG_INFINITY;
                    }
                }
                Ok(scores)
            }
        }
    }
}

/// Keeps the `count` best candidates, best first; of equals those that were offered first.
fn offer(best: &mut Vec<Candidate>, count: usize, candidate: Candidate) {
    if best.len() >= count && best.last().is_none_or(|worst| candidate.score <= worst.score) {
        return;
    }
    let place = best.partition_point(|other| other.score >= candidate.score);
    best.insert(place, candidate);
    best.truncate(count);
}
