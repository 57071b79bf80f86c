//! How far a fetch is, as its user sees it: a bar on a terminal, lines elsewhere, JSON on request, nothing where told so.
//! Each fetch is of one made-up closure from a server that is slow on purpose; standard output is never touched by it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    path::Path,
    process::{Command, Output},
    thread,
};

use binary_cache::compression::Compression;
use e2e::{made_up, programs, server::Server, skip};
use serde_json::Value;

const PATHS: usize = 12;

/// A cache with a closure of some megabytes, at a rate at which it takes some seconds.
struct Scene {
    folder: tempfile::TempDir,
    server: Server,
    root: String,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let closure = made_up::Closure::new("slow", PATHS, 400_000).unwrap();
        let cache = folder.path().join("cache");
        closure.cache(&cache, Compression::None).unwrap();
        let server = Server::start_at_rate(&cache, Some(100_000)).unwrap();
        Self {
            folder,
            server,
            root: closure.root().to_string(),
        }
    }

    /// `node-agent fetch` of it into a store of that name; where `terminal`, with all its streams on a terminal.
    fn fetched(&self, name: &str, arguments: &[&str], terminal: bool) -> Output {
        let state = self.folder.path().join(name);
        let mut words = vec![
            programs::node_agent().unwrap().display().to_string(),
            "fetch".to_owned(),
        ];
        let key = made_up::key().unwrap().public_key().to_string();
        let url = self.server.url();
        let fixed = [
            "--cache",
            &url,
            "--public-key",
            &key,
            "--state",
            state.to_str().unwrap(),
        ];
        words.extend(fixed.iter().chain(arguments).map(|word| (*word).to_owned()));
        words.push(self.root.clone());
        let mut fetch = if terminal {
            let mut script = Command::new("script");
            script.args(["-qec", &words.join(" "), "/dev/null"]);
            script
        } else {
            let mut fetch = Command::new(&words[0]);
            fetch.args(&words[1..]);
            fetch
        };
        let ended = fetch.env("TERM", "xterm").output().unwrap();
        assert!(ended.status.success(), "{name}: {ended:?}");
        ended
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Every line is one document; they count up, and end at the total.
fn check_json(printed: &str) {
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() >= 3, "one a second: {printed}");
    let number = |line: &Value, place: &str| line.pointer(place).unwrap().as_f64().unwrap();
    for place in ["/seconds", "/progress/bytesDone", "/progress/pathsDone"] {
        let counted: Vec<f64> = lines.iter().map(|line| number(line, place)).collect();
        assert!(counted.is_sorted(), "{place}: {counted:?}");
    }
    let first = number(&lines[0], "/progress/bytesDone");
    let last = lines.last().unwrap();
    let [done, total] = ["bytesDone", "bytesTotal"].map(|field| number(last, &format!("/progress/{field}")));
    assert!(first < total && done == total && total > 4e6, "{printed}");
    let [done, total] = ["pathsDone", "pathsTotal"].map(|field| number(last, &format!("/progress/{field}")));
    assert_eq!((done, total), (PATHS as f64, PATHS as f64));
}

/// The answer: a line for each path, whatever was said on the way.
fn check_answer(printed: &str, state: &Path) {
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), PATHS, "{printed}");
    assert!(lines.iter().all(|line| Path::new(line).starts_with(state)), "{printed}");
}

fn check_lines(printed: &str) {
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines.len() >= 2,
        "one every five seconds, and one at the end: {printed}"
    );
    for line in &lines {
        let known =
            line.starts_with("fetched ") && line.contains(" %), ") && line.contains(&format!("of {PATHS} paths"));
        assert!(known && !line.contains(['\r', '\x1b']), "{line:?}");
    }
    assert!(
        lines[0] != lines[1] && lines.last().unwrap().contains("(100 %), 12 of 12"),
        "{printed}"
    );
}

#[test]
fn a_slow_fetch_is_shown_as_asked_for_and_as_the_place_it_is_shown_at_allows() {
    let scene = Scene::new();
    let script = Command::new("script").arg("--version").output();
    let terminal = skip::unless(script.is_ok(), "progress on a terminal is a bar", "no `script` here");
    thread::scope(|scope| {
        let fetch = |name: &'static str, arguments: &'static [&'static str]| {
            let scene = &scene;
            scope.spawn(move || {
                let ended = scene.fetched(name, arguments, false);
                check_answer(&text(&ended.stdout), &scene.folder.path().join(name));
                text(&ended.stderr)
            })
        };
        let json = fetch("json", &["--progress", "json"]);
        let lines = fetch("lines", &["--progress", "lines"]);
        let default = fetch("default", &[]);
        let none = fetch("none", &["--progress", "none"]);
        let bar = terminal.then(|| scope.spawn(|| text(&scene.fetched("bar", &[], true).stdout)));
        check_json(&json.join().unwrap());
        check_lines(&lines.join().unwrap());
        check_lines(&default.join().unwrap());
        assert_eq!(none.join().unwrap(), "");
        if let Some(bar) = bar {
            let shown = bar.join().unwrap();
            assert!(shown.contains('\u{2588}') && shown.contains('\x1b'), "{shown:?}");
            assert!(shown.contains("/12 paths"), "{shown:?}");
            assert!(!shown.contains("fetched "), "a bar, not lines: {shown:?}");
        }
    });
    // Nothing left to fetch is nothing to show.
    let again = scene.fetched("json", &["--progress", "json"], false);
    assert_eq!(text(&again.stderr), "");
}
