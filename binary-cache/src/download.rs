//! One NAR file as one stream, over as many connections as it takes: more where each is slow, another where one is silent.
//! Never hands out a byte twice or out of order; never holds more of what is ahead than all downloads may together.

mod ahead;
mod join;
mod lane;
mod rescue;
mod share;
mod stretch;
mod width;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

pub(crate) use self::{ahead::Ahead, stretch::Wanted};
use self::{
    ahead::Place,
    lane::Lane,
    rescue::Rescue,
    stretch::{Began, Item, Means, Range, Stretch},
    width::Width,
};
use crate::{
    fault::Fault,
    http::{Validator, Via},
    options::Options,
    source::Source,
    substitute::Progress,
    transport::Transport,
};

/// How many times as long as the others a stretch may take before it is read elsewhere.
const STRAGGLER: u32 = 4;

/// A file that is being read. Drop it to stop.
pub(crate) struct Download<'a> {
    ahead: &'a Ahead,
    means: Means,
    /// Where it may be read, the one to begin with first.
    sources: Vec<Arc<Source>>,
    tasks: JoinSet<()>,
    /// What is being read, in the order of the file; the first is handed out.
    lanes: VecDeque<Lane>,
    /// Where the first lane is silent.
    rescue: Option<Rescue>,
    /// How long it may be silent.
    patience: Duration,
    /// Bytes handed out.
    received: u64,
    size: Option<u64>,
    in_parts: bool,
    version: Option<(usize, Validator)>,
    width: Width,
    /// Bytes a second that a connection brought, of late.
    usual: Option<f64>,
    handed_out: Instant,
}

impl<'a> Download<'a> {
    /// `sources`: all of one cache, the one to begin with first; at least one.
    pub(crate) fn new(
        (transport, options): (&Transport, &Arc<Options>),
        ahead: &'a Ahead,
        sources: Vec<Arc<Source>>,
        wanted: Wanted,
        progress: Arc<dyn Progress>,
    ) -> Self {
        Self {
            ahead,
            patience: options.patience,
            size: wanted.size,
            means: Means {
                transport: transport.clone(),
                options: options.clone(),
                progress,
                wanted,
            },
            sources,
            tasks: JoinSet::new(),
            lanes: VecDeque::new(),
            rescue: None,
            received: 0,
            in_parts: false,
            version: None,
            width: Width::new(),
            usual: None,
            handed_out: Instant::now(),
        }
    }

    /// Bytes handed out so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Lets go of the connections; the next bytes are asked for over another one. Not where that could not be told from
    /// the end: behind the last byte, or where nobody has said how long the file is.
    pub(crate) fn pause(&mut self) {
        if self.size.is_some_and(|size| self.received < size) {
            self.lanes.clear();
            self.rescue = None;
        }
    }

    /// The next bytes; `None` at the end of the file.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut asked = Instant::now();
        loop {
            if self.lanes.is_empty() {
                if self.received > 0 && self.size.is_some_and(|size| self.received >= size) {
                    return Ok(None);
                }
                self.begin(None, None, Via::Shared);
            }
            self.widen();
            match self.piece().await {
                Some(Ok(Item::Began(began))) => {
                    self.learn(began);
                    // How long the answer took says nothing of how fast it comes.
                    if self.received == 0 {
                        asked = Instant::now();
                        self.handed_out = asked;
                    }
                }
                Some(Ok(Item::Bytes(bytes))) => {
                    let now = Instant::now();
                    self.width.account(now - asked, now - self.handed_out);
                    self.handed_out = now;
                    self.patience = self.means.options.patience;
                    if let Some(bytes) = self.hand_out(bytes) {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(fault)) => self.recover(fault)?,
                None => {
                    self.ended()?;
                    return Ok(None);
                }
            }
        }
    }

    /// `after`: the source that is not to be begun with, if there is another.
    fn stretch(&self, (from, to): (u64, Option<u64>), after: Option<usize>, via: Via) -> Stretch {
        let mut sources = self.sources.clone();
        if let Some(last) = sources.iter().position(|source| Some(source.id) == after) {
            sources.rotate_left((last + 1) % self.sources.len().max(1));
        }
        let version = self.version.clone();
        let range = Range { from, to, version, via };
        Stretch::new(self.means.clone(), sources, range)
    }

    /// Begins the first lane, at what is to be handed out next.
    fn begin(&mut self, to: Option<u64>, after: Option<usize>, via: Via) {
        let stretch = self.stretch((self.received, to), after, via);
        let lane = Lane::begin(&mut self.tasks, stretch, (self.received, to), None);
        self.lanes.push_front(lane);
    }

    fn learn(&mut self, began: Began) {
        self.size = self.size.or(began.size);
        self.means.wanted.size = self.size;
        self.in_parts |= began.in_parts;
        self.version = self.version.take().or(began.version);
    }

