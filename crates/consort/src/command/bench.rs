//! `consort bench`: how fast a model reads prompts and writes tokens, beside what the machine could do at most.

mod case;
mod line;

use std::{
    io::{Write, stdout},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use consort_core::{Compute, TransformerConfig, WeightDType, model::RandomWeights};

use self::{
    case::{Case, Kind},
    line::Line,
};
use super::{Common, Usage, interrupt, note, synth};
use crate::{
    Model, backends,
    bench::{Blocks, Cost, Limits, peak_memory, reset_peak_memory},
    runner::Runner,
    source::Source,
};

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(false))]
pub(super) struct Bench {
    /// Hugging Face directory or GGUF file
    #[arg(long, value_name = "PATH", group = "what")]
    model: Option<PathBuf>,
    /// Shape of a model with random weights, as TOML (see configs/)
    #[arg(long, value_name = "FILE.toml", group = "what")]
    random_config: Option<PathBuf>,
    /// Lengths of prompts; of sources, where there is an encoder [default: 512, or 32 before a decoder]
    #[arg(long, value_name = "N,…", value_parser = parse_numbers)]
    prompt_tokens: Option<Numbers>,
    /// Tokens to write after each; 0 measures prompts only [default: 128; 32 where there is an encoder]
    #[arg(long, value_name = "N")]
    new_tokens: Option<usize>,
    /// How many sequences run side by side: rows of a step
    #[arg(long, visible_alias = "rows", value_name = "N,…", default_value = "1", value_parser = parse_numbers)]
    batch: Numbers,
    /// Numbers of beams
    #[arg(long, value_name = "N,…", default_value = "1", value_parser = parse_numbers)]
    beams: Numbers,
    /// Blocks of runs that are timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Least seconds of a block; short runs are repeated within it
    #[arg(long, value_name = "SECONDS", default_value = "0.4", value_parser = parse_seconds)]
    block: Duration,
    /// Seconds that each case may wait for other processes to be quiet; blocks that they disturbed are repeated
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    patience: Duration,
    /// Leave out what the machine could do at most
    #[arg(long)]
    no_limits: bool,
    /// Print one JSON object a case
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

/// What is measured: its shape, and where its weights are from.
struct Subject<'a> {
    source: Source<'a>,
    name: String,
    /// What its weights are stored as, in words.
    stored: String,
    cost: Cost,
    /// The token that an encoder-decoder's target begins with.
    start: u32,
    random: bool,
}

