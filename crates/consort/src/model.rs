//! A model directory, opened; and a model, loaded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use consort_core::{Counts, Policy, TransformerConfig};
use consort_formats::{GenerationConfig, Vocabulary};
use consort_generate::{EarlyStopping, Event, Flow, Output, Request, Settings, Timings};
use consort_text::{ChatTemplate, Converted, Detokenizer, Tokenizer};

use crate::{
    Error,
    forward::{ForwardInput, NamedTensor},
    runner::Runner,
    source::Source,
    vocabulary::{embedded, vocabulary},
};

/// A model directory that was read and checked. Its weights are still in their files.
pub struct OpenModel {
    path: PathBuf,
    files: consort_formats::Model,
    /// One that cannot be read matters only where text is needed.
    tokenizer: Result<Option<Tokenizer>, String>,
}

/// How a model is put on a backend.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Name of a backend; the fastest one compiled in by default.
    pub backend: Option<String>,
    /// Type that weights are kept in (`f32`, `bf16`, `f16`, `q8_0`, `q4_k` …; `f64` makes the scalar backend compute in
    /// doubles), as far as they can be ([`WeightDType::mixed`](consort_core::WeightDType::mixed)); as stored by default.
    pub dtype: Option<String>,
    /// Type that products are computed in: `f32`, or `bf16` or `int8`, which round activations; `f32` by default.
    pub compute: Option<String>,
    /// Threads of a backend that can be told how many; all processors by default.
    pub threads: Option<usize>,
    /// What a fall-back to the host does.
    pub fallback: Policy,
    /// Called with (weights loaded, weights in all).
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
}

/// A model ready to run.
pub struct Model {
    open: OpenModel,
    backend: &'static str,
    runner: Box<dyn Runner>,
}

impl Model {
    /// Reads and checks a model directory or a GGUF file. A tokenizer that cannot be read is an error only once text is needed.
    ///
    /// # Errors
    /// [`Error::Format`]: one line that names the file, what was expected and found.
    pub fn open(path: impl AsRef<Path>) -> Result<OpenModel, Error> {
        let path = path.as_ref();
        let files = consort_formats::open(path)?;
        let tokenizer = match &files.vocabulary {
            Some(inside) => Tokenizer::from_embedded(&embedded(inside), &path.display().to_string()).map(Some),
            None if path.is_dir() => Tokenizer::from_directory(path),
            None => Ok(None),
        };
        let tokenizer = tokenizer.map_err(|error| error.to_string());
        Ok(OpenModel { path: path.to_owned(), files, tokenizer })
    }

    /// What it was loaded from.
    pub fn files(&self) -> &OpenModel {
        &self.open
    }

