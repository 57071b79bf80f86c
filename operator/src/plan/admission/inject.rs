//! Injection: a pod that names an environment gets its volume, its mounts, its variable and its affinity.
//! Never changes a pod that does not ask, and gives the same pod back when asked twice.

use std::collections::BTreeSet;

use crds::{
    catalogue::{EnvironmentKey, Granted, Labels},
    convert::is_object_name,
    pod::{BadReference, ENVIRONMENT_ANNOTATION, INJECT_LABEL, KIND_ANNOTATION, SKIP_ANNOTATION},
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{
    Surroundings, affinity, fit, mounts,
    refusal::Refusal,
    volumes::{self, VOLUME},
    warning,
};

/// Marks the API's image of a pod that a node runs from a file: it cannot be changed here.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod as it is admitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// The pod, with what was added.
    pub pod: Pod,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Admits a pod that is about to be created in `namespace`.
///
/// # Errors
/// Why it is refused, and what to do.
pub fn inject(pod: &Pod, namespace: &str, around: Surroundings<'_>) -> Result<Admitted, Refusal> {
    let mut admitted = Admitted {
        pod: pod.clone(),
        warnings: Vec::new(),
    };
    let none = Labels::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&none);
    let Some(spec) = admitted
        .pod
        .spec
        .as_mut()
        .filter(|_| !annotations.contains_key(MIRROR_ANNOTATION))
    else {
        return Ok(admitted);
    };
    let named = annotations.get(ENVIRONMENT_ANNOTATION);
    if labels.get(INJECT_LABEL).map(String::as_str) != Some("true") {
        admitted.warnings.extend(named.map(|_| {
            format!("the annotation {ENVIRONMENT_ANNOTATION} does nothing without the label {INJECT_LABEL}: \"true\"")
        }));
        return Ok(admitted);
    }
    if named.is_none() && !volumes::any(spec) {
        admitted.warnings.push(format!(
            "the label {INJECT_LABEL} does nothing without the annotation {ENVIRONMENT_ANNOTATION}: NAME"
        ));
        return Ok(admitted);
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Refusal::System);
    }
    if let Some(name) = named {
        let environment = asked(namespace, annotations, name)?;
        volumes::add(spec, &environment, namespace)?;
        let skipped = skipped(annotations)?;
        admitted.warnings.extend(equip(spec, &skipped)?);
    }
    let environments: Result<Vec<_>, _> = volumes::settle(spec, namespace)?
        .iter()
        .map(|key| around.catalogue.grant(namespace, key).map_err(Refusal::Denied))
        .collect();
    let environments: Vec<Granted> = environments?;
    let nowhere = environments
        .iter()
        .filter_map(|one| fit::nowhere(one, around.classes, around.contents));
    admitted.warnings.extend(nowhere);
    // A pod that was placed by hand is not moved by an affinity: kubelet would fail it, without a word of ours.
    if spec.node_name.as_ref().is_none_or(String::is_empty) {
        affinity::follow(spec, around.agents);
        affinity::avoid(spec, &fit::unfit(&environments, around.classes, around.contents));
    }
    Ok(admitted)
}

fn asked(namespace: &str, annotations: &Labels, name: &str) -> Result<EnvironmentKey, Refusal> {
    let kind = annotations.get(KIND_ANNOTATION).map(String::as_str);
    if name.is_empty() {
        return Err(Refusal::Annotation {
            annotation: ENVIRONMENT_ANNOTATION,
            problem: BadReference::Missing,
        });
    }
    EnvironmentKey::of_pod(namespace, kind, name).map_err(|problem| Refusal::Annotation {
        annotation: match problem {
            BadReference::Kind(_) => KIND_ANNOTATION,
            BadReference::Missing
            | BadReference::Name(_)
            | BadReference::View(_)
            | BadReference::StorePath
            | BadReference::Unknown => ENVIRONMENT_ANNOTATION,
        },
        problem,
    })
}

/// Names of the containers to pass over.
fn skipped(annotations: &Labels) -> Result<BTreeSet<&str>, Refusal> {
    let named = annotations.get(SKIP_ANNOTATION).map_or("", String::as_str);
    let names = named.split(',').map(str::trim).filter(|name| !name.is_empty());
    let checked = names.map(|name| {
        if is_object_name(name) {
            return Ok(name);
        }
        let shown = name.chars().take(64).flat_map(char::escape_debug).collect();
        Err(Refusal::SkipName(shown))
    });
    checked.collect()
}

/// Equips every container that is not passed over; with what a person should know.
fn equip(spec: &mut PodSpec, skipped: &BTreeSet<&str>) -> Result<Vec<String>, Refusal> {
    let mut warnings = Vec::new();
    let mut unseen = skipped.clone();
    let mut equipped = 0_usize;
    let init = spec.init_containers.iter_mut().flatten().enumerate();
    let init = init.map(|(index, container)| ("spec.initContainers", index, container));
    let all = spec.containers.iter_mut().enumerate();
    let all = all.map(|(index, container)| ("spec.containers", index, container));
    for (list, index, container) in init.chain(all) {
        if skipped.contains(container.name.as_str()) {
            unseen.remove(container.name.as_str());
            continue;
        }
        let place = place(list, index, container);
        warnings.extend(mounts::equip(container, &place, VOLUME)?);
        equipped += 1;
    }
    if equipped == 0 {
        return Err(Refusal::SkipsAll);
    }
    let unseen = unseen.into_iter().map(|name| {
        let text = format!("metadata.annotations[{SKIP_ANNOTATION}] names `{name}`, and the pod has no such container");
        warning(&text)
    });
    warnings.extend(unseen);
    Ok(warnings)
}

fn place(list: &str, index: usize, container: &Container) -> String {
    format!("{list}[{index}] (`{}`)", container.name)
}
