//! The tables of a run, in Markdown, as docs/performance.md shows them.
//! It must never round a ratio in somebody's favour, or leave out a row.

use std::{fs, io::Write};

use anyhow::Result;

use crate::measure::Cost;

/// One line of text.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A table of figures.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> Result<()> {
    say(&format!("| {} |", heads.join(" | ")))?;
    let lines: Vec<_> = (0..heads.len())
        .map(|column| if column == 0 { "---" } else { "--:" })
        .collect();
    say(&format!("|{}|", lines.join("|")))?;
    for row in rows {
        say(&format!("| {} |", row.join(" | ")))?;
    }
    say("")
}

/// Runs of the same work, each against the limit (the first row) and against a peer (the last row).
pub(crate) fn costs(rows: &[(&str, Cost)]) -> Result<()> {
    let (Some((_, limit)), Some((_, peer))) = (rows.first(), rows.last()) else {
        return Ok(());
    };
    let memory = |cost: &Cost| match cost.memory {
        0.0 => "–".to_owned(),
        mib => format!("{mib:.0}"),
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, cost)| {
            vec![
                (*name).to_owned(),
                format!("{:.2}", cost.wall),
                format!("{:.2}", cost.cpu),
                memory(cost),
                format!("{:.2}", cost.wall / limit.wall),
                format!("{:.2}", cost.wall / peer.wall),
                format!("{:.2}", cost.cpu / peer.cpu),
            ]
        })
        .collect();
    table(
        &[
            "",
            "wall s",
            "CPU s",
            "peak MiB",
            "wall / limit",
            "wall / peer",
            "CPU / peer",
        ],
        &rows,
    )
}

/// What the figures were measured on.
pub(crate) fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{} cores of {model}, {} GiB of memory, Linux {}, load average before the run {}",
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        memory.unwrap_or_default() >> 20,
        kernel.trim(),
        load.split_whitespace().next().unwrap_or_default()
    ))
}
