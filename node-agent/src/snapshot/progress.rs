//! How far one provisioning is, as plain data for messages, events and status.
//! Never computes anything from a clock: whoever measures fills it in.

use super::fetch::FetchStatus;

/// A moment of a provisioning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// It waits for others to finish: too many at once.
    pub queued: bool,
    /// The fetch. No paths in total: what is missing is not known yet.
    pub fetch: FetchStatus,
    /// Compressed bytes a second over the whole fetch so far.
    pub bytes_per_second: u64,
}
