//! Requests as rows of common steps: prompts first, then one row a running sequence and step.

use std::{sync::Arc, time::Instant};

use consort_core::{
    Backend, Error, Fused, HostData, Result, SlotId, TensorOf, Transformer,
    model::{SourceId, State, Tokens},
    sample::{SampleRow, sample_row},
};

use crate::{
    beams::BeamSearch,
    check::{check, of_request},
    request::{Event, Finish, Flow, Output, Request, Timings, TokenEvent},
    single::{Single, Written},
};

/// Rows of a step over prompts, and about how many tokens of sources are encoded together: bounds the memory of a step's
/// activations and is enough to keep matrix products busy. Results do not depend on it.
const PROMPT_ROWS: usize = 512;

/// Continues each request and returns its output, in the order of the requests, with where the time went.
///
/// `on_event` hears of tokens as they are made, those of several requests interleaved, and is asked before every step
/// whether to go on.
///
/// # Errors
/// Before anything is computed: [`Error::Config`] for a setting that cannot be (see
/// [`Settings::validate`](crate::Settings::validate)), [`Error::Input`] for a model that does not write, an empty
/// prompt or source, a source that is missing or has no reader, a token beyond the vocabulary, a prompt that leaves no
/// room in the context. Later: [`Error::Input`] when a logit is not finite or every token is suppressed; what the
/// backend meets. With several requests the message of an error that is about one begins with `request i:`, counted
/// from 0, and the error is an [`Error::Input`].
pub fn generate<B: Backend>(
    model: &Transformer<B>,
    requests: &[Request],
    on_event: &mut dyn FnMut(Event<'_>) -> Flow,
) -> Result<(Vec<Output>, Timings)> {
    let limits = check(model.config(), requests)?;
    let live = requests
        .iter()
        .zip(limits)
        .map(|(Request { prompt, settings, .. }, limit)| {
            let search = if settings.beams > 1 {
                Search::Beams(BeamSearch::new(settings, prompt, limit))
            } else {
                Search::Single(Single::new(settings, prompt, limit))
            };
            Some(Live { source: None, slots: Vec::new(), search })
        })
        .collect();
    let mut run = Run {
        model,
        requests,
        state: model.state()?,
        on_event,
        live,
        outputs: vec![None; requests.len()],
        timings: Timings::default(),
        cancelled: false,
    };

    let start = Instant::now();
    run.read_sources()?;
    run.read_prompts()?;
    run.timings.prompt = start.elapsed();

    let start = Instant::now();
    while run.step()? {}
    run.timings.generation = start.elapsed();
    Ok(run.end())
}

struct Run<'a, B: Backend> {
    model: &'a Transformer<B>,
    requests: &'a [Request],
    state: State<B>,
    on_event: &'a mut dyn FnMut(Event<'_>) -> Flow,
    /// Per request; `None` once it has ended.
    live: Vec<Option<Live<'a>>>,
    outputs: Vec<Option<Output>>,
    timings: Timings,
    cancelled: bool,
}

/// A request under way.
struct Live<'a> {
    source: Option<SourceId>,
    /// One per running hypothesis of a beam search, else one.
    slots: Vec<SlotId>,
    search: Search<'a>,
}

