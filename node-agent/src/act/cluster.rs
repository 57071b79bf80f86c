//! Writes to the API server: the node's CUDANode and its status, and events. One request each.
//! Never waits longer than a request may take; never tries again, which is the caller's to plan.

use std::time::Duration;

use crds::v1alpha1::{API_VERSION, CUDANode, CUDANodeSpec, CUDANodeStatus};
use k8s_openapi::{
    api::{core::v1::Event as CoreEvent, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// Who wrote a field, as server-side apply keeps it.
pub const FIELD_MANAGER: &str = "node-agent";

/// Longer than a healthy API server takes, shorter than people wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// A write that was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("creating CUDANode {name}")]
    Create { name: String, source: Box<kube::Error> },
    #[error("writing the status of CUDANode {name}")]
    Status { name: String, source: Box<kube::Error> },
    #[error("writing event {namespace}/{name}")]
    Event {
        namespace: String,
        name: String,
        source: Box<kube::Error>,
    },
    #[error("{what}: no answer within {} s", PATIENCE.as_secs())]
    NoAnswer { what: String },
}

/// Creates the CUDANode of the node called `name`, owned by its Node. One that is there already is as good.
pub async fn create_node(client: &Client, name: &str, node_uid: &str) -> Result<(), ClusterError> {
    let node = CUDANode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CUDANodeSpec::default(),
        status: None,
    };
    let api: Api<CUDANode> = Api::all(client.clone());
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let failed = |source| ClusterError::Create {
        name: name.to_owned(),
        source,
    };
    match answered(api.create(&params, &node), failed).await {
        Err(ClusterError::Create { source, .. }) if is(&source, 409) => Ok(()),
        done => done.map(drop),
    }
}

/// Makes `status` the status of the CUDANode called `name`.
pub async fn write_status(client: &Client, name: &str, status: &CUDANodeStatus) -> Result<(), ClusterError> {
    let api: Api<CUDANode> = Api::all(client.clone());
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": "CUDANode",
        "metadata": {"name": name},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let failed = |source| ClusterError::Status {
        name: name.to_owned(),
        source,
    };
    answered(api.patch_status(name, &params, &Patch::Apply(patch)), failed)
        .await
        .map(drop)
}

/// Writes a new event.
pub async fn create_event(client: &Client, event: &Event) -> Result<(), ClusterError> {
    let (namespace, name) = named(event);
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let failed = |source| ClusterError::Event {
        namespace: namespace.clone(),
        name: name.clone(),
        source,
    };
    answered(api.create(&params, event), failed).await.map(drop)
}

/// Brings an event up to date: its note and its series.
///
/// Through the core group: `events.k8s.io/v1` refuses a new note for the same event, the core group's view of it does not
/// (Kubernetes 1.34, seen on a real API server).
pub async fn update_event(client: &Client, event: &Event) -> Result<(), ClusterError> {
    let (namespace, name) = named(event);
    let api: Api<CoreEvent> = Api::namespaced(client.clone(), &namespace);
    let patch: Patch<Value> = Patch::Merge(json!({"message": event.note, "series": event.series}));
    let failed = |source| ClusterError::Event {
        namespace: namespace.clone(),
        name: name.clone(),
        source,
    };
    let params = PatchParams::default();
    let patched = api.patch(&name, &params, &patch);
    answered(patched, failed).await.map(drop)
}

impl ClusterError {
    /// The object is not there.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Create { source, .. } | Self::Status { source, .. } | Self::Event { source, .. } => is(source, 404),
            Self::NoAnswer { .. } => false,
        }
    }

    /// The API server understood and refused: the same request will be refused again.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Create { source, .. } | Self::Status { source, .. } | Self::Event { source, .. } => {
                [400, 403, 404, 409, 422].iter().any(|code| is(source, *code))
            }
            Self::NoAnswer { .. } => false,
        }
    }
}

fn named(event: &Event) -> (String, String) {
    let meta = &event.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

async fn answered<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
    failed: impl Fn(Box<kube::Error>) -> ClusterError,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(|error| failed(Box::new(error))),
        Err(_) => {
            let unanswered = failed(Box::new(kube::Error::Service("no answer".into())));
            Err(ClusterError::NoAnswer {
                what: unanswered.to_string(),
            })
        }
    }
}
