//! What is known of closures: questions to caches, and their answers.
//! Never a narinfo's text: sizes, names and keys are enough for a status.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{
    condition::ConditionReason,
    domain::{cache::CacheSource, store_path::StorePath},
};
use k8s_openapi::jiff::Timestamp;

/// Caches that are asked together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheSet {
    /// The caches.
    pub caches: Vec<Arc<CacheSource>>,
    /// Whether they are asked in this order, whatever their priorities.
    pub in_order: bool,
    /// The versions of the secrets that they are read with, by the cache's name: with another one, they are asked anew.
    pub secrets: BTreeMap<String, String>,
}

/// What is asked: the closure of one store path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The root.
    pub path: StorePath,
    /// Whom.
    pub caches: Arc<CacheSet>,
}

/// A closure of which every path is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Bytes of all NARs.
    pub closure_bytes: u64,
    /// Bytes to download.
    pub download_bytes: u64,
    /// Names of the keys that signed its paths.
    pub signed_by: BTreeSet<String>,
    /// Its paths.
    pub members: Box<[Member]>,
}

/// One path of a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The hash part: unique in a store.
    pub hash: Box<str>,
    /// Bytes of its NAR.
    pub nar_bytes: u64,
    /// Bytes to download for it.
    pub download_bytes: u64,
}

/// Why a closure is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The stable word.
    pub reason: ConditionReason,
    /// Which path, which cache, which key, and what to do.
    pub message: String,
}

/// What is known of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The last good answer.
    pub resolved: Option<Arc<Resolved>>,
    /// Why the last try failed, where it did.
    pub failed: Option<Unresolved>,
    /// Tries that failed since the last good one.
    pub failures: u32,
    /// When it is asked again.
    pub again: Timestamp,
}

/// All that is known. Shared: cheap to clone.
pub type Answers = BTreeMap<Question, Arc<Answer>>;
