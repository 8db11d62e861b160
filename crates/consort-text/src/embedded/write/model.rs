//! Which of GGUF's models a `tokenizer.json` is, and that model's keys.

use serde_json::Value;

use super::super::{Kind, bert, padding_id, pre};
use super::pieces::Pieces;
use super::{Embedded, flat, kind_of, refused, scores};
use crate::charsmap::base64;
use crate::{Error, Tokenizer};

/// Fills in `model` and what goes with it.
pub(super) fn write(
    tokenizer: &Tokenizer,
    json: &Value,
    pieces: &Pieces,
    embedded: &mut Embedded,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let model = &json["model"];
    match kind_of(model) {
        "BPE" => {
            for option in ["continuing_subword_prefix", "end_of_word_suffix"] {
                if model[option].as_str().is_some_and(|text| !text.is_empty()) {
                    return Err(refused(format!("GGUF's BPE has no {option}")));
                }
            }
            if model["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0) {
                return Err(refused("GGUF's BPE has no dropout"));
            }
            let steps = flat(&json["pre_tokenizer"], "pretokenizers");
            if steps.iter().any(|step| kind_of(step) == "ByteLevel") {
                byte_level(json, &steps, embedded, differences)
            } else {
                sentencepiece(tokenizer, json, &steps, pieces, embedded, differences)
            }
        }
        "WordPiece" => word_piece(json, pieces, embedded, differences),
        "Unigram" => unigram(tokenizer, json, pieces, embedded, differences),
        other => Err(refused(format!("GGUF has no model {other}"))),
    }
}

fn byte_level(
    json: &Value,
    steps: &[&Value],
    embedded: &mut Embedded,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    for normalizer in flat(&json["normalizer"], "normalizers") {
        match kind_of(normalizer) {
            "NFC" => differences.push("a text is composed first (NFC): GGUF cannot say so".to_owned()),
            other => return Err(refused(format!("GGUF's byte-level BPE has no normalizer {other}"))),
        }
    }
    let mut patterns = Vec::new();
    for step in steps {
        match kind_of(step) {
            "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                match step["pattern"]["Regex"].as_str() {
                    Some(pattern) => patterns.push(pattern.to_owned()),
                    None => return Err(refused("GGUF has no way to cut words at a text")),
                }
            }
            "Digits" => {
                let alone = step["individual_digits"] == true;
                patterns.push(if alone { r"\p{N}" } else { r"\p{N}+" }.to_owned());
            }
            "ByteLevel" => {
                if step["add_prefix_space"] == true {
                    return Err(refused("GGUF's byte-level BPE puts no space before a text"));
                }
                if step["use_regex"] != false {
                    patterns.push(pre::GPT2.to_owned());
                }
            }
            other => return Err(refused(format!("GGUF has no way to cut words like {other}"))),
        }
    }
    let ignore_merges = json["model"]["ignore_merges"] == true;
    let Some(pre) = pre::find_patterns(&patterns, ignore_merges) else {
        let given = if ignore_merges { " and ignore_merges" } else { "" };
        return Err(refused(format!("GGUF has no name for cutting words by {patterns:?}{given}")));
    };
    embedded.model = "gpt2".to_owned();
    embedded.pre = pre.names.first().map(|name| (*name).to_owned());
    for (left, right) in merges(&json["model"])? {
        if left.contains(' ') || right.contains(' ') {
            return Err(refused(format!("a merge of {left:?} and {right:?} has a space, which parts pieces in GGUF")));
        }
        embedded.merges.push(format!("{left} {right}"));
    }
    Ok(())
}

fn merges(model: &Value) -> Result<Vec<(String, String)>, Error> {
    let list = model["merges"].clone();
    serde_json::from_value(list).map_err(|error| refused(format!("merges: {error}")))
}

