//! Tiny random models continued: what a request gives, alone and in company, and what it is refused for.

mod tiny;

use consort_core::{Backend, StoredTensor, Transformer, model::Tokens};
use consort_generate::{EarlyStopping, Event, Finish, Flow, Output, Request, Settings, Timings, generate};
use consort_scalar::{Oracle, Single};
use proptest::prelude::*;

fn run<B: Backend>(model: &Transformer<B>, requests: &[Request]) -> Vec<Output> {
    generate(model, requests, &mut |_| Flow::Continue).unwrap().0
}

fn refusal(model: &Transformer<Oracle>, requests: &[Request]) -> String {
    let mut touched = false;
    let error = generate(model, requests, &mut |_| {
        touched = true;
        Flow::Continue
    })
    .unwrap_err();
    assert!(!touched, "{error} came after work had begun");
    error.to_string()
}

fn request(prompt: &[u32], settings: Settings) -> Request {
    Request { source: None, prompt: prompt.to_vec(), settings }
}

fn short(max_new_tokens: usize) -> Settings {
    Settings { max_new_tokens, ..Settings::default() }
}

fn sampled(seed: u64) -> Settings {
    Settings { temperature: 1.2, top_k: 15, top_p: 0.97, min_p: 0.001, seed, ..short(12) }
}

/// Requests of every kind.
fn mixed() -> Vec<Request> {
    vec![
        request(&[1, 5, 9, 2, 2, 7], short(9)),
        request(&[3], Settings { log_probabilities: true, ..sampled(4) }),
        request(&[4, 4], Settings { beams: 3, stop_tokens: vec![2, 11], ..short(8) }),
        request(&[1, 5, 9, 2], Settings { top_log_probabilities: 3, repetition_penalty: 1.4, ..short(11) }),
        request(&[8, 1, 2], Settings { beams: 4, top_log_probabilities: 2, no_repeat_ngram: 2, ..short(5) }),
        request(&[1; 30], sampled(4)),
        request(&[6, 7], Settings { stop_tokens: (0..10).collect(), min_new_tokens: 3, ..sampled(5) }),
    ]
}

fn alone_and_in_company(model: &Transformer<impl Backend>, requests: &[Request]) {
    let together = run(model, requests);
    for (request, output) in requests.iter().zip(&together) {
        assert_eq!(run(model, std::slice::from_ref(request)), std::slice::from_ref(output));
    }
    let backwards: Vec<Request> = requests.iter().rev().cloned().collect();
    assert!(run(model, &backwards).iter().rev().eq(&together));
}

#[test]
fn requests_give_the_same_alone_and_in_company() {
    alone_and_in_company(&tiny::model(Oracle::new(), &tiny::decoder_only(), 1), &mixed());
    alone_and_in_company(&tiny::model(Single::new(), &tiny::decoder_only(), 2), &mixed());
}

#[test]
fn encoder_decoders_read_their_sources() {
    let model = tiny::model(Oracle::new(), &tiny::encoder_decoder(), 3);
    let requests: Vec<Request> = mixed()
        .into_iter()
        .enumerate()
        .map(|(index, request)| Request {
            source: Some((1..=5 + 7 * index as u32 % 40).map(|t| t % 19).collect()),
            ..request
        })
        .collect();
    alone_and_in_company(&model, &requests);
    // Many sources are encoded in groups; each request still reads its own.
    let many: Vec<Request> = (0..30)
        .map(|index| Request { source: Some(vec![index % 19; 40]), prompt: vec![0], settings: short(6) })
        .collect();
    let outputs = run(&model, &many);
    assert_eq!(outputs[1], outputs[20]);
    assert_ne!(outputs[1], outputs[2]);
}

