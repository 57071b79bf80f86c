//! H28 against a real TLS server, OpenSSL's: what speaks TLS 1.0 alone is no cache, what speaks TLS 1.2 is.
//! Never trusts the certificate made here outside the one test; the server listens on loopback and ends with its test.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    fault::Fault,
    options::Options,
    substitute::{SubstituteError, Substituter},
};
use e2e::{
    made_up::{self, Closure},
    nginx,
    programs::finished,
    skip,
};

/// `openssl s_server` on a free port, serving the files of its folder.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(cache: &Path, version: &str) -> Result<Self> {
        let mut server = Command::new("openssl");
        server
            .args(["s_server", "-accept", "127.0.0.1:0", "-WWW", version])
            .args([
                "-cert",
                "../certificate.pem",
                "-key",
                "../key.pem",
                "-cipher",
                "DEFAULT@SECLEVEL=0",
            ])
            .current_dir(cache)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = server.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut ports = lines.map_while(Result::ok).filter_map(|line| {
            let address = line.strip_prefix("ACCEPT ")?.to_owned();
            address.rsplit_once(':')?.1.parse().ok()
        });
        match ports.next() {
            Some(port) => Ok(Self { child, port }),
            None => {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("openssl s_server {version} does not listen")
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A certificate for 127.0.0.1, beside the cache; as bytes for a client that is to trust it.
fn certificate(folder: &Path) -> Result<Vec<u8>> {
    nginx::certificate(folder)?;
    let mut convert = Command::new("openssl");
    convert
        .current_dir(folder)
        .args(["x509", "-in", "certificate.pem", "-outform", "DER"]);
    finished(convert.args(["-out", "certificate.der"]))?;
    Ok(fs::read(folder.join("certificate.der"))?)
}

/// What a client that has to speak TLS 1.0 is told, to know that the server really does.
fn old_client(port: u16) -> Result<String> {
    let mut client = Command::new("openssl");
    client.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-tls1",
        "-cipher",
        "DEFAULT@SECLEVEL=0",
    ]);
    finished(client.stdin(Stdio::null()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_tls_1_0_alone_is_refused_and_its_twin_is_not() {
    let check = "a real TLS 1.0 server";
    let folder = tempfile::tempdir().unwrap();
    let Some(trusted) = skip::without(check, certificate(folder.path())) else {
        return;
    };
    let cache = folder.path().join("cache");
    let closure = Closure::new("tls", 1, 10).unwrap();
    closure.cache(&cache, Compression::None).unwrap();
    for (version, wanted) in [("-tls1", false), ("-tls1_2", true)] {
        let Some(server) = skip::without(check, Server::start(&cache, version)) else {
            return;
        };
        if !wanted {
            let Some(said) = skip::without(check, old_client(server.port)) else {
                return;
            };
            assert!(said.contains("Protocol  : TLSv1\n"), "{said}");
        }
        let config = CacheConfig {
            name: "tls".to_owned(),
            url: format!("https://127.0.0.1:{}", server.port).parse().unwrap(),
            mirrors: Vec::new(),
            keys: made_up::key_ring().unwrap(),
            priority: None,
            redirect_origins: Vec::new(),
            credentials: None,
        };
        let options = Options {
            extra_roots: vec![trusted.clone().into()],
            ..Options::default()
        };
        let found = Substituter::new(vec![config], options)
            .unwrap()
            .lookup(closure.root())
            .await;
        match found {
            Ok(found) => assert!(wanted && found.narinfo.store_path() == closure.root(), "{version}"),
            Err(error) => {
                let by_tls = error.asked().iter().all(|asked| matches!(*asked.fault, Fault::Tls(_)));
                let hostile = matches!(error, SubstituteError::CacheHostile { .. });
                assert!(!wanted && hostile && by_tls, "{version}: {error:?}");
            }
        }
    }
}
