//! `consort info`: what a model directory holds.

use std::io::{Write, stdout};

use anyhow::Result;
use clap::Args;
use consort_core::config::{AttentionPositions, Positions, StackConfig};

use super::{ModelPath, join};

#[derive(Args)]
pub(super) struct Info {
    #[command(flatten)]
    model: ModelPath,
}

impl Info {
    pub(super) fn run(self) -> Result<()> {
        let open = self.model.open()?;
        let files = open.files();
        let config = &files.config;
        let shape = match (&config.encoder, &config.decoder) {
            (Some(_), Some(_)) => "encoder-decoder",
            (Some(_), None) => "encoder-only",
            _ => "decoder-only",
        };
        let mut out = stdout().lock();
        writeln!(out, "path           {}", open.path().display())?;
        writeln!(out, "family         {} ({shape})", files.family)?;
        writeln!(out, "parameters     {} as {}", grouped(files.parameters), files.dtype)?;
        writeln!(out, "width          {}", config.width)?;
        for (name, stack) in [("encoder", &config.encoder), ("decoder", &config.decoder)] {
            if let Some(stack) = stack {
                writeln!(out, "{name:14} {}", describe(stack))?;
            }
        }
        let head = match &config.head {
            Some(head) if head.tied => "tied to the embedding",
            Some(_) => "its own weight",
            None => "none: hidden states only",
        };
        writeln!(out, "head           {head}")?;
        match open.usable_tokenizer() {
            Ok(tokenizer) => writeln!(out, "tokenizer      {} tokens", tokenizer.vocabulary_size())?,
            Err(error) => writeln!(out, "tokenizer      none: {error}")?,
        }
        let stop = open.stop_tokens();
        if !stop.is_empty() {
            writeln!(out, "stop tokens    {}", join(&stop))?;
        }
        if !files.unused.is_empty() {
            writeln!(out, "unused tensors {}", files.unused.join(", "))?;
        }
        Ok(())
    }
}

fn describe(stack: &StackConfig) -> String {
    let attention = &stack.attention;
    let positions = match (attention.positions, stack.embedding.positions) {
        (AttentionPositions::Rotary(_), _) => "rotary",
        (AttentionPositions::Relative { .. }, _) => "relative",
        (AttentionPositions::LinearBias, _) => "linear-bias",
        (AttentionPositions::None, Positions::Learned { .. }) => "learned",
        (AttentionPositions::None, Positions::Sinusoidal { .. }) => "sinusoidal",
        (AttentionPositions::None, Positions::None) => "no",
    };
    let context = stack.context.map_or("any length".to_owned(), |context| format!("context {context}"));
    let windowed = attention.windows.iter().filter(|&&window| window > 0).count();
    let windows = if windowed > 0 { format!(", {windowed} with a window") } else { String::new() };
    format!(
        "{} layers{windows}, {} heads over {} key/value heads of width {}, feed-forward {}{}, vocabulary {}, \
         {positions} positions, {context}",
        stack.layers,
        attention.heads,
        attention.key_value_heads,
        attention.head_width,
        stack.feed_forward.width,
        if stack.feed_forward.gated { " (gated)" } else { "" },
        stack.vocabulary,
    )
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
