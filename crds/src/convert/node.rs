//! Node facts to and from the status of a `CUDANode`, and the class of a node.
//! Never loses what selection looks at: facts that went over the wire select as they did before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{At, InvalidField, Problem};
use crate::{
    condition::NodeCondition,
    domain::{
        cuda::{ComputeCapability, CudaVersion},
        driver::DriverVersion,
        node::{Brand, DriverState, Gpu, NodeFacts},
        store_path::System,
    },
    failure::Reason,
    v1alpha1::{CUDANodeStatus, NodeDriver, NodeGpu},
};

const STATUS: At<'static> = At::root("status");

/// Characters of a class: 64 bits of a hash, so that a cluster's few classes never meet by accident.
const CLASS_BYTES: usize = 8;

impl DriverState {
    /// The stable word for a driver that cannot be used; nothing where it can.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Missing | Self::NotReady { .. } => Some(Reason::DriverNotReady),
            Self::Mismatch { .. } => Some(Reason::DriverMismatch),
            Self::Ready { .. } => None,
        }
    }

    /// The driver as a node's status tells it; nothing where there is none to tell of.
    pub fn to_status(&self) -> Option<NodeDriver> {
        let driver = |version: &DriverVersion, kernel: &DriverVersion, cuda: Option<&CudaVersion>| NodeDriver {
            version: version.to_string(),
            kernel_version: Some(kernel.to_string()),
            cuda: cuda.map(CudaVersion::to_string),
            ..NodeDriver::default()
        };
        match self {
            Self::Missing | Self::NotReady { .. } => None,
            Self::Mismatch { kernel, library } => Some(driver(library, kernel, None)),
            Self::Ready { version, cuda } => Some(driver(version, version, Some(cuda))),
        }
    }
}

impl TryFrom<&CUDANodeStatus> for NodeFacts {
    type Error = InvalidField;

    /// What a node's agent reported. A status that says nothing of the system is one that no agent has written yet.
    fn try_from(status: &CUDANodeStatus) -> Result<Self, InvalidField> {
        let at = STATUS.field("system");
        let system = status.system.as_ref().ok_or_else(|| at.is(Problem::Missing))?;
        let gpus = STATUS.field("gpus");
        let gpus = status
            .gpus
            .iter()
            .enumerate()
            .map(|(index, found)| gpu(&gpus.index(index), found));
        Ok(Self {
            driver: driver(status)?,
            gpus: gpus.collect::<Result<_, _>>()?,
            system: system.parse().map_err(|error| at.is(Problem::System(error)))?,
        })
    }
}

fn driver(status: &CUDANodeStatus) -> Result<DriverState, InvalidField> {
    let Some(found) = &status.driver else {
        return Ok(not_there(&status.conditions));
    };
    let at = STATUS.field("driver");
    let version = |field, text: &str| -> Result<DriverVersion, InvalidField> {
        text.parse().map_err(|error| at.field(field).is(Problem::Driver(error)))
    };
    let library = version("version", &found.version)?;
    let kernel = found
        .kernel_version
        .as_deref()
        .map(|text| version("kernelVersion", text))
        .transpose()?;
    let cuda = found.cuda.as_deref().map(|text| {
        let wrong = |error| at.field("cuda").is(Problem::Number(error));
        text.parse::<CudaVersion>().map_err(wrong)
    });
    Ok(match (kernel, cuda.transpose()?) {
        (Some(kernel), _) if kernel != library => DriverState::Mismatch { kernel, library },
        (Some(_), Some(cuda)) => DriverState::Ready { version: library, cuda },
        _ => not_there(&status.conditions),
    })
}

/// A driver that is not there, or not yet: the condition has the words.
fn not_there(conditions: &[Condition]) -> DriverState {
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == NodeCondition::DriverReady.as_str());
    match found {
        Some(condition) if condition.reason == "DriverMissing" => DriverState::Missing,
        Some(condition) => DriverState::NotReady {
            why: condition.message.clone(),
        },
        None => DriverState::Missing,
    }
}

fn gpu(at: &At<'_>, found: &NodeGpu) -> Result<Gpu, InvalidField> {
    let wrong = |error| at.field("computeCapability").is(Problem::Number(error));
    Ok(Gpu {
        compute_capability: found.compute_capability.parse::<ComputeCapability>().map_err(wrong)?,
        // A brand that this build does not know is like none: a newer agent may name one.
        brand: found.brand.as_deref().and_then(Brand::from_name),
        model: found.model.clone(),
        count: u32::try_from(found.count).unwrap_or_default(),
    })
}

impl From<&Gpu> for NodeGpu {
    fn from(gpu: &Gpu) -> Self {
        Self {
            model: gpu.model.clone(),
            brand: gpu.brand.map(|brand| brand.name().to_owned()),
            compute_capability: gpu.compute_capability.to_string(),
            count: i32::try_from(gpu.count).unwrap_or(i32::MAX),
        }
    }
}

/// All that selection looks at, in one order.
#[derive(Serialize)]
struct Looked<'a> {
    driver: &'a str,
    version: Option<String>,
    cuda: Option<String>,
    gpus: Vec<(ComputeCapability, Option<Brand>)>,
    system: System,
}

