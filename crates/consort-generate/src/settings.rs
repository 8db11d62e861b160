//! How one request is continued.

use consort_core::{Error, Result};

/// Settings of one request. The default is greedy search for up to 256 tokens, with everything else neutral.
///
/// Names and meanings follow transformers' `GenerationConfig`. The order in which they act on the logits is that of
/// [`consort_core::sample`]; a forced token overrules all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many tokens are written at most, at least 1; the end of the model's context may come first.
    pub max_new_tokens: usize,
    /// Logits are divided by it before a draw; 0 takes the most likely token, the lowest id on ties.
    pub temperature: f64,
    /// Only the k most likely tokens stay; 0 keeps all.
    pub top_k: usize,
    /// The smallest set of most likely tokens whose probabilities reach p stays; in (0, 1], 1 keeps all.
    pub top_p: f64,
    /// Tokens below `min_p` times the greatest probability go; in [0, 1), 0 keeps all.
    pub min_p: f64,
    /// Tokens that occurred, the prompt's included, have positive logits divided and negative ones multiplied by it;
    /// above 0, 1 changes nothing.
    pub repetition_penalty: f64,
    /// Key of the random numbers: the same seed draws the same tokens from the same logits.
    pub seed: u64,
    /// Tokens that end a request; they are part of its output.
    pub stop_tokens: Vec<u32>,
    /// Tokens that are never chosen, unless forced.
    pub suppressed: Vec<u32>,
    /// Sequences that are never completed, the prompt's end included (`bad_words_ids`); empty ones say nothing.
    pub bad_words: Vec<Vec<u32>>,
    /// Is written first after a prompt of one token (transformers' `forced_bos_token_id`).
    pub forced_first: Option<u32>,
    /// Is written last when nothing else has stopped a request before its length does (`forced_eos_token_id`).
    pub forced_last: Option<u32>,
    /// How many tokens are written before one of `stop_tokens` can be.
    pub min_new_tokens: usize,
    /// No n tokens in a row occur twice, the prompt's included; 0 is no limit.
    pub no_repeat_ngram: usize,
    /// Hypotheses that beam search follows; 1 is no beam search. Excludes sampling.
    pub beams: usize,
    /// A beam's score is `Σ ln p / n^length_penalty` over its n new tokens: above 0 favours long outputs, below 0 short
    /// ones.
    pub length_penalty: f64,
    /// When a beam search with `beams` finished hypotheses is over.
    pub early_stopping: EarlyStopping,
    /// Reports the log-probability of each token written. Costs a download of the logits per step.
    pub log_probabilities: bool,
    /// How many of the most likely tokens are reported beside each token written; more than 0 implies
    /// `log_probabilities`.
    pub top_log_probabilities: usize,
}

/// When a beam search is over that has as many finished hypotheses as beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best running one, were it to end at its present length, would not beat the worst finished one
    /// (transformers' `False`).
    #[default]
    Heuristic,
    /// At once (`True`).
    First,
    /// When the best running one, were it to end at the greatest length without losing anything, would not beat the worst
    /// finished one (`"never"`). Differs from `Heuristic` for length penalties above 0 only.
    Never,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop_tokens: Vec::new(),
            suppressed: Vec::new(),
            bad_words: Vec::new(),
            forced_first: None,
            forced_last: None,
            min_new_tokens: 0,
            no_repeat_ngram: 0,
            beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            log_probabilities: false,
            top_log_probabilities: 0,
        }
    }
}

impl Settings {
    /// Checks what can be checked without a model; [`generate`](crate::generate) does so too.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that cannot be, its value, and what is allowed. NaN never is.
    pub fn validate(&self) -> Result<()> {
        let refuse = |allowed: bool, setting: &str, value: f64, what: &str| {
            if allowed { Ok(()) } else { Err(Error::config(setting, format!("{value} is not {what}"))) }
        };
        refuse(self.max_new_tokens > 0, "max_new_tokens", 0.0, "a number from 1 on")?;
        let heat = self.temperature;
        refuse(heat.is_finite() && heat >= 0.0, "temperature", heat, "0 (greedy) or a finite number above")?;
        refuse(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")?;
        refuse((0.0..1.0).contains(&self.min_p), "min_p", self.min_p, "at least 0 and below 1")?;
        let penalty = self.repetition_penalty;
        refuse(penalty.is_finite() && penalty > 0.0, "repetition_penalty", penalty, "a finite number above 0")?;
        refuse(self.beams > 0, "beams", 0.0, "a number from 1 on")?;
        refuse(self.length_penalty.is_finite(), "length_penalty", self.length_penalty, "a finite number")?;
        if self.beams > 1 && heat > 0.0 {
            return Err(Error::config(
                "beams",
                format!(
                    "{} beams with temperature {heat}: beam search needs temperature 0, sampling 1 beam",
                    self.beams
                ),
            ));
        }
        Ok(())
    }

    /// Whether logits are to be looked at for reports.
    pub(crate) fn reports(&self) -> bool {
        self.log_probabilities || self.top_log_probabilities > 0
    }
}
