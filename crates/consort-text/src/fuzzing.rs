//! Ways in for the fuzz targets in `fuzz/`; not part of the API.

use std::path::Path;

use crate::config::Config;
use crate::embedded::pre;
use crate::{ChatTemplate, Detokenizer, Embedded, Error, Tokenizer, load};

/// Texts that meet most of what tokenizers do.
const TEXTS: [&str; 4] = ["", "Once upon a time, 12345 <s>", " a  b\n\ncdé漢😀▁##", "ab</s>[CLS]\u{fffd}e\u{301}"];

/// Reads bytes as `tokenizer.json` and uses the tokenizer.
pub fn tokenizer_json(bytes: &[u8]) -> Result<usize, Error> {
    let tokenizer = load::json_tokenizer(bytes, Path::new("tokenizer.json"))?;
    let tokenizer = Tokenizer::new(tokenizer, &Config::default());
    for text in TEXTS {
        use_on(&tokenizer, text);
    }
    let size = tokenizer.vocabulary_size();
    if size < 100_000
        && let Ok(converted) = tokenizer.to_embedded(size, None)
        && let Ok(again) = Tokenizer::from_embedded(&converted.embedded, "again")
    {
        TEXTS.into_iter().for_each(|text| use_on(&again, text));
    }
    Ok(size)
}

/// Makes an embedded tokenizer of bytes and uses it.
///
/// Four bytes choose the model, `pre` and flags; then come a text, tokens and merges, one a line and parted by empty lines.
/// The first character of a token's line chooses its kind and score.
pub fn embedded(bytes: &[u8]) -> Result<usize, Error> {
    let Some((&[model, pre, flags, ids], rest)) = bytes.split_first_chunk() else { return Ok(0) };
    let rest = String::from_utf8_lossy(rest);
    let mut parts = rest.splitn(3, "\n\n");
    let (text, tokens, merges) = (parts.next(), parts.next(), parts.next());
    let lines = |part: Option<&str>| part.unwrap_or_default().split('\n').map(str::to_owned).collect::<Vec<_>>();
    let names: Vec<&str> = pre::names().collect();
    let flag = |bit: u8| (flags & 0x80 == 0).then_some(flags >> bit & 1 == 1);
    let id = |bits: u8| (ids & 0x80 == 0).then_some(u32::from(ids >> bits & 7));
    let mut embedded = Embedded {
        model: ["llama", "gpt2", "bert", "t5", ""][usize::from(model) % 5].to_owned(),
        pre: names.get(usize::from(pre)).map(|name| (*name).to_owned()),
        merges: merges.map(|merges| lines(Some(merges))).unwrap_or_default(),
        bos: id(0),
        eos: id(2),
        unk: id(4),
        add_bos: flag(0),
        add_eos: flag(1),
        add_space_prefix: flag(2),
        remove_extra_whitespaces: flag(3),
        lowercase: flag(4),
        precompiled_charsmap: if flags & 0x40 == 0 { Vec::new() } else { bytes.to_vec() },
        chat_template: text.map(str::to_owned),
        ..Embedded::default()
    };
    for line in lines(tokens) {
        let mut characters = line.chars();
        let first = characters.next().map_or(0, u32::from);
        embedded.kinds.push(i32::try_from(first % 8).unwrap_or(0));
        embedded.scores.push(-((first / 8) as f32));
        embedded.tokens.push(characters.collect());
    }
    if let Some(chat) = ChatTemplate::from_embedded(&embedded, "fuzz") {
        let _ = chat.render(&[]);
    }
    let tokenizer = Tokenizer::from_embedded(&embedded, "fuzz")?;
    TEXTS.into_iter().chain(text).for_each(|text| use_on(&tokenizer, text));
    let _ = tokenizer.to_embedded(tokenizer.vocabulary_size() + 2, None);
    Ok(tokenizer.vocabulary_size())
}

/// Encodes a text, decodes it, and streams the same.
fn use_on(tokenizer: &Tokenizer, text: &str) {
    let Ok(mut ids) = tokenizer.encode(text, true) else { return };
    ids.extend(0..8);
    let decoded = tokenizer.decode(&ids, false);
    let mut stream = Detokenizer::new(tokenizer, false);
    let pushed: Result<String, Error> = ids.iter().map(|&id| stream.push(id)).collect();
    if let (Ok(decoded), Ok(pushed), Ok(rest)) = (decoded, pushed, stream.finish()) {
        assert_eq!(decoded, pushed + &rest, "streamed otherwise than decoded");
    }
}
