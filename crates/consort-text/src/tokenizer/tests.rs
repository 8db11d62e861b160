//! Tokenizers of a few tokens, written to a directory, and damaged files.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Detokenizer;

/// Names and contents.
type Files<'a> = &'a [(&'a str, &'a [u8])];

fn directory(files: Files) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, content) in files {
        fs::write(directory.path().join(name), content).expect("writes");
    }
    directory
}

fn load_files(files: Files) -> Result<Option<Tokenizer>, Error> {
    Tokenizer::from_directory(directory(files).path())
}

fn load_one(files: Files) -> Tokenizer {
    load_files(files).expect("loads").expect("is there")
}

fn load_value(json: &Value) -> Result<Option<Tokenizer>, Error> {
    load_files(&[("tokenizer.json", json.to_string().as_bytes())])
}

fn message(result: Result<Option<Tokenizer>, Error>) -> String {
    result.expect_err("is refused").to_string()
}

/// BPE over single characters, with these additions to the model and to the file.
fn characters(model: &Value, file: &Value) -> Value {
    let mut source = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "é": 3, " ": 4}, "merges": ["a b"]},
    });
    for (place, more) in [("/model", model), ("", file)] {
        let target = source.pointer_mut(place).and_then(Value::as_object_mut).expect("an object");
        target.extend(more.as_object().expect("an object").clone());
    }
    source
}

fn unencodable(tokenizer: &Tokenizer, text: &str) -> (String, usize) {
    match tokenizer.encode(text, true) {
        Err(Error::Unencodable { piece, offset }) => (piece, offset),
        other => panic!("expected an unencodable character, found {other:?}"),
    }
}

#[test]
fn tokenizers_and_streams_go_to_other_threads() {
    fn check<T: Send + Sync>() {}
    check::<Tokenizer>();
    check::<Detokenizer>();
}

#[test]
fn a_directory_without_tokenizer_files_has_none() {
    assert!(load_files(&[("config.json", b"{}"), ("model.safetensors", b"")]).expect("loads").is_none());
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let error = Tokenizer::from_directory(Path::new("/nonexistent/model")).expect_err("is refused");
    assert!(matches!(error, Error::Read { .. }));
    assert!(error.to_string().starts_with("cannot read /nonexistent/model: "), "{error}");
}

#[test]
fn sentencepiece_files_are_refused_by_name() {
    for name in ["spiece.model", "tokenizer.model", "source.spm"] {
        let message = message(load_files(&[(name, b"x")]));
        assert!(message.contains(name) && message.contains("convert it to tokenizer.json"), "{message}");
        assert!(!message.contains('\n'));
    }
    let json = characters(&json!({}), &json!({})).to_string();
    assert!(load_files(&[("spiece.model", b"x"), ("tokenizer.json", json.as_bytes())]).is_ok());
}

#[test]
fn characters_that_would_vanish_are_an_error() {
    let tokenizer = load_value(&characters(&json!({}), &json!({}))).expect("loads").expect("is there");
    assert_eq!(tokenizer.encode("ab é", true).expect("encodes"), [2, 4, 3]);
    assert_eq!(tokenizer.encode("", true).expect("encodes"), [0_u32; 0]);
    assert_eq!(unencodable(&tokenizer, "abxa"), ("x".to_owned(), 2));
    assert_eq!(unencodable(&tokenizer, "é😀"), ("😀".to_owned(), 2));
    let error = tokenizer.encode("ü", true).expect_err("is refused");
    assert_eq!(error.to_string(), "the tokenizer has no token for \"ü\" at byte 0 of the text, and no unknown token");
}

#[test]
fn an_unknown_token_takes_what_has_none() {
    let vocab = json!({"a": 0, "b": 1, "?": 2});
    let tokenizer = load_value(&characters(&json!({"vocab": vocab, "merges": [], "unk_token": "?"}), &json!({})));
    assert_eq!(tokenizer.expect("loads").expect("is there").encode("axb", true).expect("encodes"), [0, 2, 1]);
    // Named, but not in the vocabulary.
    let tokenizer = load_value(&characters(&json!({"unk_token": "<unk>"}), &json!({})));
    assert_eq!(unencodable(&tokenizer.expect("loads").expect("is there"), "abx"), ("x".to_owned(), 2));
}

