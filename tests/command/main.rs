//! The `consort` command, as its users meet it: what its parts print, and how it ends on bad input.
//!
//! This binary starts itself as the command (see [`main`]), so nothing is built while tests run. Models are the goldens
//! of the repository, copied to a temporary folder where a test gives them a tokenizer or damages them. Commands have
//! limits on time and memory, so that an endless loop or a lying length fails a test and not the machine.

mod bench;
mod gguf;
mod good;
mod refused;
mod support;

use std::{env, process::ExitCode};

use libtest_mimic::Arguments;

use self::support::AS_COMMAND;

fn main() -> ExitCode {
    if env::var_os(AS_COMMAND).is_some() {
        return consort::command::main();
    }
    let mut trials = good::good();
    trials.extend(refused::bad());
    trials.extend(gguf::trials());
    trials.extend(bench::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
