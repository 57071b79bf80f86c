//! A cache that is a folder of this machine (`file://`).
//! Never reads outside that folder: symbolic links count only where they stay below it, and anything but a regular file is
//! refused before a byte of it is read.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};
use tokio::task::spawn_blocking;

use crate::{cache::Site, fault::Fault};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A file of a folder cache, opened.
#[derive(Debug)]
pub(crate) struct FolderBody {
    file: Option<File>,
    left: u64,
}

/// Opens `location` below the folder of `site`, positioned at `from`; gives its whole length too.
pub(crate) async fn open(site: &Site, location: &str, from: u64) -> Result<(u64, FolderBody), Fault> {
    let (base, location) = place(site, location)?;
    let opened = spawn_blocking(move || open_below(&base, Path::new(&location)))
        .await
        .map_err(|_| Fault::Cancelled)?;
    let (mut file, length) = opened?;
    if from > 0 {
        io::Seek::seek(&mut file, io::SeekFrom::Start(from)).map_err(Fault::Folder)?;
    }
    Ok((
        length,
        FolderBody {
            file: Some(file),
            left: length.saturating_sub(from),
        },
    ))
}

/// A small file as a whole, at most `limit` bytes: one hop to a thread.
pub(crate) async fn document(site: &Site, location: &str, limit: u64) -> Result<Bytes, Fault> {
    let (base, location) = place(site, location)?;
    let read = move || {
        let (file, length) = open_below(&base, Path::new(&location))?;
        if length > limit {
            return Err(Fault::TooLarge { limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(limit).read_to_end(&mut bytes).map_err(Fault::Folder)?;
        Ok(bytes.into())
    };
    spawn_blocking(read).await.map_err(|_| Fault::Cancelled)?
}

/// The folder, and the file below it. A folder knows no queries; Nix too looks up the text before one.
fn place(site: &Site, location: &str) -> Result<(PathBuf, String), Fault> {
    let outside = |()| Fault::OutsideCache {
        location: site.label().to_owned(),
    };
    let base = site.base.to_file_path().map_err(outside)?;
    Ok((base, location.split('?').next().unwrap_or_default().to_owned()))
}

impl FolderBody {
    /// The next bytes; `None` at the end of the file as it was when opened.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(mut file) = self.file.take().filter(|_| self.left > 0) else {
            return Ok(None);
        };
        let wanted = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let read = spawn_blocking(move || {
            let mut buffer = vec![0; wanted];
            let count = file.read(&mut buffer)?;
            buffer.truncate(count);
            Ok((file, buffer))
        });
        let (file, buffer) = read.await.map_err(|_| Fault::Cancelled)?.map_err(Fault::Folder)?;
        if buffer.is_empty() {
            return Ok(None);
        }
        self.left -= buffer.len() as u64;
        self.file = Some(file);
        Ok(Some(buffer.into()))
    }
}

fn open_below(base: &Path, location: &Path) -> Result<(File, u64), Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, base, flags, Mode::empty()).map_err(|error| match error {
        // A mistyped or unmounted cache is no empty one.
        Errno::NOENT | Errno::NOTDIR => Fault::NoFolder,
        other => Fault::Folder(other.into()),
    })?;
    // NONBLOCK: a pipe in the folder must not hold the thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&folder, location, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(folder, location, flags),
        result => result,
    };
    let file = file.map_err(fault_of)?;
    let stat = fstat(&file).map_err(|e| Fault::Folder(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Fault::NotAFile);
    }
    Ok((File::from(file), u64::try_from(stat.st_size).unwrap_or_default()))
}

/// For kernels before 5.6, and sandboxes that hide `openat2`: no link is followed at all.
fn open_step_by_step(folder: OwnedFd, location: &Path, last: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = location.components().peekable();
    let mut at = folder;
    while let Some(component) = names.next() {
        let Component::Normal(name) = component else {
            return Err(Errno::XDEV);
        };
        let flags = if names.peek().is_some() {
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
        } else {
            last
        };
        at = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

fn fault_of(error: Errno) -> Fault {
    match error {
        Errno::NOENT | Errno::NOTDIR => Fault::NoFile,
        // A link that leads out, a loop, a link where none is allowed, a socket.
        Errno::XDEV | Errno::LOOP | Errno::NXIO => Fault::NotAFile,
        other => Fault::Folder(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use url::Url;

    use super::*;

    async fn read(site: &Site, location: &str, from: u64) -> Result<Vec<u8>, Fault> {
        let (_, mut body) = open(site, location, from).await?;
        let mut all = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_folder_is_read_and_never_left() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("cache");
        fs::create_dir_all(dir.join("nar")).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fs::write(dir.join("nar/a"), vec![7; CHUNK * 2 + 3]).unwrap();
        fs::write(dir.join("empty"), "").unwrap();
        symlink("nar/a", dir.join("inside")).unwrap();
        symlink("../secret", dir.join("outside")).unwrap();
        symlink("/etc/hostname", dir.join("absolute")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        rustix::fs::mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let site = Site {
            base: Url::from_directory_path(&dir).unwrap(),
            redirect_origins: [].into(),
            authorization: None,
        };

        assert_eq!(read(&site, "nar/a", 0).await.unwrap().len(), CHUNK * 2 + 3);
        assert_eq!(read(&site, "nar/a?x=1", CHUNK as u64).await.unwrap().len(), CHUNK + 3);
        assert_eq!(read(&site, "inside", 0).await.unwrap().len(), CHUNK * 2 + 3);
        assert_eq!(read(&site, "empty", 0).await.unwrap(), b"");
        let gone = |folder: &str| Site {
            base: Url::from_directory_path(dir.join(folder)).unwrap(),
            ..site.clone()
        };
        for folder in ["nonexistent", "empty"] {
            let error = read(&gone(folder), "missing", 0).await.unwrap_err();
            assert!(matches!(error, Fault::NoFolder), "{folder}: {error:?}");
        }
        for (location, want) in [
            ("outside", "NotAFile"),
            ("absolute", "NotAFile"),
            ("../secret", "NotAFile"),
            ("/etc/hostname", "NotAFile"),
            ("loop", "NotAFile"),
            ("pipe", "NotAFile"),
            ("nar", "NotAFile"),
            ("missing", "NoFile"),
            ("nar/a/b", "NoFile"),
        ] {
            let error = read(&site, location, 0).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{location}: {error:?}");
        }
        let step = |location: &str| {
            let folder = openat(CWD, &dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            open_step_by_step(folder, Path::new(location), OFlags::RDONLY)
        };
        step("nar/a").unwrap();
        for location in ["outside", "inside", "../secret", "/etc/hostname"] {
            step(location).unwrap_err();
        }
    }
}
