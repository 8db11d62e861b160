//! A configuration in either form; what maps has passed the core's checks.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = consort_formats::fuzzing::config(text) {
        assert!(config.validate().is_ok());
    }
    let _ = consort_formats::fuzzing::native(text);
});
