//! A real nginx on loopback: it serves a folder, as fast as it can, or it speaks TLS before a server.
//! It must never listen beyond loopback, nor outlive its owner; its certificate is made for it and goes with it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{parts, programs::finished, server::Server};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: u16,
    own: TempDir,
}

impl Nginx {
    /// Serves `folder`.
    pub fn serve(folder: &Path) -> Result<Self> {
        Self::start(own()?, "", &format!("root {};", folder.display()))
    }

    /// Speaks TLS, with a certificate for 127.0.0.1, and hands on all that it is asked.
    pub fn before(server: &Server) -> Result<Self> {
        let own = own()?;
        certificate(own.path())?;
        let files = format!(
            "ssl_certificate {0}/certificate.pem; ssl_certificate_key {0}/key.pem;",
            own.path().display()
        );
        let behind = server.url();
        Self::start(own, "ssl", &format!("{files} location / {{ proxy_pass {behind}; }}"))
    }

    fn start(own: TempDir, listening: &str, serving: &str) -> Result<Self> {
        // Somebody else may take the port meanwhile; nginx says so then.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let here = own.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {here}/{kind};\n"))
            .collect();
        let configuration = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {here}/pid;\nerror_log stderr error;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n  \
             default_type application/octet-stream;\n  \
             server {{ listen 127.0.0.1:{port} {listening}; {serving} }}\n}}\n"
        );
        let file = own.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new(parts::nginx()?);
        command.arg("-c").arg(&file).arg("-p").arg(own.path());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start nginx")?;
        for _ in 0..200 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { child, port, own });
            }
            if let Some(status) = child.try_wait()? {
                bail!("nginx ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        bail!("nginx does not listen on port {port}")
    }

    /// `127.0.0.1:PORT`, with the scheme before it that it speaks.
    pub fn url(&self) -> String {
        let scheme = if self.certificate().exists() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The file of the certificate that it speaks TLS with.
    pub fn certificate(&self) -> PathBuf {
        self.own.path().join("certificate.pem")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn own() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("cudaenv-nginx-").tempdir()?)
}

/// Makes a certificate for 127.0.0.1 that no authority signed: `certificate.pem` and `key.pem` in the folder.
pub fn certificate(folder: &Path) -> Result<()> {
    let mut request = Command::new("openssl");
    request
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    request.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    finished(request.args(["-keyout", "key.pem", "-out", "certificate.pem"]))?;
    Ok(())
}
