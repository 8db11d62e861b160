//! Token ids to text, one at a time.

use crate::stream::Stream;
use crate::{Error, Tokenizer};

/// A stream of token ids that becomes text as soon as the text is certain.
///
/// The text of all pushes and of [`finish`](Self::finish), joined, is [`Tokenizer::decode`] of all ids. What is not
/// certain yet is held back: an unfinished character, and, with byte-fallback vocabularies such as Llama's, a run
/// of byte tokens up to its end, since its last byte decides what the others mean.
///
/// The cost of a push does not depend on how many came before.
///
/// ```no_run
/// use consort_text::{Detokenizer, Tokenizer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokenizer = Tokenizer::from_directory("model".as_ref())?.ok_or("no tokenizer")?;
/// let prompt = tokenizer.encode("Once upon", true)?;
/// let mut text = Detokenizer::with_prompt(&tokenizer, &prompt, true)?;
/// for id in [282, 57] {
///     print!("{}", text.push(id)?); // " a", " time"
/// }
/// print!("{}", text.finish()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    stream: Stream,
    /// Text of the prompt that the stream held back although the prompt's own decoding shows it.
    shown: String,
}

impl Detokenizer {
    /// A stream at its beginning; with `skip_special`, special tokens give no text.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        let stream = tokenizer.stream();
        Self { tokenizer: tokenizer.clone(), skip_special, stream, shown: String::new() }
    }

    /// A stream of the text after a prompt: what `decode(prompt + more)` has beyond `decode(prompt)`.
    ///
    /// So the first word keeps the space before it. Where more tokens change the end of the prompt's own text (a
    /// character that the prompt left unfinished, shown as U+FFFD), the changed part is given again.
    ///
    /// # Errors
    /// As [`push`](Self::push), for an id of the prompt.
    pub fn with_prompt(tokenizer: &Tokenizer, prompt: &[u32], skip_special: bool) -> Result<Self, Error> {
        let mut this = Self::new(tokenizer, skip_special);
        for &id in prompt {
            this.push(id)?;
        }
        this.shown = this.stream.clone().finish()?;
        Ok(this)
    }

    /// The text that `id` completes; may be empty. An id without a token gives none, as in transformers: embeddings are
    /// padded, and a model can choose a row that no text has.
    ///
    /// # Errors
    /// [`Error::Decode`] where the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        let piece = match self.tokenizer.decoder_piece(id, self.skip_special) {
            Ok(Some(piece)) => piece,
            Ok(None) | Err(Error::UnknownId { .. }) => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let text = self.stream.push(piece)?;
        Ok(self.without_shown(text))
    }

    /// The text still held back, now that there are no more ids; an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// [`Error::Decode`] where the decoder fails.
    pub fn finish(mut self) -> Result<String, Error> {
        let stream = std::mem::take(&mut self.stream);
        let text = stream.finish()?;
        Ok(self.without_shown(text))
    }

    /// `text` without the beginning that the prompt has already shown.
    fn without_shown(&mut self, text: String) -> String {
        if self.shown.is_empty() || text.is_empty() {
            return text;
        }
        let same = text.chars().zip(self.shown.chars()).take_while(|(a, b)| a == b);
        let same: usize = same.map(|(c, _)| c.len_utf8()).sum();
        if same == text.len() {
            self.shown.drain(..same);
        } else {
            self.shown.clear();
        }
        text[same..].to_owned()
    }
}
