//! Rotary positions and sliding windows, as the rotary families' configurations spell them.
//!
//! `transformers` 4 wrote `rope_theta` beside `rope_scaling`; version 5 writes one `rope_parameters` with both. What is
//! found where, and what falls back to what, follows `modeling_rope_utils.py`; what a sliding window sees follows
//! `masking_utils.py` (a query sees keys with `query - key < window`).

use consort_core::config::{RotaryConfig, RotaryPairing, RotaryScaling};

use crate::{
    error::{Error, printable},
    json::Reader,
};

/// Base of the frequencies where a configuration gives none.
const THETA: f64 = 10_000.0;
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The rotary choice of a model, and the longest sequence that it is defined for, if anything bounds it.
pub(super) fn rotary(
    config: &Reader<'_>,
    head_width: usize,
    context: usize,
) -> Result<(RotaryConfig, Option<usize>), Error> {
    let old = config.object("rope_scaling")?.filter(|old| !old.is_empty());
    let Some(parameters) = (if old.is_some() { old } else { config.object("rope_parameters")? }) else {
        return Ok((unscaled(head_width, theta(config, None)?), Some(context)));
    };
    // Version 5 can keep parameters by the type of layer; families here have one for all.
    let mut nested = [FULL, SLIDING].into_iter().filter(|key| parameters.has(key));
    let Some(first) = nested.next() else {
        return flat(config, &parameters, head_width, context);
    };
    let of = |key| match parameters.object(key)? {
        Some(one) => flat(config, &one, head_width, context),
        None => Err(parameters.error(key, "expected an object")),
    };
    let one = of(first)?;
    for other in nested {
        if of(other)? != one {
            return Err(
                parameters.error(other, format!("differs from {first}, where this family has one for all layers"))
            );
        }
    }
    Ok(one)
}

fn unscaled(width: usize, theta: f64) -> RotaryConfig {
    RotaryConfig { width, theta, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None }
}

fn theta(config: &Reader<'_>, parameters: Option<&Reader<'_>>) -> Result<f64, Error> {
    match parameters {
        Some(parameters) if parameters.has("rope_theta") => parameters.positive("rope_theta", THETA),
        _ if config.has("rope_theta") => config.positive("rope_theta", THETA),
        _ => Ok(THETA),
    }
}

fn flat(
    config: &Reader<'_>,
    parameters: &Reader<'_>,
    head_width: usize,
    context: usize,
) -> Result<(RotaryConfig, Option<usize>), Error> {
    let type_key = if parameters.has("rope_type") { "rope_type" } else { "type" };
    let kind = if parameters.has(type_key) { parameters.text(type_key, "default")? } else { "default" };
    let factor = || {
        if !parameters.has("factor") {
            return Err(parameters.error("factor", format!("missing, and '{kind}' needs it")));
        }
        let factor = parameters.number("factor", 1.0)?;
        if factor >= 1.0 {
            Ok(factor)
        } else {
            Err(parameters.error("factor", format!("expected 1 or more, found {factor}")))
        }
    };
    // A key beside the parameters wins over one inside, and the longest context stands in for both.
    let original = || {
        let at = if config.has("original_max_position_embeddings") { config } else { parameters };
        at.optional_size("original_max_position_embeddings", None).map(|original| original.unwrap_or(context))
    };
    let stretched = |original: usize, factor: f64| Some(context.max((original as f64 * factor).round() as usize));
    let (scaling, context) = match kind {
        "default" => (RotaryScaling::None, Some(context)),
        // The configuration keeps the context from before the stretch.
        "linear" => {
            let factor = factor()?;
            (RotaryScaling::Linear { factor }, stretched(context, factor))
        }
        "dynamic" => {
            let factor = factor()?;
            // The base grows with the sequence, however long it gets.
            (RotaryScaling::Dynamic { factor, original: context }, None)
        }
        "llama3" => {
            let needed = |key: &'static str| {
                if parameters.has(key) {
                    parameters.positive(key, 1.0)
                } else {
                    Err(parameters.error(key, "missing, and 'llama3' needs it"))
                }
            };
            let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
            if low >= high {
                let what = format!("expected more than low_freq_factor ({low}), found {high}");
                return Err(parameters.error("high_freq_factor", what));
            }
            (RotaryScaling::Llama3 { factor: factor()?, low, high, original: original()? }, Some(context))
        }
        "yarn" => {
            let original = original()?;
            let factor = match parameters.get("factor") {
                Some(serde_json::Value::Null) => context as f64 / original as f64,
                _ => factor()?,
            };
            (yarn(parameters, factor, original)?, stretched(original, factor))
        }
        other => {
            let what = format!(
                "'{}' is not a rotary scaling that Consort has: default, linear, dynamic, llama3, yarn",
                printable(other)
            );
            return Err(parameters.error(type_key, what));
        }
    };
    if kind != "default" {
        whole_heads(config, parameters, kind)?;
    }
    let theta = theta(config, Some(parameters))?;
    Ok((RotaryConfig { scaling, ..unscaled(head_width, theta) }, context))
}

