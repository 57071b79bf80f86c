//! Nix binary caches: what they say (narinfo, signatures, NAR), fetching from them, and writing one.
//! Never trusts a byte of a cache before a signature by a configured key covers it; knows nothing of Kubernetes.

pub mod cache;
pub mod cache_info;
pub mod closure;
pub mod compression;
pub mod credentials;
mod download;
pub mod fault;
mod folder;
pub mod hash;
mod http;
pub mod key;
pub mod nar;
pub mod narinfo;
pub mod nix32;
pub mod options;
mod retry;
mod source;
pub mod substitute;
mod transport;
pub mod write;
