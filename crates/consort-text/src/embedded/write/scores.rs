//! Scores that merge as a list of pairs does.
//!
//! The score of a piece is minus the rank of the pair that its own text ends up merged by. Why that is enough: let both
//! ways give every piece's own text the same tokens, and let them differ first on some text where scores merge two
//! neighbours to a piece P. Nothing has crossed P's borders so far, so within them all went as for P's own text alone;
//! there, both merged the same. So the condition is checked, piece by piece, and what fails it is refused.

use std::collections::HashMap;

use super::super::{Kind, Scored};
use super::pieces::Pieces;
use super::refused;
use crate::Error;
use tokenizers::ModelWrapper;
use tokenizers::models::bpe::Vocab;

/// Characters of a piece beyond which nothing is merged here: merging is quadratic.
const MAX_CHARACTERS: usize = 4096;

pub(super) fn of_merges(model: &ModelWrapper, pieces: &Pieces, merges: &[(String, String)]) -> Result<Vec<f32>, Error> {
    let ids: Vocab = pieces
        .tokens
        .iter()
        .zip(0_u32..)
        .zip(&pieces.kinds)
        .filter(|(_, kind)| **kind != Kind::Unused)
        .map(|((piece, id), _)| (piece.clone(), id))
        .collect();
    let mut ranks: HashMap<(u32, u32), (usize, u32)> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        let joined = format!("{left}{right}");
        let (Some(&left), Some(&right), Some(&joined)) = (ids.get(left), ids.get(right), ids.get(&joined)) else {
            return Err(refused(format!("merge {rank} makes {joined:?}, which has a part without an id")));
        };
        ranks.insert((left, right), (rank, joined));
    }
    // Below all that is merged.
    let lowest = merges.len();
    let mut scores = vec![score(lowest); pieces.tokens.len()];
    let mut expected: Vec<(&str, Option<Vec<u32>>)> = Vec::new();
    for ((piece, kind), score_of) in pieces.tokens.iter().zip(&pieces.kinds).zip(&mut scores) {
        if *kind == Kind::Unused || piece.chars().nth(1).is_none() {
            continue;
        }
        if piece.chars().nth(MAX_CHARACTERS).is_some() {
            return Err(refused(format!("a piece has more than {MAX_CHARACTERS} characters")));
        }
        let characters = piece.chars().map(|c| ids.get(c.encode_utf8(&mut [0; 4]) as &str).copied());
        let Some(characters) = characters.collect::<Option<Vec<u32>>>() else {
            // It has a character that becomes bytes, and so is never merged.
            expected.push((piece, None));
            continue;
        };
        let (merged, last) = merge(characters, &ranks);
        if let (1, Some(last)) = (merged.len(), last) {
            *score_of = score(last);
        }
        expected.push((piece, Some(merged)));
    }
    let scored = Scored::new(&ids, scores.clone(), None);
    for (piece, expected) in expected {
        let found: Vec<u32> = scored.tokenize(model, piece).into_iter().map(|token| token.id).collect();
        let same = match expected {
            Some(expected) => found == expected,
            // Merging a part of it is no harm, as long as all of it stays in parts.
            None => found.len() != 1,
        };
        if !same {
            return Err(refused(format!("no scores merge the piece {piece:?} as its list of merges does")));
        }
    }
    Ok(scores)
}

fn score(rank: usize) -> f32 {
    // Exact: there are less than 2^24 merges.
    -(rank as f32)
}

/// Merges the pair of the lowest rank, the leftmost of equals, until there is none; also gives the rank of the last.
fn merge(mut symbols: Vec<u32>, ranks: &HashMap<(u32, u32), (usize, u32)>) -> (Vec<u32>, Option<usize>) {
    let mut last = None;
    loop {
        let pairs = symbols.windows(2).enumerate();
        let known = pairs.filter_map(|(at, pair)| ranks.get(&(pair[0], pair[1])).map(|&(rank, id)| (rank, at, id)));
        let Some((rank, at, id)) = known.min() else { return (symbols, last) };
        symbols[at] = id;
        symbols.remove(at + 1);
        last = Some(rank);
    }
}
