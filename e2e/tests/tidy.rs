//! The house rules that a machine can check, as tests.
//! Never checks style that rustfmt or clippy already check.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{demo_table, parts};

/// Lines of a file, its tests not counted.
const LINES_WITHOUT_TESTS: usize = 400;
/// Lines of a file in all.
const LINES_IN_ALL: usize = 700;

/// Names under which things gather that belong elsewhere.
const ATTIC_NAMES: [&str; 8] = [
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "handler",
];

/// Which crate of the workspace may use which: the arrows of docs/architecture.md.
const CRATE_ARROWS: [(&str, &[&str]); 6] = [
    ("crds", &[]),
    ("binary-cache", &["crds"]),
    ("node-agent", &["crds", "binary-cache"]),
    ("operator", &["crds", "binary-cache"]),
    ("kubectl-cudaenv", &["crds", "binary-cache"]),
    ("e2e", &["crds", "binary-cache", "node-agent", "kubectl-cudaenv"]),
];

/// Which rooms of a program a room must not import from.
const CLOSED_DOORS: [(&str, &[&str]); 7] = [
    (
        "snapshot",
        &["observe", "plan", "act", "report", "commands", "args", "store"],
    ),
    ("plan", &["observe", "act", "report", "commands", "args"]),
    ("observe", &["plan", "act", "report", "commands", "args"]),
    ("act", &["observe", "report", "commands", "args"]),
    ("report", &["observe", "act", "commands", "provision", "csi"]),
    ("provision", &["commands", "args", "csi"]),
    ("csi", &["commands", "args"]),
];

/// Words that mean an effect, forbidden in the rooms that only think.
const EFFECTS: [&str; 6] = ["std::fs", "std::net", "std::process", "std::thread", "::now()", "tokio"];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// What stands before the file's own tests.
    fn program(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    fn shown(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    text: fs::read_to_string(&path).unwrap(),
                    path,
                });
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {folder}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn all_sources() -> Vec<Source> {
    CRATE_ARROWS.iter().flat_map(|(name, _)| sources(name)).collect()
}

#[track_caller]
fn assert_none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let bare = all_sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    assert_none("files without a `//!` header", bare.map(|file| file.shown()).collect());
}

#[test]
fn no_test_is_left_out() {
    // Spelled in two parts, so that this file is not one of them.
    let mark = ["#[", "ignore"].concat();
    let ignored = all_sources().into_iter().filter(|file| file.text.contains(&mark));
    assert_none("tests that nobody runs", ignored.map(|file| file.shown()).collect());
}

#[test]
fn every_file_is_one_room() {
    let long = all_sources().into_iter().filter_map(|file| {
        let (program, all) = (file.program().lines().count(), file.text.lines().count());
        let test_file = file.path.components().any(|part| part.as_os_str() == "tests");
        let over = if test_file {
            all > LINES_IN_ALL
        } else {
            program > LINES_WITHOUT_TESTS || all > LINES_IN_ALL
        };
        over.then(|| format!("{}: {program} lines, {all} with tests", file.shown()))
    });
    assert_none("files too long to be read in one go", long.collect());
}

#[test]
fn nothing_is_called_after_an_attic() {
    let attic = all_sources().into_iter().filter(|file| {
        let path = file.path.strip_prefix(root()).unwrap();
        path.file_name().is_some_and(|name| name == "mod.rs")
            || path
                .iter()
                .any(|part| ATTIC_NAMES.contains(&part.to_string_lossy().trim_end_matches(".rs")))
    });
    assert_none(
        "files named after nothing in particular",
        attic.map(|file| file.shown()).collect(),
    );
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let ours: BTreeSet<&str> = CRATE_ARROWS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (name, allowed) in CRATE_ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let named = manifest
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|word| ours.contains(word));
        wrong.extend(
            named
                .filter(|used| *used != name && !allowed.contains(used))
                .map(|used| format!("{name} uses {used}")),
        );
    }
    assert_none("crates against the arrows of docs/architecture.md", wrong);
}

#[test]
fn rooms_keep_their_doors_closed() {
    let mut wrong = Vec::new();
    let programs = ["node-agent/src", "operator/src"].map(|folder| (root().join(folder), sources(folder)));
    for (folder, file) in programs
        .into_iter()
        .flat_map(|(folder, files)| files.into_iter().map(move |file| (folder.clone(), file)))
    {
        let inside = file.path.strip_prefix(folder).unwrap();
        let opened = doors_opened(inside, file.program()).into_iter();
        wrong.extend(opened.map(|other| format!("{}: {other}", file.shown())));
    }
    assert_none("rooms that import what they must not", wrong);
}

