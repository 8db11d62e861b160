//! The conformance suite on a lower instruction set: `portable`.

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::candidate(Some("portable")).main()
}
