//! `make bench`: ours and its peers do the same work in one run, in alternation, as ratios.
//! It must never report a time without what it is compared with, and never assert one.

mod cold;
mod first;
mod fleet;
mod https;
mod measure;
mod publish;
mod read;
mod slow;
mod table;
mod workload;

use anyhow::{Result, bail};
use e2e::real_nix::RealNix;

use table::say;
use workload::published;

/// One benchmark.
struct Benchmark {
    name: &'static str,
    /// Whether the small run has it too.
    is_small: bool,
    run: fn(&RealNix) -> Result<()>,
}

const ALL: [Benchmark; 9] = [
    Benchmark {
        name: "smoke",
        is_small: true,
        run: |nix| cold::run(nix, &workload::SMOKE, 3),
    },
    Benchmark {
        name: "cold",
        is_small: false,
        run: |nix| cold::run(nix, &workload::COLD, 3),
    },
    Benchmark {
        name: "xz-blocks",
        is_small: false,
        run: |nix| cold::run(nix, &workload::XZ_BLOCKS, 3),
    },
    Benchmark {
        name: "xz-paths",
        is_small: false,
        run: |nix| cold::run(nix, &workload::XZ_PATHS, 3),
    },
    Benchmark {
        name: "slow",
        is_small: true,
        run: slow::run,
    },
    Benchmark {
        name: "publish",
        is_small: true,
        run: |_| publish::run(),
    },
    Benchmark {
        name: "first",
        is_small: false,
        run: |_| first::run(),
    },
    Benchmark {
        name: "read",
        is_small: false,
        run: read::run,
    },
    Benchmark {
        name: "fleet",
        is_small: false,
        run: |_| fleet::run(),
    },
];

fn main() -> Result<()> {
    let asked: Vec<_> = std::env::args().skip(1).collect();
    let nix = RealNix::newest()?;
    if asked.first().is_some_and(|first| first == "--prepare") {
        let named =
            |workload: &&&workload::Workload| asked.len() < 2 || asked.iter().any(|asked| asked == workload.name);
        return workload::ALL
            .iter()
            .filter(named)
            .try_for_each(|workload| published(&nix, workload).map(drop));
    }
    let chosen: Vec<_> = ALL
        .iter()
        .filter(|benchmark| match asked.as_slice() {
            [] => benchmark.name != "smoke",
            [only] if only == "--smoke" => benchmark.is_small,
            names => names.iter().any(|asked| asked == benchmark.name),
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = ALL.iter().map(|benchmark| benchmark.name).collect();
        bail!("no benchmark of that name; there are: {}", names.join(", "));
    }
    say(&format!("Machine: {}.", table::machine()?))?;
    say(&format!("Peer: {}.", nix.version()?))?;
    for benchmark in chosen {
        say(&format!("\n## {}", benchmark.name))?;
        (benchmark.run)(&nix)?;
    }
    Ok(())
}