/// The closed doors that a file of a program, at `inside` below its `src`, opens: in a `use`, grouped or not, or in a path
/// written out.
fn doors_opened(inside: &Path, program: &str) -> Vec<&'static str> {
    let mut module: Vec<String> = inside
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let closed = CLOSED_DOORS.iter().find(|(room, _)| *room == module[0]);
    module.insert(0, "crate".to_owned());
    let imported: BTreeSet<String> = imports(program)
        .into_iter()
        .filter_map(|(_, path)| room_of(&module, &path))
        .collect();
    let opened = |other: &&str| imported.contains(*other) || program.contains(&format!("crate::{other}::"));
    closed
        .map_or(&[][..], |(_, doors)| doors)
        .iter()
        .copied()
        .filter(opened)
        .collect()
}

/// The room of the crate that a path in a `use` of `module` leads to; nothing where it leads into another crate.
fn room_of(module: &[String], path: &str) -> Option<String> {
    let mut at = module.to_vec();
    let mut parts = path
        .split("::")
        .map(|part| part.split(' ').next().unwrap_or(part))
        .peekable();
    match parts.peek().copied() {
        Some("crate") => at.truncate(0),
        Some("self" | "super") => {}
        _ => return None,
    }
    for part in parts {
        match part {
            "self" => {}
            "super" => drop(at.pop()),
            name => at.push(name.to_owned()),
        }
    }
    at.into_iter().nth(1)
}

/// Every path that the `use` items of a text name, groups taken apart, with the line that the item begins on.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let (visibility, rest) = line.trim_start().split_once("use ").unwrap_or(("-", ""));
        if !(visibility.is_empty() || visibility.starts_with("pub") && visibility.ends_with(' ')) {
            continue;
        }
        let mut item = rest.to_owned();
        while !item.contains(';') {
            let Some((_, more)) = lines.next() else { break };
            item.push_str(more.split("//").next().unwrap_or_default());
        }
        let mut paths = Vec::new();
        take_apart("", item.split(';').next().unwrap_or_default(), &mut paths);
        found.extend(paths.into_iter().map(|path| (number + 1, path)));
    }
    found
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn take_apart(before: &str, tree: &str, into: &mut Vec<String>) {
    let Some((head, group)) = tree.split_once('{') else {
        let leaf = tree.trim();
        if !leaf.is_empty() {
            into.push(format!("{before}{leaf}"));
        }
        return;
    };
    let before = format!("{before}{}", head.trim());
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let (mut depth, mut from) = (0_i32, 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                take_apart(&before, &group[from..at], into);
                from = at + 1;
            }
            _ => {}
        }
    }
    take_apart(&before, &group[from..], into);
}

#[test]
fn a_door_is_seen_through_however_it_is_written() {
    let opened = |inside: &str, program: &str| doors_opened(Path::new(inside), program);
    for program in [
        "use crate::observe::driver;",
        "use crate::observe;",
        "use crate::{observe, snapshot::view};",
        "pub(crate) use crate::{\n    snapshot::{view::{A, B}, node},\n    observe::{self, gpus}, // why\n};",
        "use super::super::observe::driver;",
        "use super::super::{observe as seen};",
        "fn f() { crate::observe::driver::look() }",
    ] {
        assert_eq!(opened("plan/view.rs", program), ["observe"], "{program}");
        assert_eq!(opened("run.rs", program), [""; 0], "the root may: {program}");
    }
    assert_eq!(opened("plan.rs", "use super::{act, snapshot};"), ["act"]);
    for program in [
        "use crate::{snapshot::{observe, act}, plan::report};",
        "use super::{act, observe};",
        "use crds::{observe, act};",
        "// use crate::observe;",
    ] {
        assert_eq!(opened("plan/view.rs", program), [""; 0], "{program}");
    }
}

#[test]
fn an_effect_is_seen_however_it_is_imported() {
    for program in [
        "use std::fs;",
        "use std::{collections::BTreeMap, fs};",
        "use std::{\n    fmt,\n    fs::{self, File},\n};",
        "fn f() { std::fs::read(\"x\") }",
        "use std::{io, process::Command};",
        "use tokio::sync;",
        "let now = Instant::now();",
    ] {
        assert_eq!(effects(program).len(), 1, "{program}: {:?}", effects(program));
    }
    for program in [
        "use std::{collections::BTreeMap, fmt};",
        "// std::fs",
        "use crate::{fs, thread};",
    ] {
        assert!(effects(program).is_empty(), "{program}");
    }
}

