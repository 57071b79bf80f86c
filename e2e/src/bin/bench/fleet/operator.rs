//! One operator as a process, and what its metrics say.
//! It must never be left running.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use e2e::{
    cluster::{Cluster, chart::NAMESPACE},
    programs,
};

use super::CONFIGURATION;
use crate::measure::{now, status_mib};

/// Seconds without a write after which it counts as settled: more than the ten that an object waits where only counts changed.
pub(super) const QUIET: f64 = 12.0;

/// A running operator; it goes when this is dropped.
pub(super) struct Operator {
    process: Child,
    port: u16,
    /// Where its webhook listens.
    pub(super) webhook: u16,
}

impl Operator {
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (port, webhook) = (free()?, free()?);
        let process = Command::new(programs::operator()?)
            .args(["run", "--namespace", NAMESPACE, "--pod-name", "operator-0"])
            .args(["--webhook-service", "webhook", "--webhook-configuration", CONFIGURATION])
            .args(["--webhook-host", "127.0.0.1"])
            .arg(format!("--http=127.0.0.1:{port}"))
            .arg(format!("--webhook-address=127.0.0.1:{webhook}"))
            .env("KUBECONFIG", cluster.folder().join("admin.kubeconfig"))
            .stdin(Stdio::null())
            .stderr(File::create(cluster.folder().join("log/operator.log"))?)
            .spawn()?;
        Ok(Self { process, port, webhook })
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its highest resident memory so far, in MiB.
    pub(super) fn memory(&self) -> Result<f64> {
        status_mib(self.id(), "VmHWM:").context("no memory figure")
    }

    /// How much it has written once it has written more than `before`, and then nothing for a while.
    pub(super) fn settled(&self, before: f64, seconds: u64) -> Result<f64> {
        let start = now();
        let (mut written, mut since) = (0.0, now());
        loop {
            sleep(Duration::from_millis(250));
            let found = self.writes().unwrap_or_default();
            if found != written {
                (written, since) = (found, now());
            }
            if written > before && since.elapsed().as_secs_f64() > QUIET {
                return Ok(written);
            }
            if start.elapsed().as_secs() > seconds {
                bail!("the operator does not settle within {seconds} s");
            }
        }
    }

    /// How much it has written.
    pub(super) fn writes(&self) -> Result<f64> {
        let text = self.metrics()?;
        let values = text
            .lines()
            .filter(|line| line.starts_with("cudaenv_operator_writes_total"));
        Ok(values
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    /// The bound, in milliseconds, below which a share of a histogram's times lies; all of its labels together.
    pub(super) fn below(&self, histogram: &str, share: f64) -> Result<f64> {
        let text = self.metrics()?;
        let mut counts: Vec<(f64, f64)> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix(histogram)) {
            let Some(labels) = line.strip_prefix("_bucket{") else {
                continue;
            };
            let (labels, count) = labels.rsplit_once("} ").context("odd metric")?;
            let (_, bound) = labels.rsplit_once("le=\"").context("odd bucket")?;
            let (bound, count) = (bound.trim_end_matches('"').parse()?, count.parse::<f64>()?);
            match counts.iter_mut().find(|(found, _)| *found == bound) {
                Some((_, sum)) => *sum += count,
                None => counts.push((bound, count)),
            }
        }
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = counts.last().context("no such histogram")?.1;
        let found = counts.iter().find(|(_, count)| *count >= all * share);
        Ok(found.context("an empty histogram")?.0 * 1e3)
    }

    fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
