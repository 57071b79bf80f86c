//! The log: the only file that touches the tracing subscriber.
//! Never writes to standard output.

use std::io::IsTerminal;

use crate::args::LogFormat;

/// Filter directives that tracing does not understand.
#[derive(Debug, thiserror::Error)]
#[error("`{directives}` are no filter directives for the log")]
pub struct BadDirectives {
    /// What was given.
    pub directives: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging to standard error.
///
/// # Errors
/// Directives that cannot be parsed.
pub fn start(directives: &str, format: LogFormat) -> Result<(), BadDirectives> {
    let filter = tracing_subscriber::EnvFilter::try_new(directives).map_err(|source| BadDirectives {
        directives: directives.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
