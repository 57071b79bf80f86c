//! The blocks of memory that one NAR is read into, and the parts of them that others work on.
//! Never fills a block while somebody works on it.

use std::{
    num::NonZero,
    ops::{Deref, Range},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::available_parallelism,
};

use super::{
    beside::{Beside, Work},
    pages::Pages,
};

/// Bytes asked for, hashed and written to files at once: few enough to stay in a core's cache, enough to keep a disk busy.
pub(super) const SIZE: usize = 512 << 10;
/// From this size on a NAR is worth threads of its own: starting them is then below a hundredth of its work.
const LARGE: u64 = 8 << 20;

/// Bytes of a block that stay what they are for as long as this is held.
#[derive(Clone)]
pub(super) struct Piece {
    block: Arc<Pages>,
    part: Range<usize>,
}

impl Piece {
    /// Lets the block be used again.
    pub(super) fn give(self, back: &Sender<Arc<Pages>>) {
        // Where the NAR is done with, nobody wants it.
        let _gone = back.send(self.block).is_err();
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.part.clone()]
    }
}

/// As many blocks as are worked on, used again and again, and the one that is being filled.
pub(super) struct Blocks {
    current: Arc<Pages>,
    /// Nobody works on these.
    spare: Vec<Arc<Pages>>,
    /// Blocks that somebody is done with. Not all come back; others are made instead.
    returned: Receiver<Arc<Pages>>,
    back: Sender<Arc<Pages>>,
    threads: bool,
}

impl Blocks {
    /// Blocks for a NAR of `nar_size` bytes.
    pub(super) fn new(nar_size: u64) -> Self {
        let (back, returned) = channel();
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self {
            current: Arc::new(Pages::new(SIZE)),
            spare: Vec::new(),
            returned,
            back,
            threads: nar_size >= LARGE && cores > 1,
        }
    }

    /// Work on pieces: beside, where the NAR is worth it.
    pub(super) fn work<State: Send + 'static>(&self, state: State, work: Work<State>) -> Beside<State> {
        if self.threads {
            Beside::on_thread(state, work, self.back.clone())
        } else {
            Beside::in_place(state, work)
        }
    }

    /// A part of the current block, to be handed on.
    pub(super) fn piece(&self, part: Range<usize>) -> Piece {
        let block = self.current.clone();
        Piece { block, part }
    }

    /// Whether nobody else works on the current block.
    pub(super) fn is_free(&mut self) -> bool {
        // Whoever still has one of these gives it back too.
        let last = |block: &mut Arc<Pages>| Arc::get_mut(block).is_some();
        self.spare.extend(
            self.returned
                .try_iter()
                .filter_map(|mut block| last(&mut block).then_some(block)),
        );
        Arc::get_mut(&mut self.current).is_some()
    }

    /// The current block to be filled; a copy of it where it is not free.
    pub(super) fn fillable(&mut self) -> &mut Pages {
        Arc::make_mut(&mut self.current)
    }

    /// Moves `kept` to the beginning, of another block where the current one is not free.
    pub(super) fn begin_with(&mut self, kept: Range<usize>) {
        if self.is_free() {
            self.fillable().copy_within(kept, 0);
        } else {
            let next = self.spare.pop();
            let mut next = next.unwrap_or_else(|| Arc::new(Pages::new(SIZE)));
            Arc::make_mut(&mut next)[..kept.len()].copy_from_slice(&self.current[kept]);
            self.current = next;
        }
    }
}

impl Deref for Blocks {
    type Target = [u8];

    /// The current block.
    fn deref(&self) -> &[u8] {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_stays_what_it_is_while_the_next_block_is_filled() {
        let mut blocks = Blocks::new(0);
        blocks.fillable()[..4].copy_from_slice(b"kept");
        let piece = blocks.piece(0..3);
        assert!(!blocks.is_free());
        blocks.begin_with(1..4);
        blocks.fillable()[3] = b'!';
        assert_eq!((&blocks[..4], &*piece), (&b"ept!"[..], &b"kep"[..]));
        // Nobody works on it any more: it is the next but one.
        let first = piece.as_ptr();
        piece.give(&blocks.back);
        let second = blocks.piece(0..4);
        blocks.begin_with(0..0);
        assert_eq!((blocks.as_ptr(), &*second), (first, &b"ept!"[..]));
    }

    #[test]
    fn a_block_that_nobody_works_on_is_used_on() {
        let mut blocks = Blocks::new(0);
        blocks.fillable()[..4].copy_from_slice(b"kept");
        let place = blocks.as_ptr();
        // Also where somebody was faster than the one who fills it.
        blocks.piece(0..4).give(&blocks.back);
        blocks.begin_with(1..4);
        assert_eq!((blocks.as_ptr(), &blocks[..3]), (place, &b"ept"[..]));
    }
}
