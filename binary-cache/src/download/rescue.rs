//! What is done where the stretch whose turn it is brings nothing: it is asked for elsewhere as well, or instead.
//! Never opens a connection that all downloads together may not have; never asks again and again in vain without a pause.

use std::time::Duration;

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};

use super::{Download, lane::Lane, stretch::Item, width::PERIOD};
use crate::{fault::Fault, http::Via};

/// Reads what the first lane should be reading.
pub(super) struct Rescue {
    lane: Lane,
    /// Its place among the connections, until the first lane's is free.
    _connection: OwnedSemaphorePermit,
}

impl Download<'_> {
    /// The next piece of the first lane, or of its rescuer where that is sooner: then it is the first. Meanwhile no connection
    /// is left with nothing to do.
    pub(super) async fn piece(&mut self) -> Option<Result<Item, Fault>> {
        let mut silent = Instant::now();
        loop {
            let first = self.lanes.front_mut()?;
            let Some(rescue) = &mut self.rescue else {
                match timeout(PERIOD, first.next()).await {
                    Ok(piece) => return piece,
                    Err(_elapsed) if silent.elapsed() < self.patience => self.widen(),
                    Err(_elapsed) => {
                        if self.ask_elsewhere(silent.elapsed()) {
                            silent = Instant::now();
                        }
                    }
                }
                continue;
            };
            let (piece, by_rescue) = tokio::select! {
                biased;
                piece = first.next() => (piece, false),
                piece = rescue.lane.next() => (piece, true),
                () = sleep(PERIOD) => {
                    self.widen();
                    continue;
                }
            };
            match (piece, by_rescue) {
                (Some(Ok(Item::Began(began))), _) => return Some(Ok(Item::Began(began))),
                // The first may do better.
                (Some(Err(fault)), true) => {
                    self.means.progress.retried(&fault);
                    self.be_patient();
                    silent = Instant::now();
                }
                // Its task died.
                (None, true) => {
                    self.be_patient();
                    silent = Instant::now();
                }
                (Some(Err(fault)), false) => {
                    self.means.progress.retried(&fault);
                    self.replace_first();
                }
                (piece, true) => {
                    self.replace_first();
                    return piece;
                }
                (piece, false) => {
                    self.rescue = None;
                    return piece;
                }
            }
        }
    }

    /// What was done about silence was of no use: the next time it is borne for twice as long.
    fn be_patient(&mut self) {
        self.rescue = None;
        self.patience = self.patience.saturating_mul(2);
    }

    fn replace_first(&mut self) {
        let Some(Rescue { mut lane, .. }) = self.rescue.take() else {
            return;
        };
        // There may be lanes behind it that were begun since.
        if let Some(to) = self.lanes.pop_front().and_then(|silent| silent.to) {
            lane.end_at(to);
        }
        self.lanes.push_front(lane);
    }

    /// Asks the next source for what is missing of the first lane; the same one only where it had begun to answer. Where there
    /// may be no other connection, the silent one is left for it after twice the time. Whether anything was done.
    fn ask_elsewhere(&mut self, silent: Duration) -> bool {
        let complete = self.size == Some(self.received);
        if complete || self.sources.len() < 2 && self.received == 0 {
            return false;
        }
        let Some((to, asked)) = self.lanes.front().map(|lane| (lane.to, lane.asked())) else {
            return false;
        };
        let connection = self.ahead.connection();
        // Where no parts are given out, the other would have to begin with the first byte.
        let costs_nothing = self.in_parts || self.received == 0;
        if connection.is_none() && !(costs_nothing && silent >= self.patience.saturating_mul(2)) {
            return false;
        }
        if let Some(source) = self.sources.iter().find(|source| source.id == asked) {
            source.slow(&self.means.options);
        }
        match connection {
            Some(connection) => {
                let stretch = self.stretch((self.received, to), Some(asked), Via::Own);
                let lane = Lane::begin(&mut self.tasks, stretch, (self.received, to), None);
                self.rescue = Some(Rescue {
                    lane,
                    _connection: connection,
                });
            }
            None => {
                self.be_patient();
                self.leave_first();
            }
        }
        true
    }

    /// Gives up the connection of the first lane for another, to the next source where there are several.
    pub(super) fn leave_first(&mut self) {
        self.rescue = None;
        if let Some(lane) = self.lanes.pop_front() {
            self.begin(lane.to, Some(lane.asked()), Via::Own);
        }
    }
}