#[test]
fn a_prompt_cut_into_steps_gives_what_one_pass_gives() {
    let mut config = tiny::decoder_only();
    let decoder = config.decoder.as_mut().unwrap();
    decoder.context = None;
    decoder.embedding.positions = consort_core::config::Positions::None;
    decoder.attention.positions = consort_core::config::AttentionPositions::LinearBias;
    let model = tiny::model(Oracle::new(), &config, 4);
    let prompt: Vec<u32> = (0..1100).map(|index| index * index % 19).collect();

    let mut state = model.state().unwrap();
    let slot = state.open(prompt.len(), None);
    let hidden = model.step(&mut state, &vec![slot; prompt.len()], Tokens::Host(&prompt), None).unwrap();
    let logits = model.logits(&hidden, Some(&[prompt.len() - 1])).unwrap();
    let logits = model.device().download(&logits).unwrap().to_f64();
    let expected = consort_core::sample::top_tokens(&logits, 5);

    let settings = Settings { top_log_probabilities: 5, ..short(1) };
    let requests = [request(&[1, 2], short(1)), request(&prompt, settings)];
    let mut steps = 0;
    let (outputs, timings) = generate(&model, &requests, &mut |event| {
        steps += usize::from(event == Event::Step);
        Flow::Continue
    })
    .unwrap();
    assert_eq!(steps, 3);
    assert_eq!(timings.prompt_tokens, 1102);
    assert_eq!(outputs[1].alternatives, [expected]);
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let config = tiny::decoder_only();
    let mut weights = tiny::weights(&config, 5);
    for (slot, shape) in [("head.output.weight", [tiny::VOCABULARY, 12]), ("head.output.bias", [1, tiny::VOCABULARY])] {
        let zeros = StoredTensor::from_values(slot, &vec![0.0; shape[0] * shape[1]], shape).unwrap();
        weights.insert(slot.into(), zeros);
    }
    let model = tiny::with_weights(Oracle::new(), &config, &weights);
    let suppressed = Settings { suppressed: vec![0, 2, 1], ..short(2) };
    let beams = Settings { beams: 2, ..suppressed.clone() };
    let outputs = run(&model, &[request(&[7], short(2)), request(&[7], suppressed), request(&[7], beams)]);
    let tokens: Vec<&[u32]> = outputs.iter().map(|output| output.tokens.as_slice()).collect();
    assert_eq!(tokens, [[0, 0], [3, 3], [3, 3]]);
}

#[test]
fn a_seed_draws_the_same_tokens_again_and_on_every_backend() {
    let config = tiny::decoder_only();
    let requests: Vec<Request> = [7, 7, 8].map(|seed| request(&[1, 2, 3], sampled(seed))).to_vec();
    let outputs = run(&tiny::model(Oracle::new(), &config, 6), &requests);
    assert_eq!(outputs[0], outputs[1]);
    assert_ne!(outputs[0], outputs[2]);
    assert_eq!(run(&tiny::model(Single::new(), &config, 6), &requests), outputs);
}

#[test]
fn requests_end_by_length_stop_token_or_context() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 7);
    let free = run(&model, &[request(&[1, 2], short(10))]).remove(0);
    assert_eq!((free.tokens.len(), free.finish, free.score), (10, Finish::Length, None));
    assert!(free.log_probabilities.is_empty() && free.alternatives.is_empty());

    let first = free.tokens.iter().position(|&token| token == free.tokens[4]).unwrap();
    let stop = Settings { stop_tokens: vec![free.tokens[4]], ..short(10) };
    let stopped = run(&model, &[request(&[1, 2], stop.clone())]).remove(0);
    assert_eq!((stopped.tokens.as_slice(), stopped.finish), (&free.tokens[..=first], Finish::Stop));

    let later = Settings { min_new_tokens: 10, ..stop.clone() };
    let later = run(&model, &[request(&[1, 2], later)]).remove(0);
    assert_eq!((later.tokens.len(), later.finish), (10, Finish::Length));
    assert!(!later.tokens.contains(&stop.stop_tokens[0]));

    // At the end of the context there is no more, and the last token can be forced there.
    let prompt = vec![3; tiny::CONTEXT - 4];
    let forced = Settings { forced_last: Some(18), ..Settings::default() };
    let beams = Settings { beams: 3, ..forced.clone() };
    let outputs =
        run(&model, &[request(&prompt, Settings::default()), request(&prompt, forced), request(&prompt, beams)]);
    for output in &outputs {
        assert_eq!((output.tokens.len(), output.finish), (4, Finish::Length));
    }
    assert_eq!(outputs[0].tokens[..3], outputs[1].tokens[..3]);
    assert_eq!((outputs[1].tokens[3], outputs[2].tokens[3]), (18, 18));
}

#[test]
fn forced_tokens_come_whatever_else_is_asked() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 8);
    for beams in [1, 3] {
        let settings = Settings {
            beams,
            forced_first: Some(9),
            forced_last: Some(10),
            suppressed: vec![9, 10],
            stop_tokens: vec![10],
            min_new_tokens: 99,
            ..short(5)
        };
        let output = run(&model, &[request(&[1], settings)]).remove(0);
        assert_eq!((output.tokens[0], output.tokens[4], output.finish), (9, 10, Finish::Stop));
        assert!(!output.tokens[1..4].contains(&10));
    }
}

