//! A cache whose NARs lie at another origin, as with an object store behind it: followed where the cache's object lists that
//! origin, and nowhere else. The other origin is OpenSSL's own server on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use e2e::{
    documents, parts,
    programs::{Ended, ended, finished, node_agent},
    skip,
    stage::Stage,
};
use serde_json::json;

/// `openssl s_server` with the files of a folder; it ends when dropped.
struct Elsewhere {
    child: Child,
    origin: String,
}

impl Elsewhere {
    fn start(files: &Path, keys: &Path) -> Result<Self> {
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
        request.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
        request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        request.args(["-keyout", "key.pem", "-out", "certificate.pem"]);
        finished(request.current_dir(keys))?;
        let mut server = Command::new("openssl");
        server.args(["s_server", "-accept", "127.0.0.1:0", "-WWW", "-cert"]);
        server
            .arg(keys.join("certificate.pem"))
            .arg("-key")
            .arg(keys.join("key.pem"));
        server
            .current_dir(files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = server.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut ports = lines.map_while(Result::ok).filter_map(|line| {
            let (_, port) = line.strip_prefix("ACCEPT ")?.rsplit_once(':')?;
            port.parse::<u16>().ok()
        });
        let port = ports.next();
        let started = Self {
            child,
            origin: format!("https://127.0.0.1:{}", port.unwrap_or_default()),
        };
        port.context("openssl s_server does not listen")?;
        Ok(started)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A cache that has its narinfos and sends whoever wants a NAR to `to`.
fn redirecting(folder: PathBuf, to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (folder, to) = (folder.clone(), to.clone());
            std::thread::spawn(move || converse(socket, &folder, &to));
        }
    });
    url
}

fn converse(mut socket: TcpStream, folder: &Path, to: &str) -> Option<()> {
    let mut lines = BufReader::new(socket.try_clone().ok()?).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let path = request.split(' ').nth(1)?;
        let body = fs::read(folder.join(path.strip_prefix('/')?)).unwrap_or_default();
        let answer = if path.starts_with("/nar/") {
            format!("HTTP/1.1 302 Found\r\nLocation: {to}{path}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        };
        socket.write_all(&answer).ok()?;
    }
    Some(())
}

#[test]
fn a_redirect_is_followed_to_an_origin_that_the_cache_lists_and_to_no_other() {
    let check = "a redirect to a listed origin is followed";
    if skip::without(check, skip::root()).is_none() {
        return;
    }
    let (Some(mut drivers), Some(toolkits)) = (
        skip::without(check, parts::drivers()),
        skip::without(check, parts::toolkits()),
    ) else {
        return;
    };
    let stage = Stage::new(&toolkits[2..3], |_, _| Ok(())).unwrap();
    let Some(elsewhere) = skip::without(check, Elsewhere::start(&stage.cache(), stage.folder())) else {
        return;
    };
    let closure = &stage.closures[0];
    let variant = documents::variant("cu124", &closure.toolkit.cuda, &closure.environment);
    let environment = stage
        .environment("cuda", &[documents::package("cuda", &[variant])])
        .unwrap();
    let node = stage.node(&drivers.swap_remove(4)).unwrap();
    let url = redirecting(stage.cache(), elsewhere.origin.clone());
    let run = |state: &str, origins: &[&str]| -> Ended {
        let mut cache = documents::cache("stage", &url, &[&stage.public_key]);
        cache["spec"]["redirectOrigins"] = json!(origins);
        documents::write(&stage.caches_file(), &[cache]).unwrap();
        let run = stage.run(&environment, &node, &stage.state(state)).unwrap();
        let mut trusting = Command::new(node_agent().unwrap());
        trusting.args(run.get_args()).arg("true");
        ended(trusting.env("SSL_CERT_FILE", stage.folder().join("certificate.pem"))).unwrap()
    };
    let other = "https://127.0.0.1:1";
    for (number, origins) in [&[][..], &[other]].into_iter().enumerate() {
        let refused = run(&format!("refused-{number}"), origins);
        let (_, message) = refused.error().unwrap();
        assert_eq!(refused.code, 125, "{message}");
        let named = format!("to the origin {}, which is neither", elsewhere.origin);
        assert!(message.contains(&named), "{message}");
    }
    let followed = run("followed", &[other, &elsewhere.origin]);
    assert_eq!(followed.code, 0, "{followed:?}");
}
