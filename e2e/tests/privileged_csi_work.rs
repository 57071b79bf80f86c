//! The real agent at work: many pods at once, a fetch that takes longer than a call, kills at every system call that changes
//! something, a reboot, and a churn. It must never clean up in the agent's place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{
    csi::{self, Agent, Client, Machine, Volume},
    made_up::Closure,
    node, parts,
    server::Server,
    skip,
};
use node_agent::csi::messages::csi::NodePublishVolumeRequest;
use rustix::mount::{UnmountFlags, unmount};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Request, Status};

/// Publishes all at the same time.
fn together(client: &Client, requests: Vec<NodePublishVolumeRequest>) -> Vec<Result<(), Status>> {
    client.wait(async {
        let mut calls = JoinSet::new();
        for request in requests {
            let mut node = client.node();
            calls.spawn(async move { node.node_publish_volume(request).await.map(drop) });
        }
        calls.join_all().await
    })
}

fn check(closure: &Closure, volume: &Volume) {
    for member in closure.members() {
        let place = volume.target.join("nix/store").join(member.path.base_name());
        member.check(&place).unwrap();
    }
}

/// Takes volumes away as kubelet does; afterwards nothing is left.
fn take_away(machine: &Machine, client: &Client, volumes: &[Volume]) {
    for volume in volumes {
        client.unpublish(volume.unpublish()).unwrap();
        machine.remove(volume).unwrap();
    }
    machine.is_tidy().unwrap();
}

/// How often each archive was asked for, and how many bytes of them were sent.
fn fetched(server: &Server) -> (BTreeMap<String, usize>, u64) {
    let (mut times, mut bytes) = (BTreeMap::new(), 0);
    for access in server.log().iter().filter(|access| access.path.starts_with("/nar/")) {
        *times.entry(access.path.clone()).or_default() += 1;
        bytes += access.bytes;
    }
    (times, bytes)
}

