//! How far the predictions of two forms of a model lie apart.

use consort_core::HostData;

use crate::{Error, ForwardInput, Model, NamedTensor};

/// What [`divergence`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Sequences compared.
    pub sequences: usize,
    /// Positions compared.
    pub positions: usize,
    /// Mean over positions of `Σ p · ln(p / q)`, p the first model's probabilities and q the second's, in nats.
    pub mean: f64,
    /// The greatest at one position.
    pub greatest: f64,
    /// Share of positions where both think the same token most probable.
    pub same_first: f64,
    /// e to the mean of `−ln p(next)`, of both models.
    pub perplexity: [f64; 2],
}

/// Compares the predictions of two models of the same vocabulary at every position of some sequences of tokens; calls
/// `progress` with sequences done, and stops where it gives false. For an encoder-decoder a sequence is the source and what
/// is written, after the start token.
///
/// # Errors
/// [`Error::Core`] for tokens that a model is not defined for; [`Error::Choice`] for models without logits.
pub fn divergence(
    one: &Model,
    other: &Model,
    sequences: &[&[u32]],
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Divergence, Error> {
    let mut sum = Divergence::default();
    let (mut predicted, mut surprise) = (0usize, [0.0; 2]);
    for (done, tokens) in sequences.iter().enumerate() {
        if !progress(done) {
            break;
        }
        let input = input(one, tokens)?;
        let targets = if input.decoder_tokens.is_empty() { tokens.get(1..) } else { Some(*tokens) }.unwrap_or_default();
        sum.sequences += 1;
        let (p, q) = (log_probabilities(one, &input)?, log_probabilities(other, &input)?);
        for (row, (p, q)) in p.iter().zip(&q).enumerate() {
            let apart: f64 = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
            if !apart.is_finite() {
                return Err(Error::Choice("logits are not finite numbers: the models cannot be compared".to_owned()));
            }
            // Never below 0 but for rounding.
            let apart = apart.max(0.0);
            sum.positions += 1;
            sum.mean += apart;
            sum.greatest = sum.greatest.max(apart);
            sum.same_first += f64::from(u8::from(first(p) == first(q)));
            let next = targets.get(row).map(|&token| token as usize);
            if let Some((p, q)) = next.and_then(|next| Some((p.get(next)?, q.get(next)?))) {
                predicted += 1;
                surprise[0] -= p;
                surprise[1] -= q;
            }
        }
    }
    let positions = sum.positions.max(1) as f64;
    sum.mean /= positions;
    sum.same_first /= positions;
    sum.perplexity = surprise.map(|surprise| (surprise / predicted.max(1) as f64).exp());
    Ok(sum)
}

fn input(model: &Model, tokens: &[u32]) -> Result<ForwardInput, Error> {
    let config = model.files().config();
    let mut decoder_tokens = Vec::new();
    if config.encoder.is_some() && config.decoder.is_some() {
        decoder_tokens.push(model.files().start_token()?);
        decoder_tokens.extend(&tokens[..tokens.len().saturating_sub(1)]);
    }
    Ok(ForwardInput { tokens: tokens.to_vec(), decoder_tokens, attention: false })
}

/// ln of the softmax of each row of logits.
fn log_probabilities(model: &Model, input: &ForwardInput) -> Result<Vec<Vec<f64>>, Error> {
    let tensors = model.forward(input)?;
    let Some(NamedTensor { sizes, data, .. }) = tensors.into_iter().find(|tensor| tensor.name == "logits") else {
        return Err(Error::Choice("a model without a head predicts nothing that could be compared".to_owned()));
    };
    let width = sizes.last().copied().unwrap_or_default().max(1);
    let values: Vec<f64> = match data {
        HostData::F32(values) => values.into_iter().map(f64::from).collect(),
        other => other.to_f64(),
    };
    let normed = |row: &[f64]| {
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln() + greatest;
        row.iter().map(|x| x - total).collect()
    };
    Ok(values.chunks(width).map(normed).collect())
}

/// The first of the greatest.
fn first(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (at, x)| if *x > row[best] { at } else { best })
}
