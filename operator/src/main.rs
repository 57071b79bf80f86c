//! The operator's program. Decides the exit code and prints a failure once; nothing else.
//! Never goes on after a part of it failed: Kubernetes starts it again.

use std::{io::Write, process::ExitCode};

use clap::Parser as _;
use operator::{
    args::{Args, Command},
    run, telemetry,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let started = telemetry::start(&args.log, args.log_format).map_err(anyhow::Error::new);
    let done = started.and_then(|()| match args.command {
        Command::Run(args) => run::run(args),
        Command::Uninstall(step) => run::uninstall(step),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody can be told, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
