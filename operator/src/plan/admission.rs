//! What admission answers: pods that ask for an environment get it or are told why not; objects are judged beyond their schema.
//! Never touches what the user wrote: it adds, keeps or refuses.

pub mod affinity;
pub mod fit;
pub mod inject;
pub mod mounts;
pub mod objects;
pub mod refusal;
pub mod review;
pub mod volumes;

use crds::{catalogue::Catalogue, selection::KnownContents};

use crate::snapshot::settled::NodeClass;

/// What is known of the cluster at the moment of a request.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Environments, caches, namespaces.
    pub catalogue: &'a Catalogue,
    /// The classes of the nodes that have reported, each once.
    pub classes: &'a [NodeClass],
    /// What agents have read of store paths.
    pub contents: &'a KnownContents,
    /// Where agents run.
    pub agents: &'a affinity::AgentNodes,
}

/// Most bytes of a warning: what is longer, the API server may cut.
const WARNING_BYTES: usize = 256;

/// A text as a warning: one line, and not longer than the API server passes on.
fn warning(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() <= WARNING_BYTES {
        return line;
    }
    let most = WARNING_BYTES - '…'.len_utf8();
    let end = (0..=most).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &line[..end])
}