fn archive_bytes(machine: &Machine) -> u64 {
    let archives = fs::read_dir(machine.path("cache/nar")).unwrap();
    archives.map(|archive| archive.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn forty_pods_at_once_are_one_fetch_of_each_path() {
    csi::on_a_machine("forty pods at once", |machine| {
        let closure = Closure::new("tools", 20, 20_000).unwrap();
        let server = machine.offer(&[("tools", &closure)], None).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let volumes: Vec<_> = (0..40)
            .map(|pod| machine.volume(&format!("pod-{pod}")).unwrap())
            .collect();
        let requests = volumes.iter().map(|volume| volume.publish("tools")).collect();
        for done in together(&client, requests) {
            done.unwrap();
        }
        let (times, bytes) = fetched(&server);
        assert!(
            times.len() == 20 && times.values().all(|times| *times == 1),
            "{times:?}"
        );
        assert_eq!(bytes, archive_bytes(machine));
        assert_eq!(
            (machine.mounted().unwrap().len(), machine.records().unwrap().len()),
            (40, 40)
        );
        volumes.iter().for_each(|volume| check(&closure, volume));
        take_away(machine, &client, &volumes);
    })
    .unwrap();
}

#[test]
fn a_fetch_longer_than_a_call_goes_on_between_calls_and_takes_no_byte_twice() {
    csi::on_a_machine("a fetch longer than a call", |machine| {
        let closure = Closure::new("tools", 3, 1 << 20).unwrap();
        let server = machine.offer(&[("tools", &closure)], Some(200_000)).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let volume = machine.volume("patient").unwrap();
        let call = |patience| {
            let mut request = Request::new(volume.publish("tools"));
            request.set_timeout(patience);
            let mut node = client.node();
            client.wait(node.node_publish_volume(request)).map(drop)
        };
        // Not held long enough, twice; the caller is told how far it is near its deadline, and left with nothing.
        for patience in [1, 2].map(Duration::from_secs) {
            let begun = Instant::now();
            let status = call(patience).unwrap_err();
            assert!(
                begun.elapsed() >= patience.mul_f64(0.7),
                "answered after {:?}",
                begun.elapsed()
            );
            assert_eq!(status.code(), Code::Aborted, "{status:?}");
            assert!(status.message().contains("it goes on"), "{status:?}");
            assert!(machine.mounted().unwrap().is_empty() && machine.records().unwrap().is_empty());
        }
        // Given up by the caller, which says nothing to the agent but that.
        client.wait(async {
            let mut node = client.node();
            let call = node.node_publish_volume(volume.publish("tools"));
            tokio::time::timeout(Duration::from_millis(300), call)
                .await
                .unwrap_err();
        });
        // Held until it is there. The call that was given up may be on its way out still.
        let mut done = call(Duration::from_secs(120));
        while let Err(status) = done {
            assert_eq!(status.code(), Code::Aborted, "{status:?}");
            done = call(Duration::from_secs(120));
        }
        check(&closure, &volume);
        let (times, bytes) = fetched(&server);
        assert!(times.values().all(|times| *times == 1), "{times:?}");
        assert_eq!(bytes, archive_bytes(machine));
        take_away(machine, &client, &[volume]);
    })
    .unwrap();
}

#[test]
fn a_pod_that_goes_while_its_closure_is_fetched_does_not_wait_for_it() {
    csi::on_a_machine("a pod that goes during a fetch", |machine| {
        let closure = Closure::new("tools", 3, 1 << 20).unwrap();
        let server = machine.offer(&[("tools", &closure)], Some(400_000)).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let [goes, stays] = ["goes", "stays"].map(|uid| machine.volume(uid).unwrap());
        client.wait(async {
            let mut calls = JoinSet::new();
            for volume in [&goes, &stays] {
                let (mut node, request) = (client.node(), volume.publish("tools"));
                let goes = volume == &goes;
                calls.spawn(async move { (goes, node.node_publish_volume(request).await.map(drop)) });
            }
            while fetched(&server).0.is_empty() && server.log().len() < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut node = client.node();
            node.node_unpublish_volume(goes.unpublish()).await.unwrap();
            let first = calls.join_next().await.unwrap().unwrap();
            assert!(first.0, "the one that goes is answered first: {first:?}");
            assert_eq!(first.1.unwrap_err().code(), Code::Aborted);
            calls.join_next().await.unwrap().unwrap().1.unwrap();
        });
        machine.remove(&goes).unwrap();
        check(&closure, &stays);
        take_away(machine, &client, &[stays]);
    })
    .unwrap();
}

/// The system calls by which publishing and taking away change something, or wait for the disk.
const CALLS: [&str; 14] = [
    "mkdirat",
    "mkdir",
    "rename",
    "renameat",
    "fsync",
    "fsopen",
    "fsmount",
    "open_tree",
    "move_mount",
    "umount2",
    "unlinkat",
    "symlinkat",
    "openat2",
    "flock",
];

/// strace, attached to the agent until dropped; it kills the agent when a thread of it makes that call for the n-th time.
struct Killer(Child);

impl Killer {
    fn attach(agent: &Agent, call: &str, time: usize) -> Self {
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={call}:signal=KILL:when={time}"),
            ])
            .args(["-o", "/dev/null", "-p", &agent.id().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says `Process N attached` for the agent as a whole, with the number of its threads.
        let mut said = String::new();
        BufReader::new(strace.stderr.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(said.contains("attached"), "{said}");
        Self(strace)
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        // Without it the agent goes on. Asked politely, strace may wait for ever for a thread that it had killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_killed_at_any_call_that_changes_something_is_followed_by_one_that_finishes_the_work() {
    let check_name = "an agent killed at system calls";
    let strace = Command::new("strace")
        .arg("-V")
        .output()
        .map_err(|_| "strace is not installed");
    if skip::without(check_name, strace).is_none() {
        return;
    }
    csi::on_a_machine(check_name, |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let _server = machine.offer(&[("tools", &closure)], None).unwrap();
        let volume = || machine.volume("killed").unwrap();
        let mut agent = machine.start().unwrap();
        agent.client().unwrap().publish(volume().publish("tools")).unwrap();
        take_away(machine, &agent.client().unwrap(), &[volume()]);
        let mut kills = BTreeMap::new();
        for call in CALLS {
            for publishing in [true, false] {
                for time in 1.. {
                    let was = agent.id();
                    agent = killed_at(machine, agent, (call, time), publishing);
                    check(&closure, &volume());
                    assert_eq!(machine.mounted().unwrap().len(), 1, "{call} {time}");
                    assert_eq!(machine.records().unwrap().len(), 1, "{call} {time}");
                    take_away(machine, &agent.client().unwrap(), &[volume()]);
                    if was == agent.id() {
                        break;
                    }
                    *kills.entry((call, publishing)).or_insert(0) += 1;
                }
            }
        }
        println!("killed at: {kills:?}");
        assert!(kills.values().sum::<usize>() >= 10, "{kills:?}");
    })
    .unwrap();
}

/// Publishes, and takes away where that is what is to be killed; the agent dies at the call, if it makes it so often, and
/// another takes its place. In the end the volume is published.
fn killed_at(machine: &Machine, mut agent: Agent, (call, time): (&str, usize), publishing: bool) -> Agent {
    let volume = machine.volume("killed").unwrap();
    let client = agent.client().unwrap();
    if publishing {
        // The view too is built and mounted anew.
        forget_views(machine);
        for view in fs::read_dir(machine.path("state/views")).unwrap() {
            fs::remove_dir_all(view.unwrap().path()).unwrap();
        }
    } else {
        client.publish(volume.publish("tools")).unwrap();
    }
    let killer = Killer::attach(&agent, call, time);
    let done = if publishing {
        client.publish(volume.publish("tools"))
    } else {
        client.unpublish(volume.unpublish())
    };
    drop(killer);
    let agent = match done {
        Ok(()) => agent,
        Err(status) => {
            assert!(
                agent.is_gone().unwrap(),
                "{call} {time}: {status:?}\n{}",
                agent.log_text()
            );
            machine.start().unwrap()
        }
    };
    let client = agent.client().unwrap();
    if !publishing {
        client.unpublish(volume.unpublish()).unwrap();
        assert!(
            !volume.target.exists() && machine.records().unwrap().is_empty(),
            "{call} {time}"
        );
    }
    let volume = machine.volume("killed").unwrap();
    client.publish(volume.publish("tools")).unwrap();
    agent
}

/// Unmounts what the agent binds to targets, as a reboot does.
fn forget_views(machine: &Machine) {
    let table = node_agent::store::mounts::read().unwrap();
    let views = machine.path("state/views");
    for mount in table.iter().rev().filter(|mount| mount.at.starts_with(&views)) {
        unmount(&mount.at, UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn after_a_reboot_pods_get_their_volumes_back_without_a_fetch_and_what_is_gone_is_forgotten() {
    csi::on_a_machine("a reboot", |machine| {
        let closure = Closure::new("tools", 5, 2000).unwrap();
        let server = machine.offer(&[("tools", &closure)], None).unwrap();
        let volumes: Vec<_> = (0..6)
            .map(|pod| machine.volume(&format!("pod-{pod}")).unwrap())
            .collect();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        volumes
            .iter()
            .for_each(|volume| client.publish(volume.publish("tools")).unwrap());
        // Killed alone, its mount namespace gone with it, it takes nothing from the pods.
        agent.kill().unwrap();
        volumes.iter().for_each(|volume| check(&closure, volume));
        for mount in machine.mounted().unwrap() {
            unmount(&mount.at, UnmountFlags::empty()).unwrap();
        }
        forget_views(machine);
        let (come_back, gone) = volumes.split_at(4);
        for volume in gone {
            fs::remove_dir_all(machine.pods().join(&volume.uid)).unwrap();
        }
        drop(server);
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        machine.until("what is gone is forgotten", || machine.records().unwrap().len() == 4);
        // One is taken away without having come back; the cache is away.
        let (first, rest) = come_back.split_first().unwrap();
        client.unpublish(first.unpublish()).unwrap();
        machine.remove(first).unwrap();
        for volume in rest {
            client.publish(volume.publish("tools")).unwrap();
            check(&closure, volume);
        }
        assert_eq!(machine.mounted().unwrap().len(), 3);
        take_away(machine, &client, rest);
    })
    .unwrap();
}

/// The name of the driver's own file that a volume shows.
fn libcuda(volume: &Volume) -> String {
    let names = fs::read_dir(volume.target.join("driver/lib")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut own: Vec<_> = names
        .filter(|name| name.starts_with("libcuda.so.") && name.len() > 13)
        .collect();
    assert_eq!(own.len(), 1, "{own:?}");
    own.remove(0)
}

#[test]
fn after_a_reboot_with_another_driver_pods_get_its_files_and_with_the_same_one_the_same_view() {
    let check_name = "a reboot with another driver";
    let drivers = parts::available_drivers().unwrap();
    let two = drivers.iter().rev().nth(1).zip(drivers.last());
    let Some((other, first)) = skip::without(check_name, two.ok_or("two real drivers cannot be had")) else {
        return;
    };
    csi::on_a_machine(check_name, |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let server = machine.offer(&[("tools", &closure)], None).unwrap();
        let agent = machine.start().unwrap();
        let volumes = ["comes-back", "stays"].map(|uid| machine.volume(uid).unwrap());
        let [volume, stays] = &volumes;
        for volume in &volumes {
            agent.client().unwrap().publish(volume.publish("tools")).unwrap();
            assert_eq!(libcuda(volume), format!("libcuda.so.{}", first.version));
        }
        agent.kill().unwrap();
        let reboot = || {
            for mount in machine.mounted_at(&volume.target).unwrap() {
                unmount(&mount.at, UnmountFlags::empty()).unwrap();
            }
            forget_views(machine);
        };
        let views = || {
            let names = fs::read_dir(machine.path("state/views")).unwrap();
            names.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
        };
        let asked = server.log().len();
        // The same driver, then another, then the first again.
        for (driver, made) in [(first, 1), (other, 2), (first, 2)] {
            reboot();
            fs::remove_dir_all(machine.path("root")).unwrap();
            node::lay_out(driver, &machine.path("root")).unwrap();
            let agent = machine.start().unwrap();
            let client = agent.client().unwrap();
            for volume in &volumes {
                client.publish(volume.publish("tools")).unwrap();
                check(&closure, volume);
            }
            assert_eq!(libcuda(volume), format!("libcuda.so.{}", driver.version));
            assert_eq!(
                libcuda(stays),
                format!("libcuda.so.{}", first.version),
                "a mount that is there stays"
            );
            assert_eq!((views(), machine.records().unwrap().len()), (made, 2));
            agent.kill().unwrap();
        }
        assert_eq!(server.log().len(), asked, "all of it was there");
        let agent = machine.start().unwrap();
        take_away(machine, &agent.client().unwrap(), &volumes);
    })
    .unwrap();
}

const CALLERS: usize = 64;
const ROUNDS: usize = 160;
const VOLUMES: usize = 50;

#[test]
fn a_churn_of_many_callers_ends_with_nothing_left() {
    csi::on_a_machine("a churn of publishing and taking away", |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let _server = machine.offer(&[("tools", &closure)], None).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let volumes: Vec<_> = (0..VOLUMES)
            .map(|pod| machine.volume(&format!("pod-{pod}")).unwrap())
            .collect();
        client.publish(volumes[0].publish("tools")).unwrap();
        client.unpublish(volumes[0].unpublish()).unwrap();
        let before = files(&agent);
        let answers = client.wait(async {
            let mut calls = JoinSet::new();
            for caller in 0..CALLERS {
                calls.spawn(churn(client.node(), volumes.clone(), caller));
            }
            calls.join_all().await
        });
        let (mut codes, mut wrong) = (BTreeMap::new(), Vec::new());
        for (code, message) in answers.into_iter().flatten() {
            *codes.entry(format!("{code:?}")).or_insert(0) += 1;
            if ![Code::Ok, Code::Aborted].contains(&code) {
                wrong.push(message);
            }
        }
        println!("{} calls: {codes:?}", CALLERS * ROUNDS);
        assert!(wrong.is_empty(), "{wrong:#?}");
        for volume in &volumes {
            assert!(machine.mounted_at(&volume.target).unwrap().len() <= 1, "{volume:?}");
        }
        take_away(machine, &client, &volumes);
        assert_eq!(files(&agent), before, "files that stay open");
    })
    .unwrap();
}

/// One after another.
const CYCLES: usize = 500;
/// More memory than after the first few, at most.
const GROWTH_KIB: u64 = 8 << 10;

#[test]
fn five_hundred_volumes_one_after_another_leave_no_mount_file_or_memory_in_use() {
    csi::on_a_machine("volumes one after another", |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let _server = machine.offer(&[("tools", &closure)], None).unwrap();
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let cycle = |number: usize| {
            let volume = machine.volume(&format!("pod-{number}")).unwrap();
            client.publish(volume.publish("tools")).unwrap();
            client.unpublish(volume.unpublish()).unwrap();
            machine.remove(&volume).unwrap();
        };
        (0..20).for_each(cycle);
        let figures = || (node_agent::store::mounts::read().unwrap().len(), files(&agent));
        let (before, memory) = (figures(), memory_kib(&agent));
        (0..CYCLES).for_each(cycle);
        assert_eq!(figures(), before, "mounts, files that stay open");
        let grown = memory_kib(&agent).saturating_sub(memory);
        println!("{CYCLES} volumes: {grown} KiB more");
        assert!(grown <= GROWTH_KIB, "{grown} KiB more than {memory}");
        machine.is_tidy().unwrap();
    })
    .unwrap();
}

fn memory_kib(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Publishes and takes away by a fixed die of its own.
async fn churn(
    mut node: node_agent::csi::messages::csi::node_client::NodeClient<tonic::transport::Channel>,
    volumes: Vec<Volume>,
    caller: usize,
) -> Vec<(Code, String)> {
    let mut codes = Vec::new();
    let mut state = caller as u64 + 1;
    for _ in 0..ROUNDS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let volume = &volumes[usize::try_from(state >> 33).unwrap() % VOLUMES];
        let done = if (state >> 20) & 1 == 0 {
            node.node_publish_volume(volume.publish("tools")).await.map(drop)
        } else {
            node.node_unpublish_volume(volume.unpublish()).await.map(drop)
        };
        codes.push(match done {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        });
    }
    codes
}

/// Open files of the agent, but for its connections.
fn files(agent: &Agent) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap();
    let what = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    what.filter(|what| !what.to_string_lossy().starts_with("socket:"))
        .count()
}
