//! csi-sanity, the conformance suite of CSI drivers, against the real agent: whole, fifty times in a row, in random order.
//! It must never change what the suite expects, nor look away from what it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    cluster,
    csi::{self, Machine, Volume, shim::Shim},
    made_up,
};
use node_agent::store::mounts;

/// In a row, all with the same agent.
const RUNS: u32 = 50;
/// Specs of csi-sanity v5.6.0 that run for a driver without staging, snapshots, expansion and listing, one of which
/// publishes ten times.
const SPECS: &str = "32 Passed | 0 Failed";

#[test]
fn the_conformance_suite_passes_whole_fifty_times_and_leaves_nothing() {
    let check = "csi-sanity against the node agent";
    let Some(program) = cluster::csi_sanity(check).unwrap() else {
        return;
    };
    csi::on_a_machine(check, |machine| {
        let closure = made_up::Closure::new("sanity", 3, 2000).unwrap();
        let server = machine.offer(&[("tools", &closure)], None).unwrap();
        let agent = machine.start().unwrap();
        let suite = Suite {
            program,
            machine,
            socket: machine.path("shim.sock"),
            volume: machine.volume("sanity").unwrap(),
        };
        let shim = Shim::start(&machine.socket(), &suite.socket).unwrap();
        suite.run(1);
        let before = (mounts::read().unwrap(), descriptors(agent.id()), server.log().len());
        (2..=RUNS).for_each(|seed| suite.run(seed));
        let after = (mounts::read().unwrap(), descriptors(agent.id()), server.log().len());
        assert_eq!(before, after, "mounts, descriptors of the agent, requests to the cache");
        drop(shim);
        machine.remove(&suite.volume).unwrap();
        machine.is_tidy().unwrap();
        assert_eq!(agent.stop().unwrap().code(), Some(0));
    })
    .unwrap();
}

struct Suite<'a> {
    program: PathBuf,
    machine: &'a Machine,
    socket: PathBuf,
    /// Its target is the suite's folder for targets, its context that of every volume.
    volume: Volume,
}

impl Suite<'_> {
    fn run(&self, seed: u32) {
        let parameters = self.machine.path("parameters.yaml");
        let context = self.volume.publish("tools").volume_context;
        fs::write(&parameters, serde_json::to_string(&context).unwrap()).unwrap();
        let (targets, staging) = (&self.volume.target, self.machine.path("unused"));
        let says = |name: &str, path: &Path| format!("-csi.{name}={}", path.display());
        let done = Command::new(&self.program)
            .arg(says("endpoint", &self.socket))
            .arg(says("mountdir", targets))
            .arg(says("stagingdir", &staging))
            .arg(says("testvolumeparameters", &parameters))
            .args([
                "-ginkgo.randomize-all",
                "-ginkgo.no-color",
                &format!("-ginkgo.seed={seed}"),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains(SPECS), "seed {seed}\n{said}");
        assert_eq!(self.machine.mounted().unwrap(), [], "seed {seed}");
        assert_eq!(self.machine.records().unwrap(), [""; 0], "seed {seed}");
        assert!(!targets.exists() && !staging.exists(), "seed {seed}");
    }
}

/// Open files of a process, but for its connections: whoever calls comes and goes.
fn descriptors(process: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let what = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    what.filter(|what| !what.to_string_lossy().starts_with("socket:"))
        .count()
}
