//! Files below a root that need not be `/`: a container's `/host`, a driver container's root, a test's folder.
//! Never leaves that root: links, `..` and absolute targets are resolved inside it (`openat2`, Linux 5.6).

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};

/// An open directory that is `/` for everything reached through it.
///
/// Holds one descriptor; whoever looks below a driver container's root must drop it before returning, because an open
/// descriptor there blocks the driver's upgrade.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens `path`, as the process sees it, as a root.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
        })
    }

    /// As [`Self::open`], but `path` itself must be no link.
    pub fn open_plain(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
        })
    }

    /// Makes the directory `path` below this root a root of its own: absolute links in it then start there.
    pub fn chroot(&self, path: &Path) -> io::Result<Self> {
        let fd = self.openat2(path, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::IN_ROOT)?;
        Ok(Self { fd })
    }

    /// Opens the regular file `path`, links followed inside the root. Never blocks on a FIFO, refuses devices.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.regular(self.openat2(path, flags, ResolveFlags::IN_ROOT)?)
    }

    /// Opens the regular file `path` without following any link, not even in the middle.
    pub fn open_plain_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        self.regular(self.openat2(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?)
    }

    /// Opens the directory `path`, for its name alone, without following any link, not even in the middle.
    pub fn open_plain_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        // Without NOFOLLOW, which would have the last link told as no directory instead of as a link.
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        self.openat2(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    /// The text of a small file, at most `limit` bytes of it; bytes that are no UTF-8 are replaced.
    pub fn read_text(&self, path: &Path, limit: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names and kinds of a directory's entries, sorted by name, links followed inside the root.
    pub fn list(&self, path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
        entries(
            self.openat2(path, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::IN_ROOT)?
                .as_fd(),
        )
    }

    /// As [`Self::list`], without following any link.
    pub fn list_plain(&self, path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        entries(
            self.openat2(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?
                .as_fd(),
        )
    }

    /// Where `path` ends, all links followed: an absolute path below this root.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let target = self.openat2(path, OFlags::PATH, ResolveFlags::IN_ROOT)?;
        let (root, target) = (own_path(self.fd.as_fd())?, own_path(target.as_fd())?);
        let below = target.strip_prefix(&root).map_err(|_| io::ErrorKind::NotFound)?;
        Ok(Path::new("/").join(below))
    }

    /// When and what `path` was last: device, inode, length, times of its content and of itself. Links are followed.
    pub fn stamp(&self, path: &Path) -> io::Result<[u64; 6]> {
        let found = rustix::fs::fstat(self.openat2(path, OFlags::PATH, ResolveFlags::IN_ROOT)?)?;
        let signed = |number: i64| u64::from_ne_bytes(number.to_ne_bytes());
        Ok([
            found.st_dev,
            found.st_ino,
            signed(found.st_size),
            signed(found.st_mtime),
            found.st_mtime_nsec,
            signed(found.st_ctime),
        ])
    }

    fn openat2(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        // RESOLVE_BENEATH refuses absolute paths and the empty one: everything here is relative to the root.
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(
            &self.fd,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )?)
    }

    fn regular(&self, fd: OwnedFd) -> io::Result<File> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind == FileType::RegularFile {
            Ok(fd.into())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("not a regular file but {kind:?}"),
            ))
        }
    }
}

/// The path of an open file as the process sees it.
fn own_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn entries(fd: BorrowedFd<'_>) -> io::Result<Vec<(OsString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            found.push((name, entry.file_type()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("lib")).unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        fs::write(inside.join("secret"), "inside").unwrap();
        symlink("/secret", inside.join("lib/absolute")).unwrap();
        symlink("../../../secret", inside.join("lib/dots")).unwrap();
        let root = Root::open(&inside).unwrap();
        for path in ["/lib/absolute", "lib/dots", "/../secret"] {
            assert_eq!(root.read_text(Path::new(path), 100).unwrap(), "inside", "{path}");
        }
        assert_eq!(root.resolve(Path::new("/lib/dots")).unwrap(), Path::new("/secret"));
        root.open_plain_file(Path::new("lib/dots")).unwrap_err();
        root.open_plain_file(Path::new("secret")).unwrap();
        root.open_plain_file(Path::new("../secret")).unwrap_err();
        let lib = root.chroot(Path::new("/lib")).unwrap();
        lib.read_text(Path::new("absolute"), 100).unwrap_err();
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        rustix::fs::mknodat(CWD, folder.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        root.open_file(Path::new("fifo")).unwrap_err();
        root.open_file(Path::new("/")).unwrap_err();
    }
}
