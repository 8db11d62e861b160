//! The decoders of `tokenizers`, one token at a time.
//!
//! A decoder of `tokenizers` maps the whole list of pieces to the whole list of text fragments. Here each becomes
//! a stage with as little memory as its meaning allows: most look at one piece alone, or also at whether it is the
//! first or the last. For any ids, all fragments joined are exactly what the decoder makes of the whole list; the
//! property tests hold the two against each other. What a stage must hold back:
//! - `ByteLevel`: the bytes of an unfinished UTF-8 character, three at most;
//! - `ByteFallback`: a whole run of byte pieces, since one bad byte turns every byte of the run into U+FFFD;
//! - `BPEDecoder`: one piece, since the last one is decoded without its space;
//! - `Strip` at the end of fused text: as many characters as it may strip;
//! - a decoder after `Fuse` that needs the whole text (`Replace`; none of the well-known families has it there):
//!   everything, until the end.

use std::sync::Arc;

use tokenizers::Decoder;
use tokenizers::decoders::DecoderWrapper;

use crate::Error;
use crate::guard::guard;

/// The stages of one decoder with what each holds back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    stages: Vec<Stage>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// No decoder: pieces are joined with a space.
    Join { first: bool },
    /// `Replace` and `Strip`: each piece alone.
    Each { decoder: Arc<DecoderWrapper> },
    /// `Metaspace` and `WordPiece`: each piece alone, and the first one differently.
    FirstDiffers { decoder: Arc<DecoderWrapper>, first: bool },
    /// `BPEDecoder`: each piece alone, and the last one differently.
    LastDiffers { decoder: Arc<DecoderWrapper>, held: Option<String> },
    /// `CTC`: each piece alone, unless it repeats the one before.
    Ctc { decoder: Arc<DecoderWrapper>, last: Option<String> },
    /// `ByteFallback`: runs of `<0xNN>` are the bytes of a text.
    ByteFallback { run: Vec<u8> },
    /// `ByteLevel`: each character of a piece stands for a byte; the bytes are read as lossy UTF-8.
    ByteLevel { table: Arc<ByteTable>, unfinished: Vec<u8> },
    /// `Strip` on fused text.
    StripFused { content: char, start_left: usize, stop: usize, held: usize },
    /// Any decoder on fused text that needs all of it.
    Whole { decoder: Arc<DecoderWrapper>, text: Option<String> },
}

impl Stream {
    /// The stages of this decoder, with nothing pushed yet.
    pub(crate) fn new(decoder: Option<&DecoderWrapper>) -> Self {
        let mut stages = Vec::new();
        match decoder {
            None => stages.push(Stage::Join { first: true }),
            Some(decoder) => add_stages(decoder, &mut stages, &mut false),
        }
        Self { stages }
    }

    /// The text that `piece` settles; may be empty.
    pub(crate) fn push(&mut self, piece: String) -> Result<String, Error> {
        let mut fragments = vec![piece];
        for stage in &mut self.stages {
            let mut out = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                stage.push(fragment, &mut out)?;
            }
            fragments = out;
        }
        Ok(fragments.concat())
    }

    /// The text that was still held back, now that there are no more pieces.
    pub(crate) fn finish(self) -> Result<String, Error> {
        let mut fragments = Vec::new();
        for mut stage in self.stages {
            let mut out = Vec::new();
            for fragment in fragments {
                stage.push(fragment, &mut out)?;
            }
            stage.finish(&mut out)?;
            fragments = out;
        }
        Ok(fragments.concat())
    }
}

/// Appends the stages of `decoder`. `fused` says that the stages before give one text in fragments, no longer a
/// list of pieces.
fn add_stages(decoder: &DecoderWrapper, stages: &mut Vec<Stage>, fused: &mut bool) {
    let shared = || Arc::new(decoder.clone());
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for decoder in sequence.get_decoders() {
                add_stages(decoder, stages, fused);
            }
        }
        DecoderWrapper::Fuse(_) => *fused = true,
        DecoderWrapper::Strip(strip) if *fused => stages.push(Stage::StripFused {
            content: strip.content,
            start_left: strip.start,
            stop: strip.stop,
            held: 0,
        }),
        _ if *fused => stages.push(Stage::Whole { decoder: shared(), text: None }),
        DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) => stages.push(Stage::Each { decoder: shared() }),
        DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_) => {
            stages.push(Stage::FirstDiffers { decoder: shared(), first: true });
        }
        DecoderWrapper::BPE(_) => stages.push(Stage::LastDiffers { decoder: shared(), held: None }),
        DecoderWrapper::CTC(_) => stages.push(Stage::Ctc { decoder: shared(), last: None }),
        DecoderWrapper::ByteFallback(_) => stages.push(Stage::ByteFallback { run: Vec::new() }),
        DecoderWrapper::ByteLevel(_) => {
            let table = Arc::new(ByteTable::new());
            stages.push(Stage::ByteLevel { table, unfinished: Vec::new() });
            *fused = true;
        }
    }
}

