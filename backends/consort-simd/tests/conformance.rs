//! The conformance suite: every operation against the oracle, in f64, on the best instruction set or the one that
//! `CONSORT_SIMD` names.

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::candidate(None).main()
}