/// The families here rotate whole heads: without scaling the reference does not look at this factor, with scaling it
/// makes tables that do not fit.
fn whole_heads(config: &Reader<'_>, parameters: &Reader<'_>, kind: &str) -> Result<(), Error> {
    const KEY: &str = "partial_rotary_factor";
    let at = if parameters.has(KEY) { parameters } else { config };
    match at.optional_number(KEY)? {
        Some(part) if part != 1.0 => Err(at.error(KEY, format!("{part} is not supported with rope type '{kind}'"))),
        _ => Ok(()),
    }
}

/// YaRN (Peng et al. 2023). A 0 among the optional settings counts as left out, as it does in Python.
fn yarn(parameters: &Reader<'_>, factor: f64, original: usize) -> Result<RotaryScaling, Error> {
    let set = |key| Ok::<_, Error>(parameters.optional_number(key)?.filter(|&value| value != 0.0));
    let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let attention_factor =
        match (parameters.optional_number("attention_factor")?, set("mscale")?, set("mscale_all_dim")?) {
            (Some(given), _, _) => given,
            (None, Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
            (None, _, _) => magnitude(1.0),
        };
    Ok(RotaryScaling::Yarn {
        factor,
        beta_fast: set("beta_fast")?.unwrap_or(32.0),
        beta_slow: set("beta_slow")?.unwrap_or(1.0),
        original,
        attention_factor,
        truncate: parameters.flag("truncate", true)?,
    })
}

/// Which layers slide: `layer_types` where a configuration has it, else `by_default(layer)`; an entry is the window or
/// 0, and no entries at all mean that no layer slides.
pub(super) fn windows(
    config: &Reader<'_>,
    layers: usize,
    window: Option<usize>,
    by_default: impl Fn(usize) -> bool,
) -> Result<Vec<usize>, Error> {
    let sliding: Vec<bool> = match config.texts("layer_types")? {
        None => (0..layers).map(by_default).collect(),
        Some(types) => {
            if types.len() != layers {
                return Err(config.error("layer_types", format!("{} entries for {layers} layers", types.len())));
            }
            let one = |name: &&str| match *name {
                SLIDING => Ok(true),
                FULL | "attention" => Ok(false), // the short form is an old name
                other => {
                    let what = format!("'{}' is not a layer that Consort has: {FULL}, {SLIDING}", printable(other));
                    Err(config.error("layer_types", what))
                }
            };
            types.iter().map(one).collect::<Result<_, _>>()?
        }
    };
    match (sliding.contains(&true), window) {
        (false, _) => Ok(Vec::new()),
        (true, Some(window)) => Ok(sliding.into_iter().map(|slides| if slides { window } else { 0 }).collect()),
        (true, None) => Err(config.error("sliding_window", "layers are to slide, and no window is set or in use")),
    }
}
