//! A node's status, from what is known of the node and from what was told before.
//! Never says more than its schema takes; never moves a time when nothing happened.

use std::collections::BTreeMap;

use crds::{
    domain::node::{DriverState, Gpu},
    v1alpha1::{
        CUDANodeStatus, EnvironmentPhase, NodeContents, NodeDriver, NodeEnvironment, NodeGpu, NodeStore,
        SelectedPackage,
    },
};
use indicatif::HumanBytes;
use k8s_openapi::jiff::Timestamp;

use crate::snapshot::status::{EnvironmentReport, NodeReport, Standing, StoreNumbers};

mod conditions;

/// Environments that a status can hold.
const ENVIRONMENTS: usize = 256;
/// Store paths with what was read of them that a status can hold, and entries of code in each list of theirs.
const CONTENTS: usize = 256;
const CODE: usize = 64;
/// GPU kinds that a status can hold.
const GPUS: usize = 64;
/// Progress is told in so many steps: each costs a write.
const STEPS: u64 = 20;

/// What was told before, and of which spec.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The status that the API server has.
    pub status: &'a CUDANodeStatus,
    /// `metadata.generation` of the CUDANode.
    pub generation: Option<i64>,
}

/// The status that tells `report` at `now`. Equal to the one before where nothing worth telling changed.
pub fn status(report: &NodeReport, before: Before<'_>, now: Timestamp) -> CUDANodeStatus {
    // Times are told to the second, as the API server's own are.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    CUDANodeStatus {
        conditions: conditions::conditions(report, before, now),
        driver: driver(report),
        gpus: report.facts.gpus.iter().take(GPUS).map(gpu).collect(),
        gpu_summary: summary(&report.facts.gpus),
        system: Some(report.facts.system.to_string()),
        class: Some(report.facts.class()),
        store: report.store.as_ref().ok().map(store),
        environments: environments(&report.environments, &before.status.environments, now),
        contents: contents(report, before.status),
    }
}

/// What an agent read before it was started again is as true now: files of a store path never change.
fn contents(report: &NodeReport, before: &CUDANodeStatus) -> Vec<NodeContents> {
    let mut read = before.contents();
    read.extend(report.contents.clone());
    let wanted = read.iter().filter(|(path, _)| report.undeclared.contains(*path));
    let told = wanted.filter(|(_, code)| code.sass.len().max(code.ptx.len()) <= CODE);
    told.take(CONTENTS)
        .map(|(path, code)| NodeContents::of(path, code))
        .collect()
}

fn driver(report: &NodeReport) -> Option<NodeDriver> {
    let place = report.driver_place.as_ref();
    report.facts.driver.to_status().map(|driver| NodeDriver {
        root: place.map(|place| cut(&place.root.display().to_string(), 512)),
        source: place.map(|place| cut(&place.source, 64)),
        ..driver
    })
}

fn gpu(gpu: &Gpu) -> NodeGpu {
    let told = NodeGpu::from(gpu);
    NodeGpu {
        model: told.model.map(|model| cut(&model, 128)),
        ..told
    }
}

/// `8 × NVIDIA H100 80GB HBM3, 1 × 8.9`.
fn summary(gpus: &[Gpu]) -> Option<String> {
    let named = gpus.iter().map(|gpu| {
        let capability = gpu.compute_capability.to_string();
        format!("{} × {}", gpu.count, gpu.model.as_ref().unwrap_or(&capability))
    });
    let text = named.collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then(|| cut(&text, 128))
}

fn store(numbers: &StoreNumbers) -> NodeStore {
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (used, capacity) = (HumanBytes(numbers.used_bytes), HumanBytes(numbers.capacity_bytes));
    NodeStore {
        capacity_bytes: signed(numbers.capacity_bytes),
        used_bytes: signed(numbers.used_bytes),
        pinned_bytes: signed(numbers.pinned_bytes),
        paths: signed(numbers.paths),
        summary: Some(format!("{used} of {capacity}")),
    }
}

/// In the order of their names. Where there are too many, those that pods use or wait for come first.
fn environments(reports: &[EnvironmentReport], before: &[NodeEnvironment], now: Timestamp) -> Vec<NodeEnvironment> {
    let known: BTreeMap<_, _> = before
        .iter()
        .map(|environment| ((&environment.namespace, &environment.name), environment))
        .collect();
    let mut kept: Vec<_> = reports.iter().collect();
    kept.sort_by_key(|report| (importance(report), &report.key));
    kept.truncate(ENVIRONMENTS);
    kept.sort_by_key(|report| &report.key);
    let told = kept.into_iter().map(|report| {
        let before = known.get(&(&report.key.namespace, &report.key.name)).copied();
        environment(report, before, now)
    });
    told.collect()
}

