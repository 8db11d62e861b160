//! `consort generate`: texts continued, or written by an encoder-decoder, as they are made.

use std::{
    hash::{BuildHasher, RandomState},
    io::{Read, Write, stdin, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgGroup, Args};
use consort_core::sample::Choice;
use consort_generate::{Event, Finish, Flow, Output, Request, Settings, Timings};
use consort_text::{ChatMessage, Detokenizer, StopTexts};
use serde_json::{Value, json};

use super::{Common, ModelPath, TokenIds, Usage, encode, interrupt, note, parse_tokens};
use crate::{Model, OpenModel};

/// Alternatives per token in `--json`.
const ALTERNATIVES: usize = 5;

#[derive(Args)]
#[command(group = ArgGroup::new("input").required(true).multiple(false))]
pub(super) struct Generate {
    #[command(flatten)]
    model: ModelPath,
    /// Text to continue; several run together
    #[arg(long, value_name = "TEXT", num_args = 1.., group = "input")]
    prompt: Vec<String>,
    /// File whose text is the prompt; - is standard input
    #[arg(long, value_name = "FILE", group = "input")]
    prompt_file: Option<PathBuf>,
    /// Token ids to continue, comma-separated
    #[arg(long, value_name = "1,2,3", value_parser = parse_tokens, group = "input")]
    tokens: Option<TokenIds>,
    /// Put the prompt into the model's chat template
    #[arg(long, conflicts_with = "tokens")]
    chat: bool,
    /// System message of the chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Most tokens to write [default: 256, or the end of the context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Sample at this temperature; 0 is greedy [default: 0; 1 with another sampling flag]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from the K most likely tokens; 0 is all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens that reach probability P together [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Sample from tokens at least P times as likely as the likeliest [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Make tokens that occurred less likely, greedy or not; 1 changes nothing [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Sample with this seed; the n-th prompt has seed S + n − 1 [default: a new one, which is said]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Search with N beams; goes with no sampling [default: the model's, or 1]
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// Beams' scores are divided by length to this power [default: the model's, or 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// End before this text; can be given several times
    #[arg(long, value_name = "TEXT", conflicts_with = "raw_tokens")]
    stop: Vec<String>,
    /// Go on past the model's end tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Print new token ids, comma-separated, instead of text; needs no tokenizer
    #[arg(long, conflicts_with = "json")]
    raw_tokens: bool,
    /// Print one JSON object a prompt: text, tokens, log-probabilities, timings
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl Generate {
    pub(super) fn run(self) -> Result<()> {
        interrupt::listen();
        let open = self.model.open()?;
        if open.config().decoder.is_none() {
            bail!(
                "{}: an encoder-only model ({}) embeds text and does not write it: `consort forward` shows what it computes",
                open.path().display(),
                open.files().family
            );
        }
        let prompts = self.prompts(&open)?;
        let settings = self.settings(&open)?;
        let requests = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                let settings = Settings { seed: settings.seed.wrapping_add(index as u64), ..settings.clone() };
                let mut request = open.request(prompt.tokens.clone(), settings)?;
                self.limit_length(&open, &mut request);
                Ok(request)
            })
            .collect::<Result<Vec<_>>>()?;
        if !open.has_tokenizer() {
            if !self.stop.is_empty() {
                bail!("{}: no tokenizer there, so there is no text for --stop", open.path().display());
            }
            if !self.raw_tokens {
                note("no tokenizer there: the output is token ids");
            }
        }
        let mut streams = requests
            .iter()
            .map(|request| Stream::new(&open, request, self.raw_tokens, &self.stop))
            .collect::<Result<Vec<_>>>()?;
        let model = self.common.load(open)?;
        let mut printer = Printer { live: !self.json, separator: "\n", first_open: 0 };
        let mut failed: Option<anyhow::Error> = None;
        let result = model.generate(&requests, &mut |event| {
            if interrupt::asked() {
                return Flow::Cancel;
            }
            let Event::Token(event) = event else { return Flow::Continue };
            let stream = &mut streams[event.request];
            let step = stream.push(event.token, event.finish).and_then(|stopped| {
                printer.show(&mut streams)?;
                Ok(stopped)
            });
            match step {
                Ok(true) => Flow::Finish,
                Ok(false) => Flow::Continue,
                Err(error) => {
                    failed = Some(error);
                    Flow::Cancel
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let (outputs, timings) = result?;
        for stream in &mut streams {
            stream.end()?;
        }
        printer.show(&mut streams)?;
        if self.json {
            for ((prompt, stream), output) in prompts.iter().zip(&streams).zip(&outputs) {
                let line = self.json_line(&model, prompt, stream, output, &timings);
                writeln!(stdout(), "{line}")?;
            }
        }
        self.say_timings(&timings);
        self.common.report(&model.report());
        Ok(())
    }

    fn prompts(&self, open: &OpenModel) -> Result<Vec<Prompt>> {
        if let Some(tokens) = &self.tokens {
            return Ok(vec![Prompt { text: None, tokens: tokens.clone() }]);
        }
        let texts = match &self.prompt_file {
            Some(path) => vec![read_prompt(path)?],
            None => self.prompt.clone(),
        };
        texts
            .into_iter()
            .map(|text| {
                let tokens = if self.chat { self.chat_tokens(open, &text)? } else { encode(open, &text)? };
                Ok(Prompt { text: Some(text), tokens })
            })
            .collect()
    }

    fn chat_tokens(&self, open: &OpenModel, text: &str) -> Result<Vec<u32>> {
        let tokenizer = open.usable_tokenizer()?;
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(ChatMessage::new("system", system));
        }
        messages.push(ChatMessage::new("user", text));
        let template = open.chat_template()?.ok_or_else(|| {
            anyhow!(
                "{}: no chat template{}: leave --chat out",
                open.path().display(),
                if open.path().is_dir() { " (tokenizer_config.json, chat_template.jinja)" } else { " in this file" }
            )
        })?;
        let prompt = template.render(&messages)?;
        // The template writes special tokens itself.
        let tokens = tokenizer.encode(&prompt, false)?;
        if tokens.is_empty() {
            bail!("the chat template of {} makes nothing of the prompt {text:?}", open.path().display());
        }
        Ok(tokens)
    }

    fn settings(&self, open: &OpenModel) -> Result<Settings> {
        let mut settings = open.settings();
        let sampling = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.seed.is_some();
        settings.temperature = self.temperature.unwrap_or(if sampling { 1.0 } else { 0.0 });
        settings.top_k = self.top_k.unwrap_or(settings.top_k);
        settings.top_p = self.top_p.unwrap_or(settings.top_p);
        settings.min_p = self.min_p.unwrap_or(settings.min_p);
        settings.repetition_penalty = self.repetition_penalty.unwrap_or(settings.repetition_penalty);
        if settings.temperature > 0.0 {
            settings.seed = self.seed.unwrap_or_else(|| {
                // Small enough to type again.
                let seed = RandomState::new().hash_one(0u8) >> 32;
                note(format_args!("seed: {seed}"));
                seed
            });
            // The makers' beams are for their search, not for sampling.
            settings.beams = 1;
        }
        settings.beams = self.beams.unwrap_or(settings.beams);
        settings.length_penalty = self.length_penalty.unwrap_or(settings.length_penalty);
        if self.ignore_eos {
            settings.stop_tokens.clear();
            settings.forced_last = None;
        }
        settings.log_probabilities = self.json;
        settings.top_log_probabilities = if self.json { ALTERNATIVES } else { 0 };
        settings.validate().map_err(|error| Usage(as_flags(&error.to_string())))?;
        Ok(settings)
    }

    /// The flag, or the makers' lengths (which count the prompt), or 256.
    fn limit_length(&self, open: &OpenModel, request: &mut Request) {
        let generation = open.generation();
        let prompt = request.prompt.len();
        let makers = generation.max_length.map(|length| length.saturating_sub(prompt)).filter(|&length| length > 0);
        let default = request.settings.max_new_tokens;
        request.settings.max_new_tokens =
            self.max_new_tokens.map_or(makers.unwrap_or(default).min(default), |length| length as usize);
        if !self.ignore_eos {
            request.settings.min_new_tokens = generation.min_length.saturating_sub(prompt);
        }
    }

    fn json_line(&self, model: &Model, prompt: &Prompt, stream: &Stream, output: &Output, timings: &Timings) -> Value {
        let tokenizer = model.files().tokenizer();
        let choice = |choice: &Choice| {
            let piece = tokenizer.and_then(|tokenizer| tokenizer.token(choice.token));
            json!({ "token": choice.token, "piece": piece, "log_probability": choice.log_probability })
        };
        let top: Vec<Vec<Value>> = output.alternatives.iter().map(|all| all.iter().map(choice).collect()).collect();
        json!({
            "prompt": prompt.text,
            "prompt_tokens": prompt.tokens,
            "text": stream.is_text.then_some(&stream.text),
            "tokens": output.tokens,
            "log_probabilities": output.log_probabilities,
            "top": top,
            "finish": match output.finish {
                Finish::Length => "length",
                Finish::Stop => "stop",
                Finish::Cancelled if stream.stopped => "stop",
                Finish::Cancelled => "cancelled",
            },
            "score": output.score,
            "backend": model.backend(),
            "timings": {
                "prompt_tokens": timings.prompt_tokens,
                "prompt_seconds": timings.prompt.as_secs_f64(),
                "prompt_tokens_per_second": timings.prompt_rate(),
                "new_tokens": timings.new_tokens,
                "generation_seconds": timings.generation.as_secs_f64(),
                "generation_tokens_per_second": timings.generation_rate(),
            },
        })
    }

    fn say_timings(&self, timings: &Timings) {
        let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
        note(format_args!(
            "prompt: {} tokens in {:.3} s{}; new: {} tokens in {:.3} s{}",
            timings.prompt_tokens,
            timings.prompt.as_secs_f64(),
            rate(timings.prompt_rate()),
            timings.new_tokens,
            timings.generation.as_secs_f64(),
            rate(timings.generation_rate()),
        ));
    }
}

struct Prompt {
    /// As given; token ids have none.
    text: Option<String>,
    tokens: Vec<u32>,
}

/// One request's new tokens on their way to text, or to a list of ids.
struct Stream {
    /// Whether `text` is text; else ids, asked for or for want of a tokenizer.
    is_text: bool,
    /// From tokens to text; taken at the end, and missing where ids are printed.
    decoder: Option<(Detokenizer, StopTexts)>,
    /// All output so far, up to a stop text.
    text: String,
    shown: usize,
    stopped: bool,
    done: bool,
}

impl Stream {
    fn new(open: &OpenModel, request: &Request, raw: bool, stops: &[String]) -> Result<Self> {
        let stops = StopTexts::new(stops.to_vec()).map_err(|error| Usage(format!("--stop: {error}")))?;
        let is_text = !raw && open.has_tokenizer();
        let decoder = if is_text { Some((open.detokenizer(request)?, stops)) } else { None };
        Ok(Self { is_text, decoder, text: String::new(), shown: 0, stopped: false, done: false })
    }

    /// Takes a token; true when a stop text was reached.
    fn push(&mut self, token: u32, finish: Option<Finish>) -> Result<bool> {
        if let Some((detokenizer, stops)) = &mut self.decoder {
            let emit = stops.push(&detokenizer.push(token)?);
            self.text.push_str(&emit.text);
            self.stopped = emit.stopped;
        } else {
            let comma = if self.text.is_empty() { "" } else { "," };
            self.text.push_str(&format!("{comma}{token}"));
        }
        if self.stopped || finish.is_some() {
            self.end()?;
        }
        Ok(self.stopped)
    }

    /// Lets out what was held back. Can be called again.
    fn end(&mut self) -> Result<()> {
        self.done = true;
        if let Some((detokenizer, mut stops)) = self.decoder.take() {
            let emit = stops.push(&detokenizer.finish()?);
            self.stopped = emit.stopped;
            // After a stop, nothing is held back.
            self.text.push_str(&(emit.text + &stops.finish()));
        }
        Ok(())
    }
}

/// Prints streams one after the other: the first that is not done as it grows, later ones when their turn comes.
struct Printer {
    live: bool,
    separator: &'static str,
    first_open: usize,
}

impl Printer {
    fn show(&mut self, streams: &mut [Stream]) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        let mut out = stdout().lock();
        while let Some(stream) = streams.get_mut(self.first_open) {
            out.write_all(&stream.text.as_bytes()[stream.shown..])?;
            stream.shown = stream.text.len();
            if !stream.done {
                break;
            }
            out.write_all(self.separator.as_bytes())?;
            self.first_open += 1;
        }
        Ok(out.flush()?)
    }
}

fn read_prompt(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        stdin().read_to_end(&mut bytes).context("standard input")?;
    } else {
        bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| anyhow!("{}: byte {} is not UTF-8 text", path.display(), error.utf8_error().valid_up_to()))?;
    // A file ends with a line break that is no part of its prompt.
    Ok(text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned())
}

/// Settings by the names of their flags.
fn as_flags(message: &str) -> String {
    match message.split_once(':') {
        Some((setting, what)) => format!("--{}:{what}", setting.replace('_', "-")),
        None => message.to_owned(),
    }
}
