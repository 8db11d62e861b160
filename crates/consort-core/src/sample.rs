//! Choosing the next token from logits: the definition that every backend's sampling must equal.
//!
//! In this order, as transformers applies its processors: repetition penalty, suppressed tokens, temperature, top-k,
//! top-p, min-p; then one draw from what is left. Temperature 0 takes the greatest logit, the lowest id on ties.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    philox::uniform,
};

/// How one row of logits is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "SampleRow::greedy")]
pub struct SampleRow {
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f64,
    /// Only the k most likely tokens stay; 0 keeps all.
    pub top_k: usize,
    /// The smallest set of most likely tokens whose probabilities reach p stays; 1 keeps all.
    pub top_p: f64,
    /// Tokens below `min_p · (greatest probability)` go; 0 keeps all.
    pub min_p: f64,
    /// Logits of tokens in `seen` are divided by it when positive, multiplied when negative (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// Tokens so far, the prompt included; read only where the penalty is not 1.
    pub seen: Arc<[u32]>,
    /// Tokens that cannot be chosen.
    pub suppressed: Arc<[u32]>,
    /// Key of the random numbers.
    pub seed: u64,
    /// Which sequence draws.
    pub stream: u64,
    /// Which draw of the sequence this is.
    pub draw: u64,
}

impl SampleRow {
    /// The greatest logit.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seen: Arc::new([]),
            suppressed: Arc::new([]),
            seed: 0,
            stream: 0,
            draw: 0,
        }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability under the model's own logits, before any setting.
    pub log_probability: f64,
}

/// Chooses from one row of logits.
///
/// # Errors
/// [`Error::Input`] when a logit is NaN or +∞, or when nothing is left to choose from.
pub fn sample_row(logits: &[f64], row: &SampleRow) -> Result<Choice> {
    if let Some(token) = logits.iter().position(|logit| logit.is_nan() || *logit == f64::INFINITY) {
        return Err(Error::Input(format!(
            "the model's logit for token {token} is {}: its weights or the computation are broken",
            logits[token]
        )));
    }
    let mut scores = logits.to_vec();
    if row.repetition_penalty != 1.0 {
        let mut seen: Vec<u32> = row.seen.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score > 0.0 { *score / row.repetition_penalty } else { *score * row.repetition_penalty };
            }
        }
    }
    for &token in row.suppressed.iter() {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f64::NEG_INFINITY;
        }
    }
    let token = if row.temperature == 0.0 { argmax(&scores).ok_or_else(nothing_left)? } else { draw(&scores, row)? };
    Ok(Choice { token: token as u32, log_probability: logits[token] - log_sum_exp(logits) })
}

/// The `count` most likely tokens with their log-probabilities, most likely first, the lowest id first on ties.
pub fn top_tokens(logits: &[f64], count: usize) -> Vec<Choice> {
    let total = log_sum_exp(logits);
    most_likely(logits, (0..logits.len()).collect(), count)
        .into_iter()
        .map(|token| Choice { token: token as u32, log_probability: logits[token] - total })
        .collect()
}

/// `ln Σ eˣ`; −∞ of nothing.
pub fn log_sum_exp(logits: &[f64]) -> f64 {
    let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY {
        return greatest;
    }
    greatest + logits.iter().map(|logit| (logit - greatest).exp()).sum::<f64>().ln()
}

/// The `count` tokens of the greatest scores, greatest first, the lowest id first on ties. Only these are sorted.
fn most_likely(scores: &[f64], mut tokens: Vec<usize>, count: usize) -> Vec<usize> {
    let before = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, before);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(before);
    tokens
}

fn argmax(scores: &[f64]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (token, &score) in scores.iter().enumerate() {
        if score > f64::NEG_INFINITY && best.is_none_or(|best| score > scores[best]) {
            best = Some(token);
        }
    }
    best
}

