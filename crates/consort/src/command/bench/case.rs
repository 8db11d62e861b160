//! What is run, and the time that counts of it.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use consort_core::{TransformerConfig, config::StackConfig, philox};
use consort_generate::{Event, Flow, Request, Settings, Timings};

use super::interrupt;
use crate::{
    bench::{Blocks, Cost, Timed, Work},
    runner::Runner,
};

/// One line of the output.
pub(super) struct Case {
    pub(super) kind: Kind,
    /// Tokens of a prompt, or of a source.
    pub(super) prompt: usize,
    pub(super) new: usize,
    /// Sequences side by side.
    pub(super) batch: usize,
    pub(super) beams: usize,
    pub(super) config: TransformerConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Prompts read, up to the choice of the first token.
    Prefill,
    /// Steps of one token a sequence, after prompts that do not count.
    Decode,
    /// Sources read and targets written: all of it counts.
    Translate,
    /// Sequences read by an encoder that no decoder follows.
    Encode,
}

impl Case {
    /// Its name, alike in all programs that are compared.
    pub(super) fn name(&self) -> String {
        let Self { prompt, new, batch, beams, .. } = self;
        let rows = match (batch, beams) {
            (1, 1) => String::new(),
            (batch, 1) => format!("_b{batch}"),
            (batch, beams) => format!("_b{batch}_beam{beams}"),
        };
        match self.kind {
            Kind::Prefill => {
                format!("prefill_{prompt}{}", if *batch > 1 { format!("_b{batch}") } else { String::new() })
            }
            Kind::Decode => format!("decode_{new}_after_{prompt}{rows}"),
            Kind::Translate => format!("translate_{prompt}_to_{new}_b{batch}_beam{beams}"),
            Kind::Encode => format!("encode_{prompt}{rows}"),
        }
    }

    /// Tokens that one run is worth.
    pub(super) fn tokens(&self) -> usize {
        match self.kind {
            Kind::Prefill | Kind::Encode => self.prompt * self.batch,
            Kind::Decode | Kind::Translate => self.new * self.batch,
        }
    }

    /// What one run computes and reads.
    pub(super) fn work(&self, cost: &Cost) -> Work {
        let Self { prompt, new, batch, beams, .. } = *self;
        let steps = |from: usize, source: usize, steps: usize| {
            (0..steps).map(|step| cost.step(batch * beams, from + step, source)).fold(Work::default(), |a, b| a + b)
        };
        match self.kind {
            Kind::Prefill => cost.prefill(batch, prompt),
            Kind::Encode => cost.encode(batch, prompt),
            Kind::Decode => steps(prompt, 0, new),
            // The first token comes from one row a sequence.
            Kind::Translate => cost.encode(batch, prompt) + cost.step(batch, 0, prompt) + steps(1, prompt, new - 1),
        }
    }

    /// Bytes of keys and values at the end of a run.
    pub(super) fn cache(&self, cost: &Cost) -> u64 {
        let Self { prompt, new, batch, beams, .. } = *self;
        match self.kind {
            Kind::Prefill => cost.cache(batch, prompt, 0),
            Kind::Decode => cost.cache(batch * beams, prompt + new, 0),
            Kind::Translate => cost.cache(batch * beams, new, 0) + cost.cache(batch, 0, prompt),
            Kind::Encode => 0,
        }
    }

    /// Whether the model has room for it.
    pub(super) fn check(&self) -> Result<()> {
        let Self { prompt, new, config, .. } = self;
        let within = |what: &str, stack: &StackConfig, tokens: usize| match stack.context {
            Some(context) if tokens > context => Err(anyhow!(
                "{}: {tokens} tokens of {what} are beyond its context of {context}: fewer --prompt-tokens or --new-tokens",
                self.name()
            )),
            _ => Ok(()),
        };
        if self.beams > 1 && config.decoder.is_none() {
            bail!("--beams {}: an encoder-only model has none", self.beams);
        }
        match (&config.encoder, &config.decoder) {
            (Some(encoder), Some(decoder)) => {
                within("source", encoder, *prompt)?;
                within("target and its start", decoder, new + 1)
            }
            (Some(encoder), None) => within("prompt", encoder, *prompt),
            (None, Some(decoder)) if self.kind == Kind::Decode => {
                within("prompt and continuation", decoder, prompt + new + 1)
            }
            (None, Some(decoder)) => within("prompt and a first one after it", decoder, prompt + 1),
            (None, None) => Ok(()),
        }
    }

    /// Runs it up to its first token.
    pub(super) fn first_token(&self, runner: &dyn Runner, start: u32) -> Result<()> {
        match self.kind {
            Kind::Encode => self.encode(runner).map(drop),
            _ => self.generate(runner, start, 1).map(drop),
        }
    }

    /// Warms it up and times it.
    pub(super) fn time(&self, runner: &dyn Runner, start: u32, blocks: &Blocks) -> Result<Timed> {
        let run = || match self.kind {
            Kind::Encode => self.encode(runner),
            Kind::Prefill => Ok(self.generate(runner, start, 1)?.prompt.as_secs_f64()),
            // The first token is the prompt's.
            Kind::Decode => Ok(self.generate(runner, start, self.new + 1)?.generation.as_secs_f64()),
            Kind::Translate => {
                let timings = self.generate(runner, start, self.new)?;
                Ok((timings.prompt + timings.generation).as_secs_f64())
            }
        };
        run()?;
        blocks.time(run)
    }

    /// Writes `new` tokens for each sequence, whatever they are.
    fn generate(&self, runner: &dyn Runner, start: u32, new: usize) -> Result<Timings> {
        let settings = Settings { max_new_tokens: new, beams: self.beams, ..Settings::default() };
        let settings = if new == 1 { Settings { beams: 1, ..settings } } else { settings };
        let requests: Vec<Request> = self
            .sequences()
            .into_iter()
            .map(|tokens| match self.kind {
                Kind::Translate => Request { source: Some(tokens), prompt: vec![start], settings: settings.clone() },
                _ => Request { source: None, prompt: tokens, settings: settings.clone() },
            })
            .collect();
        let (outputs, timings) = runner.generate(&requests, &mut |event| match event {
            Event::Step if interrupt::asked() => Flow::Cancel,
            _ => Flow::Continue,
        })?;
        if interrupt::asked() {
            bail!("stopped");
        }
        match outputs.iter().find(|output| output.tokens.len() != new) {
            Some(output) => bail!("{}: {} tokens were written, expected {new}", self.name(), output.tokens.len()),
            None => Ok(timings),
        }
    }

    fn encode(&self, runner: &dyn Runner) -> Result<f64> {
        let sequences = self.sequences();
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        runner.encode(&slices)?;
        if interrupt::asked() {
            bail!("stopped");
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Token ids at random, the same each time.
    fn sequences(&self) -> Vec<Vec<u32>> {
        let stack = self.config.encoder.as_ref().or(self.config.decoder.as_ref());
        let vocabulary = stack.map_or(1, |stack| stack.vocabulary) as f64;
        let draw = |row: usize, at: usize| (philox::uniform(0, row as u64, at as u64) * vocabulary) as u32;
        (0..self.batch).map(|row| (0..self.prompt).map(|at| draw(row, at)).collect()).collect()
    }
}
