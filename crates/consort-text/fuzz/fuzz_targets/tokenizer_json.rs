//! Bytes as `tokenizer.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // A panic that becomes an error of the crate is no finding.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !consort_text::guarding() {
                hook(panic);
            }
        }));
    },
    |bytes: &[u8]| {
        let _ = consort_text::fuzzing::tokenizer_json(bytes);
    }
);
