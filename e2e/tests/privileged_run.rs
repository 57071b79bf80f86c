//! `node-agent run` as its user meets it: the program's world, its exit code, and every way to be refused.
//! Each refusal stands beside an accepted twin; nothing of a run is left on the machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::parts::Driver;
use e2e::programs::{Ended, ended};
use e2e::stage::Stage;
use e2e::{documents, parts, skip};
use serde_json::{Value, json};

/// A stage with one runtime, 11.8, and a driver that it fits.
struct Scene {
    stage: Stage,
    driver: Driver,
}

impl Scene {
    fn set(check: &str) -> Option<Self> {
        skip::without(check, skip::root())?;
        let driver = skip::without(check, parts::drivers())?.swap_remove(3);
        let toolkits = skip::without(check, parts::toolkits())?;
        let stage = skip::without(check, Stage::new(&toolkits[..1], |_, _| Ok(())))?;
        Some(Self { stage, driver })
    }

    fn package(&self) -> Value {
        let closure = &self.stage.closures[0];
        documents::package(
            "cuda",
            &[documents::variant("cu118", &closure.toolkit.cuda, &closure.environment)],
        )
    }

    fn environment(&self) -> PathBuf {
        self.stage.environment("cuda", &[self.package()]).unwrap()
    }

    fn run(&self, program: &[&str]) -> Command {
        let node = self.stage.node(&self.driver).unwrap();
        let mut run = self
            .stage
            .run(&self.environment(), &node, &self.stage.state("one"))
            .unwrap();
        run.args(program);
        run
    }

    fn ran(&self, program: &[&str]) -> Ended {
        ended(&mut self.run(program)).unwrap()
    }

    /// A run that must be refused, with some arguments changed: `(reason, message)`.
    fn refused(&self, environment: &Path, caches: &Path, node: &Path, state: &str) -> (String, String) {
        let mut run = Command::new(e2e::programs::node_agent().unwrap());
        run.arg("run")
            .arg("--environment")
            .arg(environment)
            .arg("--caches")
            .arg(caches)
            .arg("--driver-root")
            .arg(node);
        run.arg("--state")
            .arg(self.stage.state(state))
            .args(["--output", "json", "--gpu", "8.0:tesla", "--", "true"]);
        let ran = ended(&mut run).unwrap();
        assert_eq!(ran.code, 125, "a failure before the program: {ran:?}");
        ran.error().unwrap()
    }
}

