//! The conformance suite: every operation against the oracle, in f64, on one instruction set: `CONSORT_SIMD` names it.

use std::process::ExitCode;

use consort_conformance::{bounds::Profile, suite::Candidate};
use consort_core::Compute;
use consort_simd::Simd;

fn main() -> ExitCode {
    let open = |threads: Option<usize>| threads.map_or_else(Simd::open, Simd::with_threads);
    // `vdpbf16ps` takes denormals for zero, coming in and going out.
    let flushing = Profile { name: "ieee, denormals flushed".into(), flush_denormals: true, ..Profile::ieee() };
    Candidate::with_threads("simd", move |threads| open(threads).map_err(|error| error.to_string()))
        .profile_in(Compute::BF16, flushing)
        .main()
}
