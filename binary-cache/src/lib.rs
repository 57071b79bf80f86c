//! Nix binary caches: what they say (narinfo, signatures, NAR), fetching from them, and writing one.
//! Never trusts a byte of a cache before a signature by a configured key covers it; knows nothing of Kubernetes.

pub mod compression;
pub mod hash;
pub mod key;
pub mod nar;
pub mod narinfo;
pub mod nix32;
