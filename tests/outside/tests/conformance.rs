//! The conformance suite: every operation against the oracle, in f64.

use std::process::ExitCode;

use consort_conformance::suite::Candidate;

fn main() -> ExitCode {
    Candidate::new("vector", || Ok(consort_vector::Vector::new())).main()
}
