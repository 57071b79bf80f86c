//! Volumes of our driver in a pod: the one that injection adds, and those written by hand.
//! Never changes which environment a volume names.

use std::collections::BTreeMap;

use crds::{
    catalogue::EnvironmentKey,
    pod::{DRIVER, ENVIRONMENT, KIND, VIEW, View, VolumeRequest},
};
use k8s_openapi::api::core::v1::{CSIVolumeSource, PodSpec, Volume};

use super::refusal::{Refusal, VolumeProblem};

/// The name of the volume that injection adds.
pub const VOLUME: &str = "cudaenv";

/// Adds the volume of an environment, or finds it there.
///
/// # Errors
/// Another volume has its name.
pub fn add(spec: &mut PodSpec, environment: &EnvironmentKey, namespace: &str) -> Result<(), Refusal> {
    let volumes = spec.volumes.get_or_insert_default();
    let Some(index) = volumes.iter().position(|volume| volume.name == VOLUME) else {
        volumes.push(volume(environment));
        return Ok(());
    };
    let attributes = volumes[index]
        .csi
        .as_ref()
        .filter(|csi| csi.driver == DRIVER)
        .map(attributes);
    let request = attributes.and_then(|attributes| VolumeRequest::of(namespace, &attributes).ok());
    if request.is_some_and(|request| request.environment == *environment) {
        return Ok(());
    }
    Err(Refusal::Volume {
        index,
        name: VOLUME.to_owned(),
        problem: VolumeProblem::NameTaken,
    })
}

fn volume(environment: &EnvironmentKey) -> Volume {
    let attributes = [
        (ENVIRONMENT.to_owned(), environment.name.clone()),
        (KIND.to_owned(), environment.kind().to_owned()),
    ];
    Volume {
        name: VOLUME.to_owned(),
        csi: Some(CSIVolumeSource {
            driver: DRIVER.to_owned(),
            read_only: Some(true),
            volume_attributes: Some(BTreeMap::from(attributes)),
            ..CSIVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn attributes(csi: &CSIVolumeSource) -> BTreeMap<String, String> {
    csi.volume_attributes.clone().unwrap_or_default()
}

/// Whether the pod has a volume of our driver.
pub fn any(spec: &PodSpec) -> bool {
    let mut sources = spec.volumes.iter().flatten().filter_map(|volume| volume.csi.as_ref());
    sources.any(|csi| csi.driver == DRIVER)
}

/// Checks every volume of our driver, and writes down what is left to us: read-only, and the view that a pod with users of its
/// own needs. Answers with the environments, each once.
///
/// # Errors
/// The first volume that cannot be published as it is written.
pub fn settle(spec: &mut PodSpec, namespace: &str) -> Result<Vec<EnvironmentKey>, Refusal> {
    let own_users = spec.host_users == Some(false);
    let mut environments = Vec::new();
    for (index, volume) in spec.volumes.iter_mut().flatten().enumerate() {
        let Some(csi) = volume.csi.as_mut().filter(|csi| csi.driver == DRIVER) else {
            continue;
        };
        let environment = settle_one(csi, namespace, own_users).map_err(|problem| Refusal::Volume {
            index,
            name: volume.name.clone(),
            problem,
        })?;
        if !environments.contains(&environment) {
            environments.push(environment);
        }
    }
    Ok(environments)
}

fn settle_one(csi: &mut CSIVolumeSource, namespace: &str, own_users: bool) -> Result<EnvironmentKey, VolumeProblem> {
    let request = VolumeRequest::of(namespace, &attributes(csi)).map_err(VolumeProblem::Attribute)?;
    if csi.node_publish_secret_ref.is_some() {
        return Err(VolumeProblem::Secret);
    }
    match csi.read_only {
        Some(true) => {}
        Some(false) => return Err(VolumeProblem::Writable),
        None => csi.read_only = Some(true),
    }
    match request.view {
        View::Overlay if own_users => return Err(VolumeProblem::OverlayForUserNamespace),
        View::Auto if own_users => {
            let attributes = csi.volume_attributes.get_or_insert_default();
            attributes.insert(VIEW.to_owned(), View::Plain.as_str().to_owned());
        }
        View::Auto | View::Overlay | View::Plain => {}
    }
    Ok(request.environment)
}
