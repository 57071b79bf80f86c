//! A real nginx on loopback that serves a folder, as fast as it can.
//! It must never listen beyond loopback, nor outlive its owner.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use e2e::parts;
use tempfile::TempDir;

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    port: u16,
    _own: TempDir,
}

impl Nginx {
    /// Serves `folder`.
    pub(crate) fn serve(folder: &Path) -> Result<Self> {
        let own = tempfile::Builder::new().prefix("cudaenv-nginx-").tempdir()?;
        // Somebody else may take the port meanwhile; nginx says so then.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (here, folder) = (own.path().display(), folder.display());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {here}/{kind};\n"))
            .collect();
        let configuration = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {here}/pid;\nerror_log stderr error;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n  \
             default_type application/octet-stream;\n  \
             server {{ listen 127.0.0.1:{port}; root {folder}; }}\n}}\n"
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
                return Ok(Self { child, port, _own: own });
            }
            if let Some(status) = child.try_wait()? {
                bail!("nginx ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        bail!("nginx does not listen on port {port}")
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
