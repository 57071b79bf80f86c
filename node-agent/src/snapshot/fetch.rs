//! How far a fetch is, as plain data for reports.
//! Never computes a rate: that takes a clock.

use serde::Serialize;

/// A moment of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchStatus {
    /// Bytes of NARs unpacked so far. Goes back where a cache turned out to be bad and another one begins anew.
    pub bytes_done: u64,
    /// Bytes of all NARs to fetch.
    pub bytes_total: u64,
    /// Compressed bytes that arrived, those fetched in vain included.
    pub bytes_downloaded: u64,
    /// Store paths that are durable and visible.
    pub paths_done: u64,
    /// Store paths to fetch.
    pub paths_total: u64,
    /// Downloads that broke and went on.
    pub retries: u64,
    /// Store paths begun anew from another cache.
    pub restarts: u64,
    /// Name of the cache that was asked last.
    pub source: Option<String>,
}
