//! The mount table of the calling thread's mount namespace, as `/proc/thread-self/mountinfo` gives it.
//! Never asks a mounted file system anything: a dead one would hang us.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
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
pub fn read() -> Result<Vec<Mount>, StoreError> {
    let text = fs::read(MOUNTINFO).map_err(|source| StoreError::Read {
        path: MOUNTINFO.into(),
        source,
    })?;
    Ok(parse(&text))
}

/// What is mounted on top at exactly `at`.
pub fn mounted_at<'a>(table: &'a [Mount], at: &Path) -> Option<&'a Mount> {
    table.iter().rev().find(|mount| mount.at == at)
}

/// Reads the format of proc(5): fields by blanks, four octal escapes, optional fields up to a lone dash.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

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
    fn lines_with_and_without_optional_fields_and_blanks_are_read() {
        let text = b"36 35 98:0 / /mnt\\040a\\134b rw,nosuid - ext4 /dev/root rw,errors=continue\n\
            37 35 0:52 /x /v ro,nosuid,nodev shared:5 master:1 - overlay overlay ro,lowerdir=a:b\nbroken line\n";
        let table = parse(text);
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