#[test]
fn no_ngram_comes_twice() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 9);
    for beams in [1, 3] {
        for n in [1, 2, 3] {
            let settings = Settings { beams, no_repeat_ngram: n, ..short(14) };
            let output = run(&model, &[request(&[4, 5, 6], settings)]).remove(0);
            let text = [&[4, 5, 6], output.tokens.as_slice()].concat();
            for (at, gram) in text.windows(n).enumerate() {
                assert!(text.windows(n).take(at).all(|earlier| earlier != gram), "{n} of {text:?}");
            }
        }
    }
}

#[test]
fn reports_are_of_the_models_own_logits() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 10);
    let settings = Settings { top_log_probabilities: 19, suppressed: vec![0, 1, 2], ..short(6) };
    let beams = Settings { beams: 3, length_penalty: 0.5, suppressed: Vec::new(), ..settings.clone() };
    let requests = [request(&[1], settings), request(&[1], beams)];
    let mut told = vec![Vec::new(), Vec::new()];
    let (outputs, _) = generate(&model, &requests, &mut |event| {
        if let Event::Token(token) = event {
            told[token.request].push((token.token, token.log_probability.unwrap(), token.alternatives.to_vec()));
        }
        Flow::Continue
    })
    .unwrap();
    for (output, told) in outputs.iter().zip(&told) {
        for (position, &token) in output.tokens.iter().enumerate() {
            let alternatives = &output.alternatives[position];
            assert_eq!(told[position], (token, output.log_probabilities[position], alternatives.clone()));
            let total: f64 = alternatives.iter().map(|choice| choice.log_probability.exp()).sum();
            assert!((total - 1.0).abs() < 1e-12);
            let own = alternatives.iter().find(|choice| choice.token == token).unwrap();
            assert_eq!(own.log_probability, output.log_probabilities[position]);
        }
    }
    let sum: f64 = outputs[1].log_probabilities.iter().sum();
    assert!((outputs[1].score.unwrap() - sum / 6f64.sqrt()).abs() < 1e-12);
}

