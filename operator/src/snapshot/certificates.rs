//! The webhook's certificates as they are kept in their Secret, and whether the API server trusts them.
//! Never shows a key: what can be printed of them is public.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::Secret;

/// From when to when a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Life {
    /// How long it is.
    pub fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }
}

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The lives of the authorities that are trusted, oldest first; at least one. The last one signs.
    pub authorities: Vec<Life>,
    /// The serving certificate's life.
    pub serving: Life,
    /// What the serving certificate is for: DNS names and addresses.
    pub names: BTreeSet<String>,
    /// Which of the authorities signed the serving certificate.
    pub signed_by: usize,
}

/// The state of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// There is none.
    Absent,
    /// There is one of that name which is not ours, by its type.
    Foreign {
        /// Its type.
        kind: String,
    },
    /// It is ours, and cannot be used.
    Unusable {
        /// Why, for the log.
        why: String,
    },
    /// It is ours, and complete.
    Usable(Certificates),
}

/// What the webhook's certificates are called in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The operator's own namespace.
    pub namespace: String,
    /// The Secret in it.
    pub secret: String,
    /// Both webhook configurations.
    pub configuration: String,
}

/// One of the two kinds of webhook configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigurationKind {
    /// `MutatingWebhookConfiguration`.
    Mutating,
    /// `ValidatingWebhookConfiguration`.
    Validating,
}

/// A webhook as its configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Of which configuration.
    pub kind: ConfigurationKind,
    /// Where it is in it.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Whom the API server trusts there: certificates in PEM; empty where nothing is said.
    pub bundle: Vec<u8>,
}

/// Everything that is looked at.
#[derive(Clone, PartialEq)]
pub struct Seen {
    /// What the Secret means.
    pub kept: Kept,
    /// The Secret itself, to be written back.
    pub secret: Option<Secret>,
    /// The webhooks of the configurations that are there.
    pub webhooks: Vec<Webhook>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Seen");
        shown.field("kept", &self.kept).field("webhooks", &self.webhooks);
        shown.finish_non_exhaustive()
    }
}

/// Keys of the Secret's data.
pub mod key {
    /// The authorities that are trusted, in PEM, oldest first.
    pub const AUTHORITIES: &str = "ca.crt";
    /// The newest authority's key.
    pub const AUTHORITY_KEY: &str = "ca.key";
    /// The serving certificate.
    pub const SERVING: &str = "tls.crt";
    /// Its key.
    pub const SERVING_KEY: &str = "tls.key";
}

/// The Secret's type, by which it is known to be ours.
pub const SECRET_TYPE: &str = "cudaenv.dev/webhook-certificates";

impl Seen {
    /// An entry of the Secret; empty where there is none.
    pub fn data(&self, key: &str) -> &[u8] {
        let data = self.secret.as_ref().and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get(key)).map_or(&[], |bytes| &bytes.0)
    }
}
