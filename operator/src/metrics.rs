//! What the operator counts, registered in one place.
//! Never a label whose values a user chooses: every label is the name of an enum's variant or a constant.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
    exponential_buckets,
};

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
    /// How long it took to look over all that is known and to decide what is to be written.
    pub plan_seconds: Histogram,
    /// How long writes that were done took, by kind.
    pub write_seconds: HistogramVec,
    /// How long answers to the API server took, by webhook.
    pub admission_seconds: HistogramVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let new = New(&registry);
        Ok(Self {
            leader: new.gauge(
                "cudaenv_operator_leader",
                "1 while this replica is the one that writes.",
            )?,
            writes: new.counters("cudaenv_operator_writes_total", "Objects written, by kind.", &["kind"])?,
            write_failures: new.counters(
                "cudaenv_operator_write_failures_total",
                "Writes that failed, by kind.",
                &["kind"],
            )?,
            conflicts: new.counters(
                "cudaenv_operator_write_conflicts_total",
                "Writes given up and planned anew because the object had changed, by kind.",
                &["kind"],
            )?,
            questions: new.counters(
                "cudaenv_operator_closures_asked_total",
                "Closures that caches were asked for, by what came of it.",
                &["outcome"],
            )?,
            admission: new.counters(
                "cudaenv_admission_requests_total",
                "Questions of the API server, by webhook and outcome.",
                &["webhook", "outcome"],
            )?,
            plan_seconds: new.times(
                "cudaenv_operator_plan_duration_seconds",
                "Looking over all that is known and deciding what is to be written, once.",
            )?,
            write_seconds: new.times_by(
                "cudaenv_operator_write_duration_seconds",
                "From a write to the API server's answer, for those that were done, by kind.",
                &["kind"],
            )?,
            admission_seconds: new.times_by(
                "cudaenv_admission_duration_seconds",
                "From a question of the API server, read whole, to its answer, by webhook.",
                &["webhook"],
            )?,
            registry,
        })
    }
}

/// Makes metrics and registers them.
struct New<'r>(&'r Registry);

impl New<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn times(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(times(name, help)?)?)
    }

    fn times_by(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(times(name, help)?, labels)?)
    }
}

/// A histogram's bounds: a millisecond to two seconds, each half as much again as the one before.
fn times(name: &str, help: &str) -> Result<HistogramOpts, prometheus::Error> {
    Ok(HistogramOpts::new(name, help).buckets(exponential_buckets(0.001, 1.5, 20)?))
}
