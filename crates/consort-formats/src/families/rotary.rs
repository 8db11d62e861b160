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

/// Where a family keeps what others have in common.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// The base of the frequencies, where it stands beside the parameters, and its default.
    pub(super) theta: (&'static str, f64),
    /// How much of a head is rotated, where that stands beside the parameters, and its default; `None`: all of it,
    /// always.
    pub(super) part: Option<(&'static str, f64)>,
    /// The same as `theta` for layers with a window; `None`: they rotate like the others.
    pub(super) window_theta: Option<(&'static str, f64)>,
}

/// Whole heads are rotated.
pub(super) const WHOLE: Keys = Keys { theta: ("rope_theta", THETA), part: None, window_theta: None };
const PART: &str = "partial_rotary_factor";

/// What a configuration says of rotary positions.
pub(super) struct Rotary {
    pub(super) all: RotaryConfig,
    /// Of layers with a window, where they differ.
    pub(super) window: Option<RotaryConfig>,
    /// The longest sequence that the model is defined for, if anything bounds it.
    pub(super) context: Option<usize>,
}

/// The rotary choice of a model with heads of `head_width` and a context of `context` as its configuration has it.
pub(super) fn rotary(config: &Reader<'_>, keys: Keys, head_width: usize, context: usize) -> Result<Rotary, Error> {
    match keys.window_theta {
        Some(theta) => by_layer(config, keys, theta, head_width, context),
        None => {
            let (all, context) = one(config, keys, head_width, context)?;
            Ok(Rotary { all, window: None, context })
        }
    }
}

/// Version 4 had parameters for layers without a window, and the base alone for the others.
fn by_layer(
    config: &Reader<'_>,
    keys: Keys,
    window_theta: (&'static str, f64),
    head_width: usize,
    context: usize,
) -> Result<Rotary, Error> {
    let old = config.object("rope_scaling")?.filter(|old| !old.is_empty());
    let new = config.object("rope_parameters")?.filter(|new| !new.is_empty());
    let (full, sliding) = match new {
        None => (old, None),
        Some(_) if old.is_some() => {
            return Err(config.error("rope_scaling", "beside rope_parameters: keep one of the two"));
        }
        Some(new) if new.has(FULL) || new.has(SLIDING) => (new.object(FULL)?, new.object(SLIDING)?),
        Some(_) => return Err(config.error("rope_parameters", format!("expected {FULL} and {SLIDING} in it"))),
    };
    let of = |parameters: Option<Reader<'_>>, keys: Keys| match parameters {
        Some(parameters) => flat(config, &parameters, keys, head_width, context),
        None => Ok((unscaled(head_width, theta(config, None, keys)?), Some(context))),
    };
    let (all, bounded) = of(full, keys)?;
    let (window, _) = of(sliding, Keys { theta: window_theta, ..keys })?;
    // Families that rotate by layer give the context after the stretch.
    Ok(Rotary { all, window: Some(window), context: bounded.map(|_| context) })
}

fn one(
    config: &Reader<'_>,
    keys: Keys,
    head_width: usize,
    context: usize,
) -> Result<(RotaryConfig, Option<usize>), Error> {
    let old = config.object("rope_scaling")?.filter(|old| !old.is_empty());
    let Some(parameters) = (if old.is_some() { old } else { config.object("rope_parameters")? }) else {
        let width = rotated(config, None, keys, head_width)?;
        return Ok((unscaled(width, theta(config, None, keys)?), Some(context)));
    };
    // Version 5 can keep parameters by the type of layer; families here have one for all.
    let mut nested = [FULL, SLIDING].into_iter().filter(|key| parameters.has(key));
    let Some(first) = nested.next() else {
        return flat(config, &parameters, keys, head_width, context);
    };
    let of = |key| match parameters.object(key)? {
        Some(one) => flat(config, &one, keys, head_width, context),
        None => Err(parameters.error(key, "expected an object")),
    };
    let all = of(first)?;
    for other in nested {
        if of(other)? != all {
            return Err(
                parameters.error(other, format!("differs from {first}, where this family has one for all layers"))
            );
        }
    }
    Ok(all)
}

fn unscaled(width: usize, theta: f64) -> RotaryConfig {
    RotaryConfig { width, theta, pairing: RotaryPairing::Halves, scaling: RotaryScaling::None }
}

fn theta(config: &Reader<'_>, parameters: Option<&Reader<'_>>, keys: Keys) -> Result<f64, Error> {
    let (key, default) = keys.theta;
    match parameters {
        Some(parameters) if parameters.has("rope_theta") => parameters.positive("rope_theta", default),
        _ if config.has(key) => config.positive(key, default),
        _ => Ok(default),
    }
}

/// How many components of a head are rotated; a fraction is cut off, as the reference does.
fn rotated(
    config: &Reader<'_>,
    parameters: Option<&Reader<'_>>,
    keys: Keys,
    head_width: usize,
) -> Result<usize, Error> {
    let Some((key, default)) = keys.part else { return Ok(head_width) };
    let (at, key) = match parameters {
        Some(parameters) if parameters.has(PART) => (parameters, PART),
        _ => (config, key),
    };
    let part = at.optional_number(key)?.unwrap_or(default);
    let width = (head_width as f64 * part) as usize;
    if part > 0.0 && part <= 1.0 && width > 0 && width.is_multiple_of(2) {
        Ok(width)
    } else {
        let what = format!("{part} of a head's {head_width} components is not an even number of them");
        Err(at.error(key, what))
    }
}

/// The part of a head that `width` of its components are, such that [`rotated`] finds them again.
pub(crate) fn part(width: usize, head_width: usize) -> f64 {
    let part = width as f64 / head_width as f64;
    if ((head_width as f64 * part) as usize) < width { part.next_up() } else { part }
}

fn flat(
    config: &Reader<'_>,
    parameters: &Reader<'_>,
    keys: Keys,
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
    if kind != "default" && keys.part.is_none() {
        whole_heads(config, parameters, kind)?;
    }
    let width = rotated(config, Some(parameters), keys, head_width)?;
    Ok((RotaryConfig { scaling, ..unscaled(width, theta(config, Some(parameters), keys)?) }, context))
}

/// Most families rotate whole heads: without scaling the reference does not look at this factor, with scaling it makes
/// tables that do not fit.
fn whole_heads(config: &Reader<'_>, parameters: &Reader<'_>, kind: &str) -> Result<(), Error> {
    let at = if parameters.has(PART) { parameters } else { config };
    match at.optional_number(PART)? {
        Some(part) if part != 1.0 => Err(at.error(PART, format!("{part} is not supported with rope type '{kind}'"))),
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
