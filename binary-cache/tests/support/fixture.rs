//! A tiny signed cache in memory, and everything around one substitution from it.
//! Never needs Nix: store paths, NARs and signatures are made here by the crate's own writer.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, sync::Arc, time::Duration};

use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    hash::NarHash,
    key::{KeyRing, SecretKey},
    narinfo::{NarInfo, VerifiedNarInfo},
    options::Options,
    substitute::{Counters, Found, SubstituteError, Substituter, Target},
    write::{CacheWriter, Entry, source_store_path},
};
use crds::domain::store_path::StorePath;
use url::Url;

use super::server::{Asked, Conn, Then};

pub(crate) const KEY_NAME: &str = "test-cache-1";

pub(crate) fn secret_key() -> SecretKey {
    SecretKey::from_seed(KEY_NAME, &[42; 32]).unwrap()
}

pub(crate) fn keys() -> KeyRing {
    KeyRing::new(vec![secret_key().public_key()]).unwrap()
}

/// The NAR of one regular file.
pub(crate) fn nar_of(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut word = |bytes: &[u8]| {
        nar.extend((bytes.len() as u64).to_le_bytes());
        nar.extend(bytes);
        nar.resize(nar.len().next_multiple_of(8), 0);
    };
    for text in ["nix-archive-1", "(", "type", "regular", "contents"] {
        word(text.as_bytes());
    }
    word(contents);
    word(b")");
    nar
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length / 8 + 1).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}

/// The files of a cache, by URL path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

/// One store path in a cache: its files, and what must come out.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) path: StorePath,
    pub(crate) contents: Vec<u8>,
    pub(crate) files: Files,
    pub(crate) narinfo_path: String,
    pub(crate) nar_path: String,
}

impl Fixture {
    /// A file of `length` bytes as a store path, in a cache of this compression.
    pub(crate) fn new(name: &str, length: usize, compression: Compression) -> Self {
        let contents = noise(length, length as u64);
        let nar = nar_of(&contents);
        let hash = sha256(&nar);
        let path = source_store_path(name, &hash, &[]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let writer = CacheWriter::create(dir.path(), 40).unwrap();
        let entry = Entry {
            store_path: path.clone(),
            references: Vec::new(),
            deriver: None,
            compression,
        };
        let narinfo = writer.add_nar(&entry, nar.as_slice(), &[secret_key()]).unwrap();
        let nar_path = format!("/{}", narinfo.fields().download.url);
        let narinfo_path = format!("/{}.narinfo", path.hash());
        let mut files = Files::default();
        for file in ["/nix-cache-info", &nar_path, &narinfo_path] {
            files
                .0
                .insert(file.to_owned(), fs::read(dir.path().join(&file[1..])).unwrap());
        }
        Self {
            path,
            contents,
            files,
            narinfo_path,
            nar_path,
        }
    }

    pub(crate) fn nar(&self) -> &[u8] {
        &self.files.0[&self.nar_path]
    }

    /// The narinfo's text with one line replaced; unsigned lines may change without harm to the signature.
    pub(crate) fn with_line(&self, key: &str, value: Option<&str>) -> Files {
        let mut files = self.files.clone();
        let text = String::from_utf8(files.0[&self.narinfo_path].clone()).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| match (line.starts_with(&format!("{key}: ")), value) {
                (true, None) => None,
                (true, Some(value)) => Some(format!("{key}: {value}\n")),
                (false, _) => Some(format!("{line}\n")),
            });
        files
            .0
            .insert(self.narinfo_path.clone(), lines.collect::<String>().into_bytes());
        files
    }

    /// The same NAR as `compressed`, whatever wrote that; the narinfo says nothing of its size and hash.
    pub(crate) fn packed_as(&self, compression: Compression, compressed: Vec<u8>) -> Self {
        let named = Self {
            files: self.with_line("Compression", Some(compression.as_str())),
            ..self.clone()
        };
        let mut packed = named.without_hints();
        packed.files.0.insert(packed.nar_path.clone(), compressed);
        packed
    }

