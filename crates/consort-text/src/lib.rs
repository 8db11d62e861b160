//! Text to token ids and back, for a Hugging Face model directory or a GGUF file.
//!
//! - The `tokenizers` crate does the tokenising; this crate finds the files, checks them, and streams the way back.
//! - [`Tokenizer::from_directory`] reads `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`, or BERT's
//!   `vocab.txt`. SentencePiece's own files are refused by name.
//! - [`Tokenizer::from_embedded`] takes what a GGUF file carries, and [`Tokenizer::to_embedded`] gives it. Reading the file is not done here: this crate stands
//!   alone.
//! - Nothing is lost in silence: a character without a token is an error where the tokenizer has no unknown token,
//!   and so is an id without a piece.
//! - [`Tokenizer::check_against_embedding`] refuses a tokenizer that cannot be the model's.
//! - [`Detokenizer`] turns ids into text one at a time. All its text joined is exactly [`Tokenizer::decode`] of all
//!   ids; no half character ever comes out, and a push costs the same after a million tokens as after one.
//! - [`StopTexts`] cuts that text at the first stop text.
//! - Files are not trusted: a damaged one is an [`Error`] that names it, never a panic.
//! - [`ChatTemplate`] lays a conversation out as the model's makers did.
//!
//! `clean_up_tokenization_spaces` is ignored. `transformers` 5 ignores it too for BPE models; for WordPiece, the decoder's own cleanup does the same work on each piece.
#![forbid(unsafe_code)]

mod charsmap;
mod chat;
mod config;
mod detokenizer;
mod embedded;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod load;
mod stop;
mod stream;
mod tokenizer;

pub use chat::{ChatMessage, ChatTemplate};
pub use detokenizer::Detokenizer;
pub use embedded::{Converted, Embedded};
pub use error::Error;
#[doc(hidden)]
pub use guard::guarding;
pub use stop::{Emit, StopTexts};
pub use tokenizer::{MAX_EXTRA_ROWS_FRACTION, MIN_EXTRA_ROWS, Tokenizer};
