//! The agent's metrics: registered in one place, each with what it means.
//! Never a label whose values somebody else can make many of: words of enums, this node's own facts, at most 256 environments.

use std::time::SystemTime;

use crds::{domain::node::DriverState, failure::Reason};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::snapshot::{
    happening::{Happening, What},
    status::{NodeReport, SelfTest, Standing},
};

/// Upper ends of the buckets of publishing, in seconds: from one bind mount to a closure over a slow line.
const PUBLISH_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0,
];

/// Environments that metrics tell of; a node's status has no more either.
const ENVIRONMENTS: usize = 256;

/// All metrics. Cheap to clone: the clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    publish: IntCounterVec,
    publish_seconds: Histogram,
    unpublish: IntCounter,
    signature_failures: IntCounter,
    incompatible: IntCounterVec,
    fetch_inflight: IntGauge,
    fetch_bytes: IntCounter,
    variant_selected: IntGaugeVec,
    environments: IntGaugeVec,
    store_bytes: GaugeVec,
    store_paths: IntGauge,
    node_info: IntGaugeVec,
    ready: IntGaugeVec,
    outdated_pods: IntGauge,
    gc_freed_bytes: IntCounter,
    gc_last_success: Gauge,
    catalogue_synced: IntGauge,
    watch_failing: IntGaugeVec,
    status_writes: IntCounterVec,
    events: IntCounterVec,
    detections: IntCounterVec,
    info: IntGaugeVec,
}

/// How something that was tried ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Done.
    Ok,
    /// Not done.
    Failed,
    /// Given up before it was tried: too much waited already.
    Dropped,
}

