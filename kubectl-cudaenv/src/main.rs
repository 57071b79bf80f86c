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
        Ok(cli) => run(&cli, &mut streams),
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
        write_error(Reason::BadRequest, &first_paragraph(&text), true, streams)?;
    } else {
        write!(streams.stderr, "{}", error.render())?;
    }
    Ok(Outcome::Refused)
}

/// What is wrong, with the names that it is about, in one line: clap puts usage and tips below a blank line.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let folded = lines.collect::<Vec<_>>().join(" ");
    folded.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stay_and_the_usage_goes() {
        for (text, message) in [
            (
                "error: not given:\n  --a <A>\n  --b\n\nUsage: x\n\nFor more information, try\n",
                "not given: --a <A> --b",
            ),
            (
                "error: unexpected argument '--c' found\n\n  tip: to pass\n",
                "unexpected argument '--c' found",
            ),
            ("error: one line", "one line"),
            ("", ""),
        ] {
            assert_eq!(first_paragraph(text), message);
        }
    }
}
