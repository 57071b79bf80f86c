//! The contents of one regular file on their way to disk: past the page cache where there are many.
//! Never decides what is written, and never fails where the ordinary way would do.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use super::pages::PAGE;

/// From this size on a file is written past the page cache. Copying there takes as much time as decompressing, and as much
/// again to write it back; what of it is read first is read from disk once, by whoever maps it.
const DIRECT: u64 = 1 << 20;

/// A file that is being filled from its beginning.
pub(super) struct Contents {
    file: File,
    direct: bool,
    written: u64,
}

impl Contents {
    /// A new, empty file that will have `length` bytes.
    pub(super) fn new(file: File, length: u64) -> Self {
        let mut contents = Self {
            file,
            direct: false,
            written: 0,
        };
        if length >= DIRECT && contents.set_direct(true).is_ok() {
            contents.direct = true;
            // One stretch of the disk, however many files are written at once. Where that is not to be had, a full disk
            // tells by itself.
            let _reserved = fallocate(&contents.file, FallocateFlags::KEEP_SIZE, 0, length);
        }
        contents
    }

    /// Whether pieces should begin at pages, in memory and in the file.
    pub(super) fn in_pages(&self) -> bool {
        self.direct
    }

    /// Appends the next piece.
    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.direct {
            return self.append(piece);
        }
        let (pages, tail) = piece.split_at(piece.len() - piece.len() % PAGE);
        self.append(pages)?;
        if !tail.is_empty() {
            self.set_direct(false)?;
            self.append(tail)?;
        }
        Ok(())
    }

    /// Goes on where the last write ended, whatever part of a piece that was. A file system that takes direct writes only at
    /// other places, or from other memory, is written to the ordinary way from there on.
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write_at(bytes, self.written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.set_direct(false)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file, complete.
    pub(super) fn finish(self) -> File {
        self.file
    }

    fn set_direct(&mut self, direct: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, direct);
        fcntl_setfl(&self.file, flags)?;
        self.direct = direct;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::pages::Pages, *};

    /// Writes `length` bytes in pieces as the decoder hands them out; gives back the file's bytes.
    fn written(folder: &std::path::Path, length: usize, piece: usize) -> (Vec<u8>, Vec<u8>, bool) {
        let mut bytes = Pages::new(length);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        let path = folder.join("file");
        let mut contents = Contents::new(File::create(&path).unwrap(), length as u64);
        let direct = contents.in_pages();
        for piece in bytes.chunks(piece) {
            contents.write(piece).unwrap();
        }
        drop(contents.finish());
        (fs::read(path).unwrap(), bytes.to_vec(), direct)
    }

    #[test]
    fn large_files_are_what_was_written_whatever_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let large = DIRECT as usize;
        for length in [large, large + 1, large + PAGE - 1, 3 * large + 17] {
            let (found, wanted, direct) = written(folder.path(), length, 512 << 10);
            assert!(found == wanted, "{length}");
            // Not every file system can; on those that can it is not forgotten.
            let probe = File::create(folder.path().join("probe")).unwrap();
            let mut flags = fcntl_getfl(&probe).unwrap();
            flags |= OFlags::DIRECT;
            assert_eq!(direct, fcntl_setfl(&probe, flags).is_ok());
        }
        let (found, wanted, direct) = written(folder.path(), large - 1, 512 << 10);
        assert!(found == wanted && !direct);
    }

    #[test]
    fn a_refused_direct_write_is_written_the_ordinary_way_from_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Pages::new(DIRECT as usize + 4 * PAGE);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        let path = folder.path().join("file");
        let mut contents = Contents::new(File::create(&path).unwrap(), DIRECT + 2 * PAGE as u64);
        let was_direct = contents.direct;
        contents.write(&bytes[..PAGE]).unwrap();
        assert_eq!(contents.direct, was_direct);
        // Whole pages, out of memory that begins anywhere: what such a file system refuses.
        contents.write(&bytes[PAGE + 1..3 * PAGE + 1]).unwrap();
        assert!(!contents.direct);
        contents.write(&bytes[..DIRECT as usize - PAGE]).unwrap();
        drop(contents.finish());
        let wanted = [
            &bytes[..PAGE],
            &bytes[PAGE + 1..3 * PAGE + 1],
            &bytes[..DIRECT as usize - PAGE],
        ]
        .concat();
        assert!(fs::read(path).unwrap() == wanted);
    }
}
