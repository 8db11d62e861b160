//! Compares the backends compiled in, one for each feature. `cargo xtask compare` builds and starts it; people use that.

#![forbid(unsafe_code)]

mod backends;

use std::process::ExitCode;

fn main() -> ExitCode {
    consort_conformance::suite::run(backends::compiled(), std::env::args_os())
}
