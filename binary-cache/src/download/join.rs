//! Small pieces of a stretch made into larger ones, so that as many as fit a queue are as many bytes as it is laid out for.
//! Never reorders; never holds back more than one piece.

use bytes::{Bytes, BytesMut};

/// Pieces of so many bytes need no others.
pub(super) const PIECE: usize = 16 << 10;

/// Bytes that wait for more.
#[derive(Debug, Default)]
pub(super) struct Joined(BytesMut);

impl Joined {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds to what waits; answers with all of it where it is a piece now.
    pub(super) fn push(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.is_empty() && bytes.len() >= PIECE {
            return Some(bytes);
        }
        self.0.extend_from_slice(&bytes);
        (self.0.len() >= PIECE).then(|| self.take()).flatten()
    }

    /// What waits, if anything does.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        (!self.is_empty()).then(|| self.0.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pieces come of `total` bytes that arrive `size` at a time, and all their bytes.
    fn pieces(total: usize, size: usize) -> (usize, Vec<u8>) {
        let bytes: Vec<u8> = (0..total).map(|i| (i / 7) as u8).collect();
        let (mut joined, mut count, mut all) = (Joined::default(), 0, Vec::new());
        for piece in bytes.chunks(size) {
            let ready = joined.push(Bytes::copy_from_slice(piece));
            count += usize::from(ready.is_some());
            all.extend(ready.into_iter().flatten());
        }
        let rest = joined.take();
        count += usize::from(rest.is_some());
        all.extend(rest.into_iter().flatten());
        assert_eq!(all, bytes, "of {size}");
        (count, all)
    }

    #[test]
    fn however_small_the_pieces_are_that_come_no_more_than_the_queue_holds_go_on() {
        let total = 1 << 20;
        for size in [1, 536, 1448, PIECE - 1, PIECE, PIECE + 1, 100_000] {
            let (count, all) = pieces(total, size);
            assert!(count <= total / PIECE + 1, "{count} of {size}");
            assert_eq!(all.len(), total);
        }
        assert_eq!(pieces(10, 3).0, 1, "what is left goes on, too");
        assert_eq!(pieces(3 * PIECE, PIECE).0, 3, "large ones are not held back");
    }
}
