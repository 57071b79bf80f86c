//! What happens to volumes on its way to people: events, metrics, the standing of environments.
//! Never keeps a publish waiting: what is too much is counted and let go.

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, sleep},
};

use crate::{
    act::cluster::{ClusterError, create_event, update_event},
    plan::standing::Standings,
    report::{
        events::{EventLog, Telling},
        failure::chain,
        metrics::{Ended, Metrics},
    },
    snapshot::{happening::Happening, known::Known},
};

/// Happenings that wait to be told.
pub(super) const WAITING: usize = 1024;
/// Events that wait to be written.
const UNWRITTEN: usize = 256;
/// Pauses between the attempts at one event.
const AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// Where happenings are told.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) node: String,
    pub(super) known: watch::Receiver<Known>,
    pub(super) standings: watch::Sender<Standings>,
    pub(super) metrics: Metrics,
    /// Where events go; nothing without an API server.
    pub(super) events: Option<mpsc::Sender<Telling>>,
}

/// A queue of events, which is full rather than long.
pub(super) fn queue() -> (mpsc::Sender<Telling>, mpsc::Receiver<Telling>) {
    mpsc::channel(UNWRITTEN)
}

impl Listener {
    /// Listens for as long as somebody may say something.
    pub(super) async fn listen(self, mut happenings: mpsc::Receiver<Happening>) {
        let mut log = EventLog::new(&self.node);
        while let Some(happening) = happenings.recv().await {
            self.metrics.happened(&happening);
            let catalogue = self.known.borrow().catalogue.clone();
            self.standings.send_if_modified(|standings| {
                let before = standings.clone();
                standings.take(&happening, &catalogue);
                *standings != before
            });
            let Some(events) = &self.events else { continue };
            let Some(telling) = log.tell(&happening, Timestamp::now()) else {
                continue;
            };
            if events.try_send(telling).is_err() {
                self.metrics.event_told(Ended::Dropped);
            }
        }
    }
}

/// Writes events, one after the other.
pub(super) async fn write(client: Client, mut events: mpsc::Receiver<Telling>, metrics: Metrics) {
    while let Some(telling) = events.recv().await {
        let ended = match told(&client, &telling).await {
            Ok(()) => Ended::Ok,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "an event was not written");
                Ended::Failed
            }
        };
        metrics.event_told(ended);
    }
}

async fn told(client: &Client, telling: &Telling) -> Result<(), ClusterError> {
    let mut pauses = AGAIN_AFTER.into_iter();
    loop {
        let done = match telling {
            Telling::Create(event) => create_event(client, event).await,
            Telling::Update(event) => match update_event(client, event).await {
                // Events are kept for an hour; this one goes on.
                Err(error) if error.is_gone() => create_event(client, event).await,
                done => done,
            },
        };
        match (done, pauses.next()) {
            (Err(error), Some(pause)) if !error.is_refused() => {
                tracing::debug!(error = %chain(&error), "an event will be tried again");
                sleep(pause).await;
            }
            (done, _) => return done,
        }
    }
}