#[test]
fn byte_level_with_half_an_alphabet_names_the_character() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let vocab = json!({"a": 0, "b": 1, "Ġ": 2, "Ã": 3});
    let tokenizer = load_value(&characters(
        &json!({"vocab": vocab, "merges": []}),
        &json!({"pre_tokenizer": byte_level, "decoder": byte_level}),
    ));
    let tokenizer = tokenizer.expect("loads").expect("is there");
    assert_eq!(tokenizer.encode("ab a", true).expect("encodes"), [0, 1, 2, 0]);
    // é is C3 A9: the vocabulary has the first byte alone.
    assert_eq!(unencodable(&tokenizer, "ab aéa"), ("é".to_owned(), 4));
}

#[test]
fn a_word_level_vocabulary_names_the_word() {
    let source = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1, "t": 2}, "unk_token": "<unk>"},
    });
    let tokenizer = load_value(&source).expect("loads").expect("is there");
    assert_eq!(tokenizer.encode("one two", true).expect("encodes"), [0, 1]);
    assert_eq!(tokenizer.decode(&[0, 1], true).expect("decodes"), "one two");
    assert_eq!(unencodable(&tokenizer, "one tt"), ("tt".to_owned(), 4));
    assert_eq!(unencodable(&tokenizer, "one xx"), ("x".to_owned(), 4));
}

#[test]
fn ids_without_a_token_are_an_error() {
    let vocab = json!({"a": 0, "b": 5});
    let tokenizer = load_value(&characters(&json!({"vocab": vocab, "merges": []}), &json!({})));
    let tokenizer = tokenizer.expect("loads").expect("is there");
    assert_eq!(tokenizer.vocabulary_size(), 6);
    for id in [3, 6, u32::MAX] {
        let error = tokenizer.decode(&[0, id], true).expect_err("is refused");
        assert_eq!(error.to_string(), format!("token id {id} is not in the vocabulary of 6 tokens"));
        assert_eq!(Detokenizer::new(&tokenizer, true).push(id).expect("padding has no text"), "");
    }
    assert_eq!((tokenizer.token(5), tokenizer.token(3)), (Some("b".to_owned()), None));
}

#[test]
fn a_post_processor_that_adds_a_foreign_id_is_an_error() {
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [77], "tokens": ["x"]}}});
    let tokenizer = load_value(&characters(&json!({}), &json!({"post_processor": template})));
    let tokenizer = tokenizer.expect("loads").expect("is there");
    assert!(matches!(tokenizer.encode("a", true), Err(Error::UnknownId { id: 77, vocabulary_size: 5 })));
    assert_eq!(tokenizer.encode("a", false).expect("encodes"), [0]);
}

