//! Why a pod is refused. Every text names the field, and what to do.
//! Never says of an environment whether it is absent or forbidden: the catalogue's words are taken as they are.

use crds::{
    catalogue::Denied,
    pod::{BadAttribute, BadReference, DRIVER, SKIP_ANNOTATION},
};

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pod may not have the environment.
    #[error(transparent)]
    Denied(Denied),
    /// An annotation that names no environment, or no kind of one.
    #[error("metadata.annotations[{annotation}]: {problem}")]
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What is wrong.
        problem: BadReference,
    },
    /// A container that no container can be called.
    #[error(
        "metadata.annotations[{SKIP_ANNOTATION}]: no container can be called `{0}`: write names of containers, with commas between them"
    )]
    SkipName(String),
    /// Nothing is left to inject into.
    #[error(
        "metadata.annotations[{SKIP_ANNOTATION}] names every container of the pod: leave one out, or remove the label that asks for injection"
    )]
    SkipsAll,
    /// A system without CUDA environments.
    #[error("spec.os.name: CUDA environments are for linux: remove the label that asks for injection")]
    System,
    /// A volume that stands in the way, or is not used as it can be.
    #[error("spec.volumes[{index}] (`{name}`): {problem}")]
    Volume {
        /// Where it is in the list.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: VolumeProblem,
    },
    /// A mount that stands in the way.
    #[error("{container}.volumeMounts[{index}]: {problem}")]
    Mount {
        /// The container: where it is, and its name.
        container: String,
        /// Where it is in the list.
        index: usize,
        /// What is wrong.
        problem: MountProblem,
    },
}

/// What is wrong with a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeProblem {
    /// Ours by name, but not what injection would add.
    #[error(
        "is not the volume of the environment in metadata.annotations, which injection adds under that name: rename it, or remove the label that asks for injection"
    )]
    NameTaken,
    /// Of our driver, with attributes that make no sense.
    #[error("csi.{0}")]
    Attribute(BadAttribute),
    /// Of our driver, and to be written to.
    #[error("csi.readOnly: volumes of {DRIVER} cannot be written to: write `readOnly: true`")]
    Writable,
    /// Of our driver, with a secret.
    #[error("csi.nodePublishSecretRef: {DRIVER} takes no secret from a pod: credentials belong to the CUDABinaryCache")]
    Secret,
    /// Of our driver, in a pod whose users are mapped.
    #[error(
        "csi.volumeAttributes.view: an overlay cannot be shown to a pod with `hostUsers: false`: write `view: plain`, or leave it out"
    )]
    OverlayForUserNamespace,
}

/// What is wrong with a mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    /// At the same place.
    #[error(
        "`{volume}` is mounted at {path}, where the environment goes: mount it elsewhere, or name the container in the annotation {SKIP_ANNOTATION}"
    )]
    Taken {
        /// The volume.
        volume: String,
        /// Our place.
        path: &'static str,
    },
    /// Below one of ours.
    #[error(
        "`{volume}` is mounted at {path}, below {ours}, which is read-only: mount it elsewhere, or name the container in the annotation {SKIP_ANNOTATION}"
    )]
    Below {
        /// The volume.
        volume: String,
        /// Its place.
        path: String,
        /// Our place.
        ours: &'static str,
    },
}