#[test]
fn a_caller_ends_one_request_or_all() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 11);
    let requests = [request(&[1], short(6)), request(&[2], short(6)), request(&[2], Settings { beams: 2, ..short(6) })];
    let whole = run(&model, &requests);
    let with = |answer: &mut dyn FnMut(Event<'_>) -> Flow| -> (Vec<Output>, Timings) {
        generate(&model, &requests, answer).unwrap()
    };
    let summary = |outputs: &[Output]| -> Vec<(usize, Finish)> {
        outputs.iter().map(|output| (output.tokens.len(), output.finish)).collect()
    };

    let mut count = [0; 3];
    let (outputs, timings) = with(&mut |event| match event {
        Event::Token(token) => {
            count[token.request] += 1;
            if token.request != 0 && count[token.request] == 2 { Flow::Finish } else { Flow::Continue }
        }
        Event::Step => Flow::Continue,
    });
    assert_eq!(summary(&outputs), [(6, Finish::Length), (2, Finish::Cancelled), (2, Finish::Cancelled)]);
    assert!(outputs.iter().zip(&whole).all(|(part, whole)| whole.tokens.starts_with(&part.tokens)));
    assert_eq!((timings.prompt_tokens, timings.new_tokens, timings.generation_tokens), (3, 10, 5 + 1 + 5));

    // A token that ends a request by itself ends it so, whatever the caller thinks.
    let (outputs, _) = with(&mut |event| match event {
        Event::Token(token) if token.finish.is_some() => Flow::Finish,
        _ => Flow::Continue,
    });
    assert_eq!(outputs, whole);

    let mut tokens = 0;
    let (outputs, _) = with(&mut |event| {
        tokens += usize::from(event != Event::Step);
        if tokens == 5 { Flow::Cancel } else { Flow::Continue }
    });
    assert_eq!(tokens, 5);
    // The beams are as far as the last whole step.
    assert_eq!(summary(&outputs), [(3, Finish::Cancelled), (2, Finish::Cancelled), (2, Finish::Cancelled)]);

    let (outputs, timings) = with(&mut |_| Flow::Cancel);
    assert_eq!(summary(&outputs), [(0, Finish::Cancelled); 3]);
    assert_eq!((timings.prompt_tokens, timings.new_tokens, timings.generation_rate()), (0, 0, None));
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let config = tiny::decoder_only();
    let model = tiny::model(Oracle::new(), &config, 12);
    let refused = |prompt: &[u32], settings: Settings| refusal(&model, &[request(prompt, settings)]);
    assert_eq!(refused(&[], short(1)), "the prompt is empty: it needs at least one token");
    assert_eq!(refused(&[1, 19], short(1)), "prompt: token id 19 is beyond the model's vocabulary of 19 (ids 0 to 18)");
    assert_eq!(
        refused(&[1; 48], short(1)),
        "a prompt of 48 tokens leaves no room for a new one in the model's context of 48: shorten it"
    );
    assert_eq!(
        refused(&[1], Settings { forced_last: Some(90), ..short(1) }),
        "forced_last: token id 90 is beyond the model's vocabulary of 19 (ids 0 to 18)"
    );
    assert_eq!(refused(&[1], short(0)), "max_new_tokens: 0 is not a number from 1 on");
    assert_eq!(
        refused(&[1], Settings { beams: 2, temperature: 0.5, ..short(1) }),
        "beams: 2 beams with temperature 0.5: beam search needs temperature 0, sampling 1 beam"
    );
    assert_eq!(
        refusal(&model, &[Request { source: Some(vec![1]), ..request(&[1], short(1)) }]),
        "a source was given, but this model has no encoder to read it"
    );
    assert_eq!(
        refusal(&model, &[request(&[1], short(1)), request(&[], short(1))]),
        "request 2: the prompt is empty: it needs at least one token"
    );

    let model = tiny::model(Oracle::new(), &tiny::encoder_decoder(), 12);
    let sourced = |source: Option<Vec<u32>>| refusal(&model, &[Request { source, ..request(&[1], short(1)) }]);
    assert_eq!(sourced(None), "no source: this model is an encoder-decoder and reads one");
    assert_eq!(sourced(Some(vec![])), "the source is empty: it needs at least one token");
    assert_eq!(sourced(Some(vec![1; 49])), "a source of 49 tokens is beyond the encoder's context of 48: shorten it");

    let headless = consort_core::TransformerConfig { head: None, ..config.clone() };
    assert_eq!(
        refusal(&tiny::model(Oracle::new(), &headless, 12), &[]),
        "this model has no language-model head: it gives hidden states, not text"
    );
    let encoder_only = consort_core::TransformerConfig { encoder: config.decoder, decoder: None, ..headless };
    assert_eq!(
        refusal(&tiny::model(Oracle::new(), &encoder_only, 12), &[]),
        "this model is encoder-only: it embeds text, it does not write it"
    );
}

#[test]
fn settings_name_their_value_and_what_is_allowed() {
    let refused = |settings: Settings| settings.validate().unwrap_err().to_string();
    let neutral = Settings::default();
    assert_eq!(neutral.validate(), Ok(()));
    let temperature = |temperature| refused(Settings { temperature, ..neutral.clone() });
    assert_eq!(temperature(-1.0), "temperature: -1 is not 0 (greedy) or a finite number above");
    assert_eq!(temperature(f64::NAN), "temperature: NaN is not 0 (greedy) or a finite number above");
    assert_eq!(refused(Settings { top_p: 0.0, ..neutral.clone() }), "top_p: 0 is not above 0 and at most 1");
    assert_eq!(refused(Settings { min_p: 1.0, ..neutral.clone() }), "min_p: 1 is not at least 0 and below 1");
    let penalty = Settings { repetition_penalty: 0.0, ..neutral.clone() };
    assert_eq!(refused(penalty), "repetition_penalty: 0 is not a finite number above 0");
    assert_eq!(refused(Settings { beams: 0, ..neutral.clone() }), "beams: 0 is not a number from 1 on");
    let penalty = Settings { length_penalty: f64::INFINITY, ..neutral };
    assert_eq!(refused(penalty), "length_penalty: inf is not a finite number");
}

