//! The log: the only file that touches the tracing subscriber.
//! Never writes to standard output, which belongs to the commands' answers.

use std::io::IsTerminal;

use crate::args::Output;

/// Filter directives that tracing does not understand.
#[derive(Debug, thiserror::Error)]
#[error("`{directives}` are no filter directives for the log")]
pub struct BadDirectives {
    pub directives: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// What a library logs of each request that fails; who asked says it too, once.
const SAID_TWICE: &str = "kube_client::client::builder";

/// Starts logging to standard error: lines for people, JSON where answers are JSON.
pub fn start(directives: &str, output: Output) -> Result<(), BadDirectives> {
    let filter = tracing_subscriber::EnvFilter::try_new(directives).map_err(|source| BadDirectives {
        directives: directives.to_owned(),
        source,
    })?;
    let filter = match format!("{SAID_TWICE}=off").parse() {
        Ok(directive) if !directives.contains(SAID_TWICE) => filter.add_directive(directive),
        Ok(_) | Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match output {
        Output::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        Output::Json => builder.json().init(),
    }
    Ok(())
}
