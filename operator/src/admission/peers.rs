//! Who is connected: how many connections an address has, and since when one has nothing to do.
//! Never what is asked.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Connections by the address of their client. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    /// A place for one more of this address; none where it has `most` already.
    pub(super) fn place(&self, address: IpAddr, most: usize) -> Option<Place> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            peers: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

/// How many questions a connection has open, and since when. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Work(Arc<watch::Sender<usize>>);

/// An open question, until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Work);

impl Work {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// One more question.
    pub(super) fn open(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.clone())
    }

    /// Returns when no question has been open for so long.
    pub(super) async fn idle_for(&self, long: Duration) {
        let mut open = self.0.subscribe();
        loop {
            // The sender is `self`: it does not go away meanwhile.
            let _ = open.wait_for(|open| *open == 0).await;
            let since = Instant::now();
            if timeout(long, open.changed()).await.is_err() && since.elapsed() >= long {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_each_that_is_left_is_free_again() {
        let peers = Peers::default();
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = peers.place(one, 2);
        let second = peers.place(one, 2);
        assert!(first.is_some() && second.is_some());
        assert!(peers.place(one, 2).is_none());
        assert!(peers.place(other, 2).is_some(), "another is not kept waiting");
        drop(first);
        assert!(peers.place(one, 2).is_some());
        drop(second);
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
