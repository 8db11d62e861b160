//! `consort tokenize`: ids on standard output, as `--tokens` takes them; their pieces on standard error.

use std::io::{Write, stdout};

use anyhow::Result;
use clap::Args;

use super::{ModelPath, encode, join, note};

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
        let prompt = encode(&open, &self.text)?;
        let tokens = tokenizer.tokens_with_pieces(&self.text, true)?;
        writeln!(stdout(), "{}", join(&tokens.iter().map(|token| token.0).collect::<Vec<_>>()))?;
        for (id, piece) in &tokens {
            note(format_args!("{id:>8}  {piece:?}"));
        }
        if prompt.len() < tokens.len() {
            note("the end token is the tokenizer's; a prompt goes without it, or there would be nothing to continue");
        }
        Ok(())
    }
}
