//! Stop texts: cut a stream of text where one of a list of texts first appears.
//!
//! The stop text that is *complete* first wins; of those that end at the same place, the longest. So the result
//! does not depend on how the stream is cut into pushes, and generation can end at the earliest token possible.

use crate::Error;

/// A matcher for stop texts over a stream of text fragments.
///
/// Text that could be the beginning of a stop text is held back until it is decided; nothing else is.
///
/// ```
/// use consort_text::StopTexts;
///
/// let mut stops = StopTexts::new(vec!["\n\nQ:".to_owned()])?;
/// assert_eq!(stops.push("42\n").text, "42");
/// assert_eq!(stops.push("\nok\n").text, "\n\nok");
/// let last = stops.push("\nQ: next");
/// assert_eq!((last.text.as_str(), last.stopped), ("", true));
/// # Ok::<(), consort_text::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopTexts {
    stops: Vec<String>,
    /// The end of the text so far: always a proper prefix of a stop text.
    held: String,
    stopped: bool,
}

/// What [`StopTexts::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emit {
    /// The text that is certain to come before any stop text; may be empty.
    pub text: String,
    /// Whether a stop text has been met, now or earlier. Everything after it is dropped.
    pub stopped: bool,
}

impl StopTexts {
    /// A matcher for these stop texts; with none, all text passes at once.
    ///
    /// # Errors
    /// [`Error::EmptyStopText`] where a stop text is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, Error> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(Error::EmptyStopText { index });
        }
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// The text that `fragment` settles, cut before the first stop text.
    pub fn push(&mut self, fragment: &str) -> Emit {
        if self.stopped {
            return Emit { text: String::new(), stopped: true };
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(fragment);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)))
            .min();
        if let Some((_, start)) = first {
            text.truncate(start);
            self.stopped = true;
        } else {
            self.held = text.split_off(text.len() - self.undecided(&text));
        }
        Emit { text, stopped: self.stopped }
    }

    /// The text still held back: the stream ended before it became a stop text. Empty after a stop.
    pub fn finish(self) -> String {
        self.held
    }

    /// The length in bytes of the longest end of `text` that is a proper prefix of a stop text.
    fn undecided(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            let prefixes = stop.char_indices().map(|(end, _)| end).rev();
            prefixes.into_iter().find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopTexts {
        StopTexts::new(stops.iter().map(|&stop| stop.to_owned()).collect()).expect("no empty stop text")
    }

    /// All text let through, and whether it stopped.
    fn run(stops: &[&str], fragments: &[&str]) -> (String, bool) {
        let mut matcher = matcher(stops);
        let mut text = String::new();
        let mut stopped = false;
        for fragment in fragments {
            let emit = matcher.push(fragment);
            text.push_str(&emit.text);
            stopped = emit.stopped;
        }
        text.push_str(&matcher.finish());
        (text, stopped)
    }

    #[test]
    fn an_empty_stop_text_is_refused() {
        let error = StopTexts::new(vec!["a".to_owned(), String::new()]).expect_err("the second is empty");
        assert!(matches!(error, Error::EmptyStopText { index: 1 }));
        assert_eq!(error.to_string(), "stop text 1 is empty: expected at least one character");
    }

    #[test]
    fn text_without_a_stop_comes_through_whole() {
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), false));
        assert_eq!(run(&["###"], &["a#", "#b", "##"]), ("a##b##".to_owned(), false));
    }

    #[test]
    fn held_text_is_only_what_could_still_stop() {
        let mut stops = matcher(&["end", "\n\n"]);
        assert_eq!(stops.push("the e").text, "the ");
        assert_eq!(stops.push("nemy\n").text, "enemy");
        assert_eq!(stops.push("x").text, "\nx");
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn the_stop_that_is_complete_first_wins() {
        assert_eq!(run(&["abcd", "c"], &["xabcd"]), ("xab".to_owned(), true));
        assert_eq!(run(&["abcd", "c"], &["xa", "bc", "d"]), ("xab".to_owned(), true));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), ("x".to_owned(), true));
        assert_eq!(run(&["b"], &["a", "b", "c"]), ("a".to_owned(), true));
    }

    #[test]
    fn a_failed_beginning_may_hold_another_beginning() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("a".to_owned(), true));
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        assert_eq!(run(&["é€"], &["é", "é", "€x"]), ("é".to_owned(), true));
        assert_eq!(run(&["😀"], &["a😁"]), ("a😁".to_owned(), false));
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_cuts(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            fragments in prop::collection::vec("[abé]{0,5}", 0..12),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = fragments.iter().map(String::as_str).collect();
            let whole = fragments.concat();
            let found = run(&stops, &pieces);
            prop_assert_eq!(&found, &run(&stops, &[&whole]));
            // The plain definition: the shortest beginning of the text that ends with a stop text.
            let ends = whole.char_indices().map(|(at, _)| at).chain([whole.len()]);
            let expected = ends
                .filter_map(|end| {
                    let longest = stops.iter().filter(|stop| whole[..end].ends_with(**stop)).map(|stop| stop.len()).max();
                    longest.map(|length| (whole[..end - length].to_owned(), true))
                })
                .next();
            prop_assert_eq!(found, expected.unwrap_or((whole, false)));
        }
    }
}
