//! Dumping a tree as a NAR.
//! Never follows a link, and never passes over what a NAR cannot hold.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    MAGIC, MAX_DEPTH,
    token::{padding_of, put},
};
use crate::hash::NarHash;

/// Bytes written at once.
const BUFFER: usize = 256 << 10;

/// Why a tree was not dumped. `path` is relative to its root, and empty for the root itself.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{path:?}: cannot examine")]
    Stat { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot open")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot list directory")]
    List { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot read")]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot read link")]
    ReadLink { path: PathBuf, source: io::Error },
    #[error("{path:?}: is a {kind}; a NAR holds files, directories and symbolic links only")]
    Unsupported { path: PathBuf, kind: &'static str },
    #[error("{path:?}: changed while it was read")]
    Changed { path: PathBuf },
    #[error("{path:?}: nested deeper than {limit}")]
    TooDeep { path: PathBuf, limit: usize },
    #[error("cannot write the NAR, at byte {offset}")]
    Write { offset: u64, source: io::Error },
}

/// Writes `name` in `parent` to `writer` as a NAR; returns the NAR's hash and its size in bytes.
///
/// Metadata other than "executable by its owner" is not part of a NAR and not looked at. With [`io::sink`] this verifies
/// what is on disk.
pub fn dump(parent: BorrowedFd<'_>, name: &OsStr, writer: &mut impl Write) -> Result<(NarHash, u64), DumpError> {
    let output = Output {
        writer,
        buffer: Vec::with_capacity(BUFFER),
        hasher: Sha256::new(),
        written: 0,
    };
    let mut dumper = Dumper {
        output,
        parent,
        levels: Vec::new(),
    };
    dumper.output.put(&[MAGIC])?;
    dumper.node(name.to_owned())?;
    while let Some(level) = dumper.levels.last_mut() {
        match level.entries.pop() {
            Some(name) => dumper.entry(name)?,
            None => dumper.leave()?,
        }
    }
    dumper.output.finish()
}

/// An open directory, and what is still to be dumped of it: the last name first.
struct Level {
    fd: OwnedFd,
    name: OsString,
    entries: Vec<OsString>,
}

struct Dumper<'a, W> {
    output: Output<'a, W>,
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
}

impl<W: Write> Dumper<'_, W> {
    fn entry(&mut self, name: OsString) -> Result<(), DumpError> {
        self.output.put(&[b"entry", b"(", b"name", name.as_bytes(), b"node"])?;
        let depth = self.levels.len();
        self.node(name)?;
        if self.levels.len() == depth {
            self.output.put(&[b")"])
        } else {
            Ok(())
        }
    }

    /// A node; of a directory only the beginning.
    fn node(&mut self, name: OsString) -> Result<(), DumpError> {
        if self.levels.len() >= MAX_DEPTH {
            return Err(DumpError::TooDeep {
                path: self.path(&name),
                limit: MAX_DEPTH,
            });
        }
        self.output.put(&[b"(", b"type"])?;
        let stat = statat(self.place(), &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| DumpError::Stat {
            path: self.path(&name),
            source: errno.into(),
        })?;
        match kind(&stat) {
            Ok(Kind::Regular) => self.regular(&name)?,
            Ok(Kind::Symlink) => self.symlink(&name)?,
            Ok(Kind::Directory) => return self.enter(name),
            Err(kind) => {
                return Err(DumpError::Unsupported {
                    path: self.path(&name),
                    kind,
                });
            }
        }
        self.output.put(&[b")"])
    }

    fn regular(&mut self, name: &OsStr) -> Result<(), DumpError> {
        // It was a file a moment ago; should it be a FIFO now, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(self.place(), name, flags, Mode::empty()).map_err(|errno| self.not_opened(errno, name))?;
        let stat = fstat(&fd).map_err(|errno| DumpError::Stat {
            path: self.path(name),
            source: errno.into(),
        })?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if !matches!(kind(&stat), Ok(Kind::Regular)) {
            return Err(DumpError::Changed { path: self.path(name) });
        }
        self.output.put(&[b"regular"])?;
        if Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR) {
            self.output.put(&[b"executable", b""])?;
        }
        self.output.put(&[b"contents"])?;
        let mut file = File::from(fd);
        let copied = self.output.contents(&mut file, length)?;
        match copied.and_then(|copied| Ok(copied == length && file.read(&mut [0])? == 0)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(DumpError::Changed { path: self.path(name) }),
            Err(source) => Err(DumpError::ReadFile {
                path: self.path(name),
                source,
            }),
        }
    }

    fn symlink(&mut self, name: &OsStr) -> Result<(), DumpError> {
        let target = readlinkat(self.place(), name, Vec::new()).map_err(|errno| DumpError::ReadLink {
            path: self.path(name),
            source: errno.into(),
        })?;
        self.output.put(&[b"symlink", b"target", target.as_bytes()])
    }

    /// Opens a directory, makes it the innermost, and lists it.
    fn enter(&mut self, name: OsString) -> Result<(), DumpError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.place(), &name, flags, Mode::empty()).map_err(|errno| self.not_opened(errno, &name))?;
        let list_error = |errno: Errno| DumpError::List {
            path: self.path(&name),
            source: errno.into(),
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            let bytes = entry.file_name().to_bytes();
            if !matches!(bytes, b"." | b"..") {
                entries.push(OsString::from_vec(bytes.to_vec()));
            }
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { fd, name, entries });
        self.output.put(&[b"directory"])
    }

    /// The innermost directory is complete.
    fn leave(&mut self) -> Result<(), DumpError> {
        self.levels.pop();
        // Its own end, and that of the entry it is.
        if self.levels.is_empty() {
            self.output.put(&[b")"])
        } else {
            self.output.put(&[b")", b")"])
        }
    }

    fn place(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.parent, |level| level.fd.as_fd())
    }

    fn not_opened(&self, errno: Errno, name: &OsStr) -> DumpError {
        let path = self.path(name);
        match errno {
            // A link or another kind of thing, where something else was a moment ago.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => DumpError::Changed { path },
            _ => DumpError::Open {
                path,
                source: errno.into(),
            },
        }
    }

    /// Where `name` in the innermost directory is, from the root of the tree, which itself has no name.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let below_root = self.levels.iter().skip(1).map(|level| Path::new(&level.name));
        below_root
            .chain((!self.levels.is_empty()).then_some(name.as_ref()))
            .collect()
    }
}

