//! What kubelet is told where a volume cannot be had, by the real agent over its socket and for real causes: the word, the
//! code, and what is named. Beside each stands a twin that is published. It must never make up an error.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener},
};

use binary_cache::{
    compression::Compression,
    key::SecretKey,
    narinfo::{Download, Fields, NarInfo},
    write::CacheWriter,
};
use e2e::{
    csi::{self, Client, Machine},
    documents::{self, cache, package, variant},
    made_up::{self, Closure},
    server::Server,
};
use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};
use tonic::{
    Code::{self, FailedPrecondition, NotFound, ResourceExhausted, Unavailable},
    Status,
};

/// More than any disk has.
const HUGE: u64 = 1 << 50;

/// What every refusal has in common: the code, the word at its beginning, all that it names, and nothing left.
#[track_caller]
fn refused(machine: &Machine, done: Result<(), Status>, (code, word): (Code, &str), names: &[&str]) {
    let Err(status) = done else {
        unreachable!("published: {word}");
    };
    let message = status.message();
    assert_eq!(status.code(), code, "{word}: {status:?}");
    assert!(message.starts_with(&format!("{word}: ")), "{word}: {status:?}");
    for name in names {
        assert!(message.contains(name), "{word}: `{name}` is not in {message}");
    }
    assert!(message.len() <= 1000 && status.details().is_empty(), "{status:?}");
    assert!(
        machine.mounted().unwrap().is_empty() && machine.records().unwrap().is_empty(),
        "{word}"
    );
}

fn publish(machine: &Machine, client: &Client, environment: &str) -> Result<(), Status> {
    client.publish(machine.volume("pod").unwrap().publish(environment))
}

/// Published, and taken away.
fn taken(machine: &Machine, client: &Client, environment: &str) {
    publish(machine, client, environment).unwrap_or_else(|status| unreachable!("{environment}: {status:?}"));
    let volume = machine.volume("pod").unwrap();
    assert_eq!(machine.mounted_at(&volume.target).unwrap().len(), 1);
    client.unpublish(volume.unpublish()).unwrap();
    assert!(machine.records().unwrap().is_empty());
}

/// An environment with the one package `tools`.
fn environment(name: &str, variants: &[Value], caches: &[&str]) -> Value {
    let mut environment = documents::environment(name, &[package("tools", variants)]);
    environment["spec"]["caches"] = json!(caches);
    environment
}

fn changed(root: &Closure, change: impl FnOnce(&mut Value)) -> Value {
    let mut variant = variant("only", "11.0", &root.root().to_string());
    variant["code"] = json!({"sass": ["8.0"]});
    change(&mut variant);
    variant
}

fn key_text() -> String {
    made_up::key().unwrap().public_key().to_string()
}

/// Serves a closure, and says what the agent is to know beside the cache.
fn serve(machine: &Machine, closures: &[&Closure], environments: &[Value]) -> Server {
    let folder = machine.path("cache");
    for closure in closures {
        closure.cache(&folder, Compression::None).unwrap();
    }
    let server = Server::start(&folder).unwrap();
    let key = key_text();
    let mut objects = vec![cache("here", &server.url(), &[&key])];
    objects.extend_from_slice(environments);
    documents::write(&machine.path("objects.yaml"), &objects).unwrap();
    server
}