fn importance(report: &EnvironmentReport) -> u8 {
    match report.standing {
        _ if report.pods > 0 => 0,
        Standing::Fetching { .. } | Standing::Failed { .. } => 1,
        Standing::Incompatible { .. } | Standing::Pending => 2,
        Standing::Ready => 3,
    }
}

fn environment(report: &EnvironmentReport, before: Option<&NodeEnvironment>, now: Timestamp) -> NodeEnvironment {
    let (phase, cause) = match &report.standing {
        Standing::Pending => (EnvironmentPhase::Pending, None),
        Standing::Fetching { .. } => (EnvironmentPhase::Fetching, None),
        Standing::Ready => (EnvironmentPhase::Ready, None),
        Standing::Incompatible { reason, message } => (EnvironmentPhase::Incompatible, Some((reason, message))),
        Standing::Failed { reason, message } => (EnvironmentPhase::Failed, Some((reason, message))),
    };
    let before = before.filter(|before| before.generation == report.generation);
    let was = |phases: &[EnvironmentPhase]| before.filter(|before| phases.contains(&before.phase));
    let (bytes_done, bytes_total) = bytes(&report.standing, before);
    let fetched = || before.and_then(|before| before.started_at.clone());
    let (started_at, completed_at) = match phase {
        EnvironmentPhase::Pending | EnvironmentPhase::Incompatible => (None, None),
        EnvironmentPhase::Failed => (fetched(), None),
        EnvironmentPhase::Fetching => {
            let going_on = was(&[EnvironmentPhase::Fetching, EnvironmentPhase::Failed]);
            let since = going_on.and_then(|before| before.started_at.clone());
            (Some(since.unwrap_or_else(|| now.to_string())), None)
        }
        EnvironmentPhase::Ready => {
            let since = was(&[EnvironmentPhase::Ready]).and_then(|before| before.completed_at.clone());
            (fetched(), Some(since.unwrap_or_else(|| now.to_string())))
        }
    };
    let packages = report.packages.iter().map(|(name, variant)| SelectedPackage {
        name: name.clone(),
        variant: variant.clone(),
    });
    NodeEnvironment {
        namespace: report.key.namespace.clone(),
        name: report.key.name.clone(),
        generation: report.generation,
        phase,
        packages: packages.take(16).collect(),
        pods: i32::try_from(report.pods).unwrap_or(i32::MAX),
        reason: cause.map(|(reason, _)| format!("{reason:?}")),
        message: cause.map(|(_, message)| cut(message, 1024)),
        bytes_done,
        bytes_total,
        started_at,
        completed_at,
    }
}

/// Bytes in steps while they come, all of them once they are there.
fn bytes(standing: &Standing, before: Option<&NodeEnvironment>) -> (Option<i64>, Option<i64>) {
    let signed = |bytes| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
    match standing {
        Standing::Fetching {
            bytes_done,
            bytes_total,
        } => {
            let step = (bytes_total / STEPS).max(1);
            (signed(bytes_done / step * step), signed(*bytes_total))
        }
        Standing::Ready => {
            let total = before.and_then(|before| before.bytes_total);
            (total, total)
        }
        Standing::Failed { .. } => before.map_or((None, None), |before| (before.bytes_done, before.bytes_total)),
        Standing::Pending | Standing::Incompatible { .. } => (None, None),
    }
}

/// The first `most` characters, with a mark where some were left out.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The driver in a few words.
fn driver_words(state: &DriverState) -> String {
    match state {
        DriverState::Missing => "the node has no NVIDIA driver".to_owned(),
        // Read back as it is: see `crds::convert::node`.
        DriverState::NotReady { why } => why.clone(),
        DriverState::Mismatch { kernel, library } => format!(
            "kernel module {kernel} and libraries {library} differ: reboot the node, or reload the module; until then every \
             CUDA call ends in error 803"
        ),
        DriverState::Ready { version, cuda } => format!("driver {version}, CUDA {cuda}"),
    }
}

#[cfg(test)]
mod tests;
