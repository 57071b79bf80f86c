//! Warm publishes over the agent's socket, up to a thousand volumes on one node, against the bind mount alone.
//! It must never measure a volume that the agent had not fetched before.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    csi::{self, Client, Machine, Volume},
    made_up::Closure,
};
use node_agent::store::NodeStore;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::{
    measure::{now, percentile, status_mib},
    table::{say, table},
};

/// Volumes on the node in the end.
const VOLUMES: usize = 1000;
/// Store paths on the node in the end, and how many are put there at once.
const PATHS: usize = 100_000;
const BATCH: usize = 1000;
/// Store paths of a small and of a large closure.
const CLOSURES: [(&str, usize); 2] = [("small", 10), ("large", 400)];

pub(crate) fn run() -> Result<()> {
    let mut done = Ok(());
    csi::on_a_machine("warm publish", |machine| done = on(machine))?;
    done
}

fn on(machine: &Machine) -> Result<()> {
    let closures = CLOSURES.map(|(name, paths)| Closure::new(name, paths, 10_000));
    let [small, large] = closures;
    let (small, large) = (small?, large?);
    let _server = machine.offer(&[(CLOSURES[0].0, &small), (CLOSURES[1].0, &large)], None)?;
    let agent = machine.start()?;
    let client = agent.client()?;
    for (name, _) in CLOSURES {
        publish(&client, &machine.volume(&format!("first-{name}"))?, name)?;
    }
    let idle = status_mib(agent.id(), "VmRSS:").context("no memory figure")?;
    let mut rows = vec![by_hand(machine)?];
    for (name, paths) in CLOSURES {
        let mut took = Vec::new();
        for pod in 0..VOLUMES / CLOSURES.len() {
            let volume = machine.volume(&format!("{name}-{pod}"))?;
            took.push(publish(&client, &volume, name)?);
        }
        rows.push(row(&format!("warm publish, closure of {paths} paths"), took));
    }
    let full = status_mib(agent.id(), "VmRSS:").context("no memory figure")?;
    table(&["", "p50 ms", "p90 ms", "p99 ms", "largest ms", "calls"], &rows)?;
    say(&format!(
        "Resident memory of the agent: {idle:.0} MiB with two volumes, {full:.0} MiB with {VOLUMES}."
    ))?;
    agent.kill()?;
    restarted(machine)?;
    say(&format!(
        "{PATHS} store paths are put there, in {:.0} s.",
        many(machine)?
    ))?;
    // Once with the folders in memory, as after a crash, and once without, as after a reboot.
    restarted(machine)?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    restarted(machine)
}

/// Puts store paths into the store, through the commit that each fetch ends with; how many seconds that took.
fn many(machine: &Machine) -> Result<f64> {
    let start = now();
    let store = NodeStore::open(&machine.path("state"))?;
    for batch in 0..PATHS / BATCH {
        Closure::new(&format!("many-{batch}"), BATCH, 10)?.commit(&store)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// How long an agent that was killed takes until it answers and until it is ready, with what lies there.
fn restarted(machine: &Machine) -> Result<()> {
    let start = now();
    let agent = machine.start()?;
    let answers = start.elapsed().as_secs_f64();
    let client = agent.client()?;
    while client.probe().map_err(|status| anyhow::anyhow!("{status}"))? != Some(true) {
        ensure!(start.elapsed().as_secs() < 120, "the agent does not become ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ready = start.elapsed().as_secs_f64();
    // What it counts and compares afterwards counts, too.
    std::thread::sleep(Duration::from_secs(5));
    let paths = fs::read_dir(machine.path("state/meta"))?.count();
    say(&format!(
        "Killed and started again with {} volumes and {paths} store paths: answers after {answers:.2} s, is ready after {ready:.2} s; at most {:.0} MiB.",
        machine.records()?.len(),
        status_mib(agent.id(), "VmHWM:").context("no memory figure")?
    ))?;
    agent.kill()
}

/// Milliseconds that one call took.
fn publish(client: &Client, volume: &Volume, environment: &str) -> Result<f64> {
    let request = volume.publish(environment);
    let start = now();
    client.publish(request).map_err(|status| anyhow::anyhow!("{status}"))?;
    Ok(milliseconds(start.elapsed()))
}

/// The limit: a folder made and bound, by nobody else's hand.
fn by_hand(machine: &Machine) -> Result<Vec<String>> {
    let (from, to) = (machine.path("from"), machine.path("to"));
    fs::create_dir(&from)?;
    let mut took = Vec::new();
    for _ in 0..VOLUMES / 2 {
        let start = now();
        fs::create_dir(&to)?;
        mount_bind(&from, &to)?;
        took.push(milliseconds(start.elapsed()));
        unmount(&to, UnmountFlags::DETACH)?;
        fs::remove_dir(&to)?;
    }
    Ok(row("limit: a folder made and bound by hand", took))
}

fn row(name: &str, mut took: Vec<f64>) -> Vec<String> {
    let figure = |took: &mut Vec<f64>, share| format!("{:.2}", percentile(took, share));
    vec![
        name.to_owned(),
        figure(&mut took, 0.5),
        figure(&mut took, 0.9),
        figure(&mut took, 0.99),
        figure(&mut took, 1.0),
        took.len().to_string(),
    ]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