enum Search<'a> {
    Single(Single<'a>),
    Beams(BeamSearch<'a>),
}

impl<'a, B: Backend> Run<'a, B> {
    /// Whether to go on, as the caller has it.
    fn proceed(&mut self) -> bool {
        self.cancelled = self.cancelled || (self.on_event)(Event::Step) == Flow::Cancel;
        !self.cancelled
    }

    fn read_sources(&mut self) -> Result<()> {
        let requests = self.requests;
        let sources: Vec<(usize, &[u32])> = requests
            .iter()
            .enumerate()
            .filter_map(|(index, request)| Some((index, request.source.as_deref()?)))
            .collect();
        let mut rest = sources.as_slice();
        while !rest.is_empty() && self.proceed() {
            let mut rows = 0;
            let fits = |(_, source): &&(usize, &[u32])| {
                rows += source.len();
                rows <= PROMPT_ROWS
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (group, later) = rest.split_at(count);
            rest = later;
            let tokens: Vec<&[u32]> = group.iter().map(|(_, source)| *source).collect();
            let ids = self.model.add_sources(&mut self.state, &tokens)?;
            for ((index, source), id) in group.iter().zip(ids) {
                self.timings.prompt_tokens += source.len();
                if let Some(live) = &mut self.live[*index] {
                    live.source = Some(id);
                }
            }
        }
        Ok(())
    }

    fn read_prompts(&mut self) -> Result<()> {
        let (mut slots, mut tokens) = (Vec::new(), Vec::new());
        let mut ends = Vec::new(); // (last row, request)
        for (index, (live, request)) in self.live.iter_mut().zip(self.requests).enumerate() {
            let Some(live) = live else { continue };
            let slot = self.state.open(request.prompt.len(), live.source);
            live.slots.push(slot);
            slots.extend(std::iter::repeat_n(slot, request.prompt.len()));
            tokens.extend_from_slice(&request.prompt);
            ends.push((tokens.len() - 1, index));
        }
        let mut ends = ends.as_slice();
        for (step, (slots, tokens)) in slots.chunks(PROMPT_ROWS).zip(tokens.chunks(PROMPT_ROWS)).enumerate() {
            if !self.proceed() {
                return Ok(());
            }
            let first = step * PROMPT_ROWS;
            let hidden = self.model.step(&mut self.state, slots, Tokens::Host(tokens), None)?;
            self.timings.prompt_tokens += tokens.len();
            let (here, later) = ends.split_at(ends.partition_point(|(row, _)| *row < first + slots.len()));
            ends = later;
            if !here.is_empty() {
                let rows: Vec<usize> = here.iter().map(|(row, _)| row - first).collect();
                let logits = self.model.logits(&hidden, Some(&rows))?;
                let requests: Vec<usize> = here.iter().map(|(_, index)| *index).collect();
                self.choose(logits, &requests)?;
            }
        }
        Ok(())
    }

    /// One more token for every live request; whether there were any.
    fn step(&mut self) -> Result<bool> {
        let (mut slots, mut tokens, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for (index, live) in self.live.iter().enumerate() {
            let Some(live) = live else { continue };
            requests.push(index);
            slots.extend(&live.slots);
            match &live.search {
                Search::Single(single) => tokens.extend(single.last()),
                Search::Beams(beams) => tokens.extend(beams.last()),
            }
        }
        if requests.is_empty() || !self.proceed() {
            return Ok(false);
        }
        let hidden = self.model.step(&mut self.state, &slots, Tokens::Host(&tokens), None)?;
        let logits = self.model.logits(&hidden, None)?;
        self.timings.generation_tokens += requests.len();
        self.choose(logits, &requests)?;
        Ok(true)
    }

    /// Chooses the next token of each of `requests`, whose rows `logits` has in order, and tells the caller.
    fn choose(&mut self, logits: TensorOf<B>, requests: &[usize]) -> Result<()> {
        let mut draws = Draws::default();
        let mut read = Vec::new(); // rows that the host needs
        let mut rows = 0;
        for &index in requests {
            let Some(live) = &self.live[index] else { continue };
            match &live.search {
                Search::Single(single) => {
                    let (row, forced) = single.next();
                    draws.requests.push(index);
                    draws.rows.push(rows);
                    draws.settings.push(row);
                    draws.forced.push(forced);
                    if self.requests[index].settings.reports() {
                        read.push(rows);
                    }
                }
                Search::Beams(_) => read.extend(rows..rows + live.slots.len()),
            }
            rows += live.slots.len();
        }
        let vocabulary = logits.size(1).max(1);
        let mut tokens = self.draw(&logits, rows, draws)?.into_iter();
        let values = if read.is_empty() { Vec::new() } else { self.download(&self.rows_of(&logits, &read, rows)?)? };
        let mut values = values.chunks_exact(vocabulary);

        for &index in requests {
            let Some(live) = &mut self.live[index] else { continue };
            let request = &self.requests[index];
            let ended = match &mut live.search {
                Search::Single(single) => {
                    let Some(token) = tokens.next() else { continue };
                    let logits = if request.settings.reports() { values.next() } else { None };
                    let (written, finish) = single.push(token, logits);
                    match (self.on_event)(token_event(index, written, finish)) {
                        Flow::Continue => finish.map(|finish| single.output(finish)),
                        Flow::Finish => Some(single.output(finish.unwrap_or(Finish::Cancelled))),
                        Flow::Cancel => {
                            self.cancelled = true;
                            finish.map(|finish| single.output(finish))
                        }
                    }
                }
                Search::Beams(beams) => {
                    let logits: Vec<&[f64]> = values.by_ref().take(live.slots.len()).collect();
                    let parents =
                        beams.advance(&logits).map_err(|error| of_request(error, index, self.requests.len()))?;
                    match parents {
                        Some(parents) => {
                            follow(&mut self.state, &mut live.slots, &parents)?;
                            None
                        }
                        None => {
                            let (output, flow) = tell(index, beams, self.on_event);
                            self.cancelled |= flow == Flow::Cancel;
                            Some(output)
                        }
                    }
                }
            };
            if let Some(output) = ended {
                live.slots.iter().for_each(|&slot| self.state.close(slot));
                if let Some(source) = live.source {
                    self.state.remove_source(source);
                }
                self.outputs[index] = Some(output);
                self.live[index] = None;
            }
            if self.cancelled {
                break;
            }
        }
        Ok(())
    }

    /// The tokens of `draws`, forced ones in place of what was drawn.
    fn draw(&self, logits: &TensorOf<B>, rows: usize, draws: Draws) -> Result<Vec<u32>> {
        if draws.rows.is_empty() {
            return Ok(Vec::new());
        }
        let device = self.model.device();
        let vocabulary = logits.size(1);
        let logits = self.rows_of(logits, &draws.rows, rows)?;
        let settings: Arc<[SampleRow]> = draws.settings.into();
        let chosen = device
            .one(Fused::Sample { logits: logits.clone(), rows: Arc::clone(&settings) })
            .and_then(|tokens| device.download(&tokens));
        let tokens = match chosen {
            Ok(HostData::U32(tokens)) => tokens,
            Ok(other) => return Err(misfit(format!("tokens of type {}", other.dtype()))),
            Err(error @ Error::Input(_)) => {
                // Which request it was is worth a second look at all of them.
                let values = self.download(&logits)?;
                for ((row, settings), &index) in
                    values.chunks_exact(vocabulary.max(1)).zip(settings.iter()).zip(&draws.requests)
                {
                    sample_row(row, settings).map_err(|error| of_request(error, index, self.requests.len()))?;
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if tokens.len() != settings.len() || tokens.iter().any(|&token| token as usize >= vocabulary) {
            return Err(misfit(format!("tokens {tokens:?} for {} rows of {vocabulary} logits", settings.len())));
        }
        Ok(tokens.into_iter().zip(draws.forced).map(|(token, forced)| forced.unwrap_or(token)).collect())
    }

    /// Rows `wanted`, ascending, of all `rows` logits.
    fn rows_of(&self, logits: &TensorOf<B>, wanted: &[usize], rows: usize) -> Result<TensorOf<B>> {
        if wanted.len() == rows {
            return Ok(logits.clone());
        }
        let device = self.model.device();
        device.gather_rows(logits, &device.upload_ids(wanted.iter().map(|&row| row as u32).collect())?)
    }

    fn download(&self, logits: &TensorOf<B>) -> Result<Vec<f64>> {
        Ok(self.model.device().download(logits)?.to_f64())
    }

    /// All outputs; what is still live was cancelled.
    fn end(mut self) -> (Vec<Output>, Timings) {
        let live = self.live.into_iter();
        let outputs: Vec<Output> = self
            .outputs
            .into_iter()
            .zip(live)
            .map(|(output, live)| match (output, live.map(|live| live.search)) {
                (Some(output), _) => output,
                (None, Some(Search::Single(single))) => single.output(Finish::Cancelled),
                (None, Some(Search::Beams(beams))) => beams.output(usize::MAX, Finish::Cancelled),
                (None, None) => Output {
                    tokens: Vec::new(),
                    log_probabilities: Vec::new(),
                    alternatives: Vec::new(),
                    finish: Finish::Cancelled,
                    score: None,
                },
            })
            .collect();
        self.timings.new_tokens = outputs.iter().map(|output| output.tokens.len()).sum();
        (outputs, self.timings)
    }
}

/// Rows of a step that are sampled on the device.
#[derive(Default)]
struct Draws {
    requests: Vec<usize>,
    rows: Vec<usize>,
    settings: Vec<SampleRow>,
    forced: Vec<Option<u32>>,
}

/// Gives each new hypothesis the sequence that it extends: the first to ask takes it over, others get a fork.
fn follow<B: Backend>(state: &mut State<B>, slots: &mut Vec<SlotId>, parents: &[usize]) -> Result<()> {
    let mut taken = vec![false; slots.len()];
    let next =
        parents
            .iter()
            .map(|&parent| {
                if std::mem::replace(&mut taken[parent], true) { state.fork(slots[parent]) } else { Ok(slots[parent]) }
            })
            .collect::<Result<_>>()?;
    slots.iter().zip(taken).filter(|(_, taken)| !taken).for_each(|(&slot, _)| state.close(slot));
    *slots = next;
    Ok(())
}

/// Tells the tokens of a search that is over.
fn tell(index: usize, beams: &BeamSearch<'_>, on_event: &mut dyn FnMut(Event<'_>) -> Flow) -> (Output, Flow) {
    let (written, finish, _) = beams.winner();
    for (position, token) in written.iter().enumerate() {
        let last = (position + 1 == written.len()).then_some(finish);
        match on_event(token_event(index, token, last)) {
            Flow::Continue => {}
            Flow::Finish => return (beams.output(position + 1, last.unwrap_or(Finish::Cancelled)), Flow::Finish),
            Flow::Cancel => return (beams.output(usize::MAX, finish), Flow::Cancel),
        }
    }
    (beams.output(usize::MAX, finish), Flow::Continue)
}

fn token_event<'a>(request: usize, written: &'a Written, finish: Option<Finish>) -> Event<'a> {
    Event::Token(TokenEvent {
        request,
        token: written.token,
        log_probability: written.log_probability,
        alternatives: &written.alternatives,
        finish,
    })
}

fn misfit(what: String) -> Error {
    Error::Shape { operation: "sample", what }
}
