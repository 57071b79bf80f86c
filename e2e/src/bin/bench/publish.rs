//! Warm publishes over the agent's socket, up to a thousand volumes on one node, against the bind mount alone.
//! It must never measure a volume that the agent had not fetched before.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use e2e::{
    csi::{self, Agent, Client, Machine, Volume},
    made_up::Closure,
};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::{
    measure::{now, percentile, status_mib},
    table::{say, table},
};

/// Volumes on the node in the end.
const VOLUMES: usize = 1000;
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
    restart(machine, agent)
}

/// How long a restarted agent takes until it answers, with all those volumes.
fn restart(machine: &Machine, agent: Agent) -> Result<()> {
    agent.kill()?;
    let start = now();
    let agent = machine.start()?;
    say(&format!(
        "Killed and started again with {} volumes: answers after {:.2} s.",
        machine.records()?.len(),
        start.elapsed().as_secs_f64()
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