/// The words for effects in a text, with their lines.
fn effects(program: &str) -> BTreeSet<(usize, &'static str)> {
    let lines = program
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.to_owned()));
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .chain(imports(program))
        .flat_map(|(number, text)| {
            let words = EFFECTS.into_iter().filter(move |word| text.contains(word));
            words.map(move |word| (number, word))
        })
        .collect()
}

#[test]
fn what_only_thinks_has_no_effects() {
    let thinking = [
        "crds/src",
        "node-agent/src/plan",
        "node-agent/src/snapshot",
        "operator/src/plan",
        "operator/src/snapshot",
    ];
    let thinking = thinking.into_iter().flat_map(sources);
    let mut wrong = Vec::new();
    for file in thinking.filter(|file| !file.path.components().any(|part| part.as_os_str() == "bin")) {
        let found = effects(file.program()).into_iter();
        wrong.extend(found.map(|(number, word)| format!("{}:{number}: {word}", file.shown())));
    }
    assert_none("effects in rooms that only think", wrong);
}

#[test]
fn the_cache_knows_nothing_of_kubernetes() {
    let wrong = sources("binary-cache/src").into_iter().filter(|file| {
        let uses = |word: &str| file.text.contains(word);
        uses("kube::") || uses("k8s_openapi") || uses("crds::v1alpha1") || uses("crds::selection")
    });
    assert_none(
        "binary-cache names Kubernetes or the language of its objects",
        wrong.map(|file| file.shown()).collect(),
    );
}

#[test]
fn unsafe_code_stands_where_the_architecture_lists_it() {
    let listed = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let users = all_sources().into_iter().filter(|file| {
        let marker = concat!("expect(", "unsafe_code");
        file.text.contains(marker) && !file.path.components().any(|part| part.as_os_str() == "tests")
    });
    let unlisted = users
        .map(|file| file.shown())
        .filter(|path| !listed.contains(path.as_str()));
    assert_none(
        "unsafe code in files that docs/architecture.md does not list",
        unlisted.collect(),
    );
}

#[test]
fn every_licence_goes_with_apache() {
    const ALLOWED: [&str; 13] = [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "0BSD",
        "Unlicense",
        "CC0-1.0",
        "MIT-0",
        "CDLA-Permissive-2.0",
        "bzip2-1.0.6",
    ];
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let licences: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            (
                package["name"].as_str().unwrap(),
                package["license"].as_str().unwrap_or("none given"),
            )
        })
        .collect();
    assert!(
        licences.len() > 50,
        "cargo metadata named only {} packages",
        licences.len()
    );
    // `A OR B` needs one that is allowed, `A AND B` both; parentheses do not change that for the expressions in use.
    let allowed = |expression: &str| {
        expression
            .split([')', '('])
            .collect::<String>()
            .split(" AND ")
            .all(|all| {
                all.split(" OR ")
                    .flat_map(|one| one.split('/'))
                    .any(|one| ALLOWED.contains(&one.split(" WITH ").next().unwrap_or(one).trim()))
            })
    };
    let wrong = licences
        .iter()
        .filter(|(_, licence)| !allowed(licence))
        .map(|(name, licence)| format!("{name}: {licence}"));
    assert_none("licences that are not on the list", wrong.collect());
}

#[test]
fn the_readme_shows_the_table_of_the_demo() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, marked) = readme.split_once("<!-- demo -->\n").unwrap();
    let (shown, _) = marked.split_once("<!-- /demo -->\n").unwrap();
    assert!(
        shown.contains(&format!("\n{}\n|---|", demo_table::HEADER)) && shown.contains(demo_table::LEGEND),
        "README.md has other columns or another legend than the demo prints:\n{shown}"
    );
    let cells = |line: &str| -> Vec<String> {
        line.split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ']).to_owned())
            .collect()
    };
    let columns = cells(demo_table::HEADER).len();
    let table = shown.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<Vec<String>> = table.skip(1).map(cells).collect();
    let shapes: Vec<_> = rows
        .iter()
        .map(|row| (row[0].as_str(), row[1].as_str(), row.len()))
        .collect();
    let wanted: Vec<_> = parts::known_drivers()
        .map(|(driver, cuda)| (driver, cuda, columns))
        .collect();
    assert_eq!(shapes, wanted, "one row for each driver, in order");
    for row in &rows {
        assert!(row[2].contains(" / "), "a variant of each package: {row:?}");
        assert!(["native", "minor-version-compat"].contains(&row[3].as_str()), "{row:?}");
        assert!(row[7].split(", ").all(|answer| answer.ends_with(": 100")), "{row:?}");
        assert!(row[8].ends_with(" → 35"), "{row:?}");
    }
}