impl Stage {
    fn push(&mut self, fragment: String, out: &mut Vec<String>) -> Result<(), Error> {
        match self {
            Self::Join { first } => {
                if !std::mem::take(first) {
                    out.push(" ".to_owned());
                }
                out.push(fragment);
            }
            Self::Each { decoder } => out.extend(chain(decoder, vec![fragment])?),
            Self::FirstDiffers { decoder, first } => {
                if std::mem::take(first) {
                    out.extend(chain(decoder, vec![fragment])?);
                } else {
                    out.extend(chain(decoder, vec![String::new(), fragment])?.into_iter().skip(1));
                }
            }
            Self::LastDiffers { decoder, held } => {
                if let Some(before) = held.replace(fragment) {
                    out.extend(chain(decoder, vec![before, String::new()])?.into_iter().take(1));
                }
            }
            Self::Ctc { decoder, last } => {
                if last.as_ref() != Some(&fragment) {
                    out.extend(chain(decoder, vec![fragment.clone()])?);
                    *last = Some(fragment);
                }
            }
            Self::ByteFallback { run } => match byte_piece(&fragment) {
                Some(byte) => run.push(byte),
                None => {
                    end_run(run, out);
                    out.push(fragment);
                }
            },
            Self::ByteLevel { table, unfinished } => {
                table.append(&fragment, unfinished);
                out.push(take_settled(unfinished));
            }
            Self::StripFused { content, start_left, stop, held } => {
                let mut rest = fragment.as_str();
                while *start_left > 0 && !rest.is_empty() {
                    match rest.strip_prefix(*content) {
                        Some(after) => {
                            rest = after;
                            *start_left -= 1;
                        }
                        None => *start_left = 0,
                    }
                }
                let trailing = rest.chars().rev().take_while(|c| c == content).count();
                let body = rest.len() - trailing * content.len_utf8();
                // What was held is not at the end any more, unless all that came is more of the same.
                let at_end = if body == 0 { *held + trailing } else { trailing };
                let released = at_end.saturating_sub(*stop);
                let mut text = String::new();
                if body > 0 {
                    text.extend(std::iter::repeat_n(*content, *held));
                    text.push_str(&rest[..body]);
                }
                text.extend(std::iter::repeat_n(*content, released));
                *held = at_end - released;
                out.push(text);
            }
            Self::Whole { text, .. } => text.get_or_insert_default().push_str(&fragment),
        }
        Ok(())
    }

    fn finish(self, out: &mut Vec<String>) -> Result<(), Error> {
        match self {
            Self::LastDiffers { decoder, held: Some(last) } => out.extend(chain(&decoder, vec![last])?),
            Self::ByteFallback { mut run } => end_run(&mut run, out),
            Self::ByteLevel { unfinished, .. } => out.push(String::from_utf8_lossy(&unfinished).into_owned()),
            Self::Whole { decoder, text: Some(text) } => out.extend(chain(&decoder, vec![text])?),
            // The others hold nothing, or, `StripFused`, what is to be stripped.
            _ => {}
        }
        Ok(())
    }
}

fn chain(decoder: &DecoderWrapper, pieces: Vec<String>) -> Result<Vec<String>, Error> {
    guard(|| decoder.decode_chain(pieces)).map_err(|detail| Error::Decode { detail })
}

/// The byte that a piece like `<0x0A>` stands for.
fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Ends a run of byte pieces: its text, or one U+FFFD a byte where the run is not UTF-8.
fn end_run(run: &mut Vec<u8>, out: &mut Vec<String>) {
    if run.is_empty() {
        return;
    }
    match String::from_utf8(std::mem::take(run)) {
        Ok(text) => out.push(text),
        Err(error) => out.extend(error.as_bytes().iter().map(|_| char::REPLACEMENT_CHARACTER.to_string())),
    }
}

/// The lossy text of all bytes but those of a character that more bytes could still complete.
fn take_settled(bytes: &mut Vec<u8>) -> String {
    let unfinished = match bytes.utf8_chunks().last() {
        // A last bad sequence that is the beginning of a character is incomplete, not wrong.
        Some(chunk) if std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()) => {
            chunk.invalid().len()
        }
        _ => 0,
    };
    let rest = bytes.split_off(bytes.len() - unfinished);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Which byte each character of a byte-level piece stands for: GPT-2's `bytes_to_unicode`.
///
/// Printable bytes stand for themselves (as Latin-1), the other 68 for U+0100 and on, in order.
#[derive(Debug)]
pub(crate) struct ByteTable {
    /// Indexed by the character; the last is U+0143.
    bytes: [Option<u8>; 256 + 68],
}

impl ByteTable {
    pub(crate) fn new() -> Self {
        let mut bytes = [None; 256 + 68];
        let mut next = 256;
        for byte in 0..=255_u8 {
            let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
            let place = if printable {
                usize::from(byte)
            } else {
                next += 1;
                next - 1
            };
            bytes[place] = Some(byte);
        }
        Self { bytes }
    }

