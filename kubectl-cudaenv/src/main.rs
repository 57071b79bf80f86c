//! The process: reads its arguments, runs, and decides the exit code.
//! Never does the work itself.

use std::{io, process::ExitCode};

use clap::Parser as _;
use crds::failure::Reason;
use kubectl_cudaenv::{
    args::{Cli, asks_for_json},
    run::{Outcome, Streams, run, write_error},
};

/// The answer could not be written.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let (mut stdin, mut stdout, mut stderr) = (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
    let mut streams = Streams {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
    };
    let ended = match Cli::try_parse() {
        Ok(cli) => run(&cli.command, &mut streams),
        Err(error) => not_a_command(&error, &mut streams),
    };
    let code = match ended.and_then(|outcome| streams.stdout.flush().map(|()| outcome)) {
        Ok(outcome) => outcome.exit_code(),
        Err(_) => FAILED,
    };
    ExitCode::from(code)
}

/// Help and version are answers; everything else is a refusal, in the output that was asked for.
fn not_a_command(error: &clap::Error, streams: &mut Streams<'_>) -> io::Result<Outcome> {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    if !error.use_stderr() {
        write!(streams.stdout, "{}", error.render())?;
        return Ok(Outcome::Complete);
    }
    if asks_for_json(&arguments) {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        write_error(Reason::BadRequest, message, true, streams)?;
    } else {
        write!(streams.stderr, "{}", error.render())?;
    }
    Ok(Outcome::Refused)
}
