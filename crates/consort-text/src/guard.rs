//! A wall against panics of the `tokenizers` crate on files that were not written by it.
//!
//! Cases known in `tokenizers` 0.23, each reachable from a `tokenizer.json`:
//! - a `BPEDecoder` given no tokens computes `0 - 1`;
//! - a `Strip` decoder with `stop` larger than a token indexes before its start;
//! - `Precompiled` normalizers with a damaged `precompiled_charsmap` meet an `expect`;
//! - a `TemplateProcessing` that names sequence `B` in its single form, or a special token that it does not
//!   define, indexes what is not there.
//!
//! The panic hook still prints its line to stderr: a library does not replace the hook of its process, but a process
//! whose own hook asks [`guarding`] can leave it out. A binary built with `panic = "abort"` ends there instead.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would become an error of this crate: nothing that a panic hook need print.
pub fn guarding() -> bool {
    GUARDING.get()
}

/// What `work` returns, with any panic inside it as the error's text.
///
/// Unwind safety is asserted: nothing that `work` writes to outlives a failure but the model's word cache, which
/// `tokenizers` guards with a lock that it only ever tries.
pub(crate) fn guard<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let outer = GUARDING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDING.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("the tokenizers crate panicked: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{guard, guarding};

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guard(|| Ok(guarding())), Ok(true));
        assert_eq!(guard::<()>(|| Err("no".into())), Err("no".to_owned()));
        let found = guard::<()>(|| panic!("index {}", 7));
        assert_eq!(found, Err("the tokenizers crate panicked: index 7".to_owned()));
        assert!(!guarding());
    }
}