impl NodeFacts {
    /// The class of the node: a label value of 16 characters. Nodes of one class get the same answer from selection.
    /// Models and counts do not matter, and neither do the words of a driver that cannot be used.
    pub fn class(&self) -> String {
        let (driver, version, cuda) = match &self.driver {
            DriverState::Missing => ("missing", None, None),
            DriverState::NotReady { .. } => ("not-ready", None, None),
            DriverState::Mismatch { .. } => ("mismatch", None, None),
            DriverState::Ready { version, cuda } => ("ready", Some(version.to_string()), Some(cuda.to_string())),
        };
        let mut gpus: Vec<_> = self
            .gpus
            .iter()
            .map(|gpu| (gpu.compute_capability, gpu.brand))
            .collect();
        gpus.sort_unstable();
        gpus.dedup();
        let looked = Looked {
            driver,
            version,
            cuda,
            gpus,
            system: self.system,
        };
        // Strings, numbers and lists of them always serialise.
        let text = serde_json::to_vec(&looked).unwrap_or_default();
        let hash = Sha256::digest(text);
        hash.iter()
            .take(CLASS_BYTES)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn ready(version: &str, cuda: &str) -> DriverState {
        DriverState::Ready {
            version: version.parse().unwrap(),
            cuda: cuda.parse().unwrap(),
        }
    }

    fn facts(driver: DriverState, gpus: &[&str]) -> NodeFacts {
        NodeFacts {
            driver,
            gpus: gpus.iter().map(|gpu| gpu.parse().unwrap()).collect(),
            system: System::X86_64Linux,
        }
    }

    fn status(facts: &NodeFacts) -> CUDANodeStatus {
        let (reason, message) = match &facts.driver {
            DriverState::NotReady { why } => ("DriverNotReady", why.as_str()),
            DriverState::Missing => ("DriverMissing", ""),
            DriverState::Mismatch { .. } | DriverState::Ready { .. } => ("x", ""),
        };
        let condition = Condition {
            type_: NodeCondition::DriverReady.to_string(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        CUDANodeStatus {
            driver: facts.driver.to_status(),
            gpus: facts.gpus.iter().map(NodeGpu::from).collect(),
            system: Some(facts.system.to_string()),
            conditions: vec![condition],
            ..CUDANodeStatus::default()
        }
    }

    #[test]
    fn facts_survive_the_wire() {
        for driver in [
            DriverState::Missing,
            DriverState::NotReady {
                why: "being validated".to_owned(),
            },
            DriverState::Mismatch {
                kernel: "535.1.1".parse().unwrap(),
                library: "550.54.14".parse().unwrap(),
            },
            ready("535.274.02", "12.2"),
        ] {
            let facts = facts(driver, &["9.0:tesla", "8.9"]);
            assert_eq!(NodeFacts::try_from(&status(&facts)).unwrap(), facts);
        }
    }

    #[test]
    fn a_status_that_makes_no_sense_names_its_field() {
        let good = status(&facts(ready("535.274.02", "12.2"), &["9.0"]));
        NodeFacts::try_from(&good).unwrap();
        let changed = |change: fn(&mut CUDANodeStatus)| {
            let mut status = good.clone();
            change(&mut status);
            NodeFacts::try_from(&status).unwrap_err().field
        };
        assert_eq!(changed(|status| status.system = None), "status.system");
        assert_eq!(
            changed(|status| status.system = Some("riscv".to_owned())),
            "status.system"
        );
        assert_eq!(
            changed(|status| status.gpus[0].compute_capability = "9".to_owned()),
            "status.gpus[0].computeCapability"
        );
        assert_eq!(
            changed(|status| status.driver.as_mut().unwrap().version = "new".to_owned()),
            "status.driver.version"
        );
        assert_eq!(
            changed(|status| status.driver.as_mut().unwrap().cuda = Some("12".to_owned())),
            "status.driver.cuda"
        );
    }

    #[test]
    fn a_class_is_what_selection_looks_at_and_nothing_else() {
        let one = facts(ready("535.274.02", "12.2"), &["9.0:tesla", "8.9"]);
        let mut same = facts(ready("535.274.02", "12.2"), &["8.9", "9.0:tesla", "9.0:tesla"]);
        same.gpus[0].model = Some("NVIDIA L40S".to_owned());
        same.gpus[1].count = 8;
        assert_eq!(one.class(), same.class());
        assert_eq!(one.class().len(), 16);
        for other in [
            facts(ready("550.54.14", "12.2"), &["9.0:tesla", "8.9"]),
            facts(ready("535.274.02", "12.4"), &["9.0:tesla", "8.9"]),
            facts(ready("535.274.02", "12.2"), &["9.0:tesla"]),
            facts(ready("535.274.02", "12.2"), &["9.0", "8.9"]),
            facts(DriverState::Missing, &["9.0:tesla", "8.9"]),
        ] {
            assert_ne!(one.class(), other.class(), "{other:?}");
        }
        let why = |why: &str| facts(DriverState::NotReady { why: why.to_owned() }, &[]).class();
        assert_eq!(why("one"), why("other"));
    }
}
