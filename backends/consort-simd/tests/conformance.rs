//! The conformance suite: every operation against the oracle, in f64, on one instruction set: `CONSORT_SIMD` names it.

use std::process::ExitCode;

use consort_conformance::suite::Candidate;
use consort_simd::Simd;

fn main() -> ExitCode {
    let open = |threads: Option<usize>| match threads {
        Some(threads) => Simd::with_threads(threads),
        None => Simd::open(),
    };
    Candidate::with_threads("simd", move |threads| open(threads).map_err(|error| error.to_string())).main()
}