fn draw(scores: &[f64], row: &SampleRow) -> Result<usize> {
    // Most likely first, the lowest id first on ties: prefixes of this order are what top-k and top-p keep.
    let left = (0..scores.len()).filter(|&token| scores[token] > f64::NEG_INFINITY).collect();
    let mut order = most_likely(scores, left, if row.top_k > 0 { row.top_k } else { usize::MAX });
    let greatest = scores[*order.first().ok_or_else(nothing_left)?];
    let weight = |token: usize| ((scores[token] - greatest) / row.temperature).exp();
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    if row.top_p < 1.0 {
        let mut reached = 0.0;
        let kept = order.iter().position(|&token| {
            reached += weight(token);
            reached >= row.top_p * total
        });
        order.truncate(kept.map_or(order.len(), |last| last + 1));
    }
    // The greatest weight is 1; it always stays.
    order.retain(|&token| weight(token) >= row.min_p.min(1.0));
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let target = uniform(row.seed, row.stream, row.draw) * total;
    let mut reached = 0.0;
    let chosen = order.iter().copied().find(|&token| {
        reached += weight(token);
        reached > target
    });
    chosen.or(order.last().copied()).ok_or_else(nothing_left)
}

fn nothing_left() -> Error {
    Error::Input("every token is suppressed: nothing is left to choose".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(row: &SampleRow, logits: &[f64]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for draw in 0..20_000 {
            let row = SampleRow { draw, ..row.clone() };
            counts[sample_row(logits, &row).unwrap().token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0, 0.0, 2.0, -1.0];
        let row = SampleRow { temperature: 0.7, seed: 1, ..SampleRow::greedy() };
        let total: f64 = logits.iter().map(|logit: &f64| (logit / 0.7).exp()).sum();
        for (found, logit) in frequencies(&row, &logits).iter().zip(logits) {
            let expected = (logit / 0.7).exp() / total;
            // Five standard errors of 20,000 draws.
            assert!((found - expected).abs() < 5.0 * (expected * (1.0 - expected) / 20_000.0).sqrt());
        }
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        let logits = [1.0, 0.0, 2.0, -1.0];
        let warm = SampleRow { temperature: 1.0, ..SampleRow::greedy() };
        let kept = |row: SampleRow| -> Vec<usize> {
            frequencies(&row, &logits).iter().enumerate().filter(|(_, f)| **f > 0.0).map(|(i, _)| i).collect()
        };
        assert_eq!(kept(SampleRow { top_k: 2, ..warm.clone() }), [0, 2]);
        // Probabilities 0.64, 0.24, 0.09, 0.03 in descending order.
        assert_eq!(kept(SampleRow { top_p: 0.6, ..warm.clone() }), [2]);
        assert_eq!(kept(SampleRow { top_p: 0.7, ..warm.clone() }), [0, 2]);
        assert_eq!(kept(SampleRow { min_p: 0.1, ..warm.clone() }), [0, 1, 2]);
        assert_eq!(kept(SampleRow { suppressed: Arc::new([2, 3, 99]), ..warm }), [0, 1]);
    }

    #[test]
    fn greedy_takes_the_lowest_id_and_the_penalty_lowers_what_was_seen() {
        let greedy = SampleRow::greedy();
        assert_eq!(sample_row(&[0.5, 2.0, 2.0], &greedy).unwrap().token, 1);
        let row = SampleRow { repetition_penalty: 1.5, seen: Arc::new([1, 1]), ..greedy };
        assert_eq!(sample_row(&[0.5, 2.0, 1.9], &row).unwrap().token, 2);
        assert_eq!(sample_row(&[-1.4, -1.0], &row).unwrap().token, 0);
    }

    #[test]
    fn the_top_tokens_are_the_head_of_the_sorted_ones() {
        // Few values, so that many are tied.
        let logits: Vec<f64> = (0..500).map(|token| (uniform(3, 0, token) * 20.0).floor()).collect();
        let mut sorted: Vec<usize> = (0..500).collect();
        sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        for count in [0, 1, 7, 250, 499, 500, 900] {
            let found: Vec<usize> = top_tokens(&logits, count).iter().map(|choice| choice.token as usize).collect();
            assert_eq!(found, sorted[..count.min(500)]);
        }
        assert!(top_tokens(&[], 3).is_empty());
    }

    #[test]
    fn broken_logits_are_refused() {
        assert!(sample_row(&[0.0, f64::NAN], &SampleRow::greedy()).is_err());
        assert!(sample_row(&[f64::NEG_INFINITY; 2], &SampleRow::greedy()).is_err());
        assert!(sample_row(&[], &SampleRow::greedy()).is_err());
    }
}