#[test]
fn the_embedding_must_fit() {
    let tokenizer = load_value(&characters(&json!({}), &json!({}))).expect("loads").expect("is there");
    for rows in [5, 6, 8, 5 + MIN_EXTRA_ROWS] {
        tokenizer.check_against_embedding(rows).expect("fits");
    }
    for rows in [0, 4, 6 + MIN_EXTRA_ROWS, usize::MAX] {
        let error = tokenizer.check_against_embedding(rows).expect_err("does not fit");
        let expected = format!("the vocabulary does not fit the embedding: 5 tokens, {rows} embedding rows; ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn truncation_and_padding_are_ignored() {
    let file = json!({
        "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"},
    });
    let tokenizer = load_value(&characters(&json!({}), &file)).expect("loads").expect("is there");
    assert_eq!(tokenizer.encode("a b", true).expect("encodes"), [0, 4, 1]);
}

#[test]
fn special_tokens_come_from_the_config_files() {
    let json = characters(&json!({"vocab": {"a": 0, "<s>": 1, "</s>": 2, "<pad>": 3}, "merges": []}), &json!({}));
    let config = json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "unk_token": null,
        "pad_token": null, "add_bos_token": true, "add_eos_token": true});
    let map = json!({"pad_token": "<pad>", "mask_token": "[absent]"});
    let tokenizer = load_one(&[
        ("tokenizer.json", json.to_string().as_bytes()),
        ("tokenizer_config.json", config.to_string().as_bytes()),
        ("special_tokens_map.json", map.to_string().as_bytes()),
    ]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    // `null` in tokenizer_config.json goes before special_tokens_map.json.
    assert_eq!((tokenizer.pad_id(), tokenizer.unk_id(), tokenizer.mask_id()), (None, None, None));
    // No post-processor of its own, so `add_bos_token` and `add_eos_token` count; both tokens are now special.
    assert_eq!(tokenizer.encode("a<s>", true).expect("encodes"), [1, 0, 1, 2]);
    assert_eq!(tokenizer.decode(&[1, 0, 2], true).expect("decodes"), "a");
    assert_eq!(tokenizer.decode(&[1, 0, 2], false).expect("decodes"), "<s>a</s>");
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(0));
    let pieces = tokenizer.tokens_with_pieces("a", true).expect("encodes");
    assert_eq!(pieces, [(1, "<s>".to_owned()), (0, "a".to_owned()), (2, "</s>".to_owned())]);
}

/// Llama's shape: `tokenizers` 0.23 does not skip such a token, since the normalizer makes `▁<s>` of it.
#[test]
fn a_special_token_that_the_normalizer_changes_is_skipped() {
    let json = characters(
        &json!({"vocab": {"<s>": 0, "▁": 1, "▁a": 2, "a": 3}, "merges": ["▁ a"]}),
        &json!({
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": true, "special": true}],
            "normalizer": {"type": "Prepend", "prepend": "▁"},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        }),
    );
    let tokenizer = load_value(&json).expect("loads").expect("is there");
    assert_eq!(tokenizer.decode(&[0, 2, 2], true).expect("decodes"), "a a");
    assert_eq!(tokenizer.token(0).as_deref(), Some("<s>"));
    // The space that begins a text is stripped once, and not again after a prompt.
    let mut after = Detokenizer::with_prompt(&tokenizer, &[0, 2], true).expect("decodes");
    assert_eq!(after.push(2).expect("decodes"), " a");
    assert_eq!(after.finish().expect("decodes"), "");
}

