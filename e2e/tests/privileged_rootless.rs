//! `node-agent` as a user without root runs it: overlay and plain views, verification, collection.
//! Root is needed only to become such a user; what runs then has none of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    documents, parts,
    programs::{self, ended},
    skip,
    stage::Stage,
};

/// The user that Debian calls nobody.
const NOBODY: u32 = 65534;

struct User {
    stage: Stage,
    agent: PathBuf,
    node: PathBuf,
    environment: PathBuf,
    state: PathBuf,
}

impl User {
    fn new(check: &str) -> Option<Self> {
        skip::without(check, skip::root())?;
        let driver = skip::without(check, parts::drivers())?.swap_remove(3);
        let toolkits = skip::without(check, parts::toolkits())?;
        let stage = skip::without(check, Stage::new(&toolkits[..1], |_, _| Ok(())))?;
        let node = stage.node(&driver).unwrap();
        let closure = &stage.closures[0];
        let variant = documents::variant("cu118", &closure.toolkit.cuda, &closure.environment);
        let environment = stage
            .environment("cuda", &[documents::package("cuda", &[variant])])
            .unwrap();
        // Where the programs were built, others may not look.
        let agent = stage.folder().join("node-agent");
        fs::copy(programs::node_agent().unwrap(), &agent).unwrap();
        fs::set_permissions(stage.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = stage.folder().join("home");
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        let state = home.join("state");
        Some(Self {
            stage,
            agent,
            node,
            environment,
            state,
        })
    }

    fn agent(&self, arguments: &[&str]) -> Command {
        let mut agent = Command::new(&self.agent);
        agent
            .args(arguments)
            .arg("--state")
            .arg(&self.state)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY);
        agent
    }

    fn run(&self, view: &str, program: &[&str]) -> programs::Ended {
        let mut run = self.agent(&["run", "--gpu", "8.0:tesla", "--view", view]);
        let path = |option: &str, path: &Path| [option.into(), path.as_os_str().to_owned()];
        run.args(path("--environment", &self.environment))
            .args(path("--caches", &self.stage.caches_file()));
        run.args(path("--driver-root", &self.node)).arg("--").args(program);
        ended(&mut run).unwrap()
    }
}

#[test]
fn a_user_without_root_runs_verifies_and_collects() {
    let Some(user) = User::new("node-agent works without root") else {
        return;
    };
    let look = "id -u; cat /run/cudaenv/packages/cuda/contents >/dev/null 2>&1; ls /run/opengl-driver/lib/libcuda.so.1 && ls /nix/store | wc -l && ! touch /nix/store/x 2>/dev/null";
    let mut seen = Vec::new();
    for view in ["overlay", "plain"] {
        let ran = user.run(view, &["/bin/sh", "-c", look]);
        if ran.code == 125 && ran.stderr.contains("private mount namespace") {
            skip::unless(
                false,
                "node-agent works without root",
                "this kernel allows users no namespaces",
            );
            return;
        }
        assert_eq!(ran.code, 0, "{view}: {ran:?}");
        assert!(ran.stdout.starts_with(&format!("{NOBODY}\n")), "{view}: {ran:?}");
        seen.push(ran.stdout);
    }
    assert_eq!(seen[0], seen[1], "both views show the same");
    assert_eq!(ended(&mut user.agent(&["verify"])).unwrap().code, 0);
    let collected = ended(&mut user.agent(&["gc", "--output", "json"])).unwrap();
    assert_eq!(collected.code, 0, "{collected:?}");
    for folder in ["store", "views", "drivers", "staging", "leases"] {
        assert_eq!(
            fs::read_dir(user.state.join(folder)).unwrap().count(),
            0,
            "{folder} is not empty"
        );
    }
}
