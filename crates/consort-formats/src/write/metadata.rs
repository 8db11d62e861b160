//! The metadata of a GGUF file: a configuration in the words of an architecture, and the tokenizer.

use consort_core::{
    StoredTensor, TransformerConfig, WeightDType,
    config::{AttentionPositions, RotaryScaling, StackConfig},
};

use super::{gguf::Value, model::Parts};
use crate::{
    families::export::Exported,
    gguf::{
        architectures::{Architecture, Kind},
        vocabulary::Vocabulary,
    },
};

/// Every key of the file, those that all files have first; `dtype` is what most of its weights are kept as.
pub(super) fn metadata(
    exported: &Exported,
    architecture: &Architecture,
    parts: &Parts<'_>,
    dtype: WeightDType,
) -> Vec<(String, Value)> {
    let config = &exported.mapping.config;
    let own = |key: &str| format!("{}{key}", architecture.name);
    let mut all = vec![
        ("general.architecture".to_owned(), Value::Text(architecture.name.to_owned())),
        ("general.type".to_owned(), Value::Text("model".to_owned())),
        ("general.file_type".to_owned(), Value::U32(file_type(dtype))),
        // That of the block formats; there has been no other since 2023.
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let told = |(key, text): &(String, String)| (format!("general.{key}"), Value::Text(text.clone()));
    let new = |(key, _): &(String, Value)| all.iter().all(|(known, _)| known != key);
    let about: Vec<_> = parts.about.iter().map(told).filter(new).collect();
    all.extend(about);
    for key in architecture.keys.iter().copied().flatten() {
        let inside = key.json.split('.').try_fold(&exported.json, |value, part| value.get(part));
        let value = match (key.kind, inside) {
            (Kind::Count | Kind::Window, Some(value)) => {
                value.as_u64().and_then(|count| u32::try_from(count).ok()).map(Value::U32)
            }
            (Kind::Number, Some(value)) => value.as_f64().map(|number| Value::F32(number as f32)),
            (Kind::Flag, Some(value)) => value.as_bool().map(Value::Bool),
            (_, None) => None,
        };
        let name = if key.gguf.starts_with('.') { own(key.gguf) } else { key.gguf.to_owned() };
        all.extend(value.map(|value| (name, value)));
    }
    let has = |all: &[(String, Value)], key: &str| all.iter().any(|(name, _)| *name == own(key));
    if let Ok(stack) = config.output_stack() {
        // What llama.cpp asks for whether or not it says anything new.
        let width = u32::try_from(stack.attention.head_width).unwrap_or(u32::MAX);
        all.push((own(".vocab_size"), Value::U32(u32::try_from(stack.vocabulary).unwrap_or(u32::MAX))));
        if !has(&all, ".context_length") {
            // What T5 and BLOOM were trained with; nothing bounds either.
            let trained = if stack.attention.positions == AttentionPositions::LinearBias { 2048 } else { 512 };
            all.push((own(".context_length"), Value::U32(trained)));
        }
        if has(&all, ".attention.key_length") {
            all.push((own(".attention.value_length"), Value::U32(width)));
        }
        if config.decoder.is_none() {
            all.push((own(".attention.causal"), Value::Bool(false)));
        }
        if architecture.window_pattern.is_some() {
            windows(stack, &own, &mut all);
        }
        rotary(stack, &own, &mut all);
    }
    if let (Some(start), true) = (parts.decoder_start, config.encoder.is_some() && config.decoder.is_some()) {
        all.push((own(".decoder_start_token_id"), Value::U32(start)));
    }
    match parts.vocabulary {
        Some(vocabulary) => vocabulary_keys(vocabulary, &mut all),
        None => all.push(("tokenizer.ggml.model".to_owned(), Value::Text("no_vocab".to_owned()))),
    }
    all
}

/// The window, and how many layers there are to one without; 0 where all have one.
fn windows(stack: &StackConfig, own: &dyn Fn(&str) -> String, all: &mut Vec<(String, Value)>) {
    let windows = &stack.attention.windows;
    let Some(&window) = windows.iter().find(|&&window| window > 0) else { return };
    let every = windows.iter().position(|&window| window == 0).map_or(0, |layer| layer + 1);
    let number = |number: usize| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    all.push((own(".attention.sliding_window"), number(window)));
    all.push((own(".attention.sliding_window_pattern"), number(every)));
}

fn rotary(stack: &StackConfig, own: &dyn Fn(&str) -> String, all: &mut Vec<(String, Value)>) {
    let AttentionPositions::Rotary(rotary) = stack.attention.positions else { return };
    let width = u32::try_from(rotary.width).unwrap_or(u32::MAX);
    all.push((own(".rope.dimension_count"), Value::U32(width)));
    let text = |text: &str| Value::Text(text.to_owned());
    let number = |number: f64| Value::F32(number as f32);
    match rotary.scaling {
        RotaryScaling::Linear { factor } => {
            all.push((own(".rope.scaling.type"), text("linear")));
            all.push((own(".rope.scaling.factor"), number(factor)));
        }
        RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, .. } => {
            all.push((own(".rope.scaling.type"), text("yarn")));
            all.push((own(".rope.scaling.factor"), number(factor)));
            let original = u32::try_from(original).unwrap_or(u32::MAX);
            all.push((own(".rope.scaling.original_context_length"), Value::U32(original)));
            all.push((own(".rope.scaling.yarn_beta_fast"), number(beta_fast)));
            all.push((own(".rope.scaling.yarn_beta_slow"), number(beta_slow)));
        }
        // Llama 3's divisors are a tensor; the rest has no keys.
        RotaryScaling::None | RotaryScaling::Llama3 { .. } | RotaryScaling::Dynamic { .. } => {}
    }
}

