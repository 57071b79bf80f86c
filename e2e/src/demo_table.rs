//! The table that `make demo` ends with, which README.md repeats: its columns, its rows, and what the numbers in it mean.
//! It must never hold a result: rows are what a run of `node-agent` gave.

/// The columns, as a line of Markdown.
pub const HEADER: &str = "| driver | CUDA | chosen: cuda / jpeg | mode of cuda | why not the others | fetched | time | \
                          `cudaGetDeviceCount` in the view | forced |";

/// What stands below the table.
pub const LEGEND: &str = "100: the driver fits, there is no GPU. 35: the driver is too old for this runtime.\n\
                          Forced: a variant that selection refused, put there by hand; it ends as it would in an image.";

/// What happened on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The driver's full version.
    pub driver: String,
    /// Its CUDA release.
    pub cuda: String,
    /// The variant chosen for each package.
    pub chosen: String,
    /// How the variant of `cuda` runs.
    pub mode: String,
    /// Why each other variant of `cuda` was not chosen.
    pub others: String,
    /// What was downloaded.
    pub fetched: String,
    /// How long the run took.
    pub seconds: f64,
    /// What each runtime in the view answered.
    pub answers: String,
    /// A refused variant, and its runtime's answer.
    pub forced: String,
}

impl Row {
    /// As a line of Markdown.
    pub fn line(&self) -> String {
        let Self {
            driver,
            cuda,
            chosen,
            mode,
            others,
            fetched,
            seconds,
            answers,
            forced,
        } = self;
        format!(
            "| {driver} | {cuda} | {chosen} | {mode} | {others} | {fetched} | {seconds:.2} s | {answers} | {forced} |"
        )
    }
}

/// The table and its legend, as Markdown.
pub fn render(rows: &[Row]) -> String {
    let rule = "|---".repeat(HEADER.matches(" | ").count() + 1) + "|";
    let mut lines = vec![HEADER.to_owned(), rule];
    lines.extend(rows.iter().map(Row::line));
    lines.extend([String::new(), LEGEND.to_owned()]);
    lines.join("\n")
}