    /// The same with neither FileSize nor FileHash: only what is signed can find a fault.
    pub(crate) fn without_hints(&self) -> Self {
        let hashless = Self {
            files: self.with_line("FileHash", None),
            ..self.clone()
        };
        Self {
            files: hashless.with_line("FileSize", None),
            ..hashless
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> NarHash {
    use sha2::Digest as _;
    NarHash::from(sha2::Sha256::digest(bytes))
}

impl Files {
    /// Serves as a good cache does: ranges honoured, strong tags, keep-alive.
    pub(crate) fn serve(&self, asked: &Asked, conn: &mut Conn) -> Then {
        let path = asked.path.split('?').next().unwrap_or_default();
        let Some(body) = self.0.get(path) else {
            conn.reply(404, &[], b"no such file");
            return Then::Keep;
        };
        let etag = format!("\"{}\"", body.len());
        let fresh = asked.header("if-range").is_none_or(|tag| tag == etag);
        match asked.from().filter(|from| fresh && *from < body.len()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                conn.reply(206, &[("ETag", &etag), ("Content-Range", &range)], &body[from..]);
            }
            None => {
                conn.reply(200, &[("ETag", &etag)], body);
            }
        }
        Then::Keep
    }
}

/// Limits small enough for tests; tries come fast.
pub(crate) fn quick() -> Options {
    Options {
        connect_timeout: Duration::from_millis(250),
        first_byte_timeout: Duration::from_millis(400),
        document_timeout: Duration::from_millis(1500),
        min_rate: 2000,
        rate_window: Duration::from_millis(300),
        backoff_base: Duration::from_millis(1),
        backoff_cap: Duration::from_millis(4),
        max_retry_after: Duration::from_millis(20),
        attempts: 3,
        seed: Some(1),
        ..Options::default()
    }
}

pub(crate) fn cache(name: &str, url: &str, priority: Option<u32>) -> CacheConfig {
    CacheConfig {
        name: name.to_owned(),
        url: Url::parse(url).unwrap(),
        mirrors: Vec::new(),
        keys: keys(),
        priority,
        redirect_origins: Vec::new(),
        credentials: None,
    }
}

/// A folder to unpack into, and what was seen on the way.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) target: Target,
    pub(crate) counters: Arc<Counters>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let parent: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        let target = Target {
            parent: Arc::new(parent),
            name: "out".into(),
        };
        Self {
            dir,
            target,
            counters: Arc::default(),
        }
    }

    /// Look-up and substitution, as the agent does it.
    pub(crate) async fn get(
        &self,
        from: &Substituter,
        path: &StorePath,
    ) -> Result<(Found, Arc<VerifiedNarInfo>), SubstituteError> {
        let found = from.lookup(path).await?;
        let narinfo = from
            .substitute(&found.narinfo, &self.target, self.counters.clone())
            .await?;
        Ok((found, narinfo))
    }

    pub(crate) fn unpacked(&self) -> Option<Vec<u8>> {
        fs::read(self.dir.path().join("out")).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(self.dir.path()).unwrap().next().is_none()
    }
}

/// A narinfo without a NAR behind it, signed: enough for walking closures.
pub(crate) fn bare_narinfo(path: &StorePath, references: Vec<StorePath>) -> NarInfo {
    use binary_cache::narinfo::{Download, Fields};
    let mut narinfo = NarInfo::new(Fields {
        store_path: path.clone(),
        nar_hash: sha256(path.base_name().as_bytes()),
        nar_size: 1000,
        references,
        deriver: None,
        ca: None,
        download: Download {
            url: "nar/x.nar".parse().unwrap(),
            compression: Compression::None,
            file_hash: None,
            file_size: Some(500),
        },
    });
    narinfo.sign(&secret_key());
    narinfo
}