fn sentencepiece(
    tokenizer: &Tokenizer,
    json: &Value,
    steps: &[&Value],
    pieces: &Pieces,
    embedded: &mut Embedded,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let model = &json["model"];
    if model["ignore_merges"] == true {
        return Err(refused("GGUF's BPE by scores has no ignore_merges"));
    }
    if model["byte_fallback"] != true {
        return Err(refused("GGUF's BPE by scores falls back to bytes, and this does not"));
    }
    let (mut prefix, mut escapes) = (false, false);
    for normalizer in flat(&json["normalizer"], "normalizers") {
        match kind_of(normalizer) {
            "Prepend" if normalizer["prepend"] == "▁" && !prefix => prefix = true,
            "Replace" if normalizer["pattern"]["String"] == " " && normalizer["content"] == "▁" => escapes = true,
            other => return Err(refused(format!("GGUF's BPE by scores has no normalizer {other} like this one"))),
        }
    }
    for step in steps {
        match (kind_of(step), step["prepend_scheme"].as_str()) {
            ("Metaspace", Some(scheme)) if step["replacement"] == "▁" && step["split"] == false => {
                escapes = true;
                if scheme != "never" && !prefix {
                    prefix = true;
                    let more = if scheme == "first" { " or that follows a spelt-out token" } else { "" };
                    differences.push(format!(
                        "no space is put before a text that begins with one{more}: GGUF always puts one"
                    ));
                }
            }
            // Where spaces are `▁` already, there is none to cut at.
            ("Split", _) if step["pattern"]["String"] == " " && escapes => {}
            (other, _) => return Err(refused(format!("GGUF's BPE by scores has no way to cut words like {other}"))),
        }
    }
    if !escapes {
        return Err(refused("GGUF's BPE by scores makes ▁ of spaces, and this does not"));
    }
    embedded.model = "llama".to_owned();
    embedded.pre = Some("default".to_owned());
    embedded.add_space_prefix = Some(prefix);
    if let Some(unk) = model["unk_token"].as_str() {
        embedded.unk = tokenizer.id(unk);
    }
    embedded.scores = scores::of_merges(tokenizer.inner().get_model(), pieces, &merges(model)?)?;
    Ok(())
}

fn word_piece(
    json: &Value,
    pieces: &Pieces,
    embedded: &mut Embedded,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let (model, normalizer) = (&json["model"], &json["normalizer"]);
    let normalizes = kind_of(normalizer) == "BertNormalizer"
        && normalizer["clean_text"] == true
        && normalizer["handle_chinese_chars"] == true;
    if !normalizes || kind_of(&json["pre_tokenizer"]) != "BertPreTokenizer" {
        return Err(refused("GGUF's WordPiece cleans texts and cuts words as BERT does, and this does otherwise"));
    }
    if model["continuing_subword_prefix"] != "##" || model["max_input_chars_per_word"] != 100 {
        return Err(refused(
            "GGUF's WordPiece continues words of at most 100 characters by ##, and this does otherwise",
        ));
    }
    let lowercase = normalizer["lowercase"] == true;
    embedded.model = "bert".to_owned();
    embedded.lowercase = Some(lowercase);
    embedded.strip_accents = Some(normalizer["strip_accents"].as_bool().unwrap_or(lowercase));
    if embedded.strip_accents == Some(true) {
        // Seen with llama.cpp of August 2026, whose table of decompositions has one character each.
        differences.push("llama.cpp strips Hangul syllables to their first part where it strips accents".to_owned());
    }
    embedded.unk = model["unk_token"].as_str().and_then(|unk| {
        let id = pieces.tokens.iter().position(|piece| piece == unk)?;
        u32::try_from(id).ok()
    });
    for ((piece, kind), added) in embedded.tokens.iter_mut().zip(&pieces.kinds).zip(&pieces.added) {
        if *added || *kind == Kind::Unused {
            continue;
        }
        let written = bert::gguf(piece);
        if bert::hugging_face(&written) != *piece || written.is_empty() {
            return Err(refused(format!("GGUF's WordPiece cannot spell the piece {piece:?}")));
        }
        *piece = written;
    }
    Ok(())
}

