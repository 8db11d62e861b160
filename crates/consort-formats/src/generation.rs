//! What a model's files say about how to generate with it.
//!
//! Names and defaults are those of `transformers`' `GenerationConfig`. Its sampling settings (`do_sample`,
//! `temperature`, `top_k` …) are left to the caller and not read.

use serde_json::Value;

use crate::{
    error::Error,
    json::{Reader, found},
};

/// Settings from `generation_config.json`, or, where a directory has none, from the same keys of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end it, any of them.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a batch.
    pub pad_token_id: Option<u32>,
    /// First token of a decoder that has an encoder.
    pub decoder_start_token_id: Option<u32>,
    /// Token that must be the first generated one (the target language of many translation models).
    pub forced_bos_token_id: Option<u32>,
    /// Token that must be the last one when `max_length` is reached.
    pub forced_eos_token_id: Option<u32>,
    /// Tokens that are never generated: `suppress_tokens` and the single tokens of `bad_words_ids`.
    pub suppress_tokens: Vec<u32>,
    /// Sequences of two tokens or more that are never generated, from `bad_words_ids`.
    pub bad_words: Vec<Vec<u32>>,
    /// Width of the beam; 1 without beam search.
    pub num_beams: usize,
    /// Exponent of the length that a beam's score is divided by.
    pub length_penalty: f64,
    /// No sequence of this many tokens appears twice; 0 for no such rule.
    pub no_repeat_ngram_size: usize,
    /// When a beam search is done.
    pub early_stopping: EarlyStopping,
    /// Tokens in all, the prompt of a decoder-only model included.
    pub max_length: Option<usize>,
    /// Tokens before which no end token is generated.
    pub min_length: usize,
}

/// When a beam search with enough finished beams ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: when the best unfinished beam, as long as it is now, is no longer better than the finished ones.
    #[default]
    Heuristic,
    /// `true`: at once.
    First,
    /// `"never"`: when no unfinished beam can become better at any length.
    Never,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            decoder_start_token_id: None,
            forced_bos_token_id: None,
            forced_eos_token_id: None,
            suppress_tokens: Vec::new(),
            bad_words: Vec::new(),
            num_beams: 1,
            length_penalty: 1.0,
            no_repeat_ngram_size: 0,
            early_stopping: EarlyStopping::Heuristic,
            max_length: None,
            min_length: 0,
        }
    }
}

impl GenerationConfig {
    pub(crate) fn read(file: &Reader<'_>) -> Result<Self, Error> {
        let mut suppress_tokens = file.tokens("suppress_tokens")?;
        let mut bad_words = file.token_lists("bad_words_ids")?;
        suppress_tokens.extend(bad_words.iter().filter_map(|word| match word.as_slice() {
            [token] => Some(*token),
            _ => None,
        }));
        suppress_tokens.sort_unstable();
        suppress_tokens.dedup();
        bad_words.retain(|word| word.len() > 1);
        let bos_token_id = file.token("bos_token_id")?;
        let mut forced_bos_token_id = file.token("forced_bos_token_id")?;
        if file.flag("force_bos_token_to_be_generated", false)? {
            forced_bos_token_id = bos_token_id; // how the first BART summarizers spelt it
        }
        Ok(Self {
            bos_token_id,
            eos_token_ids: file.tokens("eos_token_id")?,
            pad_token_id: file.token("pad_token_id")?,
            decoder_start_token_id: file.token("decoder_start_token_id")?,
            forced_bos_token_id,
            // A list forces any of its tokens in the reference; the first is as good.
            forced_eos_token_id: file.tokens("forced_eos_token_id")?.first().copied(),
            suppress_tokens,
            bad_words,
            num_beams: file.optional_size("num_beams", None)?.unwrap_or(1),
            length_penalty: file.optional_number("length_penalty")?.unwrap_or(1.0),
            no_repeat_ngram_size: file.count("no_repeat_ngram_size", 0)?,
            early_stopping: match file.get("early_stopping") {
                None | Some(Value::Null | Value::Bool(false)) => EarlyStopping::Heuristic,
                Some(Value::Bool(true)) => EarlyStopping::First,
                Some(Value::String(text)) if text == "never" => EarlyStopping::Never,
                Some(other) => {
                    let what = format!("expected true, false or \"never\", found {}", found(other));
                    return Err(file.error("early_stopping", what));
                }
            },
            max_length: file.optional_size("max_length", None)?,
            min_length: file.count("min_length", 0)?,
        })
    }
}
