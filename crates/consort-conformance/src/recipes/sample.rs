//! `sample`: ties, filters, penalties and draws whose token is beyond doubt.
//!
//! The choice is exact in f64; a device that computes its exponentials in f32 may differ where a draw falls beside the border
//! of two tokens or a filter's threshold beside a probability. So each row's draw is the first of its stream that is clear of
//! every border by [`CLEAR`], and a row whose filters are not clear is sharpened until they are.

use consort_core::{philox::uniform, sample::SampleRow};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Family, LENGTHS, Sweep,
    draw::{Draw, Range, single},
    finished, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const SAMPLE: Family = Family { op: "sample", draw, sweep, strategy };

/// Distance from a border, as a part of the whole: a sum of 32,000 f32 exponentials is far more accurate.
const CLEAR: f64 = 1e-4;
/// Distance of two scores that no rounding of one of them makes equal.
const ROUNDING: f64 = 1e-6;
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Negative,
    Fill::Constant,
    Fill::Zeros,
    Fill::Ties,
    Fill::Special,
    Fill::Wide,
    Fill::Peak,
];
const DRAWN: &[Fill] = &[Fill::Normal, Fill::Negative, Fill::Ties, Fill::Peak, Fill::Constant];
const RANGE: Range = Range { large: 1e30, special: f64::MAX, wide: 3e38 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [rows, classes] = [draw.dim("R")?, draw.dim("V")?];
    let given: Vec<SampleRow> = draw.attribute("rows")?;
    let mut logits = draw.values(&[rows, classes], RANGE)?;
    // Settings are repeated as often as there are rows.
    let mut settings: Vec<SampleRow> = given.into_iter().cycle().take(rows).collect();
    for (stream, (logits, row)) in logits.chunks_mut(classes.max(1)).zip(&mut settings).enumerate() {
        (row.seed, row.stream) = (draw.recipe.seed, stream as u64);
        if !make_clear(logits, row) {
            return Err(draw.error(format!("row {stream} of {classes} logits has no clear draw")));
        }
    }
    draw.push("logits", &[rows, classes], logits)?;
    let settings = serde_json::to_value(settings).map_err(|error| draw.error(error.to_string()))?;
    draw.attributes.insert("rows".to_owned(), settings);
    Ok(())
}

/// Finds a draw that is clear; scales the logits up where there is none.
fn make_clear(logits: &mut [f64], row: &mut SampleRow) -> bool {
    for _ in 0..24 {
        for draw in 0..64 {
            row.draw = draw;
            if is_clear(logits, row) {
                return true;
            }
            if row.temperature == 0.0 {
                break;
            }
        }
        logits.iter_mut().for_each(|logit| *logit = single(*logit * 1.25));
    }
    false
}

/// What is left of a logit after penalty and suppression.
struct Score {
    value: f64,
    logit: f64,
    penalised: bool,
}

impl Score {
    fn of(token: u32, logit: f64, row: &SampleRow) -> Self {
        let penalised = row.repetition_penalty != 1.0 && row.seen.contains(&token);
        let value = match penalised {
            _ if row.suppressed.contains(&token) => f64::NEG_INFINITY,
            true if logit > 0.0 => logit / row.repetition_penalty,
            true => logit * row.repetition_penalty,
            false => logit,
        };
        Self { value, logit, penalised }
    }

    /// Whether every device has the two in this order, or both equal.
    fn is_apart(&self, other: &Self) -> bool {
        // What was not touched is as it was uploaded, and the same was done to what is equal.
        let untouched = !self.penalised && !other.penalised;
        let alike = self.logit == other.logit && (self.penalised == other.penalised || self.logit == 0.0);
        untouched || alike || self.value - other.value > ROUNDING * self.value.abs().max(other.value.abs())
    }
}

