//! A failed command, as it is said once at the boundary: a reason that programs know, a message that people understand.
//! Never prints a cause twice; no other place walks the chain of causes.

use std::{error::Error, fmt::Write as _};

pub use crds::failure::Reason;
use serde::Serialize;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    exit_code: u8,
    error: Box<dyn Error + Send + Sync>,
}

#[derive(Serialize)]
struct Document {
    error: Body,
}

/// What programs read of a failure.
#[derive(Debug, Serialize)]
pub struct Body {
    pub reason: Reason,
    pub message: String,
}

impl Failure {
    /// `exit_code` is never 0.
    pub fn new(reason: Reason, exit_code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            reason,
            exit_code: exit_code.max(1),
            error: error.into(),
        }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// The same failure with another exit code.
    pub fn with_exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }

    /// The word for programs.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The whole chain of causes, once, in one line.
    pub fn message(&self) -> String {
        chain(self.error.as_ref())
    }

    /// `{"error":{"reason","message"}}`.
    pub fn to_json(&self) -> String {
        let error = Body {
            reason: self.reason,
            message: self.message(),
        };
        serde_json::to_string(&Document { error }).unwrap_or_default()
    }
}

/// An error and its causes, `outermost: … : innermost`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading the record of abc")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn a_failure_names_every_cause_once() {
        let failure = Failure::new(
            Reason::StoreFailed,
            1,
            Outer {
                source: std::io::Error::other("disk \"a\" is gone"),
            },
        );
        assert_eq!(failure.message(), "reading the record of abc: disk \"a\" is gone");
        assert_eq!(
            failure.to_json(),
            r#"{"error":{"reason":"StoreFailed","message":"reading the record of abc: disk \"a\" is gone"}}"#
        );
        assert_eq!(Failure::new(Reason::BadRequest, 0, "x").exit_code(), 1);
    }
}
