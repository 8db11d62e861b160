//! What may come next, whatever the logits say: forced tokens, and tokens that cannot be chosen now.

use crate::settings::Settings;

/// What a position may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Constraint {
    /// This token.
    Forced(u32),
    /// Anything but [`Settings::suppressed`] and these.
    Except(Vec<u32>),
}

impl Settings {
    /// What may follow `tokens`, of which the first `prompt` are the prompt, when `limit` new ones are the most.
    pub(crate) fn constraint(&self, tokens: &[u32], prompt: usize, limit: usize) -> Constraint {
        let new = tokens.len().saturating_sub(prompt);
        if let Some(token) = self.forced_last
            && new + 1 == limit
        {
            return Constraint::Forced(token);
        }
        if let Some(token) = self.forced_first
            && tokens.len() == 1
        {
            return Constraint::Forced(token);
        }
        let mut except = repeats(tokens, self.no_repeat_ngram);
        for word in &self.bad_words {
            if let Some((&last, start)) = word.split_last()
                && tokens.ends_with(start)
            {
                except.push(last);
            }
        }
        if new < self.min_new_tokens {
            except.extend(&self.stop_tokens);
        }
        Constraint::Except(except)
    }
}

/// Tokens that would make the last `n` tokens an n-gram that was there before.
fn repeats(tokens: &[u32], n: usize) -> Vec<u32> {
    if n == 0 || tokens.len() < n {
        return Vec::new();
    }
    let start = &tokens[tokens.len() + 1 - n..];
    tokens.windows(n).filter(|gram| gram[..n - 1] == *start).map(|gram| gram[n - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_repeat_an_ngram() {
        assert_eq!(repeats(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(repeats(&[1, 2, 1, 3, 1], 2), [2, 3]);
        assert_eq!(repeats(&[4, 5, 4], 1), [4, 5, 4]);
        assert_eq!(repeats(&[1, 1], 2), [1]);
        assert!(repeats(&[1, 2], 3).is_empty());
        assert!(repeats(&[1, 2, 1], 0).is_empty());
        assert!(repeats(&[], 1).is_empty());
    }

    #[test]
    fn what_would_complete_a_bad_word() {
        let settings =
            Settings { bad_words: vec![vec![5], vec![1, 2, 3], vec![2, 4], vec![1, 4], vec![]], ..Settings::default() };
        assert_eq!(settings.constraint(&[1, 2], 2, 4), Constraint::Except(vec![5, 3, 4]));
        assert_eq!(settings.constraint(&[2], 1, 4), Constraint::Except(vec![5, 4]));
    }

    #[test]
    fn forced_tokens_overrule_and_the_last_one_overrules_the_first() {
        let settings = Settings {
            forced_first: Some(7),
            forced_last: Some(8),
            min_new_tokens: 2,
            stop_tokens: vec![8, 9],
            ..Settings::default()
        };
        assert_eq!(settings.constraint(&[0], 1, 4), Constraint::Forced(7));
        assert_eq!(settings.constraint(&[0], 1, 1), Constraint::Forced(8));
        assert_eq!(settings.constraint(&[0, 7], 1, 4), Constraint::Except(vec![8, 9]));
        assert_eq!(settings.constraint(&[0, 7, 3], 1, 4), Constraint::Except(vec![]));
        assert_eq!(settings.constraint(&[0, 7, 3, 3], 1, 4), Constraint::Forced(8));
        // A longer prompt has no forced first token, as transformers has it.
        assert_eq!(settings.constraint(&[0, 1], 2, 4), Constraint::Except(vec![8, 9]));
    }
}
