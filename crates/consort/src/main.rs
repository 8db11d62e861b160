//! The `consort` command. Its body is [`consort::command`], so that tests can call it.

use std::process::ExitCode;

fn main() -> ExitCode {
    consort::command::main()
}
