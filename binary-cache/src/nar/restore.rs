//! Restoring a NAR into a folder.
//! Never follows a link, never trusts a length, never leaves a half-restored tree behind.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat, symlinkat},
    io::Errno,
};

use super::{
    Limits, MAX_NAME_LEN, MAX_TARGET_LEN, NarError, Restored,
    beside::Beside,
    contents::Contents,
    metadata::{self, DIRECTORY, EXECUTABLE, PLAIN},
    remove_tree,
    token::{StringError, Tokens},
};

/// Creates `name` in `parent` from the NAR that `reader` yields, and checks its size and hash.
///
/// Whatever the NAR says, only things below `name` are created: each by descriptor, relative to its own directory, never
/// through a link. Modes are 0444, 0555 for executables and directories; times are one second after the epoch; root owns
/// it all where root runs; no extended attributes and no access control lists. Nothing is synced to disk: that is for
/// the caller, once for many. The reader is read to its end, which is where decompressors check their sums.
///
/// On any error, what was created is removed again. A `name` that existed before is [`NarError::Collision`] with an empty
/// path, and is left alone.
pub fn restore(reader: impl Read, parent: BorrowedFd<'_>, name: &OsStr, limits: &Limits) -> Result<Restored, NarError> {
    let mut restorer = Restorer {
        tokens: Tokens::new(reader, limits),
        limits,
        parent,
        root: name,
        levels: Vec::new(),
        created_root: false,
        counts: Counts::default(),
    };
    let run = restorer.run();
    let (counts, created_root) = (restorer.counts, restorer.created_root);
    let result = run.and_then(|()| check(restorer.tokens.finish()?, limits, counts));
    if result.is_err()
        && created_root
        && let Err(error) = remove_tree(parent, name)
    {
        tracing::warn!(%error, "a half-restored tree stays behind");
    }
    result
}

#[derive(Default, Clone, Copy)]
struct Counts {
    regular_files: u64,
    directories: u64,
    symlinks: u64,
    file_bytes: u64,
}

/// An open directory that is being filled.
struct Level {
    fd: OwnedFd,
    /// Its name in the level above; empty for the root.
    name: OsString,
    /// The entry written last: the next must come after it.
    last: OsString,
}

struct Restorer<'a, R> {
    tokens: Tokens<R>,
    limits: &'a Limits,
    parent: BorrowedFd<'a>,
    root: &'a OsStr,
    levels: Vec<Level>,
    created_root: bool,
    counts: Counts,
}

