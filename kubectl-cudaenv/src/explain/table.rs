//! An explanation for people: the node, then one line a variant.
//! Never holds anything that the other outputs do not.

use std::fmt::Write as _;

use crds::{
    domain::{
        environment::{Package, Variant},
        node::{DriverState, NodeFacts},
    },
    selection::Selection,
};

use super::Explanation;

/// Characters in a line.
const WIDTH: usize = 120;
/// The narrowest column that a detail is wrapped into. Where long names leave less, details stand below their line.
const NARROWEST: usize = 60;
/// How far details are indented that stand below their line.
const BELOW: usize = 4;

/// One variant's line: package, variant, verdict, mode or reason, and the sentences behind them.
struct Row {
    cells: [String; 4],
    details: Vec<String>,
}

/// The whole table, with a line end.
pub fn render(explanation: &Explanation) -> String {
    let environment = &explanation.environment;
    let shared = explanation.selection.shared_rejection();
    let mut text = format!("{} on {}\n\n", environment.full_name(), describe(&explanation.node));
    let mut rows = vec![Row {
        cells: ["PACKAGE", "VARIANT", "VERDICT", "REASON"].map(str::to_owned),
        details: vec!["DETAIL".to_owned()],
    }];
    for package in &environment.packages {
        rows.extend(
            package
                .variants
                .iter()
                .map(|variant| row(package, variant, &explanation.selection)),
        );
    }
    if shared.is_some() {
        rows.iter_mut().for_each(|row| row.details.clear());
    }
    let widths = [0, 1, 2, 3].map(|column| rows.iter().map(|row| row.cells[column].len()).max().unwrap_or_default());
    for row in &rows {
        write_row(&mut text, row, widths);
    }
    if let Some(shared) = shared {
        let sentence = format!("Nothing fits: {}.", shared.detail);
        let _ = write!(text, "\n{}\n", wrap(&sentence, WIDTH).join("\n"));
        return text;
    }
    for package in &environment.packages {
        if !explanation.selection.selected.contains_key(&package.name) {
            let _ = write!(text, "\nNo variant of {} fits.\n", package.name);
        }
    }
    text
}

fn describe(node: &NodeFacts) -> String {
    let driver = match &node.driver {
        DriverState::Ready { version, cuda } => format!("driver {version} (CUDA {cuda})"),
        DriverState::Missing => "a node without driver".to_owned(),
        DriverState::NotReady { why } => format!("a driver that is not ready ({why})"),
        DriverState::Mismatch { kernel, library } => format!("kernel module {kernel} with library {library}"),
    };
    let gpus: Vec<String> = node
        .gpus
        .iter()
        .map(|gpu| match gpu.brand {
            Some(brand) => format!("{} ({brand})", gpu.compute_capability),
            None => gpu.compute_capability.to_string(),
        })
        .collect();
    let gpus = if gpus.is_empty() {
        "GPUs not given".to_owned()
    } else {
        format!("GPU {}", gpus.join(", "))
    };
    format!("{driver}, {gpus}, {}", node.system)
}

fn row(package: &Package, variant: &Variant, selection: &Selection) -> Row {
    let names =
        |verdict: &str, reason: &str| [&package.name, &variant.name, verdict, reason].map(|text: &str| text.to_owned());
    if let Some(chosen) = selection
        .selected
        .get(&package.name)
        .filter(|chosen| chosen.variant == variant.name)
    {
        return Row {
            cells: names("selected", chosen.mode.as_str()),
            details: chosen
                .warnings
                .iter()
                .map(|warning| format!("note: {warning}"))
                .collect(),
        };
    }
    let is_it = |other_package: &str, other: &str| other_package == package.name && other == variant.name;
    if let Some(other) = selection
        .alternatives
        .iter()
        .find(|other| is_it(&other.package, &other.variant))
    {
        return Row {
            cells: names("fits", other.mode.as_str()),
            details: vec!["fits too; the selected one ranks higher".to_owned()],
        };
    }
    let rejected = selection
        .rejected
        .iter()
        .find(|rejected| is_it(&rejected.package, &rejected.variant));
    Row {
        cells: names("rejected", rejected.map_or("", |rejected| rejected.reason.as_str())),
        details: rejected.map(|rejected| rejected.detail.clone()).into_iter().collect(),
    }
}

fn write_row(text: &mut String, row: &Row, widths: [usize; 4]) {
    let mut line = String::new();
    for (cell, width) in row.cells.iter().zip(widths) {
        let _ = write!(line, "{cell:width$}  ");
    }
    let below = line.len() + NARROWEST > WIDTH;
    let indent = if below { BELOW } else { line.len() };
    let room = WIDTH - indent;
    for (number, part) in row.details.iter().flat_map(|detail| wrap(detail, room)).enumerate() {
        if number > 0 || below {
            line.truncate(line.trim_end().len());
            let _ = write!(line, "\n{:indent$}", "");
        }
        line.push_str(&part);
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Breaks at blanks; a word longer than a line stands alone.
fn wrap(sentence: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let fits = lines
            .last()
            .is_some_and(|line| line.is_empty() || line.len() + 1 + word.len() <= room);
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_broken_at_blanks_and_long_words_are_kept() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a /nix/store/very-long b", 5), ["a", "/nix/store/very-long", "b"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
