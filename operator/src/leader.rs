//! Leader election: holds a `Lease`, or waits for it.
//! Never claims to lead without a renewal that the API server confirmed, and only for as long as that one is trusted.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use prometheus::IntGauge;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::plan::lease::{EVERY, LASTS, Record, Sighting, TRUSTED, Turn, sight, turn};

/// The name of the lease, in the operator's own namespace.
pub const LEASE: &str = "cudaenv-operator";

/// For one look and one write.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether this replica leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leading {
    until: watch::Receiver<Option<Instant>>,
}

impl Leading {
    /// Whether it may write now.
    pub fn holds(&self) -> bool {
        self.until.borrow().is_some_and(|until| until > Instant::now())
    }

    /// Returns when it may have begun or ceased to lead. Never returns where the election has ended.
    pub async fn changed(&mut self) {
        if self.until.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// One that leads for a day, and what must stay for that.
    #[cfg(test)]
    pub(crate) fn for_ever() -> (watch::Sender<Option<Instant>>, Self) {
        let (kept, until) = watch::channel(Some(Instant::now() + Duration::from_secs(86_400)));
        (kept, Self { until })
    }
}

/// One candidate for the lease.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    /// Who: the pod's name.
    me: String,
    until: watch::Sender<Option<Instant>>,
    gauge: IntGauge,
    clock: fn() -> Timestamp,
    seen: Option<Sighting>,
    began: Instant,
}

impl Candidate {
    /// A candidate that does not lead yet, and what others ask whether it does.
    pub fn new(api: Api<Lease>, me: String, gauge: IntGauge, clock: fn() -> Timestamp) -> (Self, Leading) {
        let (until, receiver) = watch::channel(None);
        let candidate = Self {
            api,
            me,
            until,
            gauge,
            clock,
            seen: None,
            began: Instant::now(),
        };
        (candidate, Leading { until: receiver })
    }

    /// Stands for election until `end` says so; then gives the lease back, so that nobody need wait for it to run out.
    pub async fn stand(mut self, mut end: watch::Receiver<bool>) {
        let ended = async move {
            // An error means that whoever could say so is gone, which is an end, too.
            let _ = end.wait_for(|end| *end).await;
        };
        tokio::pin!(ended);
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(TIMEOUT, self.look()).await {
                Ok(Ok(true)) => self.lead(Some(asked + TRUSTED)),
                Ok(Ok(false)) => self.lead(None),
                Ok(Err(error)) => warn!(error = %error, "the lease cannot be renewed or looked at; tried again"),
                Err(_) => warn!("the lease could not be looked at in time; tried again"),
            }
            if self.until.borrow().is_some_and(|until| until <= Instant::now()) {
                self.lead(None);
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = &mut ended => break,
            }
        }
        if self.until.borrow().is_some() {
            self.lead(None);
            // Where it cannot be given back, it runs out.
            let _ = tokio::time::timeout(TIMEOUT, self.give_back()).await;
        }
    }

    fn lead(&self, until: Option<Instant>) {
        self.until.send_if_modified(|before| {
            let changed = before.is_some() != until.is_some();
            *before = until;
            if changed {
                info!(leading = until.is_some(), "leadership changed");
                self.gauge.set(i64::from(until.is_some()));
            }
            changed
        });
    }

    /// Whether the lease is ours after this look.
    async fn look(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(LEASE).await?;
        let now = self.began.elapsed();
        self.seen = found.map(|lease| sight(self.seen.take(), record(lease), now));
        let new_holder = match turn(self.seen.as_ref(), &self.me, now) {
            Turn::Wait => return Ok(false),
            Turn::Create => true,
            Turn::Take { new_holder } => new_holder,
        };
        let lease = self.lease(Some(self.me.clone()), new_holder);
        let written = match &self.seen {
            None => self.api.create(&PostParams::default(), &lease).await,
            Some(_) => self.api.replace(LEASE, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!("another replica was faster");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn give_back(&mut self) -> Result<(), kube::Error> {
        let Some(found) = self.api.get_opt(LEASE).await? else {
            return Ok(());
        };
        let record = record(found);
        if record.holder.as_deref() != Some(&self.me) {
            return Ok(());
        }
        self.seen = Some(sight(None, record, self.began.elapsed()));
        let lease = self.lease(None, false);
        self.api.replace(LEASE, &PostParams::default(), &lease).await?;
        info!("the lease is given back");
        Ok(())
    }

    /// The lease as it is to be written over the one that was seen.
    fn lease(&self, holder: Option<String>, new_holder: bool) -> Lease {
        let now = (self.clock)();
        let before = self.seen.as_ref().map(|seen| seen.record.clone()).unwrap_or_default();
        let acquired = before.acquired.filter(|_| !new_holder).unwrap_or(now);
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                resource_version: self.seen.as_ref().map(|_| before.resource_version),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder,
                lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
                acquire_time: Some(MicroTime(acquired)),
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(before.transitions.saturating_add(i32::from(new_holder))),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        resource_version: lease.metadata.resource_version.unwrap_or_default(),
        holder: spec.holder_identity,
        lasts: seconds.map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        acquired: spec.acquire_time.map(|time| time.0),
    }
}
