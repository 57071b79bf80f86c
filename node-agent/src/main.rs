//! The node agent's program. Decides the exit code and prints a failure once; nothing else.

use std::{io::Write, process::ExitCode};

use clap::{Parser, error::ErrorKind};
use node_agent::{
    args::{Args, Command, Output},
    commands,
    report::failure::{Failure, Reason},
    telemetry,
};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    let output = args.output;
    let bad_log = if matches!(args.command, Command::Run(_)) {
        commands::RUN_FAILED
    } else {
        2
    };
    let done = telemetry::start(&args.log, output)
        .map_err(|error| Failure::new(Reason::BadRequest, bad_log, error))
        .and_then(|()| commands::run(args));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => print(&failure, output),
    }
}

/// A failure goes where the answer would have gone for programs, and to standard error for people.
fn print(failure: &Failure, output: Output) -> ExitCode {
    // Nothing is left to tell if the very output is gone; the exit code still says it.
    let _ = match output {
        Output::Json => writeln!(std::io::stdout(), "{}", failure.to_json()),
        Output::Text => writeln!(std::io::stderr(), "node-agent: {}", failure.message()),
    };
    ExitCode::from(failure.exit_code())
}

/// The command line cannot be understood, or asks for help.
fn refuse(error: &clap::Error) -> ExitCode {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let words: Vec<_> = std::env::args_os().skip(1).take_while(|word| word != "--").collect();
    let json = words.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || words.iter().any(|word| word == "--output=json");
    if help || !json {
        // Where nobody can be told, the exit code still tells.
        let _ = error.print();
    }
    if help {
        return ExitCode::SUCCESS;
    }
    // `run` keeps small numbers for its program. Options that stand before a command's name take no value that is called `run`.
    let code = if words.iter().any(|word| word == "run") {
        commands::RUN_FAILED
    } else {
        2
    };
    if !json {
        return ExitCode::from(code);
    }
    print(
        &Failure::new(Reason::BadRequest, code, first_paragraph(&error.render().to_string())),
        Output::Json,
    )
}

/// What is wrong, in one line, without the usage that clap adds for people.
fn first_paragraph(rendered: &str) -> String {
    let lines = rendered.trim().trim_start_matches("error: ").lines().map(str::trim);
    let wanted = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    wanted.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
