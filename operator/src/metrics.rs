//! What the operator counts, registered in one place.
//! Never a label whose values a user chooses: every label is the name of an enum's variant or a constant.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// All metrics of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What `/metrics` prints.
    pub registry: Registry,
    /// 1 while this replica is the one that writes.
    pub leader: IntGauge,
    /// Objects written, by kind.
    pub writes: IntCounterVec,
    /// Writes that failed, by kind.
    pub write_failures: IntCounterVec,
    /// Writes that were given up because the object had changed, by kind.
    pub conflicts: IntCounterVec,
    /// Closures that caches were asked for, by what came of it.
    pub questions: IntCounterVec,
    /// Questions of the API server, by webhook and outcome.
    pub admission: IntCounterVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            leader: IntGauge::new(
                "cudaenv_operator_leader",
                "1 while this replica is the one that writes.",
            )?,
            writes: IntCounterVec::new(
                Opts::new("cudaenv_operator_writes_total", "Objects written, by kind."),
                &["kind"],
            )?,
            write_failures: IntCounterVec::new(
                Opts::new("cudaenv_operator_write_failures_total", "Writes that failed, by kind."),
                &["kind"],
            )?,
            conflicts: IntCounterVec::new(
                Opts::new(
                    "cudaenv_operator_write_conflicts_total",
                    "Writes given up and planned anew because the object had changed, by kind.",
                ),
                &["kind"],
            )?,
            questions: IntCounterVec::new(
                Opts::new(
                    "cudaenv_operator_closures_asked_total",
                    "Closures that caches were asked for, by what came of it.",
                ),
                &["outcome"],
            )?,
            admission: IntCounterVec::new(
                Opts::new(
                    "cudaenv_admission_requests_total",
                    "Questions of the API server, by webhook and outcome.",
                ),
                &["webhook", "outcome"],
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        for counters in [
            &metrics.writes,
            &metrics.write_failures,
            &metrics.conflicts,
            &metrics.questions,
            &metrics.admission,
        ] {
            metrics.registry.register(Box::new(counters.clone()))?;
        }
        Ok(metrics)
    }
}
