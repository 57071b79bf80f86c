//! Publishing a volume: from what is on record, or from an environment, to a read-only mount at the target.
//! Never mounts before it is on record, never leaves anything behind an error.

use std::{path::Path, sync::Arc, time::Duration};

use crds::{domain::node::DriverState, pod::View};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use super::{Volumes, failure::CallError, flights::Flight};
use crate::{
    act::view::{self, Target, ViewError},
    plan::{
        self,
        volume::{self, Asked, OnRecord, Publish, Step},
    },
    provision::{
        Provisioned,
        service::{Order, State},
    },
    snapshot::{
        happening::{Happening, What},
        progress::Progress,
        view::{BridgeId, ViewKind},
        volume::VolumeRecord,
    },
    store::{NodeStore, mounts},
};

/// Between two words about a fetch.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What came of mounting again what is on record.
enum Again {
    /// It is mounted.
    Mounted(Box<VolumeRecord>),
    /// Its files are gone: it must be made anew, with the right to the volume that comes back.
    Incomplete(Flight),
}

impl Volumes {
    /// Publishes, answering before `deadline` in any case. Work that was begun goes on after that.
    pub async fn publish(&self, asked: &Asked, deadline: Instant) -> Result<(), CallError> {
        let started = Instant::now();
        let publish = volume::read(asked, &self.parts.pods)?;
        let done = self.published(&publish, deadline).await;
        match &done {
            Ok(Some(record)) => self.tell_of(
                &publish,
                What::Published {
                    view: record.view.clone(),
                    kind: record.kind,
                    took: started.elapsed(),
                },
            ),
            Ok(None) => {}
            Err(error) => {
                if let Some(reason) = error.reason() {
                    let message = error.sentence();
                    self.tell_of(&publish, What::Failed { reason, message });
                }
            }
        }
        done.map(|_| ())
    }

    /// What was mounted, or nothing where it was there.
    async fn published(&self, publish: &Publish, deadline: Instant) -> Result<Option<VolumeRecord>, CallError> {
        let flight = self.flights.begin(&publish.id).ok_or(CallError::UnderWay)?;
        let (step, record) = self.look(publish).await?;
        match (step, record) {
            (Step::Nothing, _) => Ok(None),
            (Step::Conflict, _) => Err(CallError::OtherArguments),
            (Step::AtAnotherTarget, _) => Err(CallError::OtherTarget),
            (Step::Foreign, _) => Err(CallError::Foreign {
                target: publish.target.clone(),
                node: self.parts.node_name.clone(),
            }),
            (Step::MountAgain, Some(record)) => match self.mount_again(record, flight).await? {
                Again::Mounted(record) => Ok(Some(*record)),
                Again::Incomplete(flight) => self.make(publish, flight, deadline).await.map(Some),
            },
            (Step::MountAgain | Step::Make, _) => self.make(publish, flight, deadline).await.map(Some),
        }
    }

    /// What is on record and mounted, and what is to be done.
    async fn look(&self, publish: &Publish) -> Result<(Step, Option<VolumeRecord>), CallError> {
        let (store, pods, wanted) = (self.store().clone(), self.parts.pods.clone(), publish.clone());
        let node = Arc::clone(&self.parts.node.borrow());
        self.blocking_view(move || look(&store, &pods, &wanted, &node.facts.driver))
            .await
    }

    /// Mounts what is on record once more.
    async fn mount_again(&self, record: VolumeRecord, flight: Flight) -> Result<Again, CallError> {
        let (store, label) = (self.store().clone(), self.parts.selinux_label.clone());
        let pods = self.parts.pods.clone();
        // As in `make`: the right to the volume is held for as long as something is done to it.
        let mounted = self.blocking_view(move || {
            let Some(held) = store.view_record(&record.view)? else {
                return Ok(Again::Incomplete(flight));
            };
            let plan = plan::view::of_built(record.view.clone(), record.kind, held.bridge, held.paths, label);
            let target = Target::below(&pods, &record.target)?;
            view::unpublish(&target)?;
            let mounted = view::mount(&plan, &store).and_then(|()| {
                view::publish(&record.view, record.kind, &store, &target)?;
                Ok(())
            });
            match mounted {
                Ok(()) => Ok(Again::Mounted(Box::new(record))),
                Err(ViewError::OpenLayer { .. } | ViewError::MissingPath { .. } | ViewError::MissingBridge { .. }) => {
                    Ok(Again::Incomplete(flight))
                }
                Err(error) => Err(error),
            }
        });
        mounted.await
    }

    async fn make(&self, publish: &Publish, flight: Flight, deadline: Instant) -> Result<VolumeRecord, CallError> {
        let (provisioned, flight) = self.provisioned(publish, flight, deadline).await?;
        let selection = &provisioned.selection;
        let variants = selection.selected.iter();
        let record = VolumeRecord {
            volume: publish.id.clone(),
            target: publish.target.clone(),
            fingerprint: publish.fingerprint.clone(),
            view: provisioned.view.digest.clone(),
            kind: provisioned.view.kind,
            bridge: provisioned.view.bridge().cloned(),
            pod: publish.pod.clone(),
            environment: publish.request.environment.clone(),
            variants: variants
                .map(|(name, chosen)| (name.clone(), chosen.variant.clone()))
                .collect(),
        };
        let variants = record.variants.clone().into_iter().collect();
        self.tell_of(publish, What::Selected { variants });
        let (store, pods) = (self.store().clone(), self.parts.pods.clone());
        // The right to the volume goes along: a caller that leaves does not let another one in between.
        let mounted = self.blocking_view(move || {
            let _flight = flight;
            let done = Target::below(&pods, &record.target)
                .map_err(ViewError::from)
                .and_then(|target| mount(&record, &provisioned, &store, &target));
            // The last of those who waited for this view ends its lease: the record keeps the view now.
            if let Some(Provisioned { lease, .. }) = Arc::into_inner(provisioned) {
                lease.end()?;
            }
            done.map(|()| record)
        });
        mounted.await
    }

