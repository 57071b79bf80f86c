//! Where closures come from, as the command line and a file of caches say it: credentials, order, mirrors, redirects.
//! Each refusal stands beside an accepted twin, and each server says who was asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use binary_cache::compression::Compression;
use e2e::{
    documents, made_up,
    parts::{self, Driver},
    programs::{Ended, ended, node_agent},
    server::Server,
    skip,
    stage::Stage,
};
use serde_json::{Value, json};

const TOKEN: &str = "Bearer CANARY-token";
/// `user` and `CANARY-password`, as HTTP writes them.
const BASIC: &str = "Basic dXNlcjpDQU5BUlktcGFzc3dvcmQ=";

/// A made-up closure in a cache, and files of credentials.
struct Shop {
    folder: tempfile::TempDir,
    root: String,
}

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let closure = made_up::Closure::new("shop", 3, 1000).unwrap();
        closure.cache(&folder.path().join("cache"), Compression::Zstd).unwrap();
        fs::write(folder.path().join("good.token"), "CANARY-token\n").unwrap();
        fs::write(folder.path().join("bad.token"), "CANARY-other\n").unwrap();
        let netrc = |password: &str| format!("machine 127.0.0.1 login user password CANARY-{password}\n");
        fs::write(folder.path().join("good.netrc"), netrc("password")).unwrap();
        fs::write(folder.path().join("bad.netrc"), netrc("other")).unwrap();
        fs::write(
            folder.path().join("elsewhere.netrc"),
            netrc("password").replace(".1", ".2"),
        )
        .unwrap();
        Self {
            folder,
            root: closure.root().to_string(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A fetch from these servers into a store of its own.
    fn fetch(&self, servers: &[&Server], arguments: &[&str]) -> Ended {
        let state = tempfile::tempdir().unwrap();
        let mut fetch = Command::new(node_agent().unwrap());
        fetch
            .args(["fetch", "--output", "json", "--progress", "none", "--state"])
            .arg(state.path());
        for server in servers {
            fetch.args(["--cache", &server.url()]);
        }
        fetch.args(["--public-key", &made_up::key().unwrap().public_key().to_string()]);
        let fetched = ended(fetch.args(arguments).arg(&self.root)).unwrap();
        assert!(
            !format!("{fetched:?}").contains("CANARY"),
            "a secret was printed: {fetched:?}"
        );
        fetched
    }
}

#[test]
fn credentials_open_the_cache_that_asks_for_them() {
    let shop = Shop::new();
    let [by_token, by_netrc] = [TOKEN, BASIC].map(|word| Server::start_guarded(&shop.cache(), word).unwrap());
    let token = |file: &str| format!("cache={}", shop.file(file));
    let (good, bad) = (token("good.token"), token("bad.token"));
    let [netrc, other, elsewhere] = ["good.netrc", "bad.netrc", "elsewhere.netrc"].map(|name| shop.file(name));
    for (server, arguments, fits) in [
        (&by_token, vec![], false),
        (&by_token, vec!["--bearer-token", &bad], false),
        (&by_token, vec!["--bearer-token", &good], true),
        (&by_netrc, vec![], false),
        (&by_netrc, vec!["--netrc", &other], false),
        (&by_netrc, vec!["--netrc", &elsewhere], false),
        (&by_netrc, vec!["--netrc", &netrc], true),
        // The token goes before the netrc file.
        (&by_token, vec!["--netrc", &netrc, "--bearer-token", &good], true),
        (&by_netrc, vec!["--netrc", &netrc, "--bearer-token", &good], false),
    ] {
        let fetched = shop.fetch(&[server], &arguments);
        if fits {
            assert_eq!(fetched.code, 0, "{arguments:?}: {fetched:?}");
            assert_eq!(fetched.json().unwrap()["fetchedPaths"], 3);
        } else {
            let (reason, message) = fetched.error().unwrap();
            assert_eq!(reason, "CredentialsRefused", "{arguments:?}: {message}");
            assert!(message.contains("HTTP 401"), "{arguments:?}: {message}");
        }
    }
}

#[test]
fn a_token_is_for_one_cache_and_a_name_that_is_not_there_is_a_mistake() {
    let shop = Shop::new();
    let open = Server::start(&shop.cache()).unwrap();
    let guarded = Server::start_guarded(&shop.cache(), TOKEN).unwrap();
    let empty = shop.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::copy(shop.cache().join("nix-cache-info"), empty.join("nix-cache-info")).unwrap();
    let without = Server::start(&empty).unwrap();
    let second = format!("cache-2={}", shop.file("good.token"));
    assert_eq!(shop.fetch(&[&without, &guarded], &["--bearer-token", &second]).code, 0);
    let first = format!("cache-1={}", shop.file("good.token"));
    let (_, message) = shop
        .fetch(&[&without, &guarded], &["--bearer-token", &first])
        .error()
        .unwrap();
    assert!(message.contains("HTTP 401"), "{message}");

    let unknown = format!("other={}", shop.file("good.token"));
    let fetched = shop.fetch(&[&open], &["--bearer-token", &unknown]);
    let (reason, message) = fetched.error().unwrap();
    assert_eq!((fetched.code, reason.as_str()), (2, "BadRequest"), "{message}");
    assert!(message.contains("`other`, which is not among those used"), "{message}");
    assert_eq!(open.log(), [], "nobody was asked");
    let known = format!("cache={}", shop.file("good.token"));
    assert_eq!(shop.fetch(&[&open], &["--bearer-token", &known]).code, 0);
}

/// A stage whose closure several servers have, each with its own log, and a file of caches over them.
struct Market {
    stage: Stage,
    driver: Driver,
}

impl Market {
    fn set(check: &str) -> Option<Self> {
        skip::without(check, skip::root())?;
        let driver = skip::without(check, parts::drivers())?.swap_remove(4);
        let toolkits = skip::without(check, parts::toolkits())?;
        let stage = skip::without(check, Stage::new(&toolkits[2..3], |_, _| Ok(())))?;
        Some(Self { stage, driver })
    }

    fn server(&self) -> Server {
        Server::start(&self.stage.cache()).unwrap()
    }

    fn cache(&self, name: &str, server: &Server, more: Value) -> Value {
        let mut cache = documents::cache(name, &server.url(), &[&self.stage.public_key]);
        let spec = cache["spec"].as_object_mut().unwrap();
        spec.extend(more.as_object().unwrap().clone());
        cache
    }

    /// A run into a store of its own, with these caches, and with `order` as the environment's own list.
    fn ran(&self, caches: &[Value], order: Option<&[&str]>, arguments: &[&str]) -> Ended {
        let work = tempfile::tempdir_in(self.stage.folder()).unwrap();
        let closure = &self.stage.closures[0];
        let variant = documents::variant("cu124", &closure.toolkit.cuda, &closure.environment);
        let mut environment = documents::environment("cuda", &[documents::package("cuda", &[variant])]);
        if let Some(order) = order {
            environment["spec"]["caches"] = json!(order);
        }
        let [environment_file, caches_file] = ["environment.yaml", "caches.yaml"].map(|name| work.path().join(name));
        documents::write(&environment_file, &[environment]).unwrap();
        documents::write(&caches_file, caches).unwrap();
        let mut run = Command::new(node_agent().unwrap());
        run.args(["run", "--output", "json", "--progress", "none", "--gpu", "8.0:tesla"]);
        run.arg("--environment")
            .arg(environment_file)
            .arg("--caches")
            .arg(caches_file);
        run.arg("--driver-root").arg(self.stage.node(&self.driver).unwrap());
        run.arg("--state")
            .arg(work.path().join("state"))
            .args(arguments)
            .args(["--", "true"]);
        ended(&mut run).unwrap()
    }
}

/// How many NARs came from a server since the last time.
fn nars(server: &Server) -> usize {
    let asked = server
        .log()
        .iter()
        .filter(|access| access.path.starts_with("/nar/"))
        .count();
    server.clear_log();
    asked
}

#[test]
fn caches_are_asked_in_the_environments_order_else_by_priority() {
    let Some(market) = Market::set("caches are asked in order") else {
        return;
    };
    let (low, high) = (market.server(), market.server());
    let caches = [
        market.cache("low", &low, json!({"priority": 20})),
        market.cache("high", &high, json!({"priority": 10})),
    ];
    for (order, from_low) in [
        (None, false),
        (Some(&["high", "low"][..]), false),
        (Some(&["low", "high"][..]), true),
        (Some(&["low"][..]), true),
    ] {
        let ran = market.ran(&caches, order, &[]);
        assert_eq!(ran.code, 0, "{order:?}: {ran:?}");
        let (low, high) = (nars(&low), nars(&high));
        assert_eq!(
            (low == 3, high == 3),
            (from_low, !from_low),
            "{order:?}: {low} and {high}"
        );
    }
    let ran = market.ran(&caches, Some(&["high", "nowhere"]), &[]);
    let (_, message) = ran.error().unwrap();
    assert!(
        ran.code == 125 && message.contains("`nowhere`, which is not in"),
        "{message}"
    );
    assert_eq!((nars(&low), nars(&high)), (0, 0));
}

#[test]
fn mirrors_go_first_and_may_be_empty_or_away() {
    let Some(market) = Market::set("mirrors are asked first") else {
        return;
    };
    let (main, mirror) = (market.server(), market.server());
    let folder = tempfile::tempdir().unwrap();
    let empty = Server::start(folder.path()).unwrap();
    let away = market.server().url();
    for (mirrors, from_mirror) in [
        (json!([mirror.url()]), true),
        (json!([empty.url(), mirror.url()]), true),
        (json!([empty.url()]), false),
        (json!([away]), false),
    ] {
        let ran = market.ran(&[market.cache("main", &main, json!({"mirrors": mirrors}))], None, &[]);
        assert_eq!(ran.code, 0, "{mirrors}: {ran:?}");
        let (main, mirror) = (nars(&main), nars(&mirror));
        assert_eq!(
            (main == 3, mirror == 3),
            (!from_mirror, from_mirror),
            "{mirrors}: {main} and {mirror}"
        );
    }
}

#[test]
fn a_token_opens_the_named_cache_of_a_file() {
    let Some(market) = Market::set("run sends a token to the cache it is for") else {
        return;
    };
    let guarded = Server::start_guarded(&market.stage.cache(), TOKEN).unwrap();
    let caches = [market.cache("guarded", &guarded, json!({}))];
    let token = market.stage.folder().join("token");
    fs::write(&token, "CANARY-token").unwrap();
    let given = |name: &str, token: &Path| format!("{name}={}", token.display());
    let ran = market.ran(&caches, None, &["--bearer-token", &given("guarded", &token)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let (_, message) = market.ran(&caches, None, &[]).error().unwrap();
    assert!(message.contains("HTTP 401"), "{message}");
    let refused = market.ran(&caches, None, &["--bearer-token", &given("gaurded", &token)]);
    let (reason, message) = refused.error().unwrap();
    assert_eq!((refused.code, reason.as_str()), (125, "BadRequest"), "{message}");
    assert!(
        message.contains("`gaurded`, which is not among those used"),
        "{message}"
    );
}
