//! Writing to the API server: every write tests what it was decided by.
//! Never writes over what somebody else has changed since; never writes without the lease.

use std::time::Duration;

use crds::v1alpha1::{CUDABinaryCache, CUDADriverPreflight, CUDAEnvironment, ClusterCUDAEnvironment};
use json_patch::Patch as JsonPatch;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Node, Secret},
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    leader::Leading,
    plan::step::{Change, Copies, Step},
    snapshot::secret::OURS,
};

/// For one write. It must end well before another replica may take over.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Who wrote it, in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "cudaenv-operator";

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another replica holds the lease, or may soon.
    #[error("this replica does not hold the lease any more")]
    NotLeading,
    /// The object is not what it was when the step was planned, or it is gone. It is planned anew.
    #[error("{object} was changed or deleted meanwhile")]
    Changed {
        /// The object.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The API server refuses it.
    #[error("{object} cannot be written")]
    Refused {
        /// The object.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// No answer.
    #[error("{object} could not be written within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// The object.
        object: String,
    },
    /// The patch makes no sense.
    #[error("the patch of {object} cannot be made")]
    Patch {
        /// The object.
        object: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes steps.
#[derive(Clone)]
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Whether this replica may write.
    pub leading: Leading,
    /// The operator's own namespace.
    pub namespace: String,
    /// The secret with copies of credentials.
    pub credentials_secret: String,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Does one step.
    ///
    /// # Errors
    /// The lease is lost; the object changed; the API server refuses or does not answer.
    pub async fn write(&self, step: &Step) -> Result<(), WriteError> {
        if !self.leading.holds() {
            return Err(WriteError::NotLeading);
        }
        let object = step.object();
        match tokio::time::timeout(TIMEOUT, self.send(step)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failed::Api(source))) if is_changed(&source) => Err(WriteError::Changed { object, source }),
            Ok(Err(Failed::Api(source))) => Err(WriteError::Refused { object, source }),
            Ok(Err(Failed::Patch(source))) => Err(WriteError::Patch { object, source }),
            Err(_) => Err(WriteError::Timeout { object }),
        }
    }

    async fn send(&self, step: &Step) -> Result<(), Failed> {
        let client = self.client.clone();
        match step {
            Step::Environment(key, change) => match &key.namespace {
                Some(namespace) => {
                    let api = Api::<CUDAEnvironment>::namespaced(client, namespace);
                    status(&api, &key.name, change).await
                }
                None => status(&Api::<ClusterCUDAEnvironment>::all(client), &key.name, change).await,
            },
            Step::Cache(name, change) => status(&Api::<CUDABinaryCache>::all(client), name, change).await,
            Step::Preflight(name, change) => status(&Api::<CUDADriverPreflight>::all(client), name, change).await,
            Step::Node(name, patch) => {
                let patch = Patch::Json::<()>(patch.clone());
                let written = Api::<Node>::all(client)
                    .patch_metadata(name, &parameters(), &patch)
                    .await;
                written.map(drop).map_err(Failed::Api)
            }
            Step::Credentials(copies) => self.copy(copies).await.map_err(Failed::Api),
        }
    }

    async fn copy(&self, copies: &Copies) -> Result<(), kube::Error> {
        let data = copies.data.iter();
        let data = data.map(|(key, bytes)| (key.clone(), ByteString(bytes.reveal().to_vec())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.credentials_secret.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: copies.over.clone(),
                labels: Some([(OURS.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(data.collect()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match copies.over {
            Some(_) => api.replace(&self.credentials_secret, &parameters, &secret).await?,
            None => api.create(&parameters, &secret).await?,
        };
        Ok(())
    }
}

enum Failed {
    Api(kube::Error),
    Patch(serde_json::Error),
}

fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The whole status, and only over the object that it was decided by: a replica that lost its lease unnoticed writes over
/// nothing that its successor has written.
async fn status<K, S>(api: &Api<K>, name: &str, change: &Change<S>) -> Result<(), Failed>
where
    K: Resource + DeserializeOwned + Clone + std::fmt::Debug,
    S: Serialize,
{
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": change.before.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": change.before.resource_version},
        {"op": "add", "path": "/status", "value": change.after},
    ]);
    let patch: JsonPatch = serde_json::from_value(patch).map_err(Failed::Patch)?;
    let written = api.patch_status(name, &parameters(), &Patch::Json::<()>(patch)).await;
    written.map(drop).map_err(Failed::Api)
}

/// 404: deleted. 409: changed. 422 without causes: a test of the patch failed; a refusal by the schema names its causes.
fn is_changed(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.as_ref().map_or(0, |details| details.causes.len());
    matches!(status.code, 404 | 409) || (status.code == 422 && causes == 0)
}
