//! Our images: the same programs give the same bytes, they start with nothing else around them, and nothing else is inside.
//! It must never need a container runtime: an image is files, and a changed root shows that they are all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::programs::{ended, finished};
use e2e::{images, skip};
use serde_json::Value;

/// What each image may hold besides its one program, by the beginning of the path.
const FILES: [&str; 9] = [
    "etc/group",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "lib64/ld-linux",
    "lib/ld-linux",
    "lib/x86_64-linux-gnu/lib",
    "lib/aarch64-linux-gnu/lib",
    "usr/share/doc/",
];

fn unpack(archive: &Path, to: &Path, flags: &str) {
    fs::create_dir_all(to).unwrap();
    let mut tar = Command::new("tar");
    finished(tar.arg(flags).arg(archive).arg("-C").arg(to)).unwrap();
}

fn blob(layout: &Path, described: &Value) -> PathBuf {
    let digest = described["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(digest)
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Unpacks an archive as a runtime would: its name, its settings, and its files in `<to>/root`.
fn open(archive: &Path, to: &Path) -> (String, Value) {
    let layout = to.join("layout");
    unpack(archive, &layout, "-xf");
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&layout, &index["manifests"][0]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    unpack(&blob(&layout, &manifest["layers"][0]), &to.join("root"), "-xzf");
    let name = index["manifests"][0]["annotations"]["io.containerd.image.name"]
        .as_str()
        .unwrap();
    (name.to_owned(), json(&blob(&layout, &manifest["config"])))
}

fn files(folder: &Path) -> BTreeSet<String> {
    let listed = finished(
        Command::new("find")
            .arg(folder)
            .args(["!", "-type", "d", "-printf", "%P\n"]),
    )
    .unwrap();
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn images_are_reproducible_and_hold_one_program_that_starts_alone() {
    if skip::without("our images in a root of their own", skip::root()).is_none() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let first = images::make(&work.path().join("first")).unwrap();
    let second = images::make(&work.path().join("second")).unwrap();
    for (archive, again) in first.iter().zip(&second) {
        assert!(
            fs::read(archive).unwrap() == fs::read(again).unwrap(),
            "{} differs when made again",
            archive.display()
        );
    }
    for (archive, (program, user)) in first.iter().zip([("node-agent", "0:0"), ("operator", "65532:65532")]) {
        let place = work.path().join(program);
        let (name, config) = open(archive, &place);
        assert_eq!(name, format!("localhost/cudaenv/{program}:0.1.0"));
        let settings = &config["config"];
        assert_eq!(settings["User"], user);
        assert_eq!(
            settings["Entrypoint"],
            serde_json::json!([format!("/usr/bin/{program}")])
        );
        let root = place.join("root");
        let own = format!("usr/bin/{program}");
        let strange: Vec<_> = files(&root)
            .into_iter()
            .filter(|file| *file != own && !FILES.iter().any(|known| file.starts_with(known)))
            .collect();
        assert_eq!(strange, [""; 0], "{program}");
        for file in files(&root) {
            let mode = fs::symlink_metadata(root.join(&file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7022, 0, "{file} is more than readable");
        }
        let mut alone = Command::new("/usr/sbin/chroot");
        alone
            .arg("--userspec")
            .arg(user)
            .arg(&root)
            .arg(format!("/{own}"))
            .arg("--version")
            .env_clear();
        let answer = ended(&mut alone).unwrap();
        assert_eq!(
            (answer.code, answer.stdout.trim()),
            (0, &*format!("{program} 0.1.0")),
            "{answer:?}"
        );
    }
}
