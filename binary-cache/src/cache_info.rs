//! `nix-cache-info`: which store directory a cache serves, and how much it wants to be asked.
//! Never accepts a cache for another store directory; never believes more than these three fields.

/// The only store directory there is here.
const STORE_DIR: &str = crds::domain::store_path::STORE_DIR;
/// Largest text that is looked at, whoever fetched it.
const MAX_LEN: usize = 64 << 10;
/// Highest priority: Nix keeps it in a signed 32-bit number.
pub const MAX_PRIORITY: u32 = i32::MAX as u32;
/// Priority of a cache that names none (Nix, `StoreConfig::priority` of a binary cache).
pub const DEFAULT_PRIORITY: u32 = 50;

/// What a cache says about itself. Unsigned: it only orders caches, it never makes one trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheInfo {
    /// Lower is asked first; 0 to 2³¹−1.
    pub priority: Option<u32>,
    /// Whether the cache wants to be asked for many paths at once.
    pub want_mass_query: bool,
}

/// Why a `nix-cache-info` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheInfoError {
    #[error("nix-cache-info has {0} bytes, more than {MAX_LEN}")]
    TooLong(usize),
    #[error("nix-cache-info is no UTF-8 text")]
    NotText,
    #[error("nix-cache-info is a web page: the address answers, but no cache lives there")]
    WebPage,
    #[error("nix-cache-info line {line} is not `Key: value`")]
    Line { line: usize },
    #[error("nix-cache-info line {line} says {key} again")]
    Duplicate { line: usize, key: &'static str },
    #[error("nix-cache-info names no StoreDir")]
    NoStoreDir,
    #[error("the cache serves the store directory {0:?}, not {STORE_DIR}")]
    OtherStoreDir(String),
    #[error("nix-cache-info has the Priority {0:?}, not a number from 0 to {MAX_PRIORITY}")]
    Priority(String),
    #[error("nix-cache-info has the WantMassQuery {0:?}, neither 0 nor 1")]
    WantMassQuery(String),
}

impl CacheInfo {
    /// Parses the text of a `nix-cache-info`. Unknown keys are ignored, as Nix does; a known key may come once.
    pub fn parse(bytes: &[u8]) -> Result<Self, CacheInfoError> {
        if bytes.len() > MAX_LEN {
            return Err(CacheInfoError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|_| CacheInfoError::NotText)?;
        if text.trim_start().starts_with('<') {
            return Err(CacheInfoError::WebPage);
        }
        let (mut store_dir, mut priority, mut want_mass_query) = (None, None, None);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line_number = index + 1;
            let (key, value) = line
                .split_once(": ")
                .ok_or(CacheInfoError::Line { line: line_number })?;
            let (known, slot) = match key {
                "StoreDir" => ("StoreDir", &mut store_dir),
                "Priority" => ("Priority", &mut priority),
                "WantMassQuery" => ("WantMassQuery", &mut want_mass_query),
                _ => continue,
            };
            if slot.replace(value.trim_end()).is_some() {
                return Err(CacheInfoError::Duplicate {
                    line: line_number,
                    key: known,
                });
            }
        }
        match store_dir {
            Some(STORE_DIR) => {}
            Some(other) => return Err(CacheInfoError::OtherStoreDir(quote(other))),
            None => return Err(CacheInfoError::NoStoreDir),
        }
        Ok(Self {
            priority: priority.map(parse_priority).transpose()?,
            want_mass_query: match want_mass_query {
                None | Some("0") => false,
                Some("1") => true,
                Some(other) => return Err(CacheInfoError::WantMassQuery(quote(other))),
            },
        })
    }
}

fn parse_priority(text: &str) -> Result<u32, CacheInfoError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number
        .filter(|n| *n <= MAX_PRIORITY)
        .ok_or_else(|| CacheInfoError::Priority(quote(text)))
}

/// At most 80 characters of a hostile value.
fn quote(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nix_serve_and_cachix_write_is_read() {
        for (text, want) in [
            (
                "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n",
                (Some(40), true),
            ),
            ("StoreDir: /nix/store\n", (None, false)),
            ("StoreDir: /nix/store", (None, false)),
            (
                "StoreDir: /nix/store\nWantMassQuery: 0\nPriority: 0\nSomethingNew: yes\n\n",
                (Some(0), false),
            ),
            (
                "StoreDir: /nix/store\r\nPriority: 2147483647\r\n",
                (Some(2_147_483_647), false),
            ),
        ] {
            let info = CacheInfo::parse(text.as_bytes()).unwrap();
            assert_eq!((info.priority, info.want_mass_query), want, "{text:?}");
        }
    }

    #[test]
    fn another_store_directory_or_a_nonsense_value_is_refused_by_name() {
        for (text, want) in [
            ("StoreDir: /gnu/store\nPriority: 1\n".to_owned(), "OtherStoreDir"),
            ("StoreDir: /nix/store/\n".to_owned(), "OtherStoreDir"),
            ("Priority: 40\n".to_owned(), "NoStoreDir"),
            (String::new(), "NoStoreDir"),
            ("StoreDir: /nix/store\nPriority: -1\n".to_owned(), "Priority"),
            ("StoreDir: /nix/store\nPriority: 2147483648\n".to_owned(), "Priority"),
            ("StoreDir: /nix/store\nPriority: +1\n".to_owned(), "Priority"),
            ("StoreDir: /nix/store\nPriority: high\n".to_owned(), "Priority"),
            ("StoreDir: /nix/store\nPriority: \n".to_owned(), "Priority"),
            (
                "StoreDir: /nix/store\nWantMassQuery: maybe\n".to_owned(),
                "WantMassQuery",
            ),
            ("StoreDir: /nix/store\nStoreDir: /nix/store\n".to_owned(), "Duplicate"),
            ("StoreDir /nix/store\n".to_owned(), "Line"),
            ("<!DOCTYPE html><html>for sale</html>".to_owned(), "WebPage"),
            ("StoreDir: /nix/store\n".repeat(500_000), "TooLong"),
        ] {
            let error = CacheInfo::parse(text.as_bytes()).unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{error:?} for {want}");
            assert!(error.to_string().len() < 200);
        }
        assert_eq!(CacheInfo::parse(b"StoreDir: \xff\n"), Err(CacheInfoError::NotText));
    }
}
