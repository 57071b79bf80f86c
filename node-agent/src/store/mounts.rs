//! What is mounted in the calling thread's mount namespace: one place, or the table that `/proc/thread-self/mountinfo` gives.
//! Never asks a mounted file system for anything that it would have to look for: a dead one would hang us. What is asked is
//! in memory, and asked of mounts of ours alone.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx},
    io::Errno,
};

use super::StoreError;

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Device number of the mounted file system, `major:minor`.
    pub device: String,
    /// Folder of the mounted file system that shows at the mount point.
    pub root: PathBuf,
    /// Where it shows.
    pub at: PathBuf,
    /// Options of this mount, such as `ro` and `nosuid`.
    pub options: Vec<String>,
    /// The file system's type.
    pub kind: String,
    /// What was given as its source: a device, or any name.
    pub source: String,
}

/// The mount table, in mount order.
///
/// Each line of an overlay names all its layers, and each volume has a line: the table of a node with many volumes has
/// megabytes, and the kernel writes it anew for whoever reads it. Ask [`is_mounted`] or [`at`] for one place.
pub fn read() -> Result<Vec<Mount>, StoreError> {
    let failed = |source| StoreError::Read {
        path: MOUNTINFO.into(),
        source,
    };
    let mut file = BufReader::with_capacity(64 << 10, File::open(MOUNTINFO).map_err(failed)?);
    let (mut table, mut line) = (Vec::new(), Vec::new());
    while file.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        table.extend(parse_line(line.strip_suffix(b"\n").unwrap_or(&line)));
        line.clear();
    }
    Ok(table)
}

/// Whether anything is mounted at exactly `at`.
pub fn is_mounted(at: &Path) -> Result<bool, StoreError> {
    match told(at) {
        Some(told) => Ok(told),
        None => Ok(mounted_at(&read()?, at).is_some()),
    }
}

/// What is mounted on top at exactly `at`; the table is read only where there is something.
pub fn at(at: &Path) -> Result<Option<Mount>, StoreError> {
    match told(at) {
        Some(false) => Ok(None),
        Some(true) | None => Ok(mounted_at(&read()?, at).cloned()),
    }
}

/// Whether something is mounted at `at` through which nobody can write now: because of the mount, or of its file system.
pub fn is_read_only(at: &Path) -> Result<bool, StoreError> {
    if !is_mounted(at)? {
        return Ok(false);
    }
    let found = statvfs(at).map_err(|errno| StoreError::Read {
        path: at.to_owned(),
        source: errno.into(),
    })?;
    Ok(found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether anything is mounted at exactly `at`, by one question to the kernel. `None` where it does not tell: before Linux
/// 5.8, or where something is in the way.
fn told(at: &Path) -> Option<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, at, flags, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Some(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Some(false),
        Ok(_) | Err(_) => None,
    }
}

/// What is mounted on top at exactly `at`.
pub fn mounted_at<'a>(table: &'a [Mount], at: &Path) -> Option<&'a Mount> {
    table.iter().rev().find(|mount| mount.at == at)
}

/// Reads the format of proc(5): fields by blanks, four octal escapes, optional fields up to a lone dash.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let root = unescape(fields.next()?);
    let at = unescape(fields.next()?);
    let options = fields
        .next()?
        .split(|b| *b == b',')
        .map(|o| String::from_utf8_lossy(o).into_owned())
        .collect();
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (behind.next()?, behind.next()?);
    Some(Mount {
        source: unescape(source).to_string_lossy().into_owned(),
        device,
        root,
        at,
        options,
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// `\040` and its like stand for blank, tab, line feed and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(
                digits
                    .iter()
                    .fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
            );
            rest = &behind[3..];
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_is_told_as_the_table_tells_it() {
        let table = read().unwrap();
        for place in ["/", "/proc", "/proc/1", "/nowhere/at/all", "/etc/passwd"].map(Path::new) {
            assert_eq!(
                is_mounted(place).unwrap(),
                mounted_at(&table, place).is_some(),
                "{}",
                place.display()
            );
            assert_eq!(
                at(place).unwrap().as_ref(),
                mounted_at(&table, place),
                "{}",
                place.display()
            );
        }
        assert!(!is_read_only(Path::new("/etc")).unwrap());
    }

    #[test]
    fn lines_with_and_without_optional_fields_and_blanks_are_read() {
        let text = b"36 35 98:0 / /mnt\\040a\\134b rw,nosuid - ext4 /dev/root rw,errors=continue\n\
            37 35 0:52 /x /v ro,nosuid,nodev shared:5 master:1 - overlay overlay ro,lowerdir=a:b\nbroken line\n";
        let table: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
        assert_eq!((table.len(), table[1].device.as_str()), (2, "0:52"));
        assert_eq!(table[0].at, Path::new("/mnt a\\b"));
        assert_eq!(
            (table[1].kind.as_str(), table[1].root.as_path()),
            ("overlay", Path::new("/x"))
        );
        assert_eq!(table[1].options, ["ro", "nosuid", "nodev"]);
        assert_eq!(
            (table[0].source.as_str(), table[1].source.as_str()),
            ("/dev/root", "overlay")
        );
        assert_eq!(mounted_at(&table, Path::new("/v")), Some(&table[1]));
        assert_eq!(mounted_at(&table, Path::new("/w")), None);
    }
}
