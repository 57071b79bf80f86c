//! A buffer that begins at a page of memory, as disks want it that take bytes without a copy.
//! Never grows.

use std::ops::{Deref, DerefMut};

/// What direct writes are multiples of, in memory and in files: no file system in use asks for more than its page. Where
/// one does, it refuses the write, and the file is written the ordinary way.
pub(super) const PAGE: usize = 4 << 10;

/// Zeroed memory of a fixed size.
pub(super) struct Pages {
    memory: Box<[u8]>,
    begin: usize,
    length: usize,
}

impl Pages {
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0; length + PAGE].into_boxed_slice();
        let begin = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, begin, length }
    }
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        let mut pages = Self::new(self.length);
        pages.copy_from_slice(self);
        pages
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.length]
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_at_a_page_and_is_as_long_as_it_was_asked_for() {
        for length in [1, PAGE, 3 * PAGE + 1] {
            let mut pages = Pages::new(length);
            assert_eq!((pages.as_ptr().align_offset(PAGE), pages.len()), (0, length));
            pages.fill(7);
            let copy = pages.clone();
            assert_eq!((copy.as_ptr().align_offset(PAGE), &copy[..]), (0, &pages[..]));
        }
    }
}
