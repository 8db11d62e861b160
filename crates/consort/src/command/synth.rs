//! `consort synth`: a model of a given shape with random weights, for measuring speed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use consort_core::{TransformerConfig, WeightDType, model::RandomWeights};
use consort_formats::{Parts, Vocabulary, write_directory, write_gguf};

use super::{interrupt, note, progress::Progress, weight_dtype};

#[derive(Args)]
pub(super) struct Synth {
    /// The shape, as TOML (see configs/)
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// A directory to make, or a file that ends in .gguf
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the matrices: f32, bf16, f16; block formats too in GGUF
    #[arg(long, value_name = "TYPE", default_value = "bf16", value_parser = weight_dtype)]
    dtype: WeightDType,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Synth {
    pub(super) fn run(self) -> Result<()> {
        let config = read(&self.config)?;
        let weights = RandomWeights::new(&config, self.seed);
        interrupt::listen();
        let mut progress = Progress::new("writing");
        let mut tell = |done, all| {
            progress.bytes(done, all);
            !interrupt::asked()
        };
        let gguf = self.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        let family = if gguf {
            let name = self.config.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let about = [("name".to_owned(), name)];
            let parts = Parts {
                config: &config,
                about: &about,
                vocabulary: Some(&vocabulary(&config)),
                decoder_start: Some(0),
            };
            write_gguf(&self.out, parts, &weights, self.dtype, &mut tell)?.architecture
        } else {
            write_directory(&self.out, &config, &weights, self.dtype, &mut tell)?
        };
        note(format_args!("wrote {} ({family}, {})", self.out.display(), self.dtype));
        Ok(())
    }
}

/// A stand-in for a tokenizer, which other engines want even where only ids are run: bytes, and a word for each other id.
fn vocabulary(config: &TransformerConfig) -> Vocabulary {
    let rows = config.encoder.iter().chain(&config.decoder).map(|stack| stack.vocabulary).max().unwrap_or_default();
    let special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let words = (0..rows).map(|word| (format!("w{word}"), 1));
    let (tokens, kinds) = special.into_iter().chain(bytes).chain(words).take(rows).unzip();
    Vocabulary {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        tokens,
        scores: vec![0.0; rows],
        kinds,
        unk: Some(0),
        bos: (rows > 1).then_some(1),
        eos: (rows > 2).then_some(2),
        ..Vocabulary::default()
    }
}

/// The shape in a file.
pub(super) fn read(path: &Path) -> Result<TransformerConfig> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    let config: TransformerConfig = match toml::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            let line = error.span().map_or(0, |span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count());
            bail!("{}: line {line}: {}", shown(), error.message());
        }
    };
    config.validate().with_context(shown)?;
    Ok(config)
}