enum Kind {
    Regular,
    Directory,
    Symlink,
}

/// What a NAR can hold, or the name of what it cannot.
fn kind(stat: &Stat) -> Result<Kind, &'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Kind::Regular),
        FileType::Directory => Ok(Kind::Directory),
        FileType::Symlink => Ok(Kind::Symlink),
        FileType::Fifo => Err("FIFO"),
        FileType::Socket => Err("socket"),
        FileType::CharacterDevice => Err("character device"),
        FileType::BlockDevice => Err("block device"),
        _ => Err("thing of unknown kind"),
    }
}

/// Where the NAR goes: buffered, hashed, counted.
struct Output<'a, W> {
    writer: &'a mut W,
    buffer: Vec<u8>,
    hasher: Sha256,
    /// Bytes that have left the buffer.
    written: u64,
}

impl<W: Write> Output<'_, W> {
    fn put(&mut self, tokens: &[&[u8]]) -> Result<(), DumpError> {
        for token in tokens {
            put(&mut self.buffer, token);
        }
        self.flush_above(BUFFER / 2)
    }

    /// Copies `length` bytes as one token. The inner result is the reader's: how much there was.
    fn contents(&mut self, reader: &mut impl Read, length: u64) -> Result<io::Result<u64>, DumpError> {
        self.buffer.extend(length.to_le_bytes());
        let mut left = length;
        while left > 0 {
            let room = BUFFER.saturating_sub(self.buffer.len()) as u64;
            match reader.by_ref().take(left.min(room)).read_to_end(&mut self.buffer) {
                Ok(0) => return Ok(Ok(length - left)),
                Ok(read) => left -= read as u64,
                Err(error) => return Ok(Err(error)),
            }
            self.flush_above(BUFFER - 1)?;
        }
        self.buffer.extend(&[0; 8][..padding_of(length)]);
        self.flush_above(BUFFER / 2)?;
        Ok(Ok(length))
    }

    fn flush_above(&mut self, level: usize) -> Result<(), DumpError> {
        if self.buffer.len() > level {
            self.hasher.update(&self.buffer);
            self.writer.write_all(&self.buffer).map_err(|source| DumpError::Write {
                offset: self.written,
                source,
            })?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(NarHash, u64), DumpError> {
        self.flush_above(0)?;
        self.writer.flush().map_err(|source| DumpError::Write {
            offset: self.written,
            source,
        })?;
        Ok((self.hasher.finalize().into(), self.written))
    }
}
