//! Keeps the webhook's certificates: looks, takes one step where one is due, looks again.
//! Never stops serving with what it has because a step fails.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kube::Client;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::{
    act,
    failure::chain,
    observe,
    plan::certificates::{Step, Wanted, mistrusted, plan},
    readiness::Part,
    snapshot::certificates::{Kept, Names},
};

/// Between steps that belong together.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);
/// For one look and one step.
const ROUND: Duration = Duration::from_secs(30);
/// Longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What came of one look.
enum Round {
    /// Everything is as it should be.
    Settled,
    /// A step was taken.
    Stepped(Step),
    /// The look or the step failed, and that was told.
    Failed,
}

/// What is needed to keep certificates.
pub struct Keep {
    /// Of the cluster.
    pub client: Client,
    /// What things are called.
    pub names: Names,
    /// What the certificates should be.
    pub wanted: Wanted,
    /// What time it is.
    pub clock: fn() -> SystemTime,
    /// Where the certificate to serve is published.
    pub serving: watch::Sender<Option<Arc<CertifiedKey>>>,
    /// Ready with the first certificate.
    pub part: Part,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Keep");
        shown.field("names", &self.names).field("wanted", &self.wanted);
        shown.finish_non_exhaustive()
    }
}

impl Keep {
    /// Keeps them until it is dropped.
    pub async fn keep(self) {
        let mut wait = self.wanted.interval();
        loop {
            wait = match self.round_within(ROUND).await {
                // What was made or dropped is told to the API server next.
                Round::Stepped(Step::Begin | Step::AddAuthority | Step::DropOld) => BETWEEN_STEPS,
                Round::Stepped(Step::Sign | Step::Trust) | Round::Settled => self.wanted.interval(),
                Round::Failed => (wait * 2).clamp(self.wanted.interval(), LONGEST_WAIT),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One look and at most one step, given up where the API server does not answer.
    async fn round_within(&self, limit: Duration) -> Round {
        let round = tokio::time::timeout(limit, self.round()).await;
        round.unwrap_or_else(|_| {
            warn!(
                seconds = limit.as_secs(),
                "the webhook's certificates could not be looked at in time; it is tried again"
            );
            Round::Failed
        })
    }

    /// One look and at most one step.
    async fn round(&self) -> Round {
        let read = observe::certificates::read(&self.client, &self.names).await;
        let (seen, serving) = match read {
            Ok(read) => read,
            Err(failed) => {
                warn!(error = %chain(&failed), "the webhook's certificates cannot be looked at; it goes on with what it has");
                return Round::Failed;
            }
        };
        if let Kept::Foreign { kind } = &seen.kept {
            let secret = &self.names.secret;
            error!(
                secret.name = secret,
                secret.r#type = kind,
                "the secret for the webhook's certificates is not the operator's own: rename it, or choose another with --webhook-secret"
            );
            return Round::Failed;
        }
        if let Some(serving) = serving {
            self.serve(serving);
        }
        let now = (self.clock)();
        let trusted = mistrusted(&seen).next().is_none();
        let Some(step) = plan(now, &seen.kept, trusted, &self.wanted) else {
            return Round::Settled;
        };
        if let Kept::Unusable { why } = &seen.kept {
            warn!(
                secret.name = self.names.secret,
                error = why,
                "the webhook's certificates are unusable and made anew"
            );
        }
        match act::certificates::execute(&self.client, &self.names, step, &seen, (now, &self.wanted)).await {
            Ok(()) => {
                info!(?step, "the webhook's certificates took a step");
                Round::Stepped(step)
            }
            Err(failed) => {
                warn!(?step, error = %chain(&failed), "the webhook's certificates cannot take a step; it is tried again");
                Round::Failed
            }
        }
    }

    fn serve(&self, serving: Arc<CertifiedKey>) {
        let changed = self.serving.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| current.cert == serving.cert);
            if !same {
                *current = Some(serving);
            }
            !same
        });
        if changed {
            debug!("the webhook serves another certificate");
            self.part.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::silent, readiness::Readiness};

    #[tokio::test]
    async fn a_round_that_nobody_answers_is_given_up() {
        let (_listener, client) = silent::server(Duration::from_secs(60));
        let (serving, _served) = watch::channel(None);
        let keep = Keep {
            client,
            names: Names {
                namespace: "cudaenv".to_owned(),
                secret: "webhook".to_owned(),
                configuration: "cudaenv".to_owned(),
            },
            wanted: Wanted {
                names: ["localhost".to_owned()].into(),
                authority: Duration::from_secs(60),
                serving: Duration::from_secs(60),
            },
            clock: || SystemTime::UNIX_EPOCH,
            serving,
            part: Readiness::default().part("certificates"),
        };
        let round = tokio::time::timeout(Duration::from_secs(20), keep.round_within(Duration::from_millis(300)));
        assert!(matches!(round.await.unwrap(), Round::Failed));
    }
}
