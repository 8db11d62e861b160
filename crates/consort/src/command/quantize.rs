//! `consort quantize`: a model as one GGUF file of another type of weights, and what that costs.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use consort_core::WeightDType;
use consort_formats::{Parts, write_gguf};

use super::{ModelPath, interrupt, note, progress::Progress, weight_dtype};
use crate::{LoadOptions, Model, OpenModel, divergence};

/// What the cost is measured on where no text is given.
const TEXT: &str = include_str!("quantize.txt");
/// Tokens of a sequence; the model's context may be shorter.
const WINDOW: usize = 128;

#[derive(Args)]
pub(super) struct Quantize {
    #[command(flatten)]
    model: ModelPath,
    /// Type of the matrices: q8_0, q6_k, q5_k, q4_k, q4_0 …, bf16, f16, f32
    #[arg(long, value_name = "TYPE", value_parser = weight_dtype)]
    dtype: WeightDType,
    /// File to write
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// Leave the tokenizer out
    #[arg(long)]
    without_tokenizer: bool,
    /// Text to measure the cost on [default: a short English one]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of it to use; 0 leaves the measuring out
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: usize,
    /// Backend to measure on (see `consort backends`) [default: the fastest one in this build]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

impl Quantize {
    pub(super) fn run(self) -> Result<()> {
        let open = self.model.open()?;
        // Before long work, not after it.
        let text = match &self.text {
            Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => TEXT.to_owned(),
        };
        if self.text.is_some() && self.tokens > 0 {
            open.usable_tokenizer().context("--text needs a tokenizer")?;
        }
        crate::backends::choose(self.backend.as_deref(), None)?;
        let tokens = if self.tokens > 0 { self.measured(&open, &text)? } else { Vec::new() };
        if !open.files().unused.is_empty() {
            note(format_args!("unused tensors, left out: {}", open.files().unused.join(", ")));
        }
        let (embedded, differences) = match self.without_tokenizer {
            true => (None, Vec::new()),
            false => open.embedded_tokenizer().map_err(|error| {
                anyhow!("{}: {error}; --without-tokenizer leaves the tokenizer out", open.path().display())
            })?,
        };
        for difference in differences {
            note(format_args!("tokenizer: {difference}"));
        }
        interrupt::listen();
        let mut progress = Progress::new("writing");
        let mut tell = |done, all| {
            progress.bytes(done, all);
            !interrupt::asked()
        };
        let mut about = open.files().about.clone();
        if !about.iter().any(|(key, _)| key == "name") {
            let name = open.path().file_stem().map(|name| name.to_string_lossy().into_owned());
            about.push(("name".to_owned(), name.unwrap_or_default()));
        }
        let parts = Parts {
            config: open.config(),
            about: &about,
            vocabulary: embedded.as_ref(),
            decoder_start: open.generation().decoder_start_token_id,
        };
        let written = write_gguf(&self.out, parts, &open.files().weights, self.dtype, &mut tell)?;
        for dropped in &written.dropped {
            note(format_args!("GGUF has no place for {dropped}: left out"));
        }
        let bits = written.bytes as f64 * 8.0 / written.parameters.max(1) as f64;
        note(format_args!(
            "wrote {}: {} as {}, {} MiB, {bits:.2} bits a weight",
            self.out.display(),
            written.architecture,
            written.dtype,
            written.bytes.div_ceil(1 << 20),
        ));
        if written.other > 0 {
            note(format_args!(
                "{} of {} matrices have rows that are no whole blocks of {} as {}: kept in the next type that fits",
                written.other,
                written.matrices,
                self.dtype.block(),
                self.dtype,
            ));
        }
        if tokens.is_empty() { Ok(()) } else { self.measure(open, &tokens) }
    }

    /// The tokens that the cost is measured on; none for a model that predicts nothing.
    fn measured(&self, open: &OpenModel, text: &str) -> Result<Vec<u32>> {
        let config = open.config();
        // The head of an encoder alone has no place in GGUF.
        if config.head.is_none() || config.decoder.is_none() {
            note("the cost is not measured: a model without a head predicts nothing");
            return Ok(Vec::new());
        }
        let mut tokens = match open.usable_tokenizer() {
            Ok(_) => open.encode(text)?,
            Err(_) => drawn(open, self.tokens),
        };
        tokens.truncate(self.tokens);
        if tokens.len() < 2 {
            bail!("{} tokens to measure the cost on: two are the least; --tokens 0 leaves it out", tokens.len());
        }
        Ok(tokens)
    }

    fn measure(&self, open: OpenModel, tokens: &[u32]) -> Result<()> {
        let config = open.config();
        let context = [&config.encoder, &config.decoder].into_iter().flatten().filter_map(|stack| stack.context).min();
        let window = context.map_or(WINDOW, |context| context.min(WINDOW));
        let sequences: Vec<&[u32]> = tokens.chunks(window).filter(|sequence| sequence.len() > 1).collect();
        let options = LoadOptions { backend: self.backend.clone(), ..LoadOptions::default() };
        let (one, other) = (open.load(&options)?, Model::open(&self.out)?.load(&options)?);
        let mut progress = Progress::new("measuring");
        let found = divergence(&one, &other, &sequences, &mut |done| {
            progress.tell(done as u64, sequences.len() as u64, " sequences");
            !interrupt::asked()
        })?;
        drop(progress);
        if found.sequences < sequences.len() {
            bail!(
                "stopped while measuring, after {} of {} sequences; the file is written",
                found.sequences,
                sequences.len()
            );
        }
        println!(
            "KL divergence {:.6} nats a token over {} tokens (at most {:.4}); the same first choice at {:.1} %; \
             perplexity {:.3}, before {:.3}",
            found.mean,
            found.positions,
            found.greatest,
            100.0 * found.same_first,
            found.perplexity[1],
            found.perplexity[0],
        );
        Ok(())
    }
}

/// Token ids at random, for a model without a tokenizer.
fn drawn(open: &OpenModel, tokens: usize) -> Vec<u32> {
    note("no tokenizer: the cost is measured on random tokens");
    let config = open.config();
    let vocabulary = config.encoder.iter().chain(&config.decoder).map(|stack| stack.vocabulary).min().unwrap_or(1);
    let draw = |index| (consort_core::philox::uniform(0, 0, index) * vocabulary as f64) as u32;
    (0..tokens as u64).map(draw).collect()
}