impl<R: Read> Restorer<'_, R> {
    fn run(&mut self) -> Result<(), NarError> {
        self.tokens.magic()?;
        self.node(OsString::new())?;
        while !self.levels.is_empty() {
            match self.tokens.one_of(&["entry", ")"], "entry` or `)")? {
                0 => self.entry()?,
                _ => self.leave()?,
            }
        }
        Ok(())
    }

    /// One entry of the innermost directory, up to its end, or up to the beginning of what is inside where it is a
    /// directory itself.
    fn entry(&mut self) -> Result<(), NarError> {
        self.tokens.expect("(")?;
        self.tokens.expect("name")?;
        let name = self.name()?;
        self.tokens.expect("node")?;
        let depth = self.levels.len();
        self.node(name)?;
        if self.levels.len() == depth {
            self.tokens.expect(")")?;
        }
        Ok(())
    }

    /// The name of an entry: one path component, after the one before.
    fn name(&mut self) -> Result<OsString, NarError> {
        let name = match self.tokens.string(MAX_NAME_LEN as u64) {
            Ok(bytes) => OsString::from_vec(bytes.to_vec()),
            Err(StringError::TooLong(length)) => {
                return Err(NarError::NameTooLong {
                    dir: self.path(""),
                    length,
                });
            }
            Err(StringError::Nar(error)) => return Err(error),
        };
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(NarError::BadName {
                dir: self.path(""),
                name: name.into(),
            });
        }
        if let Some(level) = self.levels.last_mut() {
            if !level.last.is_empty() && level.last >= name {
                let previous = level.last.clone();
                return Err(NarError::NotSorted {
                    path: self.path(&name),
                    previous: self.path(previous),
                });
            }
            level.last.clone_from(&name);
        }
        Ok(name)
    }

    /// A node; of a directory only the beginning.
    fn node(&mut self, name: OsString) -> Result<(), NarError> {
        if self.levels.len() >= self.limits.depth {
            return Err(NarError::TooDeep {
                path: self.path(&name),
                limit: self.limits.depth,
            });
        }
        self.tokens.expect("(")?;
        self.tokens.expect("type")?;
        match self.tokens.one_of(
            &["regular", "symlink", "directory"],
            "regular`, `symlink` or `directory",
        )? {
            0 => self.regular(&name)?,
            1 => self.symlink(&name)?,
            _ => return self.enter(name),
        }
        self.tokens.expect(")")
    }

    fn regular(&mut self, name: &OsStr) -> Result<(), NarError> {
        let executable = self
            .tokens
            .one_of(&["executable", "contents"], "executable` or `contents")?
            == 0;
        if executable {
            self.tokens.one_of(&[""], "an empty string")?;
            self.tokens.expect("contents")?;
        }
        let length = self.tokens.number()?;
        if length > self.tokens.left() {
            return Err(NarError::SizeOverNar {
                path: self.path(name),
                length,
                nar_size: self.limits.nar_size,
            });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.place(), self.file_name(name), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.not_created(errno, name, |path, source| NarError::CreateFile { path, source }))?;
        self.created();
        let contents = Contents::new(File::from(file), length);
        let mut writing = if contents.in_pages() {
            self.tokens.begin_page();
            self.tokens.work(contents, Contents::write)
        } else {
            Beside::in_place(contents, Contents::write)
        };
        let mut left = length;
        while left > 0 {
            let chunk = self.tokens.chunk(left)?;
            left -= chunk.len() as u64;
            let written = writing.push(chunk);
            written.map_err(|source| self.not_written(name, source))?;
        }
        let written = writing.finish();
        let file = written.map_err(|source| self.not_written(name, source))?.finish();
        self.tokens.padding(length)?;
        metadata::settle(file.as_fd(), if executable { EXECUTABLE } else { PLAIN }, || {
            self.path(name)
        })?;
        self.counts.regular_files += 1;
        self.counts.file_bytes += length;
        Ok(())
    }

    fn symlink(&mut self, name: &OsStr) -> Result<(), NarError> {
        self.tokens.expect("target")?;
        let target = match self.tokens.string(MAX_TARGET_LEN as u64) {
            Ok(bytes) => OsString::from_vec(bytes.to_vec()),
            Err(StringError::TooLong(length)) => {
                return Err(NarError::TargetTooLong {
                    path: self.path(name),
                    length,
                });
            }
            Err(StringError::Nar(error)) => return Err(error),
        };
        if target.is_empty() || target.as_bytes().contains(&0) {
            return Err(NarError::BadTarget { path: self.path(name) });
        }
        symlinkat(&target, self.place(), self.file_name(name))
            .map_err(|errno| self.not_created(errno, name, |path, source| NarError::CreateSymlink { path, source }))?;
        self.created();
        metadata::settle_symlink(self.place(), self.file_name(name), || self.path(name))?;
        self.counts.symlinks += 1;
        Ok(())
    }

    /// Creates a directory and makes it the innermost.
    fn enter(&mut self, name: OsString) -> Result<(), NarError> {
        mkdirat(self.place(), self.file_name(&name), Mode::RWXU).map_err(|errno| {
            self.not_created(errno, &name, |path, source| NarError::CreateDirectory { path, source })
        })?;
        self.created();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.place(), self.file_name(&name), flags, Mode::empty()).map_err(|errno| {
            NarError::OpenDirectory {
                path: self.path(&name),
                source: errno.into(),
            }
        })?;
        self.levels.push(Level {
            fd,
            name,
            last: OsString::new(),
        });
        self.counts.directories += 1;
        Ok(())
    }

    /// The innermost directory is complete.
    fn leave(&mut self) -> Result<(), NarError> {
        if let Some(level) = self.levels.pop() {
            metadata::settle(level.fd.as_fd(), DIRECTORY, || self.path(&level.name))?;
        }
        if self.levels.is_empty() {
            Ok(())
        } else {
            self.tokens.expect(")")
        }
    }

    /// The directory that the node at hand belongs in.
    fn place(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.parent, |level| level.fd.as_fd())
    }

    /// What the node at hand is called there.
    fn file_name<'a>(&'a self, name: &'a OsStr) -> &'a OsStr {
        if self.levels.is_empty() { self.root } else { name }
    }

    fn created(&mut self) {
        self.created_root = true;
    }

    fn not_written(&self, name: &OsStr, source: io::Error) -> NarError {
        let path = self.path(name);
        NarError::WriteFile { path, source }
    }

    fn not_created(
        &self,
        errno: Errno,
        name: &OsStr,
        other: impl FnOnce(PathBuf, std::io::Error) -> NarError,
    ) -> NarError {
        let path = self.path(name);
        if errno == Errno::EXIST {
            NarError::Collision { path }
        } else {
            other(path, errno.into())
        }
    }

    /// Where `name` in the innermost directory is, from the root of the NAR.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let mut path: PathBuf = self.levels.iter().map(|level| &level.name).collect();
        if !name.as_ref().as_os_str().is_empty() {
            path.push(name);
        }
        path
    }
}

/// Size and hash against what is signed.
fn check(
    (nar_hash, nar_size): (crate::hash::NarHash, u64),
    limits: &Limits,
    counts: Counts,
) -> Result<Restored, NarError> {
    if let Some(expected) = limits.nar_hash {
        if nar_size != limits.nar_size {
            return Err(NarError::SizeMismatch {
                expected: limits.nar_size,
                actual: nar_size,
            });
        }
        if nar_hash != expected {
            return Err(NarError::HashMismatch {
                expected,
                actual: nar_hash,
            });
        }
    }
    let Counts {
        regular_files,
        directories,
        symlinks,
        file_bytes,
    } = counts;
    Ok(Restored {
        nar_hash,
        nar_size,
        regular_files,
        directories,
        symlinks,
        file_bytes,
    })
}
