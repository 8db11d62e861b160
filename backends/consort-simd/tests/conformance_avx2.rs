//! The conformance suite on a lower instruction set: `avx2`.

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::candidate(Some("avx2")).main()
}
