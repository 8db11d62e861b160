//! What can go wrong between text and token ids.

use std::path::PathBuf;

/// An error of this crate; every message names the file, the id or the text that it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer file is.
    #[error("{} is too large: expected at most {limit} bytes, found {found}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The largest size that is read, in bytes.
        limit: u64,
    },
    /// A file was read, and is not what its name says.
    #[error("{} is not usable: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// The directory has a tokenizer of a kind that this crate does not read.
    #[error(
        "{} is not read yet: {format}; convert it to tokenizer.json (in Python: \
         AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))",
        path.display()
    )]
    Unsupported {
        /// The file that would have to be read.
        path: PathBuf,
        /// What it is.
        format: String,
    },
    /// The text holds something that has no token, and the tokenizer has no unknown token to put there.
    #[error("the tokenizer has no token for {piece:?} at byte {offset} of the text, and no unknown token")]
    Unencodable {
        /// The first character that cannot be encoded; the word, where each of its characters alone could be.
        piece: String,
        /// Where it begins in the text, in bytes.
        offset: usize,
    },
    /// The tokenizer failed on a text for another reason, given by the `tokenizers` crate.
    #[error("the text cannot be encoded: {detail}")]
    Encode {
        /// What the `tokenizers` crate said.
        detail: String,
    },
    /// An id has no token.
    #[error("token id {id} is not in the vocabulary of {vocabulary_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// The highest id plus one.
        vocabulary_size: usize,
    },
    /// The decoder failed, as the `tokenizers` crate says.
    #[error("the token ids cannot be decoded: {detail}")]
    Decode {
        /// What the `tokenizers` crate said.
        detail: String,
    },
    /// The tokenizer is not the one that the model was trained with.
    #[error(
        "the vocabulary does not fit the embedding: {vocabulary_size} tokens, {rows} embedding rows; \
         the tokenizer a model was trained with is the only right one"
    )]
    VocabularyMismatch {
        /// The highest id plus one.
        vocabulary_size: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The tokenizer has no form in a GGUF file.
    #[error("the tokenizer cannot be written to a GGUF file: {detail}")]
    NotRepresentable {
        /// What GGUF has no form for.
        detail: String,
    },
    /// A stop text is empty, and would stop every text before it begins.
    #[error("stop text {index} is empty: expected at least one character")]
    EmptyStopText {
        /// Its position in the list, from 0.
        index: usize,
    },
}