    /// Waits for the view that the volume shows.
    async fn provisioned(
        &self,
        publish: &Publish,
        mut flight: Flight,
        deadline: Instant,
    ) -> Result<(Arc<Provisioned>, Flight), CallError> {
        let environment = &publish.request.environment;
        let mut ticket = self.parts.provision.order(self.order(publish)?)?;
        let mut told = Instant::now();
        loop {
            match ticket.state() {
                State::Done(Ok(provisioned)) => return Ok((provisioned, flight)),
                State::Done(Err(source)) => {
                    return Err(CallError::Provision {
                        environment: environment.clone(),
                        node: self.parts.node_name.clone(),
                        source,
                    });
                }
                State::Working(progress) if told.elapsed() >= TELL_EVERY => {
                    told = Instant::now();
                    self.tell_of(publish, fetching(progress));
                }
                State::Working(_) => {}
            }
            tokio::select! {
                () = ticket.changed() => {}
                () = flight.displaced() => return Err(CallError::Displaced),
                () = sleep_until(deadline) => {
                    let progress = match ticket.state() {
                        State::Working(progress) => progress,
                        State::Done(_) => continue,
                    };
                    self.tell_of(publish, fetching(progress.clone()));
                    return Err(CallError::Fetching { environment: environment.clone(), progress });
                }
            }
        }
    }

    fn order(&self, publish: &Publish) -> Result<Order, CallError> {
        if self.parts.spec.borrow().drain {
            let node = self.parts.node_name.clone();
            return Err(CallError::Drained { node });
        }
        let known = self.parts.known.borrow().clone();
        let granted = known
            .catalogue
            .grant(&publish.pod.namespace, &publish.request.environment);
        let granted = granted.map_err(|denied| {
            if known.synced {
                CallError::Denied(denied)
            } else {
                // What is not known yet may be there all the same.
                let node = self.parts.node_name.clone();
                CallError::Starting { node }
            }
        })?;
        Ok(Order {
            granted,
            node: Arc::clone(&self.parts.node.borrow()),
            kind: match publish.request.view {
                View::Auto | View::Overlay => ViewKind::Overlay,
                View::Plain => ViewKind::Plain,
            },
        })
    }

    fn tell_of(&self, publish: &Publish, what: What) {
        self.tell(Happening {
            pod: Some(publish.pod.clone()),
            environment: Some(publish.request.environment.clone()),
            what,
        });
    }

    /// Runs what waits for a disk where it keeps nobody else waiting.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, CallError> {
        let done = spawn_blocking(work)
            .await
            .map_err(|source| CallError::TaskDied { source })?;
        done.map_err(|source| CallError::Store {
            node: self.parts.node_name.clone(),
            source,
        })
    }

    async fn blocking_view<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ViewError> + Send + 'static,
    ) -> Result<T, CallError> {
        let done = spawn_blocking(work)
            .await
            .map_err(|source| CallError::TaskDied { source })?;
        let node = self.parts.node_name.clone();
        done.map_err(|source| {
            if let ViewError::Target(source) = source {
                CallError::Target { node, source }
            } else {
                CallError::View { node, source }
            }
        })
    }
}

fn fetching(progress: Progress) -> What {
    What::Fetching {
        status: progress.fetch,
        bytes_per_second: progress.bytes_per_second,
    }
}

fn look(
    store: &NodeStore,
    pods: &Path,
    publish: &Publish,
    driver: &DriverState,
) -> Result<(Step, Option<VolumeRecord>), ViewError> {
    let mut records = store.volume(&publish.id)?;
    let target = Target::below(pods, &publish.target)?;
    let mounted = mounts::at(&target.at()?)?;
    if mounted.is_none() {
        target.is_free()?;
    }
    let on_record: Vec<_> = records
        .iter()
        .map(|record| OnRecord {
            target: &record.target,
            fingerprint: &record.fingerprint,
            driver: record.bridge.as_ref().map(BridgeId::driver),
        })
        .collect();
    let step = volume::decide(publish, &on_record, mounted.as_ref(), driver);
    let here = records.iter().position(|record| record.target == publish.target);
    Ok((step, here.map(|index| records.swap_remove(index))))
}

/// On record first, then mounted, then looked at. An error that kubelet takes for final leaves nothing behind; what cannot
/// be removed is told by it.
fn mount(
    record: &VolumeRecord,
    provisioned: &Provisioned,
    store: &NodeStore,
    target: &Target,
) -> Result<(), ViewError> {
    let done = sealed(record, provisioned, store, target);
    if done.is_err() {
        let _ = view::unpublish(target);
        let _ = store.forget_volume(&record.volume, &record.target);
    }
    done
}

fn sealed(
    record: &VolumeRecord,
    provisioned: &Provisioned,
    store: &NodeStore,
    target: &Target,
) -> Result<(), ViewError> {
    store.keep_volume(record)?;
    view::mount(&provisioned.view, store)?;
    view::publish(&record.view, record.kind, store, target)?;
    if mounts::is_read_only(&target.at()?)? {
        Ok(())
    } else {
        Err(ViewError::NotMounted {
            digest: record.view.clone(),
        })
    }
}
