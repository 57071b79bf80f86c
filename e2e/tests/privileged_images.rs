//! Our images: the same programs give the same bytes, they start with nothing else around them, and nothing else is inside.
//! It must never need a container runtime: an image is files, and a changed root shows that they are all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::programs::{self, ended, finished, source_folder};
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

/// The instructions of the Dockerfile's stage of that name, without the lines that begin and continue them.
fn stage(name: &str) -> Vec<String> {
    let file = source_folder().join("images/Dockerfile");
    let text = fs::read_to_string(file).unwrap().replace("\\\n", "");
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let begin = |line: &str| line.starts_with("FROM ") && line.ends_with(&format!(" AS {name}"));
    let first = lines.find(|line| begin(line)).unwrap().to_owned();
    let rest = lines.take_while(|line| !line.starts_with("FROM ")).map(str::to_owned);
    [first].into_iter().chain(rest).collect()
}

/// Who builds with Docker gets the same settings, and the files that the same script lays out.
fn the_dockerfile_describes_the_same(program: &str, settings: &Value, root: &Path) {
    let (mut described, mut from) = (serde_json::json!({}), Vec::new());
    for instruction in stage(program) {
        let (word, rest) = instruction.split_once(' ').unwrap();
        match word {
            "FROM" | "COPY" => from.push(instruction.clone()),
            "USER" => described["User"] = rest.into(),
            "ENV" => described["Env"] = serde_json::json!([rest]),
            "ENTRYPOINT" => described["Entrypoint"] = serde_json::from_str(rest).unwrap(),
            "LABEL" => {
                let labels = rest.split(' ').map(|label| label.split_once('=').unwrap());
                described["Labels"] = labels
                    .map(|(name, value)| (name.to_owned(), Value::from(value)))
                    .collect();
            }
            _ => unreachable!("{instruction}"),
        }
    }
    assert_eq!(&described, settings, "{program}");
    let layout = format!("/root-of/{program}");
    assert_eq!(
        from,
        [
            format!("FROM scratch AS {program}"),
            format!("COPY --from=build {layout} /")
        ]
    );
    let script = format!("images/root.sh target/release/{program} {layout}");
    let build = stage("build");
    assert!(build.iter().any(|line| line.contains(&script)), "{build:?}");
    let laid_out = root.with_file_name("laid-out");
    let programs = [programs::node_agent().unwrap(), programs::operator().unwrap()];
    let own = programs.iter().find(|path| path.ends_with(program)).unwrap();
    let mut script = Command::new(source_folder().join("images/root.sh"));
    finished(script.arg(own).arg(&laid_out)).unwrap();
    assert_eq!(hashes(&laid_out), hashes(root), "{program}");
}

/// Name, mode and hash of every file, name and mode of every folder.
fn hashes(folder: &Path) -> String {
    let list = "find . -printf '%p %y %m\\n' | sort; find . -type f -exec sha256sum {} + | sort";
    finished(Command::new("sh").args(["-c", list]).current_dir(folder)).unwrap()
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
        the_dockerfile_describes_the_same(program, settings, &root);
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