#[test]
fn the_exit_code_and_the_streams_are_the_programs() {
    let Some(scene) = Scene::set("a program's exit code is passed through") else {
        return;
    };
    let said = scene.ran(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((said.code, said.stdout.as_str()), (42, "out\n"), "{said:?}");
    assert!(said.stderr.ends_with("err\n"), "{said:?}");
    assert_eq!(scene.ran(&["true"]).code, 0);
    assert_eq!(scene.ran(&["sh", "-c", "kill -KILL $$"]).code, 128 + 9);
    assert_eq!(scene.ran(&["/nowhere/at-all"]).code, 127);
    assert_eq!(scene.ran(&["/etc/passwd"]).code, 126);

    let mut run = scene.run(&["cat"]);
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
}

#[test]
fn a_signal_ends_the_program_and_leaves_nothing_behind() {
    let Some(scene) = Scene::set("signals reach the program") else {
        return;
    };
    assert_eq!(
        scene.ran(&["true"]).code,
        0,
        "everything is fetched before the clock matters"
    );
    let ready = scene.stage.folder().join("ready");
    let script = format!("echo $$ > {0}.part; mv {0}.part {0}; exec sleep 60", ready.display());
    let mut run = scene.run(&["sh", "-c", &script]);
    let mut child = run.stderr(Stdio::null()).spawn().unwrap();
    for _ in 0..200 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let program = fs::read_to_string(&ready).unwrap().trim().to_owned();
    let agent = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(agent, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(by_signal == Some(15) || status.code() == Some(128 + 15), "{status:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !Path::new("/proc").join(program).join("exe").exists(),
        "the program lives on"
    );
}

#[test]
fn the_program_sees_the_three_mounts_over_the_hosts_files() {
    let Some(scene) = Scene::set("the program sees the three mounts") else {
        return;
    };
    let environment = &scene.stage.closures[0].environment;
    let here = scene.stage.folder().join("host-file");
    fs::write(&here, "host").unwrap();
    let script = format!(
        "readlink /run/cudaenv/packages/cuda; cat {}; echo; ls /run/opengl-driver/lib/libcuda.so.1; ls -d /run/cudaenv/nix/store/*-cuda-runtime-*; \
         ls /nix/store | wc -l; pwd; test -c /dev/null && test -r /proc/self/status && /run/cudaenv/packages/cuda/bin/count",
        here.display()
    );
    let ran = scene.ran(&["sh", "-c", &script]);
    let store_path_in_view = format!("/run/cudaenv{}", scene.stage.closures[0].runtime);
    let working_folder = std::env::current_dir().unwrap();
    let expected = [
        environment.as_str(),
        "host",
        "/run/opengl-driver/lib/libcuda.so.1",
        &store_path_in_view,
        "3",
        working_folder.to_str().unwrap(),
        "libcudart.so.11.0 100",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected, "{ran:?}");

    let described = scene.ran(&["cat", "/run/cudaenv/cudaenv.json"]).json().unwrap();
    let text = described.to_string();
    for named in ["cu118", environment, &scene.driver.version, "stage-1"] {
        assert!(text.contains(named), "{named} is not in {described:#}");
    }
}

#[test]
fn not_even_root_writes_to_the_store_inside() {
    let Some(scene) = Scene::set("the store in the view is read-only") else {
        return;
    };
    let library = format!("{}/lib/libcudart.so.11.0", scene.stage.closures[0].runtime);
    for command in [
        "touch /nix/store/x".to_owned(),
        format!("touch {library}"),
        format!("rm -f {library}"),
        format!("chmod 777 {library}"),
        "touch /run/opengl-driver/lib/x".to_owned(),
        "touch /run/cudaenv/x".to_owned(),
        "rm -f /run/cudaenv/cudaenv.json".to_owned(),
    ] {
        let ran = scene.ran(&["sh", "-c", &command]);
        assert!(
            ran.code != 0 && ran.stderr.contains("Read-only file system"),
            "{command}: {ran:?}"
        );
    }
    let elsewhere = scene.stage.folder().join("writable");
    assert_eq!(scene.ran(&["touch", elsewhere.to_str().unwrap()]).code, 0);
    assert!(elsewhere.exists(), "the host's own files stay writable");
}

#[test]
fn the_host_notices_nothing() {
    let Some(scene) = Scene::set("a run leaves the host's mount table alone") else {
        return;
    };
    let names = |folder: &str| {
        let names = fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect());
        let mut names: Vec<std::ffi::OsString> = names.unwrap_or_default();
        names.sort();
        names
    };
    let seen = || {
        (
            names("/"),
            names("/nix"),
            names("/nix/store"),
            Path::new("/run/cudaenv").exists(),
        )
    };
    let ours = |table: String| {
        table
            .lines()
            .filter(|line| line.contains("cudaenv"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let folder = scene.stage.folder().display().to_string();
    let mounts_here = |pid: &str| {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        ours(table)
            .into_iter()
            .filter(|line| line.contains(&folder))
            .collect::<Vec<_>>()
    };
    let before = seen();
    let inside = scene.ran(&["cat", "/proc/self/mountinfo"]).stdout;
    assert!(inside.contains(" /nix/store "), "{inside}");
    let namespace = scene.ran(&["readlink", "/proc/self/ns/mnt"]).stdout;
    assert_ne!(
        namespace.trim(),
        fs::read_link("/proc/self/ns/mnt").unwrap().to_str().unwrap()
    );
    assert_eq!(mounts_here("self"), Vec::<String>::new());
    assert_eq!(mounts_here("1"), Vec::<String>::new());
    assert_eq!(seen(), before);
}

#[test]
fn a_second_run_fetches_nothing() {
    let Some(scene) = Scene::set("a second run fetches nothing") else {
        return;
    };
    assert_eq!(scene.ran(&["true"]).code, 0);
    let nars = || {
        scene
            .stage
            .server
            .log()
            .iter()
            .filter(|access| access.path.starts_with("/nar/"))
            .count()
    };
    assert_eq!(nars(), 3, "{:?}", scene.stage.server.log());
    assert_eq!(scene.ran(&["true"]).code, 0);
    assert_eq!(nars(), 3, "{:?}", scene.stage.server.log());
}

#[test]
fn a_path_that_no_trusted_key_signed_is_refused_by_path_cache_and_key() {
    let Some(scene) = Scene::set("a wrong key is refused") else {
        return;
    };
    let node = scene.stage.node(&scene.driver).unwrap();
    let other = e2e::our_writer::public_key("other-1").unwrap();
    let caches = scene.stage.folder().join("wrong.yaml");
    let url = scene.stage.server.url();
    documents::write(&caches, &[documents::cache("stage", &url, &[&other])]).unwrap();
    let (reason, message) = scene.refused(&scene.environment(), &caches, &node, "wrong-key");
    assert_eq!(reason, "SignatureUntrusted", "{message}");
    let address = url.trim_start_matches("http://");
    for named in [scene.stage.closures[0].environment.as_str(), address, "stage-1"] {
        assert!(message.contains(named), "{named} is not in {message:?}");
    }
    assert!(
        scene
            .stage
            .server
            .log()
            .iter()
            .all(|access| !access.path.starts_with("/nar/")),
        "nothing was downloaded"
    );
    // Both keys trusted: accepted.
    documents::write(
        &caches,
        &[documents::cache("stage", &url, &[&other, &scene.stage.public_key])],
    )
    .unwrap();
    let mut run = Command::new(e2e::programs::node_agent().unwrap());
    run.arg("run")
        .arg("--environment")
        .arg(scene.environment())
        .arg("--caches")
        .arg(&caches)
        .arg("--driver-root")
        .arg(&node);
    run.arg("--state")
        .arg(scene.stage.state("right-key"))
        .args(["--", "true"]);
    assert_eq!(ended(&mut run).unwrap().code, 0);
}

#[test]
fn what_cannot_be_had_from_the_cache_is_named() {
    let Some(scene) = Scene::set("caches that fail are named") else {
        return;
    };
    let (environment, caches) = (scene.environment(), scene.stage.caches_file());
    let node = scene.stage.node(&scene.driver).unwrap();
    let runtime = scene.stage.closures[0].runtime.clone();
    let narinfo = scene
        .stage
        .cache()
        .join(&runtime["/nix/store/".len()..][..32])
        .with_extension("narinfo");
    let text = fs::read_to_string(&narinfo).unwrap();
    let nar = scene
        .stage
        .cache()
        .join(text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap());

    fs::rename(&narinfo, narinfo.with_extension("away")).unwrap();
    let (reason, message) = scene.refused(&environment, &caches, &node, "missing");
    assert_eq!(reason, "NotInAnyCache", "{message}");
    assert!(message.contains(&runtime), "{message}");
    fs::rename(narinfo.with_extension("away"), &narinfo).unwrap();

    let bytes = fs::read(&nar).unwrap();
    let mut other_bytes = bytes.clone();
    let middle = other_bytes.len() / 2;
    other_bytes[middle] ^= 1;
    fs::write(&nar, &other_bytes).unwrap();
    let (reason, message) = scene.refused(&environment, &caches, &node, "corrupt");
    assert_eq!(reason, "HashMismatch", "{message}");
    assert!(message.contains(&runtime), "{message}");
    fs::write(&nar, &bytes).unwrap();
    assert_eq!(scene.ran(&["true"]).code, 0, "the twin: all in place again");

    let gone = scene.stage.folder().join("gone.yaml");
    documents::write(
        &gone,
        &[documents::cache(
            "gone",
            "http://127.0.0.1:9",
            &[&scene.stage.public_key],
        )],
    )
    .unwrap();
    let (reason, message) = scene.refused(&environment, &gone, &node, "unreachable");
    assert_eq!(reason, "CacheUnreachable", "{message}");
    assert!(message.contains("127.0.0.1:9"), "{message}");
}

#[test]
fn files_that_are_wrong_are_refused_by_field() {
    let Some(scene) = Scene::set("wrong files are refused by field") else {
        return;
    };
    let node = scene.stage.node(&scene.driver).unwrap();
    let (good, caches) = (scene.environment(), scene.stage.caches_file());
    let wrong = scene.stage.folder().join("a-wrong-file.yaml");
    let mut unknown = documents::environment("x", &[scene.package()]);
    unknown["spec"]["packages"][0]["variants"][0]["cudaa"] = json!("12.8");
    let mut no_cuda = documents::environment("x", &[scene.package()]);
    no_cuda["spec"]["packages"][0]["variants"][0]["cuda"] = json!("twelve");
    for (document, named) in [(unknown, "cudaa"), (no_cuda, "variants[0].cuda")] {
        documents::write(&wrong, &[document]).unwrap();
        let (reason, message) = scene.refused(&wrong, &caches, &node, "wrong-file");
        assert_eq!(reason, "BadRequest", "{message}");
        assert!(
            message.contains(named) && message.contains("a-wrong-file.yaml"),
            "{named}: {message}"
        );
    }
    documents::write(&wrong, &[documents::cache("stage", &scene.stage.server.url(), &[])]).unwrap();
    let (reason, message) = scene.refused(&good, &wrong, &node, "no-keys");
    assert_eq!(reason, "BadRequest", "{message}");
    assert!(message.contains("publicKeys"), "{message}");
    let (reason, message) = scene.refused(Path::new("/nowhere/env.yaml"), &caches, &node, "no-file");
    assert_eq!(reason, "BadRequest", "{message}");
    assert!(message.contains("/nowhere/env.yaml"), "{message}");
    assert_eq!(scene.ran(&["true"]).code, 0, "the twin: files as they should be");
}

#[test]
fn a_node_that_is_not_ready_is_refused_with_its_reason() {
    let Some(scene) = Scene::set("nodes without a usable driver are refused") else {
        return;
    };
    let (environment, caches) = (scene.environment(), scene.stage.caches_file());
    let empty = scene.stage.folder().join("empty-root");
    fs::create_dir(&empty).unwrap();
    let (reason, message) = scene.refused(&environment, &caches, &empty, "no-driver");
    assert_eq!(reason, "DriverNotReady", "{message}");

    let mixed = e2e::node::lay_out(&scene.driver, &scene.stage.folder().join("mixed")).unwrap();
    fs::write(mixed.join("sys/module/nvidia/version"), "580.95.05\n").unwrap();
    let (reason, message) = scene.refused(&environment, &caches, &mixed, "mismatch");
    assert_eq!(reason, "DriverMismatch", "{message}");
    for version in ["580.95.05", &scene.driver.version] {
        assert!(message.contains(version), "{version} is not in {message:?}");
    }
    assert_eq!(
        scene.ran(&["true"]).code,
        0,
        "the twin: the same driver, module and libraries alike"
    );
}

#[test]
fn a_refused_environment_lists_every_variant_with_its_reason() {
    let Some(scene) = Scene::set("every refused variant is listed with its reason") else {
        return;
    };
    let path = &scene.stage.closures[0].environment;
    let mut only_old = documents::variant("declared-old-only", "11.8", path);
    only_old["driver"] = json!({"max": "470.256.02"});
    let mut other_system = documents::variant("other-system", "11.8", path);
    other_system["storePaths"] = json!({"aarch64-linux": path});
    let variants = [documents::variant("too-new", "13.0", path), only_old, other_system];
    let environment = scene
        .stage
        .environment("refused", &[documents::package("cuda", &variants)])
        .unwrap();
    let node = scene.stage.node(&scene.driver).unwrap();
    let (reason, message) = scene.refused(&environment, &scene.stage.caches_file(), &node, "refused");
    assert_eq!(reason, "DriverTooOld", "{message}");
    let words = [
        "too-new",
        "driver-too-old",
        "declared-old-only",
        "outside-declared-range",
        "other-system",
        "no-variant-for-system",
    ];
    for named in words {
        assert!(message.contains(named), "{named} is not in {message:?}");
    }
}

#[test]
fn what_a_program_does_to_its_descriptors_takes_its_store_from_under_nobody() {
    let Some(scene) = Scene::set("collection spares a running program") else {
        return;
    };
    // Closes every descriptor that it inherited but the standard ones, says so, and waits to be told to look.
    let script = "import os, sys; os.closerange(3, 4096); print('ready', flush=True); sys.stdin.readline(); \
                  print(len(os.listdir('/nix/store')), flush=True)";
    let mut run = scene.run(&["python3", "-c", script]);
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let collect = || {
        let mut gc = Command::new(e2e::programs::node_agent().unwrap());
        gc.args(["gc", "--output", "json", "--state"])
            .arg(scene.stage.state("one"));
        ended(&mut gc).unwrap().json().unwrap()
    };
    let spared = collect();
    writeln!(child.stdin.take().unwrap(), "look").unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(line.trim(), "3", "the program's store was taken away: {spared}");
    assert!(spared["remove"].as_array().unwrap().is_empty(), "{spared}");
    let collected = collect();
    assert_eq!(
        collected["remove"].as_array().unwrap().len(),
        3,
        "the twin, with nobody there: {collected}"
    );
}

#[test]
fn neither_a_narrow_umask_nor_files_that_come_and_go_disturb_a_run() {
    let Some(scene) = Scene::set("run under umask 077 while files come and go in /run") else {
        return;
    };
    let fleeting = PathBuf::from(format!("/run/cudaenv-test-{}.pid", std::process::id()));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::write(&fleeting, "1").unwrap();
                fs::remove_file(&fleeting).unwrap();
            }
        });
        let ends: Vec<_> = (0..20).map(|_| scene.ran(&["/bin/true"])).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(ends.iter().all(|ended| ended.code == 0), "{ends:?}");
    });
    let run = scene.run(&[
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "ls",
        "/nix/store",
        "/run/cudaenv",
    ]);
    let words = std::iter::once(run.get_program()).chain(run.get_args());
    let quoted: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let narrow = ended(Command::new("/bin/sh").args(["-c", &format!("umask 077; exec {}", quoted.join(" "))])).unwrap();
    assert_eq!(narrow.code, 0, "{narrow:?}");
    assert!(narrow.stdout.contains("cudaenv.json"), "{narrow:?}");
}