    /// Takes off what belongs to the next lane, which was begun later.
    fn hand_out(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        if let Some(to) = self.lanes.front().and_then(|lane| lane.to) {
            bytes.truncate(usize::try_from(to.saturating_sub(self.received)).unwrap_or(usize::MAX));
        }
        self.received += bytes.len() as u64;
        if self.lanes.front().is_some_and(|lane| lane.to == Some(self.received)) {
            self.next_lane();
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn next_lane(&mut self) {
        self.rescue = None;
        let Some(done) = self.lanes.pop_front() else { return };
        if let Some(rate) = done.rate().filter(|_| done.is_finished()) {
            self.usual = Some(self.usual.map_or(rate, |usual| (usual * 3.0 + rate) / 4.0));
        }
    }

    /// The first lane has no more: that is the end of the file, or its task died. What is complete was taken off before.
    fn ended(&self) -> Result<(), Fault> {
        let to = self.lanes.front().and_then(|lane| lane.to);
        match to.or(self.size) {
            Some(expected) if self.received < expected => Err(Fault::Cancelled),
            Some(_) | None => Ok(()),
        }
    }

    /// A lane of several may fail because they are several: everything again over one. One alone has tried everything.
    fn recover(&mut self, fault: Fault) -> Result<(), Fault> {
        if self.lanes.len() < 2 && self.width.connections() == 1 {
            return Err(fault);
        }
        self.means.progress.retried(&fault);
        self.lanes.clear();
        self.width.narrow();
        Ok(())
    }

    /// As many lanes as the width says, where the server gives out parts and there is enough left to read.
    fn widen(&mut self) {
        let (Some(size), true) = (self.size, self.in_parts && self.width.connections() > 1) else {
            return;
        };
        self.leave_straggler();
        let rate = self.lanes.iter().filter_map(Lane::rate).fold(0.0, f64::max);
        let length = width::stretch(rate);
        if let Some(lane) = self.lanes.back_mut().filter(|lane| lane.to.is_none()) {
            let left = size.saturating_sub(self.received);
            let length = width::first_stretch(length, left, self.width.connections());
            if left < 2 * length {
                return;
            }
            lane.to = Some(self.received.saturating_add(length));
        }
        self.fill(size, length);
        // Where nothing may be read ahead, the one lane goes on as before.
        if let [only] = self.lanes.make_contiguous() {
            only.to = only.to.filter(|to| *to >= size || only.is_part());
        }
    }

    /// Gives every connection that has nothing to do a stretch, or a part of another's.
    fn fill(&mut self, size: u64, length: u64) {
        while self.lanes.iter().filter(|lane| !lane.is_finished()).count() < self.width.connections() {
            if !(self.share_first() || self.begin_next(size, length) || self.share_slowest()) {
                return;
            }
        }
    }

    /// Begins the next stretch that nobody reads; false where there is none, or no more may be read ahead now.
    fn begin_next(&mut self, size: u64, length: u64) -> bool {
        let behind = self.lanes.back().and_then(|lane| lane.to);
        let Some(from) = behind.filter(|from| *from < size && self.lanes.len() < 2 * self.width.connections()) else {
            return false;
        };
        let to = size.min(from.saturating_add(length));
        let Some(ahead) = self.ahead.take(to - from) else {
            return false;
        };
        self.read_ahead(self.lanes.len(), (from, to), ahead);
        true
    }

    /// Shares the stretch whose turn it is where it comes so slowly that everything else would wait for it.
    fn share_first(&mut self) -> bool {
        let (Some(first), Some(usual)) = (self.lanes.front().and_then(Lane::left), self.usual()) else {
            return false;
        };
        first.straggler(usual).is_some_and(|part| self.share(0, part))
    }

    /// Shares the stretch that would be there last.
    fn share_slowest(&mut self) -> bool {
        let left: Option<Vec<_>> = self.lanes.iter().map(Lane::left).collect();
        let (Some(left), Some(usual)) = (left, self.usual()) else {
            return false;
        };
        share::slowest(left.into_iter(), usual).is_some_and(|(index, part)| self.share(index, part))
    }

    /// Lets another connection read so many bytes at the end of a lane; false where there may be no other now.
    fn share(&mut self, index: usize, bytes: u64) -> bool {
        // Whoever rescues the first lane reads all of it.
        if index == 0 && self.rescue.is_some() {
            return false;
        }
        let (Some(connection), Some(lane)) = (self.ahead.connection(), self.lanes.get_mut(index)) else {
            return false;
        };
        let Some(to) = lane.to else {
            return false;
        };
        let Some(memory) = lane.memory_of(bytes).or_else(|| self.ahead.memory(bytes)) else {
            return false;
        };
        let place = Place { memory, connection };
        let from = to.saturating_sub(bytes);
        lane.end_at(from);
        self.read_ahead(index + 1, (from, to), place);
        true
    }

    /// What a connection brings in a second.
    fn usual(&self) -> Option<f64> {
        self.usual
            .or_else(|| share::median(self.lanes.iter().filter_map(Lane::rate)))
    }

    /// Begins a lane, behind so many others, for a stretch whose turn is later.
    fn read_ahead(&mut self, index: usize, (from, to): (u64, u64), ahead: Place) {
        let stretch = self.stretch((from, Some(to)), None, Via::Own);
        let lane = Lane::begin(&mut self.tasks, stretch, (from, Some(to)), Some(ahead));
        self.lanes.insert(index, lane);
    }

    /// Gives up a connection that takes much longer for its stretch than others would have.
    fn leave_straggler(&mut self) {
        let Some(usual) = self.usual else { return };
        let late = |lane: &Lane| {
            let length = lane.length().unwrap_or(u64::MAX);
            let typical = Duration::try_from_secs_f64(length as f64 / usual).unwrap_or(Duration::MAX);
            let patience = typical
                .saturating_mul(STRAGGLER)
                .saturating_add(self.means.options.patience);
            !lane.is_finished() && lane.age() > patience
        };
        if self.lanes.front().is_some_and(late) {
            self.leave_first();
        }
    }
}
