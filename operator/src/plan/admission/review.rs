//! A webhook's question and answer: `AdmissionReview` of `admission.k8s.io/v1`.
//! Never answers what was not asked: another version, or no request, is malformed.

use k8s_openapi::{ByteString, api::core::v1::Pod};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Surroundings, inject, objects, refusal::Refusal};
use crate::failure;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Pods of this namespace are never touched.
const SYSTEM_NAMESPACE: &str = "kube-system";
/// Most bytes of a refusal.
const MESSAGE_BYTES: usize = 2048;

/// Why a body is no question.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not of the shape.
    #[error("the body is no {KIND}")]
    Shape(#[source] serde_json::Error),
    /// Of another kind or version.
    #[error("the body is a `{kind}` of `{api_version}`; answered is {KIND} of {API_VERSION}")]
    Version {
        /// As it says.
        kind: String,
        /// As it says.
        api_version: String,
    },
    /// Nothing is asked.
    #[error("the {KIND} has no request")]
    NoRequest,
    /// The request has no object, or not the one it says.
    #[error("the request's object is no {kind}")]
    Object {
        /// What it should be.
        kind: String,
        /// What is wrong with it.
        source: Option<serde_json::Error>,
    },
    /// The patch cannot be written.
    #[error("the pod cannot be written")]
    Patch(#[source] serde_json::Error),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What is asked. Only what is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    uid: String,
    kind: Kind,
    namespace: Option<String>,
    operation: String,
    object: Option<Value>,
    old_object: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: String,
}

/// What came of a request; the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it was.
    Unchanged,
    /// With what was added.
    Changed,
    /// Not at all.
    Refused,
}

impl Outcome {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Refused => "refused",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    uid: String,
    refusal: Option<String>,
    warnings: Vec<String>,
    patch: Option<Vec<u8>>,
    /// Whether what the pod asks for may only not have been seen yet: it may have been written in the same breath.
    pub early: bool,
}

impl Reply {
    fn allowed(request: &Request, warnings: Vec<String>) -> Self {
        Self {
            uid: request.uid.clone(),
            refusal: None,
            warnings,
            patch: None,
            early: false,
        }
    }

    fn refused(request: &Request, message: &str) -> Self {
        let end = (0..=message.len().min(MESSAGE_BYTES))
            .rev()
            .find(|end| message.is_char_boundary(*end));
        Self {
            refusal: Some(message[..end.unwrap_or(0)].to_owned()),
            ..Self::allowed(request, Vec::new())
        }
    }

    /// What came of it.
    pub const fn outcome(&self) -> Outcome {
        match (&self.refusal, &self.patch) {
            (Some(_), _) => Outcome::Refused,
            (None, Some(_)) => Outcome::Changed,
            (None, None) => Outcome::Unchanged,
        }
    }

    /// The review that goes back.
    pub fn to_review(&self) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": self.refusal.is_none()});
        if let Some(message) = &self.refusal {
            response["status"] = json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": message});
        }
        if !self.warnings.is_empty() {
            response["warnings"] = json!(self.warnings);
        }
        if let Some(patch) = &self.patch {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(ByteString(patch.clone()));
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}

/// The question in a body.
///
/// # Errors
/// It is none.
pub fn read(body: &[u8]) -> Result<Request, Malformed> {
    let review: Review = serde_json::from_slice(body).map_err(Malformed::Shape)?;
    if (review.kind.as_str(), review.api_version.as_str()) != (KIND, API_VERSION) {
        let shown = |text: &str| text.chars().take(64).flat_map(char::escape_debug).collect();
        return Err(Malformed::Version {
            kind: shown(&review.kind),
            api_version: shown(&review.api_version),
        });
    }
    review.request.ok_or(Malformed::NoRequest)
}

/// Answers for a pod. `own` is the operator's namespace, whose pods are never touched; nothing is known of the cluster before
/// all of it was listed.
///
/// # Errors
/// The request's object is no pod.
pub fn pod(request: &Request, own: &str, around: Option<Surroundings<'_>>) -> Result<Reply, Malformed> {
    if request.kind.kind != "Pod" || request.operation != "CREATE" {
        return Ok(Reply::allowed(request, Vec::new()));
    }
    let before: Pod = object(request)?;
    let pods = before.metadata.namespace.as_deref();
    let namespace = request.namespace.as_deref().or(pods).unwrap_or_default();
    if namespace == own || namespace == SYSTEM_NAMESPACE {
        let text = format!("pods of namespace {namespace} get no CUDA environment");
        return Ok(Reply::allowed(request, vec![text]));
    }
    let Some(around) = around else {
        return Ok(Reply {
            early: true,
            ..Reply::refused(
                request,
                "the operator has only started and does not know the environments yet: try again",
            )
        });
    };
    match inject::inject(&before, namespace, around) {
        Ok(admitted) => {
            let patch = patch(&before, &admitted.pod).map_err(Malformed::Patch)?;
            Ok(Reply {
                patch,
                ..Reply::allowed(request, admitted.warnings)
            })
        }
        Err(refusal) => Ok(Reply {
            early: matches!(refusal, Refusal::Denied(_)),
            ..Reply::refused(request, &failure::chain(&refusal))
        }),
    }
}

/// Both sides are as this build reads them: a field that it does not know is in neither, and stays as it is.
fn patch(before: &Pod, after: &Pod) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let patch = json_patch::diff(&serde_json::to_value(before)?, &serde_json::to_value(after)?);
    (!patch.0.is_empty()).then(|| serde_json::to_vec(&patch)).transpose()
}

/// Answers for an object of ours.
///
/// # Errors
/// The request has no object.
pub fn judged(request: &Request, around: Option<Surroundings<'_>>) -> Result<Reply, Malformed> {
    if request.operation != "CREATE" && request.operation != "UPDATE" {
        return Ok(Reply::allowed(request, Vec::new()));
    }
    let object: Value = object(request)?;
    let nothing = crds::catalogue::Catalogue::default();
    let catalogue = around.map_or(&nothing, |around| around.catalogue);
    let old = request.old_object.as_ref();
    Ok(match objects::judge(&request.kind.kind, &object, old, catalogue) {
        // Before the cluster is known, every cache would be warned of.
        Ok(warnings) => Reply::allowed(request, around.map(|_| warnings).unwrap_or_default()),
        Err(unfit) => Reply::refused(request, &failure::chain(&unfit)),
    })
}

fn object<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, Malformed> {
    let wrong = |source| Malformed::Object {
        kind: request
            .kind
            .kind
            .chars()
            .take(64)
            .flat_map(char::escape_debug)
            .collect(),
        source,
    };
    let object = request.object.clone().ok_or_else(|| wrong(None))?;
    serde_json::from_value(object).map_err(|error| wrong(Some(error)))
}