/// What is known once it is loaded.
struct Loaded {
    name: String,
    backend: &'static str,
    dtype: String,
    compute: Compute,
    /// Threads that were given to a backend that takes a number of them.
    threads: Option<usize>,
    cost: Cost,
    limits: Option<Limits>,
    load: Duration,
    first_token: Duration,
    /// Most memory until the limits were measured.
    peak: Option<u64>,
    /// Whether what comes later can be told from the memory that measuring the limits took.
    later: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        let start = Instant::now();
        interrupt::listen();
        let keep = self.common.dtype.as_deref().and_then(|name| WeightDType::from_name(&name.to_ascii_lowercase()));
        match (&self.model, &self.random_config) {
            (Some(path), _) => {
                let open = Model::open(path)?;
                let files = open.files();
                let stored = |slot: &str| files.weights.get(slot).map(|weight| weight.dtype());
                self.measure(
                    start,
                    &Subject {
                        source: open.source(),
                        name: name(path),
                        stored: files.dtype.clone(),
                        cost: Cost::new(open.config(), keep, &stored),
                        start: open.start_token().unwrap_or_default(),
                        random: false,
                    },
                )
            }
            (None, Some(path)) => {
                let config = synth::read(path)?;
                self.measure(
                    start,
                    &Subject {
                        source: Source {
                            shown: path.display().to_string(),
                            config: &config,
                            weights: &RandomWeights::new(&config, 0),
                        },
                        name: name(path),
                        stored: WeightDType::F32.to_string(),
                        cost: Cost::new(&config, keep, &|_| None),
                        start: 0,
                        random: true,
                    },
                )
            }
            (None, None) => bail!("neither --model nor --random-config"),
        }
    }

    fn measure(&self, start: Instant, subject: &Subject<'_>) -> Result<()> {
        let cases = self.cases(subject.source.config)?;
        let (backend, runner) = self.common.with_options(|options| subject.source.load(options))?;
        let loaded = self.loaded(start, subject, backend, runner.as_ref(), &cases)?;
        if !self.json {
            loaded.introduce();
            writeln!(stdout(), "{}", Line::HEADER)?;
        }
        let blocks = Blocks { wanted: self.repetitions as usize, least: self.block, patience: self.patience };
        for case in &cases {
            let timed = case.time(runner.as_ref(), subject.start, &blocks)?;
            let peak = match (loaded.peak, peak_memory()) {
                (Some(before), Some(now)) if loaded.later => Some(before.max(now)),
                (before, _) => before,
            };
            let line = Line { case, loaded: &loaded, timed, peak };
            match self.json {
                true => writeln!(stdout(), "{}", line.json()?)?,
                false => writeln!(stdout(), "{}", line.text()?)?,
            }
        }
        self.common.report(&runner.report());
        Ok(())
    }

    /// Runs the first case's prompt, and measures the machine.
    fn loaded(
        &self,
        start: Instant,
        subject: &Subject<'_>,
        backend: &'static str,
        runner: &dyn Runner,
        cases: &[Case],
    ) -> Result<Loaded> {
        let load = start.elapsed();
        // Random numbers had to be drawn first, in singles: no part of what a model takes.
        let forgotten = !subject.random || reset_peak_memory();
        if let Some(case) = cases.first() {
            case.first_token(runner, subject.start)?;
        }
        let first_token = start.elapsed();
        let peak = peak_memory().filter(|_| forgotten);
        let threads = self.common.threads.map(|threads| threads as usize);
        let limits = (!self.no_limits).then(|| backends::limits(backend, threads)).transpose()?;
        let later = reset_peak_memory();
        Ok(Loaded {
            name: subject.name.clone(),
            backend,
            dtype: self.common.dtype.clone().unwrap_or_else(|| subject.stored.clone()),
            compute: self.common.compute.as_deref().and_then(Compute::from_name).unwrap_or_default(),
            threads: backends::threads(backend, threads)?,
            cost: subject.cost.clone(),
            limits,
            load,
            first_token,
            peak,
            later,
        })
    }

    /// What is to be measured, every case checked against the model before anything is loaded.
    fn cases(&self, config: &TransformerConfig) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        let output = config.output_stack()?;
        if config.decoder.is_some() && config.head.is_none() {
            bail!("a decoder without a head writes nothing: there is nothing to measure");
        }
        let both = config.encoder.is_some() && config.decoder.is_some();
        let new = match (config.decoder.is_some(), self.new_tokens) {
            (false, Some(new)) if new > 0 => {
                return Err(Usage("--new-tokens: an encoder-only model writes none".to_owned()).into());
            }
            (false, _) => 0,
            (true, given) => {
                let room = output.context.map_or(usize::MAX, |context| (context / 4).max(1));
                given.unwrap_or(if both { 32 } else { 128.min(room) })
            }
        };
        if both && new == 0 {
            return Err(Usage("--new-tokens: an encoder-decoder model is measured by what it writes".to_owned()).into());
        }
        let room = output.context.map_or(usize::MAX, |context| context.saturating_sub(new + 1).max(1));
        let default = if both { 32 } else { 512.min(room) };
        for &prompt in self.prompt_tokens.as_deref().unwrap_or(&[default]) {
            for &batch in &self.batch {
                for &beams in &self.beams {
                    let mut push = |kind| cases.push(Case { kind, prompt, new, batch, beams, config: config.clone() });
                    match (both, config.decoder.is_some()) {
                        (true, _) => push(Kind::Translate),
                        (_, false) => push(Kind::Encode),
                        (_, true) => {
                            if beams == self.beams[0] {
                                push(Kind::Prefill);
                            }
                            if new > 0 {
                                push(Kind::Decode);
                            }
                        }
                    }
                }
            }
        }
        for case in &cases {
            case.check()?;
        }
        Ok(cases)
    }
}

impl Loaded {
    /// What does not depend on a case, on standard error.
    fn introduce(&self) {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let threads = self.threads.map_or(String::new(), |threads| format!(", {threads} threads"));
        note(format_args!(
            "{}: weights as {}, {} MiB; products in {}; backend {}{threads}",
            self.name,
            self.dtype,
            mib(self.cost.resident()),
            self.compute,
            self.backend
        ));
        note(format_args!(
            "loaded in {:.2} s, first token after {:.2} s",
            self.load.as_secs_f64(),
            self.first_token.as_secs_f64()
        ));
        let Some(Limits { read, f32, bf16, int8 }) = self.limits else { return };
        let known = [("f32", f32), ("bf16", bf16), ("int8", int8)];
        let known =
            known.iter().filter_map(|(name, peak)| Some(format!("; {name} in registers {:.0} GFLOP/s", (*peak)?)));
        let read = read.map_or("not measured".to_owned(), |read| format!("{read:.1} GB/s"));
        note(format_args!("the machine: reading memory {read}{}", known.collect::<String>()));
    }
}

/// A list of numbers. Spelt `Vec`, clap would take it for an option that can be repeated.
type Numbers = Vec<usize>;

/// `1,2,4`, each from 1 on.
fn parse_numbers(list: &str) -> Result<Numbers, String> {
    list.split(',')
        .map(|part| match part.trim().parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("'{part}' is not a whole number from 1 on (several are separated by commas)")),
        })
        .collect()
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("'{text}' is not a number of seconds"))
}

/// A file's name without its extension.
fn name(path: &std::path::Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
