//! Shells that wire the rooms together, one for each command. They decide nothing that a plan could decide.

mod detect;
mod facts;
mod scan;

use std::io::Write as _;

use serde::Serialize;

use crate::{
    args::{Args, Command, Output},
    report::failure::{Failure, Reason},
};

/// Exit code of `run` for a failure before the program started.
pub const RUN_FAILED: u8 = 125;

/// Runs the command that was asked for; gives the exit code.
pub fn run(args: Args) -> Result<u8, Failure> {
    let Args {
        command,
        output,
        log: _,
    } = args;
    match command {
        Command::Detect(args) => detect::run(&args, output),
        Command::Scan(args) => scan::run(&args, output),
        _ => Err(Failure::new(Reason::BadRequest, 2, "not yet")),
    }
}

/// Prints an answer: the text for people, or one line of JSON.
fn answer<T: Serialize>(output: Output, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Reason::StoreFailed, 1, error);
    let line = match output {
        Output::Text => text(value),
        Output::Json => serde_json::to_string(value).map_err(|error| failed(error.into()))? + "\n",
    };
    match std::io::stdout().lock().write_all(line.as_bytes()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(()),
    }
}
