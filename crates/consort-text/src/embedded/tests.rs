//! Embedded tokenizers of a few tokens: ids by llama.cpp, and what is refused.

use serde_json::{Value, json};

use super::*;

/// Made by `tests/data/make_embedded.py`.
const GOLDENS: &str = include_str!("../../tests/data/embedded.json");

/// Texts of the goldens that llama.cpp cuts otherwise than the model's own pattern does.
///
/// It takes each class of letters (`\p{Lu}`, `\p{Ll}` …) in these two for all letters.
const APPROXIMATED: [(&str, &str); 2] =
    [("youtu", "fooBar HTTPServer\r\n\tif (a == b) {\n\n"), ("tiny_aya", "fooBar HTTPServer\r\n\tif (a == b) {\n\n")];

fn goldens() -> Vec<Value> {
    serde_json::from_str(GOLDENS).expect("embedded.json is JSON")
}

fn list<T>(value: &Value) -> Vec<T>
where
    Vec<T>: for<'de> serde::Deserialize<'de>,
{
    if value.is_null() { Vec::new() } else { serde_json::from_value(value.clone()).expect("a list") }
}

fn read(keys: &Value) -> Embedded {
    let id = |key: &str| keys[key].as_u64().map(|id| u32::try_from(id).expect("an id"));
    Embedded {
        model: keys["model"].as_str().expect("a model").to_owned(),
        pre: keys["pre"].as_str().map(str::to_owned),
        tokens: list(&keys["tokens"]),
        scores: list(&keys["scores"]),
        kinds: list(&keys["token_type"]),
        merges: list(&keys["merges"]),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        sep: id("seperator_token_id"),
        pad: id("padding_token_id"),
        cls: id("cls_token_id"),
        mask: id("mask_token_id"),
        add_bos: keys["add_bos_token"].as_bool(),
        add_eos: keys["add_eos_token"].as_bool(),
        add_space_prefix: keys["add_space_prefix"].as_bool(),
        remove_extra_whitespaces: keys["remove_extra_whitespaces"].as_bool(),
        lowercase: keys["normalizer.lowercase"].as_bool(),
        strip_accents: keys["normalizer.strip_accents"].as_bool(),
        ..Embedded::default()
    }
}

fn load(embedded: &Embedded) -> Tokenizer {
    Tokenizer::from_embedded(embedded, "model.gguf").expect("loads")
}

#[test]
fn the_three_sentencepiece_like_models_give_llama_cpps_ids() {
    let mut compared = 0;
    for golden in goldens().iter().filter(|golden| golden["embedded"].is_object()) {
        let tokenizer = load(&read(&golden["embedded"]));
        for (text, ids) in list::<String>(&golden["texts"]).iter().zip(list::<Vec<u32>>(&golden["ids"])) {
            assert_eq!(tokenizer.encode(text, true).expect("encodes"), ids, "{text:?} by {}", golden["embedded"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 7 + 3 * 4 + 3 * 6);
}

#[test]
fn every_way_to_cut_words_gives_llama_cpps_ids() {
    let goldens = goldens();
    let mut embedded = read(&goldens[0]["byte_level"]);
    let texts: Vec<String> = list(&goldens[0]["texts"]);
    let (mut found_ways, mut otherwise) = (Vec::new(), Vec::new());
    for golden in goldens.iter().filter(|golden| golden["pre"].is_string()) {
        let name = golden["pre"].as_str().expect("a name");
        embedded.pre = Some(name.to_owned());
        let tokenizer = load(&embedded);
        for (text, expected) in texts.iter().zip(list::<Vec<u32>>(&golden["ids"])) {
            let ids = tokenizer.encode(text, true).expect("encodes");
            if ids != expected {
                otherwise.push((name.to_owned(), text.clone()));
            }
            assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), *text);
        }
        found_ways.push(std::ptr::from_ref(pre::find(name).expect("known")));
    }
    let approximated = APPROXIMATED.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(otherwise, approximated, "differ from llama.cpp");
    // Every entry of the table.
    found_ways.dedup();
    let entries: std::collections::HashSet<_> =
        pre::names().map(|name| std::ptr::from_ref(pre::find(name).expect("known"))).collect();
    assert_eq!(found_ways.len(), entries.len());
}

#[test]
fn kinds_say_what_decoding_skips() {
    let golden = goldens().into_iter().find(|golden| golden["embedded"]["model"] == "llama").expect("one");
    let tokenizer = load(&read(&golden["embedded"]));
    let ids = tokenizer.encode("a<s> the</s>b<user> c", true).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), "a  the b<user>  c");
    let user = tokenizer.id("<user>").expect("a token");
    assert!(!tokenizer.is_special(user) && tokenizer.is_special(1));
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id()), (Some(1), Some(2), Some(0)));
    // What only fills the embedding up is no token.
    assert_eq!(tokenizer.id("[PAD304]"), None);
    let kept = tokenizer.to_embedded(400, None).expect_err("is refused").to_string();
    assert!(kept.ends_with("it came from such a file: keep what that file carries"), "{kept}");
}

