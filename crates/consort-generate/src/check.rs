//! Everything about requests that can be refused before anything is computed.

use consort_core::{Error, Result, TransformerConfig, config::StackConfig};

use crate::request::Request;

/// How many new tokens each request can have: what it asks for, or what is left of the context.
pub(crate) fn check(config: &TransformerConfig, requests: &[Request]) -> Result<Vec<usize>> {
    let decoder = config
        .decoder
        .as_ref()
        .ok_or_else(|| Error::Input("this model is encoder-only: it embeds text, it does not write it".into()))?;
    if config.head.is_none() {
        return Err(Error::Input("this model has no language-model head: it gives hidden states, not text".into()));
    }
    requests
        .iter()
        .enumerate()
        .map(|(index, request)| {
            request_limit(config.encoder.as_ref(), decoder, request)
                .map_err(|error| of_request(error, index, requests.len()))
        })
        .collect()
}

/// Says which of several requests an error is about, where the error is about input.
pub(crate) fn of_request(error: Error, index: usize, requests: usize) -> Error {
    match error {
        Error::Input(_) | Error::Config { .. } if requests > 1 => {
            Error::Input(format!("request {}: {error}", index + 1))
        }
        other => other,
    }
}

fn request_limit(encoder: Option<&StackConfig>, decoder: &StackConfig, request: &Request) -> Result<usize> {
    let settings = &request.settings;
    settings.validate()?;
    match (encoder, &request.source) {
        (Some(encoder), Some(source)) => {
            tokens("source", source, encoder.vocabulary)?;
            if let Some(context) = encoder.context.filter(|&context| source.len() > context) {
                return Err(Error::Input(format!(
                    "a source of {} tokens is beyond the encoder's context of {context}: shorten it",
                    source.len()
                )));
            }
        }
        (None, None) => {}
        (Some(_), None) => {
            return Err(Error::Input("no source: this model is an encoder-decoder and reads one".into()));
        }
        (None, Some(_)) => {
            return Err(Error::Input("a source was given, but this model has no encoder to read it".into()));
        }
    }
    tokens("prompt", &request.prompt, decoder.vocabulary)?;
    let forced = [("forced_first", settings.forced_first), ("forced_last", settings.forced_last)];
    for (setting, token) in forced {
        if let Some(token) = token.filter(|&token| token as usize >= decoder.vocabulary) {
            return Err(Error::config(setting, beyond(token, decoder.vocabulary)));
        }
    }
    let length = request.prompt.len();
    match decoder.context {
        Some(context) if length >= context => Err(Error::Input(format!(
            "a prompt of {length} tokens leaves no room for a new one in the model's context of {context}: shorten it"
        ))),
        Some(context) => Ok(settings.max_new_tokens.min(context - length)),
        None => Ok(settings.max_new_tokens),
    }
}

fn tokens(what: &str, ids: &[u32], vocabulary: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::Input(format!("the {what} is empty: it needs at least one token")));
    }
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(Error::Input(format!("{what}: {}", beyond(id, vocabulary)))),
        None => Ok(()),
    }
}

fn beyond(id: u32, vocabulary: usize) -> String {
    format!(
        "token id {id} is beyond the model's vocabulary of {vocabulary} (ids 0 to {})",
        vocabulary.saturating_sub(1)
    )
}