impl Ended {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Two of the same name: a mistake in this function.
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each metric")]
    pub fn register() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let new = New(&registry);
        let metrics = Self {
            publish: new.counters(
                "cudaenv_publish_total",
                "Answers to NodePublishVolume; reason is empty where the volume is there.",
                &["result", "reason"],
            )?,
            publish_seconds: new.histogram(
                "cudaenv_publish_duration_seconds",
                "From NodePublishVolume to its answer, for volumes that were published.",
            )?,
            unpublish: new.counter("cudaenv_unpublish_total", "Volumes that were unpublished.")?,
            signature_failures: new.counter(
                "cudaenv_signature_failures_total",
                "Publishes that failed because no trusted key signed a path.",
            )?,
            incompatible: new.counters(
                "cudaenv_incompatible_total",
                "Publishes that failed because no variant fits this node.",
                &["reason"],
            )?,
            fetch_bytes: new.counter(
                "cudaenv_fetch_bytes_total",
                "Compressed bytes that came over the network for closures that were completed.",
            )?,
            fetch_inflight: new.gauge("cudaenv_fetch_inflight", "Environments that are being fetched.")?,
            variant_selected: new.gauges(
                "cudaenv_variant_selected",
                "1 for each package of an environment on this node and the variant selected for it.",
                &["namespace", "environment", "package", "variant"],
            )?,
            environments: new.gauges(
                "cudaenv_environments",
                "Environments on this node, by how far they are.",
                &["phase"],
            )?,
            store_bytes: new.sizes(
                "cudaenv_store_bytes",
                "Bytes of the node store: capacity of its file system, used by layers, pinned by mounts and requests.",
                &["state"],
            )?,
            store_paths: new.gauge("cudaenv_store_paths", "Complete store paths.")?,
            node_info: new.gauges(
                "cudaenv_node_info",
                "1, with the driver, its CUDA release, the GPUs' compute capabilities, and the system.",
                &["driver", "cuda", "sm", "arch"],
            )?,
            ready: new.gauges(
                "cudaenv_ready",
                "1 where this part of the node is ready: driver, store, registration.",
                &["part"],
            )?,
            outdated_pods: new.gauge(
                "cudaenv_outdated_pods",
                "Pods whose volume shows the files of a driver that the node no longer has: restart them.",
            )?,
            gc_freed_bytes: new.counter(
                "cudaenv_gc_freed_bytes_total",
                "Bytes that the minutely garbage collection freed.",
            )?,
            gc_last_success: new.time(
                "cudaenv_gc_last_success_timestamp_seconds",
                "When garbage collection last succeeded; 0: not since the agent started.",
            )?,
            catalogue_synced: new.gauge(
                "cudaenv_catalogue_synced",
                "1 once environments, caches and namespaces were all seen; 0: from before the restart, or nothing.",
            )?,
            watch_failing: new.gauges(
                "cudaenv_watch_failing",
                "1 while this resource of the API server cannot be followed.",
                &["resource"],
            )?,
            status_writes: new.counters(
                "cudaenv_status_writes_total",
                "Writes of this node's CUDANode status.",
                &["result"],
            )?,
            events: new.counters("cudaenv_events_total", "Pod events.", &["result"])?,
            detections: new.counters("cudaenv_detections_total", "Detections of the driver.", &["result"])?,
            info: new.gauges("cudaenv_agent_info", "1, with the agent's version.", &["version"])?,
            registry,
        };
        metrics.info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for ended in [Ended::Ok, Ended::Failed, Ended::Dropped] {
            metrics.events.with_label_values(&[ended.word()]).inc_by(0);
        }
        for ended in [Ended::Ok, Ended::Failed] {
            metrics.status_writes.with_label_values(&[ended.word()]).inc_by(0);
            metrics.detections.with_label_values(&[ended.word()]).inc_by(0);
        }
        metrics.publish.with_label_values(&["ok", ""]).inc_by(0);
        Ok(metrics)
    }

    /// All values, in Prometheus' text format.
    ///
    /// # Errors
    /// A metric that cannot be written as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts what happened to a volume.
    pub fn happened(&self, happening: &Happening) {
        // What is fetched ahead of any pod is no answer to kubelet.
        if happening.pod.is_none() && happening.environment.is_some() {
            return;
        }
        match &happening.what {
            What::Selected { .. } | What::Fetching { .. } | What::Forgotten => {}
            What::Published { took, .. } => {
                self.publish.with_label_values(&["ok", ""]).inc();
                self.publish_seconds.observe(took.as_secs_f64());
            }
            What::Unpublished { .. } => self.unpublish.inc(),
            What::Collected { freed_bytes, at } => {
                self.gc_freed_bytes.inc_by(*freed_bytes);
                let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.gc_last_success.set(at.as_secs_f64());
            }
            What::Failed { reason, .. } => {
                let word = format!("{reason:?}");
                self.publish.with_label_values(&["failed", &word]).inc();
                if *reason == Reason::SignatureUntrusted {
                    self.signature_failures.inc();
                }
                if is_incompatible(*reason) {
                    self.incompatible.with_label_values(&[&word]).inc();
                }
            }
        }
    }

    /// Shows the node as it is now.
    pub fn node(&self, report: &NodeReport) {
        let flag = |part: &str, holds: bool| self.ready.with_label_values(&[part]).set(holds.into());
        flag("driver", matches!(report.facts.driver, DriverState::Ready { .. }));
        flag("store", report.store.is_ok() && report.self_test == SelfTest::Passed);
        flag("registration", report.registered == Some(true));
        self.outdated_pods.set(count(report.outdated_pods.len()));
        if let Ok(store) = &report.store {
            for (state, bytes) in [
                ("capacity", store.capacity_bytes),
                ("used", store.used_bytes),
                ("pinned", store.pinned_bytes),
            ] {
                self.store_bytes.with_label_values(&[state]).set(bytes as f64);
            }
            self.store_paths.set(i64::try_from(store.paths).unwrap_or(i64::MAX));
        }
        self.node_info(report);
        self.standings(report);
    }

    fn node_info(&self, report: &NodeReport) {
        let (driver, cuda) = match &report.facts.driver {
            DriverState::Ready { version, cuda } => (version.to_string(), cuda.to_string()),
            DriverState::Mismatch { library, .. } => (library.to_string(), String::new()),
            DriverState::Missing | DriverState::NotReady { .. } => (String::new(), String::new()),
        };
        let mut capabilities: Vec<_> = report.facts.gpus.iter().map(|gpu| gpu.compute_capability).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        let sm: Vec<_> = capabilities.iter().take(8).map(ToString::to_string).collect();
        self.node_info.reset();
        let arch = report.facts.system.to_string();
        self.node_info
            .with_label_values(&[&driver, &cuda, &sm.join(","), &arch])
            .set(1);
    }

    fn standings(&self, report: &NodeReport) {
        let in_phase = |phase: &str| {
            let of_phase = |standing: &Standing| phase_word(standing) == phase;
            report.environments.iter().filter(|one| of_phase(&one.standing)).count()
        };
        for phase in ["Pending", "Fetching", "Ready", "Incompatible", "Failed"] {
            self.environments
                .with_label_values(&[phase])
                .set(count(in_phase(phase)));
        }
        self.fetch_inflight.set(count(in_phase("Fetching")));
        self.variant_selected.reset();
        for environment in report.environments.iter().take(ENVIRONMENTS) {
            let namespace = environment.key.namespace.as_deref().unwrap_or_default();
            for (package, variant) in environment.packages.iter().take(16) {
                let labels = [namespace, &environment.key.name, package, variant];
                self.variant_selected.with_label_values(&labels).set(1);
            }
        }
    }

    /// So many bytes were downloaded since the agent started.
    pub fn downloaded(&self, bytes: u64) {
        self.fetch_bytes.inc_by(bytes.saturating_sub(self.fetch_bytes.get()));
    }

    /// What can be followed of the API server.
    pub fn followed<'a>(&self, synced: bool, failing: impl IntoIterator<Item = &'a &'static str>) {
        self.catalogue_synced.set(synced.into());
        self.watch_failing.reset();
        for resource in failing {
            self.watch_failing.with_label_values(&[resource]).set(1);
        }
    }

    /// A write of the node's status ended.
    pub fn status_written(&self, ended: Ended) {
        self.status_writes.with_label_values(&[ended.word()]).inc();
    }

    /// An event was written, or not.
    pub fn event_told(&self, ended: Ended) {
        self.events.with_label_values(&[ended.word()]).inc();
    }

    /// The driver was looked for.
    pub fn detected(&self, ended: Ended) {
        self.detections.with_label_values(&[ended.word()]).inc();
    }
}

const fn phase_word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Pending => "Pending",
        Standing::Fetching { .. } => "Fetching",
        Standing::Ready => "Ready",
        Standing::Incompatible { .. } => "Incompatible",
        Standing::Failed { .. } => "Failed",
    }
}

/// Whether it is the node that does not fit.
pub(super) const fn is_incompatible(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DriverTooOld
            | Reason::PtxTooNew
            | Reason::NoCodeForGPU
            | Reason::NoVariantForSystem
            | Reason::OutsideDeclaredRange
    )
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Makes metrics and registers them.
struct New<'a>(&'a Registry);

impl New<'_> {
    fn add<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn time(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::new(name, help)?)
    }

    fn sizes(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(PUBLISH_SECONDS.to_vec());
        self.add(Histogram::with_opts(options)?)
    }
}

#[cfg(test)]
mod tests;