#[test]
fn byte_fallback_and_leading_spaces_come_back() {
    let golden = goldens().into_iter().find(|golden| golden["embedded"]["model"] == "llama").expect("one");
    let tokenizer = load(&read(&golden["embedded"]));
    for text in ["é😀\n", "  two spaces", "the", ""] {
        let ids = tokenizer.encode(text, true).expect("encodes");
        assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), text);
    }
}

#[test]
fn equal_scores_stand_for_the_order_of_ids() {
    let tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "▁", "bc", "ab"].map(str::to_owned).to_vec();
    let mut embedded = Embedded {
        model: "llama".to_owned(),
        scores: vec![-1000.0; tokens.len()],
        tokens,
        add_space_prefix: Some(false),
        add_bos: Some(false),
        ..Embedded::default()
    };
    // By id, "bc" is merged before "ab".
    assert_eq!(load(&embedded).encode("abc", true).expect("encodes"), [3, 7]);
    embedded.scores[8] = -1.0;
    assert_eq!(load(&embedded).encode("abc", true).expect("encodes"), [8, 5]);
    // Without byte tokens, what has no piece is unknown; in a row, once.
    assert_eq!(load(&embedded).encode("axyc", true).expect("encodes"), [3, 0, 5]);
}

#[test]
fn chat_templates_know_the_special_tokens() {
    let golden = goldens().into_iter().find(|golden| golden["embedded"]["model"] == "llama").expect("one");
    let mut embedded = read(&golden["embedded"]);
    assert!(crate::ChatTemplate::from_embedded(&embedded, "model.gguf").is_none());
    embedded.chat_template = Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".to_owned());
    let chat = crate::ChatTemplate::from_embedded(&embedded, "model.gguf").expect("is there");
    let messages = [crate::ChatMessage::new("user", "hi")];
    assert_eq!(chat.render(&messages).expect("renders"), "<s>hi</s>");
}

#[test]
fn lists_that_do_not_fit_are_refused_by_key() {
    let spm = json!({"model": "llama", "tokens": ["<unk>", "<s>", "</s>", "a"]});
    let bytes = json!({"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]});
    let unigram = json!({"model": "t5", "tokens": ["<pad>", "</s>", "<unk>"], "scores": [0, 0, 0]});
    let cases = [
        (&spm, json!({"model": "rwkv"}), "model: expected llama, gpt2, bert or t5, found \"rwkv\""),
        (&spm, json!({"tokens": []}), "tokens: expected 1 to 16777216 tokens, found 0"),
        (&spm, json!({"tokens": ["a", "b", "a"]}), "tokens: expected each token once, found \"a\" as 0 and 2"),
        (&spm, json!({"scores": [1.0]}), "scores: expected one for each of 4 tokens, found 1"),
        (&spm, json!({"token_type": [1]}), "token_type: expected one for each of 4 tokens, found 1"),
        (&spm, json!({"scores": [0, 0, 1e39, 0]}), "scores: expected numbers, found inf for token 2"),
        (&spm, json!({"bos_token_id": 4}), "bos_token_id: expected an id below 4, found 4"),
        (&bytes, json!({"pre": "new"}), "pre: \"new\" is not a known way to cut words; known are gpt-2, "),
        (&bytes, json!({"pre": null}), "pre: expected the name of a way to cut words, found none"),
        (&bytes, json!({"merges": ["ab"]}), "merges: expected two pieces and a space as merge 0, found \"ab\""),
        (&bytes, json!({"merges": ["b a"]}), "merges: merge 0 is \"b a\", but \"ba\" is not among the tokens"),
        (&bytes, json!({"add_bos_token": true}), "bos_token_id: expected an id, since the token is to be added"),
        (&unigram, json!({"scores": []}), "scores: expected one for each token, found none"),
        (&unigram, json!({"tokens": ["a", "b"], "scores": [0, 0]}), "unknown_token_id: expected an id, found none"),
        (&json!({"model": "bert", "tokens": ["a"]}), json!({}), "unknown_token_id: expected an id with a piece"),
    ];
    for (base, changes, expected) in cases {
        let mut keys = base.clone();
        keys.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        let error = Tokenizer::from_embedded(&read(&keys), "model.gguf").expect_err("is refused").to_string();
        assert!(error.starts_with(&format!("model.gguf is not usable: tokenizer.ggml.{expected}")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_damaged_charsmap_is_an_error() {
    let keys = json!({"model": "t5", "tokens": ["<pad>", "</s>", "<unk>"], "scores": [0, 0, 0]});
    for charsmap in [vec![1], vec![255; 8], vec![255, 255, 255, 127, 0], vec![4, 0, 0, 0, 1, 2, 3, 4]] {
        let embedded = Embedded { precompiled_charsmap: charsmap, ..read(&keys) };
        // Some are found when read, some when used.
        if let Ok(tokenizer) = Tokenizer::from_embedded(&embedded, "model.gguf") {
            let _ = tokenizer.encode("abc", true);
        }
    }
}