fn unigram(
    tokenizer: &Tokenizer,
    json: &Value,
    pieces: &Pieces,
    embedded: &mut Embedded,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let model = &json["model"];
    if model["byte_fallback"] == true {
        return Err(refused("GGUF's Unigram does not fall back to bytes, and this does"));
    }
    let (mut merges_spaces, mut words, mut metaspace) = (false, false, false);
    for normalizer in flat(&json["normalizer"], "normalizers") {
        match kind_of(normalizer) {
            "Precompiled" => {
                let text = normalizer["precompiled_charsmap"].as_str().unwrap_or_default();
                embedded.precompiled_charsmap =
                    base64(text).ok_or_else(|| refused("precompiled_charsmap is not base64"))?;
            }
            "Replace" if normalizer["pattern"]["Regex"] == " {2,}" => merges_spaces = true,
            "Strip" if normalizer["strip_right"] == true => {}
            "Replace" if normalizer["pattern"]["Regex"] == "^ +| +$" && normalizer["content"] == "" => {}
            other => return Err(refused(format!("GGUF's Unigram has no normalizer {other} like this one"))),
        }
    }
    for step in flat(&json["pre_tokenizer"], "pretokenizers") {
        match kind_of(step) {
            "WhitespaceSplit" => words = true,
            "Metaspace" if step["replacement"] == "▁" && step["prepend_scheme"] == "always" => metaspace = true,
            other => return Err(refused(format!("GGUF's Unigram has no way to cut words like {other}"))),
        }
    }
    if !metaspace || !(merges_spaces || words) {
        return Err(refused("GGUF's Unigram puts one ▁ before each word, and this does otherwise"));
    }
    if words && let Some(space) = other_space(tokenizer) {
        differences.push(format!("words are also cut at {space:?}: GGUF cuts them at spaces only"));
    }
    embedded.model = "t5".to_owned();
    embedded.pre = Some("default".to_owned());
    embedded.add_space_prefix = Some(true);
    embedded.remove_extra_whitespaces = Some(true);
    embedded.unk = model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    if embedded.unk.is_none() {
        return Err(refused("GGUF's Unigram has an unknown token, and this has none"));
    }
    let vocabulary = model["vocab"].as_array().map_or(&[][..], Vec::as_slice);
    embedded.scores = vec![0.0; pieces.tokens.len()];
    for (place, entry) in embedded.scores.iter_mut().zip(vocabulary) {
        let score = entry[1].as_f64().unwrap_or(0.0);
        *place = score as f32;
        // The last digits of a number in JSON are the parser's.
        let lost = (f64::from(*place) - score).abs() > 1e-12 * score.abs();
        if lost && !differences.iter().any(|told| told.starts_with("scores")) {
            differences.push("scores have more digits than GGUF keeps".to_owned());
        }
    }
    if pieces.tokens.iter().enumerate().any(|(id, piece)| id < vocabulary.len() && padding_id(piece) == Some(id)) {
        return Err(refused("a piece has the name that GGUF gives to rows without a token"));
    }
    Ok(())
}

/// White space, other than the space, that the normalizer leaves in a text.
fn other_space(tokenizer: &Tokenizer) -> Option<char> {
    let inner = tokenizer.inner();
    let normalizer = inner.get_normalizer();
    let spaces = (0..=0x3000).filter_map(char::from_u32).filter(|c| c.is_whitespace() && *c != ' ');
    let left = |c: &char| {
        let words = inner.get_added_vocabulary().extract_and_normalize(normalizer, &format!("a{c}b"));
        let splits = words.get_splits(tokenizers::OffsetReferential::Normalized, tokenizers::OffsetType::None);
        splits.iter().any(|(text, _, _)| text.chars().any(|c| c.is_whitespace() && c != ' '))
    };
    spaces.into_iter().find(left)
}
