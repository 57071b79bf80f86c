//! What the daemon says of its own health without a cluster: on a machine where it may mount, and for a user who may not.
//! It must never leave a mount behind, also not of a self-test that failed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use e2e::{csi::Client, made_up, programs, skip};
use tonic::{Code, Status};

/// The user `nobody` of Debian and most others.
const NOBODY: u32 = 65534;

struct Agent {
    process: Child,
    http: SocketAddr,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    /// `before` is a program that becomes the agent, with its arguments.
    fn start(before: &[&str], folder: &Path) -> Self {
        let key = made_up::key().unwrap().public_key().to_string();
        let objects = folder.join("objects.yaml");
        let cache = format!(
            "apiVersion: cudaenv.dev/v1alpha1\nkind: CUDABinaryCache\nmetadata: {{name: here}}\n\
             spec: {{url: \"https://cache.example.org\", publicKeys: [\"{key}\"]}}\n"
        );
        fs::write(&objects, cache).unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(before[0])
            .args(&before[1..])
            .arg(programs::node_agent().unwrap())
            .args(["serve", "--node-name", "node1", "--http", &http.to_string()])
            .arg("--objects")
            .arg(&objects)
            .arg("--host-root")
            .arg(folder.join("root"))
            .arg("--state")
            .arg(folder.join("state"))
            .arg("--kubelet-dir")
            .arg(folder.join("kubelet"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, http }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    #[track_caller]
    fn until(&self, path: &str, so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        for _ in 0..300 {
            last = self.get(path).unwrap_or_default();
            if so(&last) {
                return last;
            }
            thread::sleep(Duration::from_millis(100));
        }
        unreachable!("not within half a minute: {path}\n{last}");
    }
}

/// What `Probe` says at the agent's socket, once it says what is waited for.
#[track_caller]
fn probed(folder: &Path, so: impl Fn(&Result<Option<bool>, Status>) -> bool) -> Result<Option<bool>, Status> {
    let client = Client::at(&folder.join("kubelet/plugins/csi.cudaenv.dev/csi.sock")).unwrap();
    let mut last = client.probe();
    for _ in 0..300 {
        if so(&last) {
            return last;
        }
        thread::sleep(Duration::from_millis(100));
        last = client.probe();
    }
    unreachable!("not within half a minute: {last:?}");
}

/// A folder that `user` owns, with what an agent needs in it.
fn folder(user: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["root", "state", "kubelet"] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(user), Some(user)).unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn an_agent_that_may_mount_is_ready_but_for_its_socket_and_one_that_may_not_says_so() {
    if skip::without("the health of the daemon", skip::root()).is_none() {
        return;
    }
    let ours = folder(0);
    let agent = Agent::start(&["unshare", "--mount", "--propagation", "private"], ours.path());
    let metrics = agent.until("/metrics", |text| text.contains("cudaenv_ready{part=\"store\"} 1"));
    assert!(
        metrics.contains("cudaenv_ready{part=\"driver\"} 0"),
        "there is no driver below an empty root"
    );
    let ready = agent.until("/readyz", |text| !text.contains("a mount that succeeds"));
    assert!(!ready.contains("the API server"), "objects come from files: {ready}");
    assert_eq!(probed(ours.path(), Result::is_ok).unwrap(), Some(true));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", agent.process.id())).unwrap();
    let state = ours.path().join("state");
    assert!(!mounts.contains(state.to_str().unwrap()), "the self-test left a mount");
    assert_eq!(fs::read_dir(state.join("staging")).unwrap().count(), 0);
    drop(agent);

    let theirs = folder(NOBODY);
    let nobody = NOBODY.to_string();
    let program = programs::node_agent().unwrap();
    let (user, group) = (format!("--reuid={nobody}"), format!("--regid={nobody}"));
    let reachable = Command::new("setpriv")
        .args([&user, &group, "--clear-groups"])
        .arg(&program)
        .arg("--version")
        .output()
        .unwrap();
    if !skip::unless(
        reachable.status.success(),
        "the daemon without rights",
        "another user cannot reach the programs under test",
    ) {
        return;
    }
    let agent = Agent::start(&["setpriv", &user, &group, "--clear-groups"], theirs.path());
    let ready = agent.until("/readyz", |text| text.contains("503"));
    assert!(ready.contains("waiting for a mount that succeeds"), "{ready}");
    assert!(agent.until("/healthz", |text| text.contains("200")).ends_with("ok\n"));
    let metrics = agent.until("/metrics", |text| text.contains("cudaenv_agent_info"));
    assert!(metrics.contains("cudaenv_ready{part=\"store\"} 0"), "{metrics}");
    let unhealthy = |said: &Result<_, Status>| matches!(said, Err(status) if status.code() == Code::FailedPrecondition);
    let status = probed(theirs.path(), unhealthy).unwrap_err();
    let says = "no mount can be made on node node1: ";
    assert!(
        status.message().starts_with(says) && status.details().is_empty(),
        "{status:?}"
    );
}