/// The divisors of Llama 3's frequencies, as `transformers` computes them (`modeling_rope_utils.py`).
pub(super) fn frequencies(config: &TransformerConfig) -> Option<StoredTensor> {
    let AttentionPositions::Rotary(rotary) = config.decoder.as_ref()?.attention.positions else { return None };
    let RotaryScaling::Llama3 { factor, low, high, original } = rotary.scaling else { return None };
    let divisor = |pair: usize| {
        let frequency = rotary.theta.powf(-2.0 * pair as f64 / rotary.width as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let turns = original as f64 / wavelength;
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let divisors: Vec<f64> = (0..rotary.width / 2).map(divisor).collect();
    StoredTensor::from_values("rope_freqs.weight", &divisors, [1, divisors.len()]).ok()
}

fn vocabulary_keys(vocabulary: &Vocabulary, all: &mut Vec<(String, Value)>) {
    let mut put = |key: &str, value: Option<Value>| {
        all.extend(value.map(|value| (format!("tokenizer.{key}"), value)));
    };
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    put("ggml.model", text(&vocabulary.model));
    put("ggml.pre", vocabulary.pre.as_deref().and_then(text));
    put("ggml.tokens", Some(Value::Texts(vocabulary.tokens.clone())));
    put("ggml.scores", (!vocabulary.scores.is_empty()).then(|| Value::F32s(vocabulary.scores.clone())));
    put("ggml.token_type", (!vocabulary.kinds.is_empty()).then(|| Value::I32s(vocabulary.kinds.clone())));
    put("ggml.merges", (!vocabulary.merges.is_empty()).then(|| Value::Texts(vocabulary.merges.clone())));
    for (key, id) in [
        ("bos", vocabulary.bos),
        ("eos", vocabulary.eos),
        ("eot", vocabulary.eot),
        ("eom", vocabulary.eom),
        ("unknown", vocabulary.unk),
        // The misspelt key is the format's.
        ("seperator", vocabulary.sep),
        ("padding", vocabulary.pad),
        ("cls", vocabulary.cls),
        ("mask", vocabulary.mask),
    ] {
        put(&format!("ggml.{key}_token_id"), id.map(Value::U32));
    }
    for (key, flag) in [
        ("add_bos_token", vocabulary.add_bos),
        ("add_eos_token", vocabulary.add_eos),
        ("add_sep_token", vocabulary.add_sep),
        ("add_space_prefix", vocabulary.add_space_prefix),
        ("remove_extra_whitespaces", vocabulary.remove_extra_whitespaces),
        ("normalizer.lowercase", vocabulary.lowercase),
        ("normalizer.strip_accents", vocabulary.strip_accents),
    ] {
        put(&format!("ggml.{key}"), flag.map(Value::Bool));
    }
    let map = &vocabulary.precompiled_charsmap;
    put("ggml.precompiled_charsmap", (!map.is_empty()).then(|| Value::Bytes(map.clone())));
    put("chat_template", vocabulary.chat_template.as_deref().and_then(text));
    for (name, template) in &vocabulary.chat_templates {
        put(&format!("chat_template.{name}"), text(template));
    }
}

/// The number that llama.cpp gives a file by the type of most of its weights (`llama_ftype`).
fn file_type(dtype: WeightDType) -> u32 {
    match dtype {
        WeightDType::F32 | WeightDType::F64 => 0,
        WeightDType::F16 => 1,
        WeightDType::Q4_0 => 2,
        WeightDType::Q4_1 => 3,
        WeightDType::Q8_0 => 7,
        WeightDType::Q5_0 => 8,
        WeightDType::Q5_1 => 9,
        WeightDType::Q2_K => 10,
        WeightDType::Q3_K => 11,
        WeightDType::Q4_K => 14,
        WeightDType::Q5_K => 16,
        WeightDType::Q6_K => 18,
        WeightDType::BF16 => 32,
    }
}