#[test]
fn broken_logits_name_their_request() {
    let mut config = tiny::decoder_only();
    config.decoder.as_mut().unwrap().final_norm = false;
    let mut weights = tiny::weights(&config, 13);
    // Token 5 is so large that its product with the head overflows, to both infinities.
    let mut change = |slot: &str, value: &dyn Fn(usize) -> f64| {
        let values: Vec<f64> = (0..tiny::VOCABULARY * 12).map(value).collect();
        weights.insert(slot.into(), StoredTensor::from_values(slot, &values, [tiny::VOCABULARY, 12]).unwrap());
    };
    change("decoder.embedding.tokens.weight", &|index| if index / 12 == 5 { 1e200 } else { 0.1 });
    change("head.output.weight", &|index| if index % 2 == 0 { 1e150 } else { -1e150 });
    let model = tiny::with_weights(Oracle::new(), &config, &weights);
    for beams in [1, 2] {
        let requests = [4, 5].map(|token| request(&[token], Settings { beams, ..short(1) }));
        let error = generate(&model, &requests, &mut |_| Flow::Continue).unwrap_err().to_string();
        assert!(error.starts_with("request 2: the model's logit for token 0 is"), "{error}");
        let nothing = Settings { suppressed: (0..19).collect(), beams, ..short(1) };
        let error = generate(&model, &[request(&[4], nothing)], &mut |_| Flow::Continue).unwrap_err().to_string();
        assert_eq!(error, "every token is suppressed: nothing is left to choose");
    }
}

#[test]
fn nothing_asked_is_nothing_done() {
    let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 14);
    assert_eq!(generate(&model, &[], &mut |_| Flow::Cancel).unwrap().0, []);
}

#[test]
fn beams_find_what_greedy_misses() {
    let score = |output: &Output| output.log_probabilities.iter().sum::<f64>();
    let better = (0..8).any(|seed| {
        let model = tiny::model(Oracle::new(), &tiny::decoder_only(), 100 + seed);
        let greedy = Settings { log_probabilities: true, ..short(6) };
        let beams = Settings { beams: 6, ..greedy.clone() };
        let outputs = run(&model, &[request(&[1], greedy), request(&[1], beams)]);
        score(&outputs[1]) > score(&outputs[0]) + 1e-9
    });
    assert!(better);
}

prop_compose! {
    fn any_settings()(
        max_new_tokens in 1usize..9,
        temperature in prop_oneof![Just(0.0), Just(0.9)],
        (top_k, top_p, min_p) in (0usize..25, 0.1..=1.0f64, 0.0..0.5f64),
        repetition_penalty in 0.5..2.0f64,
        seed in any::<u64>(),
        stop_tokens in prop::collection::vec(0u32..25, 0..4),
        suppressed in prop::collection::vec(0u32..25, 0..4),
        bad_words in prop::collection::vec(prop::collection::vec(0u32..19, 0..3), 0..3),
        forced in (prop::option::of(0u32..19), prop::option::of(0u32..19)),
        (min_new_tokens, no_repeat_ngram) in (0usize..5, 0usize..4),
        beams in 1usize..30,
        length_penalty in -2.0..3.0f64,
        early_stopping in prop_oneof![
            Just(EarlyStopping::First), Just(EarlyStopping::Heuristic), Just(EarlyStopping::Never)
        ],
        top_log_probabilities in 0usize..25,
    ) -> Settings {
        let beams = if temperature > 0.0 { 1 } else { beams };
        Settings {
            max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop_tokens, suppressed,
            bad_words, forced_first: forced.0, forced_last: forced.1, min_new_tokens, no_repeat_ngram, beams,
            length_penalty, early_stopping, log_probabilities: false, top_log_probabilities,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_settings_give_what_they_say(
        requests in prop::collection::vec((prop::collection::vec(0u32..19, 1..7), any_settings()), 1..4)
    ) {
        let model = tiny::model(Single::new(), &tiny::decoder_only(), 15);
        let requests: Vec<Request> = requests.iter().map(|(prompt, settings)| request(prompt, settings.clone())).collect();
        let outputs = run(&model, &requests);
        for (request, output) in requests.iter().zip(outputs) {
            let settings = &request.settings;
            let (&last, earlier) = output.tokens.split_last().unwrap();
            prop_assert!(output.tokens.len() <= settings.max_new_tokens);
            prop_assert!(earlier.iter().all(|token| !settings.stop_tokens.contains(token)));
            match output.finish {
                Finish::Stop => prop_assert!(settings.stop_tokens.contains(&last)),
                finish => {
                    prop_assert_eq!(finish, Finish::Length);
                    prop_assert_eq!(output.tokens.len(), settings.max_new_tokens);
                }
            }
            let reports = if settings.top_log_probabilities > 0 { output.tokens.len() } else { 0 };
            prop_assert_eq!(output.log_probabilities.len(), reports);
            prop_assert_eq!(output.alternatives.len(), reports);
            prop_assert_eq!(output.score.is_some(), settings.beams > 1);
            prop_assert_eq!(run(&model, std::slice::from_ref(request)), [output]);
        }
    }
}
