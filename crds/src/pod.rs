//! How a pod says which environment it wants: the words of its labels, annotations and volumes, and what they mean.
//! Never judges whether the pod may have it: the [`catalogue`](crate::catalogue) does.

use std::collections::BTreeMap;

use crate::{catalogue::EnvironmentKey, convert::is_object_name};

/// The CSI driver's name.
pub const DRIVER: &str = "csi.cudaenv.dev";

const _: () = assert!(is_driver_name(DRIVER), "no CSI driver may be called so");

/// Whether a CSI driver may be called so, and kubelet can make a folder and the API server an object of that name: at most 63
/// lower-case letters, digits, dashes and dots, with a letter or digit at either end of each part between dots.
pub const fn is_driver_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        let at_an_end = at == 0 || at + 1 == bytes.len() || bytes[at - 1] == b'.' || bytes[at + 1] == b'.';
        let good = match bytes[at] {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'-' | b'.' => !at_an_end,
            _ => false,
        };
        if !good {
            return false;
        }
        at += 1;
    }
    true
}

/// Label of a pod that asks for injection, with the value `true`.
pub const INJECT_LABEL: &str = "cudaenv.dev/inject";
/// Annotation of a pod: the name of its environment.
pub const ENVIRONMENT_ANNOTATION: &str = "cudaenv.dev/environment";
/// Annotation of a pod: the kind of its environment, `CUDAEnvironment` where it is absent.
pub const KIND_ANNOTATION: &str = "cudaenv.dev/environment-kind";
/// Annotation of a pod: names of containers that get nothing, with commas between them.
pub const SKIP_ANNOTATION: &str = "cudaenv.dev/skip-containers";
/// Label of a node: its class, as [`NodeFacts::class`](crate::domain::node::NodeFacts::class) has it.
pub const CLASS_LABEL: &str = "cudaenv.dev/class";

/// Key of a volume's attributes: the environment's name.
pub const ENVIRONMENT: &str = "environment";
/// Key of a volume's attributes: the environment's kind, `CUDAEnvironment` where it is absent.
pub const KIND: &str = "kind";
/// Key of a volume's attributes: how the view is made, `auto` where it is absent.
pub const VIEW: &str = "view";

/// Keys that kubelet adds to a volume's attributes begin with this.
const OF_KUBELET: &str = "csi.storage.k8s.io/";

/// How a view is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum View {
    /// As the node does best.
    #[default]
    Auto,
    /// One overlay mount over the layers.
    Overlay,
    /// A tree of hard links: what a pod with a user namespace of its own needs, as an overlay cannot be id-mapped.
    Plain,
}

impl View {
    /// As a volume's attributes write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Overlay => "overlay",
            Self::Plain => "plain",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Auto, Self::Overlay, Self::Plain]
            .into_iter()
            .find(|view| view.as_str() == word)
    }
}

/// What a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Which environment.
    pub environment: EnvironmentKey,
    /// How it is to be shown.
    pub view: View,
}

/// An attribute of a volume that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volumeAttributes.{key}: {problem}")]
pub struct BadAttribute {
    /// The key, escaped and cut where it is not one of ours.
    pub key: String,
    /// What is wrong.
    pub problem: BadReference,
}

/// What can be wrong with how a pod names its environment. Quoted values are escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Nothing where the name must be.
    #[error(
        "is required: the name of a CUDAEnvironment in the pod's namespace, or of a ClusterCUDAEnvironment with that kind beside it"
    )]
    Missing,
    /// No object can be called so.
    #[error("no environment can be called `{0}`: write at most 253 lower-case letters, digits, dashes and dots")]
    Name(String),
    /// Not one of the two kinds.
    #[error("`{0}` is no kind of environment: write CUDAEnvironment or ClusterCUDAEnvironment")]
    Kind(String),
    /// Not a way to make a view.
    #[error("`{0}` is no kind of view: write auto, overlay or plain, or leave it out")]
    View(String),
    /// A store path, which no pod names.
    #[error("names a store path: a pod names an environment, whose store paths the author of the environment chose")]
    StorePath,
    /// Not an attribute of ours.
    #[error("is not known: the attributes are environment, kind and view")]
    Unknown,
}

/// A foreign text, fit to be shown.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

impl EnvironmentKey {
    /// The environment that a pod in `namespace` means by a name and, where it gives one, a kind.
    ///
    /// # Errors
    /// A kind or name that cannot be.
    pub fn of_pod(namespace: &str, kind: Option<&str>, name: &str) -> Result<Self, BadReference> {
        let namespace = match kind {
            None | Some("CUDAEnvironment") => Some(namespace.to_owned()),
            Some("ClusterCUDAEnvironment") => None,
            Some(other) => return Err(BadReference::Kind(shown(other))),
        };
        if !is_object_name(name) {
            return Err(BadReference::Name(shown(name)));
        }
        Ok(Self {
            namespace,
            name: name.to_owned(),
        })
    }
}