/// The word, the variants, and what must be said of them.
type Misfit = (&'static str, Vec<Value>, &'static [&'static str]);

/// Of PTX alone, which the node's driver compiles up to its own version.
fn ptx(closure: &Closure, isa: &str) -> Value {
    changed(closure, |variant| {
        variant["cuda"] = json!("12.0");
        variant["code"] = json!({"sass": [], "ptx": [{"target": "8.0", "isa": isa}]});
    })
}

fn misfits(closure: &Closure) -> [Misfit; 6] {
    let too_new = changed(closure, |variant| {
        variant["name"] = json!("newest");
        variant["cuda"] = json!("13.0");
    });
    let hopper = changed(closure, |variant| {
        variant["name"] = json!("hopper");
        variant["code"] = json!({"sass": ["9.0"]});
    });
    let other_system = changed(closure, |variant| {
        variant["storePaths"] = json!({"aarch64-linux": variant["storePaths"]["x86_64-linux"]});
    });
    let outside = changed(closure, |variant| variant["driver"] = json!({"max": "470.256.02"}));
    [
        (
            "DriverTooOld",
            vec![too_new.clone()],
            &["newest: driver-too-old: ", "13.0"],
        ),
        ("PtxTooNew", vec![ptx(closure, "9.0")], &["only: ptx-too-new: ", "9.0"]),
        (
            "NoCodeForGPU",
            vec![hopper.clone()],
            &["hopper: no-code-for-gpu: ", "8.0"],
        ),
        (
            "NoVariantForSystem",
            vec![other_system],
            &["only: no-variant-for-system: ", "x86_64-linux"],
        ),
        (
            "OutsideDeclaredRange",
            vec![outside],
            &["only: outside-declared-range: ", "470.256.02"],
        ),
        // The word is that of the closest one.
        (
            "NoCodeForGPU",
            vec![too_new, hopper],
            &["newest: driver-too-old: ", "hopper: no-code-for-gpu: "],
        ),
    ]
}

#[test]
fn an_environment_that_does_not_fit_the_node_is_refused_with_every_variant_and_its_reason() {
    csi::on_a_machine("environments that do not fit", |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let cases = misfits(&closure);
        let name = |index: usize| format!("misfit-{index}");
        let mut environments = vec![
            environment("fits", &[changed(&closure, |_| ())], &["here"]),
            environment("compiles", &[ptx(&closure, "8.0")], &["here"]),
        ];
        let misfits = cases.iter().enumerate();
        environments.extend(misfits.map(|(index, case)| environment(&name(index), &case.1, &["here"])));
        let _server = serve(machine, &[&closure], &environments);
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        for (index, (word, _, names)) in cases.iter().enumerate() {
            let environment = format!("team-a/{}", name(index));
            let names: Vec<_> = names.iter().copied().chain(["node1", &environment]).collect();
            let done = publish(machine, &client, &name(index));
            refused(machine, done, (FailedPrecondition, word), &names);
        }
        let absent = publish(machine, &client, "absent");
        refused(
            machine,
            absent,
            (NotFound, "EnvironmentNotFound"),
            &["`team-a`", "`absent`"],
        );
        for environment in ["fits", "compiles"] {
            taken(machine, &client, environment);
        }
        machine.remove(&machine.volume("pod").unwrap()).unwrap();
        machine.is_tidy().unwrap();
    })
    .unwrap();
}

/// A closure of one path that is signed and larger than the disk.
fn huge(machine: &Machine) -> Closure {
    let closure = Closure::new("huge", 1, 10).unwrap();
    let mut narinfo = NarInfo::new(Fields {
        store_path: closure.root().clone(),
        nar_hash: binary_cache::hash::NarHash::from_bytes([7; 32]),
        nar_size: HUGE,
        references: Vec::new(),
        deriver: None,
        ca: None,
        download: Download {
            url: "nar/huge.nar".parse().unwrap(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
        },
    });
    narinfo.sign(&made_up::key().unwrap());
    let writer = CacheWriter::create(&machine.path("cache"), 40).unwrap();
    writer.publish(&narinfo).unwrap();
    closure
}

/// Changes a byte of every archive that only `closure` has.
fn corrupt(machine: &Machine, closure: &Closure) {
    let cache = machine.path("cache");
    for path in closure.paths() {
        let narinfo = fs::read_to_string(cache.join(format!("{}.narinfo", path.hash()))).unwrap();
        let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        let mut bytes = fs::read(cache.join(url)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(cache.join(url), bytes).unwrap();
    }
}

/// Serves `tools` and `damaged`, which shares no archive with it and whose archives are damaged, to environments that come from caches of all kinds.
fn faulty(machine: &Machine, closure: &Closure, absent: &Closure, away: SocketAddr) -> (Server, Server) {
    let damaged = Closure::new("damaged", 3, 3000).unwrap();
    let of = |name: &str, closure: &Closure, from: &str| environment(name, &[changed(closure, |_| ())], &[from]);
    let environments = [
        of("fine", closure, "here"),
        of("untrusted", closure, "stranger"),
        of("damaged", &damaged, "here"),
        of("away", closure, "away"),
        of("guarded", closure, "guarded"),
        of("absent", absent, "here"),
        of("huge", &huge(machine), "here"),
    ];
    let server = serve(machine, &[closure, &damaged], &environments);
    corrupt(machine, &damaged);
    let stranger = SecretKey::from_seed("stranger-1", &[9; 32]).unwrap().public_key();
    let guarded = Server::start_guarded(&machine.path("cache"), "Bearer nobody's").unwrap();
    // The same cache, for whoever trusts another key, behind credentials, and one that is not there.
    let caches = [
        cache("stranger", &server.url(), &[&stranger.to_string()]),
        cache("away", &format!("http://{away}"), &[&key_text()]),
        cache("guarded", &guarded.url(), &[&key_text()]),
        cache("here", &server.url(), &[&key_text()]),
    ];
    documents::write(
        &machine.path("objects.yaml"),
        &[&caches[..], &environments[..]].concat(),
    )
    .unwrap();
    (server, guarded)
}

#[test]
fn what_caches_do_wrong_is_told_with_the_path_the_cache_and_what_may_come_of_asking_again() {
    csi::on_a_machine("caches that fail", |machine| {
        let [closure, absent] = ["tools", "absent"].map(|name| Closure::new(name, 3, 2000).unwrap());
        // Nobody listens there any more.
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (server, guarded) = faulty(machine, &closure, &absent, away);
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        let (root, url) = (|closure: &Closure| closure.root().to_string(), server.url());
        let says = |texts: [&str; 2]| texts.map(str::to_owned);
        for (environment, answer, names) in [
            (
                "untrusted",
                (FailedPrecondition, "SignatureUntrusted"),
                [root(&closure), url.clone()],
            ),
            ("damaged", (Unavailable, "HashMismatch"), says(["/nix/store/", &url])),
            (
                "away",
                (Unavailable, "CacheUnreachable"),
                [root(&closure), away.to_string()],
            ),
            (
                "guarded",
                (Unavailable, "CredentialsRefused"),
                [root(&closure), guarded.url()],
            ),
            ("absent", (Unavailable, "NotInAnyCache"), [root(&absent), url.clone()]),
            (
                "huge",
                (ResourceExhausted, "InsufficientDisk"),
                says(["are free", "can be freed"]),
            ),
        ] {
            let names: Vec<_> = names.iter().map(String::as_str).chain(["node1", environment]).collect();
            refused(machine, publish(machine, &client, environment), answer, &names);
        }
        taken(machine, &client, "fine");
        machine.remove(&machine.volume("pod").unwrap()).unwrap();
        machine.is_tidy().unwrap();
    })
    .unwrap();
}

#[test]
fn a_node_or_an_agent_that_is_not_ready_yet_says_so_and_may_be_asked_again() {
    csi::on_a_machine("nodes that are not ready", |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let environments = [environment("tools", &[changed(&closure, |_| ())], &["here"])];
        let _server = serve(machine, &[&closure], &environments);
        let module = machine.path("root/sys/module/nvidia/version");
        let version = fs::read_to_string(&module).unwrap();
        let asked = || {
            let agent = machine.start().unwrap();
            let client = agent.client().unwrap();
            (publish(machine, &client, "tools"), client, agent)
        };
        fs::remove_file(&module).unwrap();
        refused(machine, asked().0, (Unavailable, "DriverNotReady"), &["node1"]);
        fs::write(&module, "470.256.02\n").unwrap();
        let other = ["470.256.02", version.trim()];
        refused(machine, asked().0, (Unavailable, "DriverMismatch"), &other);
        fs::write(&module, &version).unwrap();

        let starting = machine.start_without_answer().unwrap();
        let done = publish(machine, &starting.client().unwrap(), "tools");
        refused(machine, done, (Unavailable, "AgentStarting"), &["node1"]);
        starting.stop().unwrap();

        let (done, client, _agent) = asked();
        done.unwrap();
        taken(machine, &client, "tools");
        machine.remove(&machine.volume("pod").unwrap()).unwrap();
        machine.is_tidy().unwrap();
    })
    .unwrap();
}

#[test]
fn a_disk_that_is_full_where_a_small_file_is_to_be_written_is_told_of_as_one() {
    csi::on_a_machine("a full disk", |machine| {
        let state = machine.path("state");
        mount("none", &state, "tmpfs", MountFlags::empty(), c"size=400m,mode=0755").unwrap();
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let environments = [environment("tools", &[changed(&closure, |_| ())], &["here"])];
        let _server = serve(machine, &[&closure], &environments);
        let agent = machine.start().unwrap();
        let client = agent.client().unwrap();
        // All that is large is there.
        taken(machine, &client, "tools");
        let filler = state.join("filler");
        let mut file = File::create(&filler).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        let done = publish(machine, &client, "tools");
        refused(
            machine,
            done,
            (ResourceExhausted, "InsufficientDisk"),
            &["node1", "cannot write", "No space left"],
        );
        drop(file);
        fs::remove_file(filler).unwrap();
        taken(machine, &client, "tools");
        machine.remove(&machine.volume("pod").unwrap()).unwrap();
        machine.is_tidy().unwrap();
    })
    .unwrap();
}
