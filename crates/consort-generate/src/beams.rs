//! Beam search over one request, as transformers 5 has it (`GenerationMixin._beam_search` without sampling).
//!
//! Each step extends every running hypothesis by every token; the sum of its tokens' scores ranks an extension, a score
//! being the log-softmax of the logits after penalties and constraints. Of the best `(1 + stop tokens) · beams`
//! extensions
//! - those that end, by a stop token or by length, and are among the first `beams`, join the finished ones, of which the
//!   `beams` best by `score / n^length_penalty` stay (n: new tokens, the stop token included);
//! - the best `beams` of those that do not end run on.
//!
//! The search is over when nothing runs on, or when `beams` have finished and [`EarlyStopping`] has nothing against it.
//! Ties go to the earlier hypothesis, then to the lower id.

use consort_core::{
    Error, Result,
    sample::{SampleRow, log_sum_exp, sample_row},
};

use crate::{
    constraint::Constraint,
    request::{Finish, Output},
    settings::{EarlyStopping, Settings},
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
                let length = match self.settings.early_stopping {
                    EarlyStopping::First => return false,
                    EarlyStopping::Never if self.settings.length_penalty > 0.0 => self.limit,
                    EarlyStopping::Never | EarlyStopping::Heuristic => new,
                };
                self.ranking(best.score, length) > worst.score
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

#[cfg(test)]
mod tests {
    use consort_core::philox::normal;
    use proptest::prelude::*;

    use super::*;

    /// Logits at each position after each token, whatever came before it.
    type Chain = Vec<Vec<Vec<f64>>>;

    fn chain(length: u64, vocabulary: u64, seed: u64) -> Chain {
        let row = |stream| (0..vocabulary).map(|to| 2.0 * normal(seed, stream, to)).collect();
        (0..length).map(|at| (0..vocabulary).map(|from| row(at * vocabulary + from)).collect()).collect()
    }

    fn search(settings: &Settings, chain: &Chain) -> (Vec<u32>, f64) {
        let mut beams = BeamSearch::new(settings, &[0], chain.len());
        for rows in chain {
            let last: Vec<u32> = beams.last().collect();
            let logits: Vec<&[f64]> = last.iter().map(|&token| rows[token as usize].as_slice()).collect();
            match beams.advance(&logits).unwrap() {
                Some(parents) => assert_eq!(parents.len(), beams.last().count()),
                None => {
                    let (written, _, score) = beams.winner();
                    return (written.iter().map(|written| written.token).collect(), score.unwrap());
                }
            }
        }
        panic!("the search goes on beyond its length");
    }

    /// The best of all sequences that end as they may.
    fn exhaustive(settings: &Settings, chain: &Chain) -> (Vec<u32>, f64) {
        let mut best = (Vec::new(), f64::NEG_INFINITY);
        let mut open = vec![(Vec::new(), 0.0)];
        while let Some((tokens, sum)) = open.pop() {
            let logits = &chain[tokens.len()][tokens.last().copied().unwrap_or(0) as usize];
            for (token, logit) in logits.iter().enumerate() {
                let tokens = [tokens.as_slice(), &[token as u32]].concat();
                let sum: f64 = sum + logit - log_sum_exp(logits);
                let score = sum / (tokens.len() as f64).powf(settings.length_penalty);
                if settings.finish(token as u32, tokens.len(), chain.len()).is_none() {
                    open.push((tokens, sum));
                } else if score > best.1 {
                    best = (tokens, score);
                }
            }
        }
        best
    }

    #[test]
    fn a_token_that_pays_later_is_found() {
        // After 0, token 1 is likelier than 2; but after 1 all is equal, and after 2 token 3 is certain.
        let rows = vec![vec![0.0, 2.0, 1.9, 0.0], vec![0.0; 4], vec![0.0, 0.0, 0.0, 9.0], vec![0.0; 4]];
        let settings = Settings { beams: 2, ..Settings::default() };
        assert_eq!(search(&settings, &vec![rows.clone(), rows]).0, [2, 3]);
    }

    #[test]
    fn stop_tokens_leave_enough_to_run_on() {
        let early_stopping = EarlyStopping::Never;
        let settings = Settings { beams: 2, stop_tokens: vec![0, 1, 2], early_stopping, ..Settings::default() };
        let mut beams = BeamSearch::new(&settings, &[0], 5);
        assert_eq!(beams.advance(&[&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]), Ok(Some(vec![0, 0])));
        assert_eq!(beams.last().collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn equals_keep_their_order() {
        let mut best = Vec::new();
        for (beam, score) in [(0, 1.0), (1, 2.0), (2, 1.0), (3, 2.0), (4, 0.5), (5, 1.0)] {
            offer(&mut best, 3, Candidate { score, beam, token: 0 });
        }
        assert_eq!(best.iter().map(|candidate| candidate.beam).collect::<Vec<_>>(), [1, 3, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn enough_beams_find_the_best_of_all(
            seed in any::<u64>(),
            stop_tokens in prop::collection::vec(0u32..4, 0..3),
            length_penalty in -1.0..2.0f64,
        ) {
            let chain = chain(4, 4, seed);
            // Beams for all 4⁴ sequences never fill, so that nothing is cut off and nothing ends early.
            let settings = Settings { beams: 1024, stop_tokens, length_penalty, ..Settings::default() };
            let (tokens, score) = search(&settings, &chain);
            let (best_tokens, best_score) = exhaustive(&settings, &chain);
            prop_assert_eq!(tokens, best_tokens);
            prop_assert!((score - best_score).abs() < 1e-12 * best_score.abs());
        }
    }
}
