//! Shows how far a fetch is: a bar on a terminal, lines elsewhere, JSON on request.
//! Never writes to standard output; says nothing of a fetch that is over before one would look.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle as BarStyle};
use serde::Serialize;

use crate::{
    args::{Output, ProgressStyle},
    snapshot::fetch::FetchStatus,
};

/// Between two looks at the figures.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Between two lines.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two JSON documents.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// One way of showing.
#[derive(Debug)]
pub struct Display {
    form: Form,
    /// When something was last written, counted from the start of the fetch.
    last: Duration,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines,
    Json,
    None,
}

#[derive(Serialize)]
struct Line<'a> {
    progress: &'a FetchStatus,
    seconds: f64,
}

impl Display {
    /// Settles on a form; `Auto` looks whether standard error is a terminal, and whether answers are for programs.
    pub fn new(style: ProgressStyle, output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let form = match style {
            ProgressStyle::Auto if output == Output::Json => Form::Json,
            ProgressStyle::Auto if terminal => Form::Bar(bar()),
            ProgressStyle::Bar => Form::Bar(bar()),
            ProgressStyle::Auto | ProgressStyle::Lines => Form::Lines,
            ProgressStyle::Json => Form::Json,
            ProgressStyle::None => Form::None,
        };
        Self {
            form,
            last: Duration::ZERO,
        }
    }

    /// Shows `status`, `elapsed` after the start, if it is time to.
    pub fn show(&mut self, status: &FetchStatus, elapsed: Duration) {
        let due = |every| elapsed.saturating_sub(self.last) >= every;
        match &self.form {
            Form::Bar(bar) => draw(bar, status),
            Form::Lines if due(LINES_EVERY) => self.write(status, elapsed),
            Form::Json if due(JSON_EVERY) => self.write(status, elapsed),
            Form::Lines | Form::Json | Form::None => {}
        }
    }

    /// Shows the end, where there was a fetch at all.
    pub fn finish(mut self, status: &FetchStatus, elapsed: Duration) {
        match &self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Lines | Form::Json if status.paths_total > 0 => self.write(status, elapsed),
            Form::Lines | Form::Json | Form::None => {}
        }
    }

    fn write(&mut self, status: &FetchStatus, elapsed: Duration) {
        self.last = elapsed;
        let text = match self.form {
            Form::Json => serde_json::to_string(&Line {
                progress: status,
                seconds: elapsed.as_secs_f64(),
            })
            .unwrap_or_default(),
            Form::Bar(_) | Form::Lines | Form::None => line(status, elapsed),
        };
        // Nobody listens any more: the fetch goes on.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}";
    let style = BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn draw(bar: &ProgressBar, status: &FetchStatus) {
    bar.set_length(status.bytes_total);
    bar.set_position(status.bytes_done);
    bar.set_message(format!(
        "{}/{} paths{}",
        status.paths_done,
        status.paths_total,
        source(status)
    ));
}

/// `fetched 120 MiB of 600 MiB (20 %), 3 of 40 paths, 24 MiB/s, from flox`.
fn line(status: &FetchStatus, elapsed: Duration) -> String {
    let percent = (status.bytes_done * 100).checked_div(status.bytes_total).unwrap_or(100);
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = status.bytes_downloaded.saturating_mul(1000) / milliseconds;
    let trouble = match status.retries + status.restarts {
        0 => String::new(),
        count => format!(", {count} interruptions"),
    };
    format!(
        "fetched {} of {} ({percent} %), {} of {} paths, {}/s{}{trouble}",
        HumanBytes(status.bytes_done),
        HumanBytes(status.bytes_total),
        status.paths_done,
        status.paths_total,
        HumanBytes(rate),
        source(status)
    )
}

fn source(status: &FetchStatus) -> String {
    status
        .source
        .as_ref()
        .map(|cache| format!(", from {cache}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_from_where() {
        let status = FetchStatus {
            bytes_done: 50 << 20,
            bytes_total: 200 << 20,
            bytes_downloaded: 20 << 20,
            paths_done: 3,
            paths_total: 40,
            retries: 1,
            restarts: 0,
            source: Some("flox".into()),
        };
        assert_eq!(
            line(&status, Duration::from_secs(2)),
            "fetched 50.00 MiB of 200.00 MiB (25 %), 3 of 40 paths, 10.00 MiB/s, from flox, 1 interruptions"
        );
        assert!(line(&FetchStatus::default(), Duration::ZERO).contains("100 %"));
    }
}