    /// The 256 characters that stand for bytes.
    pub(crate) fn alphabet(&self) -> impl Iterator<Item = char> {
        let code = |(code, byte): (usize, &Option<u8>)| byte.and(u32::try_from(code).ok());
        self.bytes.iter().enumerate().filter_map(code).filter_map(char::from_u32)
    }

    /// Appends the bytes of `piece`: of its characters, or, where one of them stands for no byte, its own.
    fn append(&self, piece: &str, out: &mut Vec<u8>) {
        let byte = |c: char| usize::try_from(u32::from(c)).ok().and_then(|code| *self.bytes.get(code)?);
        match piece.chars().map(byte).collect::<Option<Vec<u8>>>() {
            Some(bytes) => out.extend(bytes),
            None => out.extend(piece.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decoders of every kind, alone and as the families combine them.
    const DECODERS: &[&str] = &[
        r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
        r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###,
        r###"{"type":"WordPiece","prefix":"##","cleanup":false}"###,
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#,
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":true}"#,
        r#"{"type":"BPEDecoder","suffix":"</w>"}"#,
        r#"{"type":"CTC","pad_token":"a","word_delimiter_token":"|","cleanup":true}"#,
        r#"{"type":"ByteFallback"}"#,
        r#"{"type":"Fuse"}"#,
        r#"{"type":"Strip","content":" ","start":1,"stop":0}"#,
        r#"{"type":"Replace","pattern":{"Regex":"[ab]+"},"content":"c"}"#,
        r#"{"type":"Sequence","decoders":[]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
            {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
            {"type":"Fuse"},{"type":"Strip","content":" ","start":3,"stop":0}]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"ByteFallback"},
            {"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"Regex":"a+"},"content":"x"},
            {"type":"ByteFallback"}]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,
            "use_regex":true},{"type":"Strip","content":"a","start":2,"stop":0}]}"#,
        r#"{"type":"Sequence","decoders":[{"type":"CTC","pad_token":"b","word_delimiter_token":"▁","cleanup":false},
            {"type":"Metaspace","replacement":"a","prepend_scheme":"always","split":true}]}"#,
    ];

    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "▁", "▁▁", "▁a", "a", "b", " ", "##a", "##", "a</w>", "</w>", ".", "'", "|", "", "do not", "Ġa", "é",
                "😀", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xE4>", "<0xBD>", "<0xA0>", "<0x41>", "<0xZZ>",
                "<0x+A>", "ä", "½", "ł", "ð", "Ł", "ĺ", "Ģ", "Ċ",
            ])
            .prop_map(str::to_owned),
            "[a-c▁ ]{0,3}",
        ];
        prop::collection::vec(piece, 1..24)
    }

    fn stream_all(decoder: Option<&DecoderWrapper>, pieces: &[String]) -> String {
        let mut stream = Stream::new(decoder);
        let mut text = String::new();
        for piece in pieces {
            text.push_str(&stream.push(piece.clone()).expect("decodes"));
        }
        text + &stream.finish().expect("finishes")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn every_decoder_streams_to_the_same_text(pieces in pieces()) {
            for source in DECODERS {
                let decoder: DecoderWrapper = serde_json::from_str(source).expect("a decoder");
                let whole = decoder.decode(pieces.clone()).expect("decodes");
                prop_assert_eq!(stream_all(Some(&decoder), &pieces), whole, "decoder {}", source);
            }
            prop_assert_eq!(stream_all(None, &pieces), pieces.join(" "));
        }

        #[test]
        fn strip_at_both_ends_of_fused_text(pieces in pieces(), start in 0_usize..4, stop in 0_usize..4) {
            let source = serde_json::json!({"type": "Sequence", "decoders": [
                {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": start, "stop": stop}]});
            let decoder: DecoderWrapper = serde_json::from_value(source).expect("a decoder");
            let text = pieces.concat();
            let begin = text.chars().take(start).take_while(|&c| c == 'a').count();
            let rest = &text[begin..];
            let end = rest.chars().rev().take(stop).take_while(|&c| c == 'a').count();
            prop_assert_eq!(stream_all(Some(&decoder), &pieces), &rest[..rest.len() - end]);
        }
    }

    #[test]
    fn a_character_of_several_bytes_comes_whole() {
        let decoder: DecoderWrapper = serde_json::from_str(DECODERS[0]).expect("a decoder");
        let mut stream = Stream::new(Some(&decoder));
        // F0 9F 98 80, GPT-2's names of the bytes of 😀.
        let texts: Vec<String> =
            ["ð", "Ł", "ĺ", "Ģ"].iter().map(|p| stream.push((*p).to_owned()).expect("decodes")).collect();
        assert_eq!(texts, ["", "", "", "😀"]);
        assert_eq!(stream.finish().expect("finishes"), "");
    }

    #[test]
    fn the_byte_table_is_a_bijection() {
        let table = ByteTable::new();
        assert_eq!(table.alphabet().count(), 256);
        let mut bytes = Vec::new();
        table.append(&table.alphabet().collect::<String>(), &mut bytes);
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        bytes.clear();
        table.append("Ġ", &mut bytes);
        table.append("a b", &mut bytes);
        assert_eq!(bytes, b" a b");
    }
}
