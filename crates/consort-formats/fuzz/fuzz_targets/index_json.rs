//! An index of shards.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = consort_formats::fuzzing::index(text);
});
