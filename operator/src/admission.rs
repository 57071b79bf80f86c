//! The webhook: takes a question, looks at the world as it is known, and answers.
//! Never decides anything itself: `plan::admission` does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, info};

use crate::{
    failure::chain,
    metrics::Metrics,
    observe::world::Worlds,
    plan::admission::{
        Surroundings,
        affinity::AgentNodes,
        review::{self, Malformed, Outcome, Reply, Request},
    },
    snapshot::settled::Settled,
};

pub mod keep;
mod peers;
pub mod serve;
pub mod tls;

/// How long an answer waits for objects that were written just before the pod: the API server told of them already, and they
/// are on their way. Well below the webhook's own timeout of 5 seconds.
const EARLY: Duration = Duration::from_millis(1500);

/// Most answers that wait so: the others are given at once, so that pods with a wrong name do not keep right ones waiting.
const MOST_EARLY: usize = serve::MOST_QUESTIONS / 2;

/// Answers questions. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Admission {
    worlds: Worlds,
    namespace: String,
    agents: Arc<AgentNodes>,
    metrics: Metrics,
    early: Arc<Semaphore>,
}

/// Which webhook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Webhook {
    Pods,
    Objects,
}

impl Webhook {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/mutate-pods" => Some(Self::Pods),
            "/validate-objects" => Some(Self::Objects),
            _ => None,
        }
    }

    /// The label of its metric.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Objects => "objects",
        }
    }
}

impl Admission {
    /// Answers by what `worlds` says is known, for an operator in `namespace` whose agents are placed on `agents`, and counts
    /// what it answers.
    pub fn new(worlds: Worlds, namespace: String, agents: AgentNodes, metrics: Metrics) -> Self {
        Self {
            worlds,
            namespace,
            agents: Arc::new(agents),
            metrics,
            early: Arc::new(Semaphore::new(MOST_EARLY)),
        }
    }

    /// Answers what is posted to a path: the status, and the body.
    pub async fn answer(&self, path: &str, body: &Bytes) -> (StatusCode, Vec<u8>) {
        let Some(webhook) = Webhook::of(path) else {
            return (
                StatusCode::NOT_FOUND,
                b"/mutate-pods and /validate-objects are served\n".to_vec(),
            );
        };
        let begun = Instant::now();
        let replied = self.reply(webhook, body).await;
        let seconds = self.metrics.admission_seconds.with_label_values(&[webhook.as_str()]);
        seconds.observe(begun.elapsed().as_secs_f64());
        match replied {
            Ok(reply) => {
                self.count(webhook, reply.outcome().as_str());
                (StatusCode::OK, reply.to_review().to_string().into_bytes())
            }
            Err(malformed) => {
                self.count(webhook, "malformed");
                debug!(error = %chain(&malformed), "a question was malformed");
                (StatusCode::BAD_REQUEST, format!("{}\n", chain(&malformed)).into_bytes())
            }
        }
    }

    async fn reply(&self, webhook: Webhook, body: &[u8]) -> Result<Reply, Malformed> {
        let request = review::read(body)?;
        let mut worlds = self.worlds.clone();
        let deadline = tokio::time::sleep(EARLY);
        tokio::pin!(deadline);
        loop {
            let world = worlds.borrow_and_update().clone();
            let reply = self.now(webhook, &request, world.as_deref())?;
            let permit = if reply.early {
                self.early.try_acquire().ok()
            } else {
                None
            };
            let newer = permit.is_some()
                && tokio::select! {
                    changed = worlds.changed() => changed.is_ok(),
                    () = &mut deadline => false,
                };
            if !newer {
                if reply.outcome() == Outcome::Refused {
                    info!(webhook = webhook.as_str(), answer = %reply.to_review(), "refused");
                }
                return Ok(reply);
            }
        }
    }

    /// The answer by what is known at this moment.
    fn now(&self, webhook: Webhook, request: &Request, world: Option<&Settled>) -> Result<Reply, Malformed> {
        let around = world.map(|world| Surroundings {
            catalogue: &world.catalogue,
            classes: world.classes(),
            contents: world.contents(),
            agents: &self.agents,
        });
        match webhook {
            Webhook::Pods => review::pod(request, &self.namespace, around),
            Webhook::Objects => review::judged(request, around),
        }
    }

    fn count(&self, webhook: Webhook, outcome: &str) {
        let labels = [webhook.as_str(), outcome];
        self.metrics.admission.with_label_values(&labels).inc();
    }
}
