//! `make bench`: ours and its peers do the same work in one run, in alternation, as ratios.
//! It must never report a time without what it is compared with, and never assert one.

mod cold;
mod measure;
mod nginx;
mod publish;
mod read;
mod slow;
mod table;
mod workload;

use anyhow::{Result, bail};
use e2e::real_nix::RealNix;

use table::say;

/// Every benchmark: its name, and whether the small run has it too.
const ALL: [(&str, bool); 6] = [
    ("smoke", true),
    ("cold", false),
    ("xz", false),
    ("slow", true),
    ("publish", true),
    ("read", false),
];

fn main() -> Result<()> {
    let asked: Vec<_> = std::env::args().skip(1).collect();
    let chosen: Vec<_> = ALL
        .iter()
        .filter(|(name, small)| match asked.as_slice() {
            [] => *name != "smoke",
            [only] if only == "--smoke" => *small,
            names => names.iter().any(|asked| asked == name),
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark of that name; there are: {}", names.join(", "));
    }
    say(&format!("Machine: {}.", table::machine()?))?;
    let nix = RealNix::newest()?;
    say(&format!("Peer: {}.", nix.version()?))?;
    for (name, _) in chosen {
        say(&format!("\n## {name}"))?;
        match *name {
            "smoke" => cold::run(&nix, name, &workload::SMALL, "zstd", 3)?,
            "cold" => cold::run(&nix, name, &workload::TORCH, "zstd", 3)?,
            "xz" => cold::run(&nix, name, &workload::CUBLAS, "xz", 3)?,
            "slow" => slow::run(&nix)?,
            "publish" => publish::run()?,
            _ => read::run(&nix)?,
        }
    }
    Ok(())
}
