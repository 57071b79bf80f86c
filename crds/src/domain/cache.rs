//! Binary caches, as the objects describe them.
//! Never interprets a URL or a key beyond its shape; the crate `binary-cache` does that.

/// What a `CUDABinaryCache` says. Strings are checked by shape only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheSource {
    /// `metadata.name`.
    pub name: String,
    /// `https://…`, `http://…` or `file:///…`; no user, no password, no query, no fragment.
    pub url: String,
    /// Served with the same keys, asked before `url`.
    pub mirrors: Vec<String>,
    /// `name:base64`, at least one: unsigned is not a mode.
    pub public_keys: Vec<String>,
    /// Lower is asked first; `None`: what the cache's `nix-cache-info` says.
    pub priority: Option<u32>,
    /// Origins (`https://host[:port]`) that a redirect of this cache may lead to, besides its own.
    pub redirect_origins: Vec<String>,
    /// The secret that it is read with, in a cluster. Outside of one, credentials come from a file.
    pub auth_secret: Option<String>,
}
