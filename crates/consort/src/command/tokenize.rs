//! `consort tokenize`: ids on standard output, as `--tokens` takes them; their pieces on standard error.

use std::io::{Write, stdout};

use anyhow::{Result, bail};
use clap::Args;

use super::{ModelPath, join};

#[derive(Args)]
pub(super) struct Tokenize {
    #[command(flatten)]
    model: ModelPath,
    /// What to tokenize
    text: String,
}

impl Tokenize {
    pub(super) fn run(self) -> Result<()> {
        let open = self.model.open()?;
        let tokenizer = open.usable_tokenizer()?;
        let tokens = tokenizer.tokens_with_pieces(&self.text, true)?;
        if tokens.is_empty() {
            bail!("the text is empty: it has no tokens");
        }
        writeln!(stdout(), "{}", join(&tokens.iter().map(|token| token.0).collect::<Vec<_>>()))?;
        for (id, piece) in tokens {
            eprintln!("{id:>8}  {piece:?}");
        }
        Ok(())
    }
}
