//! Carries out a command: reads what it names, writes its answer or its error.
//! Never exits; it says how the process should.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Read, Write},
};

use crds::failure::Reason;
use serde::Serialize;

use crate::{
    args::{Cli, Command, ExplainArgs, Output},
    explain::{self, ExplainError, Explanation, table},
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every package has a variant.
    Complete,
    /// At least one package has none.
    Incomplete,
    /// The command line or a file is wrong.
    Refused,
}

impl Outcome {
    /// What the process exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Incomplete => 3,
            Self::Refused => 2,
        }
    }
}

/// Where a command reads and writes.
pub struct Streams<'a> {
    /// Read where a file is `-`.
    pub stdin: &'a mut dyn Read,
    /// Answers, and errors as JSON where that was asked for.
    pub stdout: &'a mut dyn Write,
    /// Errors otherwise.
    pub stderr: &'a mut dyn Write,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// Runs a command. Fails only when its answer cannot be written.
pub fn run(cli: &Cli, streams: &mut Streams<'_>) -> io::Result<Outcome> {
    match &cli.command {
        Command::Explain(args) => run_explain(args, cli.output, streams),
    }
}

fn run_explain(args: &ExplainArgs, output: Output, streams: &mut Streams<'_>) -> io::Result<Outcome> {
    match explain::explain(args, streams.stdin) {
        Ok(explanation) => {
            streams.stdout.write_all(render(&explanation, output)?.as_bytes())?;
            let complete = explanation.selection.covers(&explanation.environment);
            Ok(if complete {
                Outcome::Complete
            } else {
                Outcome::Incomplete
            })
        }
        Err(error) => refuse(&error, output == Output::Json, streams),
    }
}

fn render(explanation: &Explanation, output: Output) -> io::Result<String> {
    Ok(match output {
        Output::Table => table::render(explanation),
        Output::Json => serde_json::to_string_pretty(&explanation.selection).map_err(io::Error::other)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&explanation.selection).map_err(io::Error::other)?,
    })
}

fn refuse(error: &ExplainError, json: bool, streams: &mut Streams<'_>) -> io::Result<Outcome> {
    write_error(error.reason(), &chain(error), json, streams)?;
    Ok(Outcome::Refused)
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    reason: Reason,
    message: &'a str,
}

/// Writes an error where the caller looks for it: as JSON on stdout, or as a sentence on stderr.
pub fn write_error(reason: Reason, message: &str, json: bool, streams: &mut Streams<'_>) -> io::Result<()> {
    if !json {
        return writeln!(streams.stderr, "error: {message}");
    }
    let error = ErrorBody { reason, message };
    let document = serde_json::to_string(&ErrorDocument { error }).map_err(io::Error::other)?;
    writeln!(streams.stdout, "{document}")
}

/// An error and its causes, `outermost: … : innermost`.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
