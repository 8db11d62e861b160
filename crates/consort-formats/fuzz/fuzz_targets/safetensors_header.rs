//! A whole safetensors file, header and bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = consort_formats::fuzzing::safetensors(bytes);
});