#[test]
fn added_tokens_keep_their_ids() {
    let vocab = br#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;
    let files = |added: &'static [u8]| -> [(&'static str, &'static [u8]); 3] {
        [("vocab.json", vocab), ("merges.txt", b"#version: 0.2\na b\n"), ("added_tokens.json", added)]
    };
    let tokenizer = load_one(&files(br#"{"[y]": 5, "[x]": 4}"#));
    assert_eq!(tokenizer.encode("ab[y]a[x]<|endoftext|>", true).expect("encodes"), [2, 5, 0, 4, 3]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(3), Some(3), None));
    assert_eq!(tokenizer.vocabulary_size(), 6);
    // GPT-2 puts `<|endoftext|>` as unknown token, but its model has none: what is not there is an error.
    assert_eq!(unencodable(&tokenizer, "abc"), ("c".to_owned(), 2));
    let message = message(load_files(&files(br#"{"[y]": 9}"#)));
    assert!(message.ends_with("expected id 9 for the added token \"[y]\", found 4"), "{message}");
}

#[test]
fn roberta_files_get_roberta_post_processing() {
    let vocab = br#"{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "<mask>": 5}"#;
    let tokenizer = load_one(&[("vocab.json", vocab), ("merges.txt", b"")]);
    assert_eq!(tokenizer.encode("a", true).expect("encodes"), [0, 4, 2]);
    assert_eq!((tokenizer.pad_id(), tokenizer.mask_id()), (Some(1), Some(5)));
    let class = br#"{"tokenizer_class": "CLIPTokenizer"}"#;
    let message = message(load_files(&[("vocab.json", vocab), ("merges.txt", b""), ("tokenizer_config.json", class)]));
    assert!(message.contains("vocab.json of a CLIPTokenizer"), "{message}");
}

const BERT: &[u8] = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplay\n##ing\nPlay\n,\n";

#[test]
fn bert_vocabularies_are_lower_case_unless_told() {
    let tokenizer = load_one(&[("vocab.txt", BERT)]);
    assert_eq!(tokenizer.encode("Playing, X", true).expect("encodes"), [2, 5, 6, 8, 1, 3]);
    assert_eq!(tokenizer.decode(&[2, 5, 6, 8, 5, 3], true).expect("decodes"), "playing, play");
    let ids = [tokenizer.cls_id(), tokenizer.sep_id(), tokenizer.mask_id(), tokenizer.unk_id(), tokenizer.pad_id()];
    assert_eq!(ids, [Some(2), Some(3), Some(4), Some(1), Some(0)]);
    let cased = load_one(&[("vocab.txt", BERT), ("tokenizer_config.json", br#"{"do_lower_case": false}"#)]);
    assert_eq!(cased.encode("Playing", true).expect("encodes"), [2, 7, 6, 3]);
}

#[test]
fn damaged_vocabularies_are_refused() {
    let cases: [(Files, &str); 16] = [
        (
            &[("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\nx\n")],
            "expected each token once, found \"x\" on lines 5 and 6",
        ),
        (&[("vocab.txt", b"[PAD]\n[UNK]\n\xFF\n")], "expected UTF-8, found other bytes on line 3"),
        (&[("vocab.txt", b"")], "expected the token \"[UNK]\", found no such line"),
        (
            &[("vocab.txt", BERT), ("tokenizer_config.json", br#"{"do_lower_case": 1}"#)],
            "expected true or false as do_lower_case, found a number",
        ),
        (&[("vocab.txt", BERT), ("tokenizer_config.json", br#"{"cls_token": []}"#)], "found a list"),
        (
            &[("vocab.txt", BERT), ("tokenizer_config.json", b"[]")],
            "tokenizer_config.json is not usable: expected an object, found a list",
        ),
        (&[("vocab.txt", BERT), ("special_tokens_map.json", b"{")], "special_tokens_map.json is not usable"),
        (&[("vocab.txt", BERT), ("added_tokens.json", br#"{"x": -1}"#)], "expected an id for \"x\", found -1"),
        (&[("vocab.json", b"{}"), ("merges.txt", b"")], "expected tokens, found none"),
        (&[("vocab.json", br#"{"a": 0}"#)], "expected merges.txt beside it, found none"),
        (&[("merges.txt", b"")], "expected vocab.json beside it, found none"),
        (&[("vocab.json", br#"{"a": "0"}"#), ("merges.txt", b"")], "expected an object of token to id"),
        (&[("vocab.json", br#"{"a": 4294967296}"#), ("merges.txt", b"")], "expected an object of token to id"),
        (
            &[("vocab.json", br#"{"a": 0}"#), ("merges.txt", b"#version\na b c\n")],
            "expected two tokens and a space on line 2",
        ),
        (&[("vocab.json", br#"{"a": 0}"#), ("merges.txt", b"a b\n")], "out of vocabulary"),
        (&[("vocab.json", br#"{"a": 0}"#), ("merges.txt", b"\xC3 b\n")], "found other bytes on line 1"),
    ];
    for (files, expected) in cases {
        let message = message(load_files(files));
        assert!(message.contains(expected), "expected {expected:?}, found {message:?}");
    }
}

#[test]
fn damaged_tokenizer_files_are_refused() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    let decoders = |decoder: Value| characters(&json!({}), &json!({"decoder": decoder})).to_string();
    let cases = [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "{\"model\": 3}".to_owned(),
        "{\"model\": {}}".to_owned(),
        "\u{feff}{}".to_owned(),
        deep("[", "]"),
        deep("{\"model\":", "}"),
        characters(&json!({}), &json!({"version": "9"})).to_string(),
        characters(&json!({"merges": ["a x"]}), &json!({})).to_string(),
        characters(&json!({"merges": [3]}), &json!({})).to_string(),
        characters(&json!({"vocab": {"a": -1}}), &json!({})).to_string(),
        characters(&json!({"vocab": []}), &json!({})).to_string(),
        characters(&json!({}), &json!({"added_tokens": 3})).to_string(),
        characters(&json!({}), &json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}))
            .to_string(),
        characters(&json!({}), &json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": 3}})).to_string(),
        characters(&json!({}), &json!({"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}}))
            .to_string(),
        characters(&json!({}), &json!({"pre_tokenizer": {"type": "Nonsense"}})).to_string(),
        decoders(json!({"type": "Strip", "content": "ab", "start": 0, "stop": 0})),
        decoders(json!({"type": "Nonsense"})),
        decoders(json!(3)),
        decoders((0..40).fold(json!(3), |inner, _| json!({"type": "Sequence", "decoders": [inner]}))),
    ];
    for source in cases {
        let result = load_files(&[("tokenizer.json", source.as_bytes())]);
        let start: String = source.chars().take(200).collect();
        let Err(error) = result else { panic!("expected an error for {start}, found {result:?}") };
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("tokenizer.json is not usable: "), "{error}");
    }
    let bytes = load_files(&[("tokenizer.json", b"{\"model\": \"\xFF\"}")]);
    assert!(matches!(bytes, Err(Error::Invalid { .. })));
}

/// Panics inside `tokenizers` 0.23 that a well-formed file reaches; see `guard`.
#[test]
fn panics_of_the_crate_are_errors() {
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 3});
    let tokenizer = load_value(&characters(&json!({}), &json!({"decoder": strip}))).expect("loads").expect("is there");
    assert!(matches!(tokenizer.decode(&[0], true), Err(Error::Decode { .. })));
    assert!(matches!(Detokenizer::new(&tokenizer, true).push(0), Err(Error::Decode { .. })));

    let bpe = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let tokenizer = load_value(&characters(&json!({}), &json!({"decoder": bpe}))).expect("loads").expect("is there");
    assert_eq!(tokenizer.decode(&[], true).expect("decodes"), "");

    for piece in [json!({"Sequence": {"id": "B", "type_id": 0}}), json!({"SpecialToken": {"id": "x", "type_id": 0}})] {
        let template = json!({"type": "TemplateProcessing", "single": [piece],
            "pair": [{"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {}});
        let tokenizer = load_value(&characters(&json!({}), &json!({"post_processor": template})));
        let result = tokenizer.expect("loads").expect("is there").encode("a", true);
        assert!(matches!(result, Err(Error::Encode { .. })), "{result:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any cut, and any byte replaced, of a file with every part: an error or a tokenizer that works or fails.
    #[test]
    fn a_damaged_file_never_panics(cut in 0_usize..1200, at in 0_usize..1200, byte in any::<u8>(), text in "[ab é<s>]{0,8}") {
        let file = characters(&json!({}), &json!({
            "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true,
                "normalized": true, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": "b+"}, "content": "b"}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                {"type": "Strip", "content": "a", "start": 1, "stop": 0}]},
        })).to_string().into_bytes();
        let mut damaged = file.clone();
        if let Some(place) = damaged.get_mut(at) { *place = byte; }
        for source in [&file[..cut.min(file.len())], &damaged] {
            if let Ok(Some(tokenizer)) = load_files(&[("tokenizer.json", source)])
                && let Ok(ids) = tokenizer.encode(&text, true)
            {
                let _ = tokenizer.decode(&ids, false);
            }
        }
    }
}
