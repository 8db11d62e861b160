//! What `cargo xtask compare` does, for this backend: `cargo run --example compare -- --help`.

use std::process::ExitCode;

use consort_conformance::suite::{self, Candidate};

fn main() -> ExitCode {
    suite::run(vec![Candidate::new("vector", || Ok(consort_vector::Vector::new()))], std::env::args_os())
}