/// Whether the token does not depend on rounding.
fn is_clear(logits: &[f64], row: &SampleRow) -> bool {
    if row.temperature == 0.0 && row.repetition_penalty == 1.0 {
        return true;
    }
    let mut scores: Vec<Score> = (logits.iter().enumerate())
        .map(|(token, &logit)| Score::of(token as u32, logit, row))
        .filter(|score| score.value.is_finite())
        .collect();
    scores.sort_by(|a, b| b.value.total_cmp(&a.value));
    let Some(greatest) = scores.first().map(|score| score.value) else { return false };
    // The order decides which token is which: of the first two, or of all that may be drawn.
    let ordered = if row.temperature == 0.0 { 1 } else { scores.len() };
    if !scores.iter().zip(scores.iter().skip(1)).take(ordered).all(|(a, b)| a.is_apart(b)) {
        return false;
    }
    if row.temperature == 0.0 {
        return true;
    }
    if row.top_k > 0 {
        scores.truncate(row.top_k);
    }
    let mut weights: Vec<f64> = scores.iter().map(|score| ((score.value - greatest) / row.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    if row.top_p < 1.0 {
        let (mut reached, mut kept) = (0.0, weights.len());
        for (at, weight) in weights.iter().enumerate() {
            reached += weight;
            if (reached - row.top_p * total).abs() < CLEAR * total {
                return false;
            }
            if reached >= row.top_p * total {
                kept = at + 1;
                break;
            }
        }
        weights.truncate(kept);
    }
    if row.min_p > 0.0 && weights.iter().any(|weight| (weight - row.min_p).abs() < CLEAR * row.min_p) {
        return false;
    }
    weights.retain(|&weight| weight >= row.min_p.min(1.0));
    let total: f64 = weights.iter().sum();
    let target = uniform(row.seed, row.stream, row.draw) * total;
    let mut reached = 0.0;
    weights.iter().all(|weight| {
        reached += weight;
        (reached - target).abs() > CLEAR * total
    })
}

fn recipe([rows, classes]: [usize; 2], settings: Value) -> Recipe {
    Recipe::new("sample").dims([("R", rows), ("V", classes)]).attribute("rows", settings)
}

/// What one row may ask for, greedy first.
fn settings() -> Vec<Value> {
    vec![
        json!({}),
        json!({"repetition_penalty": 1.5, "seen": [0, 1, 2, 2, 99]}),
        json!({"suppressed": [0, 1, 3]}),
        json!({"temperature": 1.0}),
        json!({"temperature": 0.7, "top_k": 3}),
        json!({"temperature": 1.5, "top_p": 0.7}),
        json!({"temperature": 1.0, "min_p": 0.2}),
        json!({"temperature": 2.0, "top_k": 5, "top_p": 0.9, "min_p": 0.05}),
        json!({"temperature": 0.25, "suppressed": [2], "repetition_penalty": 1.25, "seen": [1, 4]}),
        json!({"temperature": 1.0, "top_k": 1}),
    ]
}

fn sweep(sweep: &mut Sweep) {
    for length in LENGTHS {
        sweep.quick(recipe([length, 5], json!([{}])));
        if length > 0 {
            sweep.quick(recipe([3, length], json!([{}])).fill(Fill::Ties));
            sweep.quick(recipe([2, length], json!([{"temperature": 1.0}])));
        }
    }
    for &fill in FILLS {
        sweep.quick(recipe([7, 33], json!([{}])).fill(fill));
    }
    for row in settings() {
        for &fill in DRAWN {
            sweep.quick(recipe([5, 17], json!([row])).fill(fill));
        }
        for view in View::ALL {
            sweep.quick(recipe([3, 11], json!([row])).view(view));
        }
    }
    // Each row its own settings.
    let all = Value::from(settings());
    for classes in [8, 33, 129, 1000] {
        sweep.quick(recipe([20, classes], all.clone()));
    }
    for row in
        [json!({}), json!({"temperature": 0.8, "top_k": 40, "top_p": 0.95}), json!({"temperature": 1.0, "min_p": 0.1})]
    {
        sweep.quick(recipe([1, 32_000], json!([row])));
        sweep.full(recipe([4, 50_257], json!([row])));
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let rows = prop::collection::vec(prop::sample::select(settings()), 1..=4);
    // The settings suppress tokens 0 to 3: there must be others.
    let recipes = (0..=6usize, length(130), rows)
        .prop_map(|(rows, classes, settings)| recipe([rows, classes.max(5)], Value::from(settings)));
    if backward { None } else { finished(recipes, DRAWN) }
}

#[cfg(test)]
mod tests {
    use consort_core::sample::sample_row;

    use super::*;

    #[test]
    fn a_clear_token_is_the_same_from_disturbed_logits() {
        for (at, settings) in settings().into_iter().enumerate() {
            for seed in 0..20 {
                let problem = recipe([4, 29], json!([settings])).seed(seed).problem().unwrap();
                let rows: Vec<SampleRow> = serde_json::from_value(problem.attributes["rows"].clone()).unwrap();
                let logits = problem.operands[0].1.values();
                for (row, logits) in rows.iter().zip(logits.chunks(29)) {
                    let token = sample_row(logits, row).unwrap().token;
                    for sign in [-1.0, 1.0] {
                        let moved: Vec<f64> =
                            (0..29).map(|token| logits[token] * (1.0 + sign * 2e-6 * (token % 3) as f64)).collect();
                        assert_eq!(sample_row(&moved, row).unwrap().token, token, "settings {at}, seed {seed}");
                    }
                }
            }
        }
    }
}