    /// Name of the backend that runs it.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// How every operation ran so far.
    pub fn report(&self) -> BTreeMap<&'static str, Counts> {
        self.runner.report()
    }

    /// Continues requests together; see [`consort_generate::generate`].
    ///
    /// # Errors
    /// [`Error::Core`] for what the model is not defined for.
    pub fn generate(
        &self,
        requests: &[Request],
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<(Vec<Output>, Timings), Error> {
        Ok(self.runner.generate(requests, on_event)?)
    }

    /// Continues one text (or writes what an encoder-decoder makes of it), telling `on_text` each piece as it is made.
    /// The model's own stop tokens are added to the settings'.
    ///
    /// # Errors
    /// [`Error::Text`] without a tokenizer that fits; [`Error::Core`] for what the model is not defined for.
    pub fn generate_text(
        &self,
        prompt: &str,
        mut settings: Settings,
        mut on_text: impl FnMut(&str),
    ) -> Result<Output, Error> {
        settings.stop_tokens.extend(self.open.stop_tokens());
        let request = self.open.request(self.open.encode(prompt)?, settings)?;
        let mut text = self.open.detokenizer(&request)?;
        let mut failed = None;
        let (mut outputs, _) = self.generate(std::slice::from_ref(&request), &mut |event| {
            let Event::Token(event) = event else { return Flow::Continue };
            match text.push(event.token) {
                Ok(piece) => {
                    on_text(&piece);
                    Flow::Continue
                }
                Err(error) => {
                    failed = Some(error);
                    Flow::Cancel
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        on_text(&text.finish()?);
        outputs.pop().ok_or_else(|| Error::Choice("the request gave no output".into()))
    }

    /// One pass over whole sequences, with hidden states, logits and, if asked, attention.
    ///
    /// # Errors
    /// [`Error::Core`] for what the model is not defined for.
    pub fn forward(&self, input: &ForwardInput) -> Result<Vec<NamedTensor>, Error> {
        Ok(self.runner.forward(input)?)
    }
}

impl OpenModel {
    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything read from the directory but the tokenizer.
    pub fn files(&self) -> &consort_formats::Model {
        &self.files
    }

    /// The transformer.
    pub fn config(&self) -> &TransformerConfig {
        &self.files.config
    }

    /// How its makers generate with it.
    pub fn generation(&self) -> &GenerationConfig {
        &self.files.generation
    }

    /// The tokenizer, if the directory has one that can be read.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref().ok().and_then(Option::as_ref)
    }

    /// How a conversation is laid out, if the model's makers said it.
    ///
    /// # Errors
    /// [`Error::Text`] for a template that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        match &self.files.vocabulary {
            Some(inside) => Ok(ChatTemplate::from_embedded(&embedded(inside), &self.path.display().to_string())),
            None if self.path.is_dir() => Ok(ChatTemplate::from_directory(&self.path)?),
            None => Ok(None),
        }
    }

    /// The tokenizer as GGUF files have it, none where the model has none; and, one line each, where programs that read it
    /// will cut a text otherwise.
    ///
    /// # Errors
    /// [`Error::Text`] for a tokenizer that GGUF has no place for.
    pub fn embedded_tokenizer(&self) -> Result<(Option<Vocabulary>, Vec<String>), Error> {
        if let Some(inside) = &self.files.vocabulary {
            return Ok((Some(inside.clone()), Vec::new()));
        }
        if !self.has_tokenizer() {
            return Ok((None, Vec::new()));
        }
        let chat = self.chat_template()?;
        let Converted { mut embedded, differences } =
            self.usable_tokenizer()?.to_embedded(self.source_vocabulary(), chat.as_ref())?;
        // The model's own ends go before the tokenizer's; three have keys.
        let ends = &self.files.generation.eos_token_ids;
        let (mut places, mut differences) = (ends.iter().copied(), differences);
        if !ends.is_empty() {
            (embedded.eos, embedded.eot, embedded.eom) = (places.next(), places.next(), places.next());
        }
        differences
            .extend(places.map(|end| format!("token {end} ends a text too: GGUF has three keys for such tokens")));
        Ok((Some(vocabulary(embedded)), differences))
    }

    /// Whether there is a tokenizer, readable or not.
    pub fn has_tokenizer(&self) -> bool {
        !matches!(self.tokenizer, Ok(None))
    }

    /// The tokenizer, if it is there and fits the embedding.
    ///
    /// # Errors
    /// [`Error::Choice`] when the directory has none; [`Error::Text`] when its vocabulary does not fit.
    pub fn usable_tokenizer(&self) -> Result<&Tokenizer, Error> {
        let tokenizer = self.tokenizer.as_ref().map_err(|error| Error::Choice(error.clone()))?;
        let tokenizer = tokenizer.as_ref().ok_or_else(|| {
            let place = match self.path.is_dir() {
                true => "directory (tokenizer.json, vocab.json with merges.txt, or vocab.txt)",
                false => "file",
            };
            Error::Choice(format!(
                "{}: no tokenizer in this {place}: give token ids with --tokens",
                self.path.display()
            ))
        })?;
        tokenizer.check_against_embedding(self.source_vocabulary())?;
        Ok(tokenizer)
    }

    /// Token ids of a text as the model reads it: with the special tokens that its tokenizer adds, but for end-of-text
    /// tokens at the end of a decoder-only model's prompt, which would be nothing to continue.
    ///
    /// # Errors
    /// As [`usable_tokenizer`](Self::usable_tokenizer); [`Error::Text`] for text that has no tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let tokenizer = self.usable_tokenizer()?;
        let mut tokens = tokenizer.encode(text, true)?;
        if self.files.config.encoder.is_none() {
            let mut ends = self.stop_tokens();
            ends.extend(tokenizer.eos_id());
            let at_end = |tokens: &[u32]| tokens.iter().rev().take_while(|token| ends.contains(token)).count();
            // Spelt out in the text itself, they stay.
            let added = at_end(&tokens).saturating_sub(at_end(&tokenizer.encode(text, false)?));
            // Where the token that begins a text is also its end, an empty text is that token.
            tokens.truncate((tokens.len() - added).max(1));
        }
        Ok(tokens)
    }

    /// Rows of the embedding that text goes into.
    fn source_vocabulary(&self) -> usize {
        let config = &self.files.config;
        config.encoder.as_ref().or(config.decoder.as_ref()).map_or(0, |stack| stack.vocabulary)
    }

    /// Tokens that end a text: the model's own, or the tokenizer's.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let own = &self.files.generation.eos_token_ids;
        if own.is_empty() { self.tokenizer().and_then(Tokenizer::eos_id).into_iter().collect() } else { own.clone() }
    }

    /// What the model's makers set, as settings: stop, forced and suppressed tokens, lengths, beams.
    pub fn settings(&self) -> Settings {
        let generation = &self.files.generation;
        Settings {
            stop_tokens: self.stop_tokens(),
            suppressed: generation.suppress_tokens.clone(),
            bad_words: generation.bad_words.clone(),
            forced_first: generation.forced_bos_token_id,
            forced_last: generation.forced_eos_token_id,
            no_repeat_ngram: generation.no_repeat_ngram_size,
            beams: generation.num_beams.max(1),
            length_penalty: generation.length_penalty,
            early_stopping: match generation.early_stopping {
                consort_formats::EarlyStopping::Heuristic => EarlyStopping::Heuristic,
                consort_formats::EarlyStopping::First => EarlyStopping::First,
                consort_formats::EarlyStopping::Never => EarlyStopping::Never,
            },
            ..Settings::default()
        }
    }

    /// A request over token ids: the prompt of a decoder-only model, the source of an encoder-decoder.
    ///
    /// # Errors
    /// [`Error::Choice`] when an encoder-decoder names no token to start from.
    pub fn request(&self, tokens: Vec<u32>, settings: Settings) -> Result<Request, Error> {
        if self.files.config.encoder.is_none() {
            return Ok(Request { source: None, prompt: tokens, settings });
        }
        Ok(Request { source: Some(tokens), prompt: vec![self.start_token()?], settings })
    }

    /// The token that an encoder-decoder's target begins with.
    ///
    /// # Errors
    /// [`Error::Choice`] when neither configuration nor tokenizer names one.
    pub fn start_token(&self) -> Result<u32, Error> {
        let generation = &self.files.generation;
        generation
            .decoder_start_token_id
            .or(generation.bos_token_id)
            .or_else(|| self.tokenizer().and_then(Tokenizer::bos_id))
            .ok_or_else(|| {
                Error::Choice(format!(
                    "{}: neither generation_config.json nor config.json has a decoder_start_token_id to begin with",
                    self.path.display()
                ))
            })
    }

    /// Turns the new tokens of a request into text.
    ///
    /// # Errors
    /// [`Error::Choice`] without a tokenizer.
    pub fn detokenizer(&self, request: &Request) -> Result<Detokenizer, Error> {
        let tokenizer = self.usable_tokenizer()?;
        Ok(match &request.source {
            Some(_) => Detokenizer::new(tokenizer, true),
            None => Detokenizer::with_prompt(tokenizer, &request.prompt, true)?,
        })
    }

    /// Packs the weights onto a backend.
    ///
    /// # Errors
    /// [`Error::Choice`] for a backend or type that is not available, [`Error::Load`] for weights that are not finite.
    pub fn load(self, options: &LoadOptions<'_>) -> Result<Model, Error> {
        self.load_with(LoadOptions {
            backend: options.backend.clone(),
            dtype: options.dtype.clone(),
            compute: options.compute.clone(),
            threads: options.threads,
            fallback: options.fallback,
            progress: None,
        })
    }

    /// As [`load`](Self::load), telling the options' progress.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(self, options: LoadOptions<'_>) -> Result<Model, Error> {
        let (backend, runner) = self.source().load(options)?;
        Ok(Model { open: self, backend, runner })
    }

    /// What a backend is given.
    pub(crate) fn source(&self) -> Source<'_> {
        Source { shown: self.path.display().to_string(), config: &self.files.config, weights: &self.files.weights }
    }
}
