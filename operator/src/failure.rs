//! An error with its causes, in one line.
//! Never prints a cause twice: an error's own words do not contain its source's.

use std::error::Error;

/// The error and what caused it, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
