//! Calls under way, one for each volume. A call to publish gives way to one that takes the volume away.
//! Never static: each driver has its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use crate::snapshot::volume::VolumeId;

/// How long a call that takes a volume away waits for the one before it.
const GIVE_WAY_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub(super) struct Flights(Arc<Mutex<BTreeMap<VolumeId, watch::Sender<bool>>>>);

/// The right to work on one volume, until dropped.
#[derive(Debug)]
pub(super) struct Flight {
    id: VolumeId,
    flights: Flights,
    displaced: watch::Receiver<bool>,
}

impl Flights {
    /// Begins a call, unless one for the same volume is under way.
    pub(super) fn begin(&self, id: &VolumeId) -> Option<Flight> {
        let mut flights = self.locked();
        if flights.contains_key(id) {
            return None;
        }
        let (sender, displaced) = watch::channel(false);
        flights.insert(id.clone(), sender);
        drop(flights);
        Some(Flight {
            id: id.clone(),
            flights: self.clone(),
            displaced,
        })
    }

    /// Begins a call, telling the one that is under way to give way; nothing where it does not in time.
    pub(super) async fn displace(&self, id: &VolumeId) -> Option<Flight> {
        let displaced = async {
            loop {
                if let Some(flight) = self.begin(id) {
                    return flight;
                }
                let before = self.locked().get(id).map(|sender| {
                    sender.send_replace(true);
                    sender.subscribe()
                });
                if let Some(mut before) = before {
                    // Ends with the sender, which goes when the call before does.
                    while before.changed().await.is_ok() {}
                }
            }
        };
        timeout(GIVE_WAY_WITHIN, displaced).await.ok()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<VolumeId, watch::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Waits until another call wants the volume.
    pub(super) async fn displaced(&mut self) {
        // Our own entry holds the sender for as long as we live.
        let _ = self.displaced.wait_for(|displaced| *displaced).await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.locked().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_call_at_a_time_and_taking_away_goes_first() {
        let flights = Flights::default();
        let (id, other) = (VolumeId::new("a"), VolumeId::new("b"));
        let mut first = flights.begin(&id).unwrap();
        assert!(flights.begin(&id).is_none());
        drop(flights.begin(&other).unwrap());
        let displacing = flights.displace(&id);
        let giving_way = async {
            first.displaced().await;
            drop(first);
        };
        let (flight, ()) = tokio::join!(displacing, giving_way);
        assert!(flight.is_some() && flights.begin(&id).is_none());
        drop(flight);
        assert!(flights.begin(&id).is_some());
    }
}