impl VolumeRequest {
    /// What the attributes of a volume of our driver say, for a pod in `namespace`. Those that kubelet adds are passed over.
    ///
    /// # Errors
    /// The first attribute that makes no sense, or a missing one.
    pub fn of(namespace: &str, attributes: &BTreeMap<String, String>) -> Result<Self, BadAttribute> {
        let bad = |key: &str| {
            let key = shown(key);
            move |problem| BadAttribute { key, problem }
        };
        let ours = |key: &str| [ENVIRONMENT, KIND, VIEW].contains(&key);
        let own = || attributes.iter().filter(|(key, _)| !key.starts_with(OF_KUBELET));
        if let Some((key, _)) = own().find(|(_, value)| value.starts_with("/nix/store/")) {
            return Err(bad(key)(BadReference::StorePath));
        }
        if let Some((key, _)) = own().find(|(key, _)| !ours(key)) {
            return Err(bad(key)(BadReference::Unknown));
        }
        let name = attributes.get(ENVIRONMENT).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| bad(ENVIRONMENT)(BadReference::Missing))?;
        let kind = attributes.get(KIND).map(String::as_str);
        let environment = EnvironmentKey::of_pod(namespace, kind, name).map_err(|problem| {
            let key = if matches!(problem, BadReference::Kind(_)) {
                KIND
            } else {
                ENVIRONMENT
            };
            bad(key)(problem)
        })?;
        let view = attributes.get(VIEW).map(|word| {
            let unknown = || bad(VIEW)(BadReference::View(shown(word)));
            View::from_word(word).ok_or_else(unknown)
        });
        Ok(Self {
            environment,
            view: view.transpose()?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attributes: &[(&str, &str)]) -> Result<VolumeRequest, String> {
        let attributes = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        VolumeRequest::of("team-a", &attributes.collect()).map_err(|bad| bad.to_string())
    }

    #[test]
    fn a_volume_names_its_environment_and_view() {
        let request = |namespace: Option<&str>, view| {
            let environment = EnvironmentKey {
                namespace: namespace.map(str::to_owned),
                name: "pytorch".to_owned(),
            };
            Ok(VolumeRequest { environment, view })
        };
        let name = (ENVIRONMENT, "pytorch");
        for (attributes, expected) in [
            (vec![name], request(Some("team-a"), View::Auto)),
            (
                vec![name, (KIND, "CUDAEnvironment")],
                request(Some("team-a"), View::Auto),
            ),
            (
                vec![name, (KIND, "ClusterCUDAEnvironment"), (VIEW, "plain")],
                request(None, View::Plain),
            ),
            (
                vec![name, (VIEW, "overlay"), ("csi.storage.k8s.io/pod.name", "a")],
                request(Some("team-a"), View::Overlay),
            ),
        ] {
            assert_eq!(read(&attributes), expected, "{attributes:?}");
        }
    }

    #[test]
    fn an_attribute_that_makes_no_sense_is_named() {
        let name = (ENVIRONMENT, "pytorch");
        for (attributes, says) in [
            (vec![], "volumeAttributes.environment: is required"),
            (vec![(ENVIRONMENT, "")], "volumeAttributes.environment: is required"),
            (
                vec![(ENVIRONMENT, "../x")],
                "volumeAttributes.environment: no environment can be called `../x`",
            ),
            (
                vec![name, (KIND, "Pod")],
                "volumeAttributes.kind: `Pod` is no kind of environment",
            ),
            (
                vec![name, ("storePath", "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x")],
                "volumeAttributes.storePath: names a store path",
            ),
            (
                vec![(ENVIRONMENT, "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x")],
                "volumeAttributes.environment: names a store path",
            ),
            (vec![name, (VIEW, "")], "volumeAttributes.view: `` is no kind of view"),
            (vec![name, ("a\nb", "x")], r"volumeAttributes.a\nb: is not known"),
        ] {
            let refused = read(&attributes).unwrap_err();
            assert!(refused.starts_with(says), "{refused}");
        }
        read(&[name]).unwrap();
    }

    /// X26.
    #[test]
    fn a_csi_driver_is_called_by_a_short_plain_name() {
        let longest = format!("{}.dev", "x".repeat(59));
        for good in [DRIVER, "a", "csi.v2", "0.a-b.c", &longest] {
            assert!(is_driver_name(good), "{good}");
        }
        let too_long = format!("x{longest}");
        for bad in [
            "",
            &too_long,
            ".csi.cudaenv.dev",
            "csi.cudaenv.dev.",
            "csi..dev",
            "csi.Cudaenv.dev",
            "csi/cudaenv.dev",
            "-csi.dev",
            "csi-.dev",
            "csi.-dev",
            "csi.dev-",
            "csi cudaenv",
            "csi_cudaenv",
            "cs\u{ee}.dev",
            "csi.dev\n",
        ] {
            assert!(!is_driver_name(bad), "{bad:?}");
        }
    }
}
