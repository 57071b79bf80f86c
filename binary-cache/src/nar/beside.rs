//! Work on the bytes of a NAR beside the thread that decodes them: hashing, and writing of large files.
//! Never says that something was done before it was, and never goes on behind the back of whoever started it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use super::blocks::Piece;
use super::pages::Pages;

/// Pieces that wait for a thread: enough to keep it busy while the decoder works, few enough to stay in cache.
const WAITING: usize = 2;

/// What is done with one piece after the other to a `State`.
pub(super) type Work<State> = fn(&mut State, &[u8]) -> io::Result<()>;

/// Work that goes on, beside its giver or, where that is not to be, in its place. When this is dropped it has ended.
pub(super) struct Beside<State> {
    work: Work<State>,
    doer: Option<Doer<State>>,
}

enum Doer<State> {
    Giver(State),
    Thread(SyncSender<Piece>, JoinHandle<io::Result<State>>),
}

impl<State: Send + 'static> Beside<State> {
    /// Work in the giver's own time.
    pub(super) fn in_place(state: State, work: Work<State>) -> Self {
        let doer = Some(Doer::Giver(state));
        Self { work, doer }
    }

    /// Work on a thread that hands blocks `back`; in the giver's own time where no thread is to be had.
    pub(super) fn on_thread(state: State, work: Work<State>, back: Sender<Arc<Pages>>) -> Self {
        let (pieces, waiting) = sync_channel(WAITING);
        let (give, given) = channel();
        let thread = Builder::new().name("nar".to_owned());
        let doer = match thread.spawn(move || done(&given, work, waiting, &back)) {
            // It cannot have gone before it has its state.
            Ok(thread) => give.send(state).map(|()| Doer::Thread(pieces, thread)).ok(),
            Err(_none) => Some(Doer::Giver(state)),
        };
        Self { work, doer }
    }

    /// Takes the next piece. The error may be that of an earlier one.
    pub(super) fn push(&mut self, piece: Piece) -> io::Result<()> {
        match &mut self.doer {
            Some(Doer::Giver(state)) => return (self.work)(state, &piece),
            Some(Doer::Thread(pieces, _)) if pieces.send(piece).is_ok() => return Ok(()),
            _ => {}
        }
        // Only an error ends it.
        self.end().and(Err(ended()))
    }

    /// Waits until all pieces are done.
    pub(super) fn finish(mut self) -> io::Result<State> {
        self.end()
    }

    fn end(&mut self) -> io::Result<State> {
        match self.doer.take() {
            Some(Doer::Giver(state)) => Ok(state),
            Some(Doer::Thread(pieces, thread)) => {
                drop(pieces);
                thread.join().unwrap_or_else(|_panicked| Err(ended()))
            }
            None => Err(ended()),
        }
    }
}

impl<State> Drop for Beside<State> {
    fn drop(&mut self) {
        if let Some(Doer::Thread(pieces, thread)) = self.doer.take() {
            drop(pieces);
            let _whatever = thread.join();
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread beside has ended")
}

/// The thread's part.
fn done<State>(
    given: &Receiver<State>,
    work: Work<State>,
    pieces: Receiver<Piece>,
    back: &Sender<Arc<Pages>>,
) -> io::Result<State> {
    let mut state = given.recv().map_err(|_| ended())?;
    for piece in pieces {
        work(&mut state, &piece)?;
        piece.give(back);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::{super::blocks::Blocks, *};

    fn sum(state: &mut u64, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            if *byte == 255 {
                return Err(io::Error::other("255"));
            }
            *state += u64::from(*byte);
        }
        Ok(())
    }

    fn both(back: &Sender<Arc<Pages>>) -> [Beside<u64>; 2] {
        [
            Beside::in_place(0, sum as Work<u64>),
            Beside::on_thread(0, sum, back.clone()),
        ]
    }

    #[test]
    fn every_piece_is_done_when_it_has_finished() {
        let (back, returned) = channel();
        for mut work in both(&back) {
            let mut blocks = Blocks::new(u64::MAX);
            for value in 1..=9 {
                blocks.begin_with(0..0);
                blocks.fillable()[..3].fill(value);
                work.push(blocks.piece(0..3)).unwrap();
            }
            assert_eq!(work.finish().unwrap(), 135);
        }
        assert_eq!(returned.try_iter().count(), 9);
    }

    #[test]
    fn the_first_error_ends_the_work_and_is_told_once_at_least() {
        let (back, _returned) = channel();
        for mut work in both(&back) {
            let mut blocks = Blocks::new(u64::MAX);
            blocks.fillable()[0] = 255;
            let piece = blocks.piece(0..1);
            let told = (0..100).find_map(|_| work.push(piece.clone()).err());
            assert_eq!(told.unwrap().to_string(), "255");
        }
    }
}
