//! Shells that wire the rooms together, one for each command. They decide nothing that a plan could decide.

mod collect;
mod detect;
mod facts;
mod fetch;
mod inputs;
mod obtain;
mod reasons;
mod run;
mod scan;
mod serve;
mod uninstall;
mod verify;

use std::io::Write as _;

use crds::selection::Selection;
use serde::Serialize;

use crate::{
    args::{Args, Command, Output},
    report::{
        failure::{Failure, Reason},
        selection::summary,
    },
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
        Command::Run(args) => run::run(&args, output).map_err(before_the_program),
        Command::Fetch(args) => fetch::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Gc(args) => collect::run(&args, output),
        Command::Detect(args) => detect::run(&args, output),
        Command::Scan(args) => scan::run(&args, output),
        Command::Serve(args) => serve::run(*args),
        Command::Uninstall(args) => uninstall::run(&args, output),
    }
}

/// `run` keeps small exit codes for its program.
fn before_the_program(failure: Failure) -> Failure {
    match failure.exit_code() {
        126 | 127 => failure,
        _ => failure.with_exit_code(RUN_FAILED),
    }
}

/// Says what `run` prepared, on standard error: standard output is the program's.
fn told<T: Serialize>(output: Output, report: &T, selection: &Selection) {
    use std::io::IsTerminal as _;
    let text = match output {
        Output::Json => serde_json::to_string(report).unwrap_or_default() + "\n",
        Output::Text if std::io::stderr().is_terminal() => summary(selection),
        Output::Text => return,
    };
    // Nobody listens: the program starts all the same.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
