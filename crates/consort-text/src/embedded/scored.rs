//! BPE by scores: of all neighbours whose joined text is a piece, those with the best score are merged first, the leftmost of
//! equals; until none is left. A character without a piece becomes its bytes, or else the unknown token.
//!
//! `tokenizers` merges by a list of pairs, which such a vocabulary does not have, and which cannot say "leftmost of
//! equals".

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tokenizers::models::bpe::Vocab;
use tokenizers::{Model, ModelWrapper, Token};

/// What is needed besides the pieces themselves.
#[derive(Debug)]
pub(crate) struct Scored {
    /// By id.
    scores: Vec<f32>,
    /// Bytes of the longest piece: longer texts need not be looked up.
    longest: usize,
    /// The ids of `<0x00>` to `<0xFF>`, where all are there.
    bytes: Option<Vec<u32>>,
    unk: Option<u32>,
}

/// A part of the text, in bytes; empty once it is part of the one before.
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be merged.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both, by which an outdated pair is told.
    size: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Scored {
    pub(crate) fn new(vocabulary: &Vocab, scores: Vec<f32>, unk: Option<u32>) -> Self {
        // -0.0 and 0.0 are equal scores.
        let scores = scores.into_iter().map(|score| score + 0.0).collect();
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
        let bytes = (0..=255_u8).map(|byte| vocabulary.get(&format!("<{byte:#04X}>")).copied()).collect();
        Self { scores, longest, bytes, unk }
    }

    /// The tokens of a text whose spaces are `▁` already; `model` has the pieces.
    pub(crate) fn tokenize(&self, model: &ModelWrapper, text: &str) -> Vec<Token> {
        let symbols = self.merge(model, text);
        let mut tokens: Vec<Token> = Vec::new();
        for symbol in symbols.iter().filter(|symbol| symbol.start < symbol.end) {
            let piece = &text[symbol.start..symbol.end];
            let offsets = (symbol.start, symbol.end);
            if let Some(id) = model.token_to_id(piece) {
                tokens.push(Token::new(id, piece.to_owned(), offsets));
            } else if let Some(bytes) = &self.bytes {
                let byte_token = |byte: u8| Token::new(bytes[usize::from(byte)], format!("<{byte:#04X}>"), offsets);
                tokens.extend(piece.bytes().map(byte_token));
            } else if let Some(unk) = self.unk {
                // Unknown tokens in a row are one.
                match tokens.last_mut() {
                    Some(last) if last.id == unk => last.offsets.1 = symbol.end,
                    _ => tokens.push(Token::new(unk, piece.to_owned(), offsets)),
                }
            }
        }
        tokens
    }

    fn merge(&self, model: &ModelWrapper, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (index, (start, c)) in text.char_indices().enumerate() {
            let end = start + c.len_utf8();
            let next = (end < text.len()).then_some(index + 1);
            symbols.push(Symbol { start, end, previous: index.checked_sub(1), next });
        }
        let pair = |symbols: &[Symbol], left: Option<usize>, right: Option<usize>| {
            let (left, right) = (left?, right?);
            let joined = &text[symbols[left].start..symbols[right].end];
            if joined.len() > self.longest {
                return None;
            }
            let id = model.token_to_id(joined)?;
            let score = *self.scores.get(usize::try_from(id).ok()?)?;
            Some(Pair { score, left, right, size: joined.len() })
        };
        let mut queue: BinaryHeap<Pair> =
            (1..symbols.len()).filter_map(|right| pair(&symbols, Some(right - 1), Some(right))).collect();
        while let Some(Pair { left, right, size, .. }) = queue.pop() {
            let length = |index: usize| symbols[index].end - symbols[index].start;
            if length(left) == 0 || length(right) == 0 || length(left) + length(right) != size {
                continue;
            }
            let (end, next) = (symbols[right].end, symbols[right].next);
            symbols[right].start = end;
            symbols[left].end = end;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            queue.extend(pair(&symbols, symbols[left].previous, Some(left)));
            queue.extend(pair(&symbols, Some(left), next));
        }
        symbols
    }
}
