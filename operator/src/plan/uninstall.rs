//! What must hold before cudaenv leaves a cluster, and what of it is taken off nodes when it has left.
//! Never touches a label or taint of anybody else.

use crds::pod::DRIVER;
use json_patch::{Patch, PatchOperation, RemoveOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use serde_json::json;

/// Labels and taints of nodes that begin so are ours alone.
const OURS: &str = "cudaenv.dev/";

/// Whether kubelet still has to unmount a volume of ours for this pod. Without an agent nobody can, and the pod could never go.
pub fn needs_an_agent(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let ours = volumes
        .filter_map(|volume| volume.csi.as_ref())
        .any(|csi| csi.driver == DRIVER);
    // A pod that is bound to no node has nothing mounted, and one that ended was unmounted.
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    ours && placed && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// What takes our labels and our taint off a node, each only if it is still what was seen. Nothing, where it has none.
pub fn cleaned(node: &Node) -> Option<Patch> {
    let mut operations = Vec::new();
    let mut remove = |path: PointerBuf, value: serde_json::Value| {
        operations.push(PatchOperation::Test(TestOperation {
            path: path.clone(),
            value,
        }));
        operations.push(PatchOperation::Remove(RemoveOperation { path }));
    };
    for (key, value) in node.metadata.labels.iter().flatten() {
        if key.starts_with(OURS) {
            remove(PointerBuf::from_tokens(["metadata", "labels", key]), json!(value));
        }
    }
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    // From behind: removing one moves those that follow.
    for (index, taint) in taints.enumerate().collect::<Vec<_>>().into_iter().rev() {
        if taint.key.starts_with(OURS) {
            let path = PointerBuf::from_tokens(["spec", "taints", &index.to_string()]);
            remove(path, json!(taint));
        }
    }
    (!operations.is_empty()).then_some(Patch(operations))
}

/// On how many nodes the pods of this DaemonSet are not ready yet; nothing where its controller has not looked at it.
pub fn missing(set: &DaemonSet) -> Option<i32> {
    let status = set.status.as_ref()?;
    let seen = status.observed_generation >= set.metadata.generation;
    seen.then(|| status.desired_number_scheduled - status.number_ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(driver: &str, node: Option<&str>, phase: &str) -> Pod {
        let object = json!({
            "spec": { "containers": [], "nodeName": node, "volumes": [
                { "name": "other", "emptyDir": {} }, { "name": "cuda", "csi": { "driver": driver } },
            ] },
            "status": { "phase": phase },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_pod_that_holds_a_volume_of_ours_needs_an_agent_until_it_ends() {
        assert!(needs_an_agent(&pod(DRIVER, Some("node1"), "Running")));
        assert!(
            needs_an_agent(&pod(DRIVER, Some("node1"), "Pending")),
            "mounted before it runs"
        );
        for (driver, node, phase) in [
            ("csi.example.org", Some("node1"), "Running"),
            (DRIVER, None, "Pending"),
            (DRIVER, Some("node1"), "Succeeded"),
            (DRIVER, Some("node1"), "Failed"),
        ] {
            assert!(!needs_an_agent(&pod(driver, node, phase)), "{driver} {node:?} {phase}");
        }
        assert!(!needs_an_agent(&Pod::default()));
    }

    #[test]
    fn our_labels_and_taint_go_and_those_of_others_stay() {
        let mut object = json!({
            "metadata": { "name": "node1", "labels": {
                "cudaenv.dev/class": "c0ffee", "cudaenv.dev/cuda": "12.4", "kubernetes.io/os": "linux", "not-cudaenv.dev/x": "1",
            } },
            "spec": { "taints": [
                { "key": "cudaenv.dev/agent-not-ready", "effect": "NoSchedule" },
                { "key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule" },
                { "key": "cudaenv.dev/agent-not-ready", "effect": "NoExecute" },
            ] },
        });
        let node: Node = serde_json::from_value(object.clone()).unwrap();
        json_patch::patch(&mut object, &cleaned(&node).unwrap()).unwrap();
        assert_eq!(
            object,
            json!({
                "metadata": { "name": "node1", "labels": { "kubernetes.io/os": "linux", "not-cudaenv.dev/x": "1" } },
                "spec": { "taints": [{ "key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule" }] },
            })
        );
        let clean: Node = serde_json::from_value(object).unwrap();
        assert_eq!(cleaned(&clean), None);
    }

    #[test]
    fn a_daemon_set_is_missing_on_nodes_until_all_are_ready() {
        let set = |seen: i64, ready: i32| -> DaemonSet {
            let object = json!({
                "metadata": { "generation": 2 },
                "spec": { "selector": {}, "template": {} },
                "status": {
                    "observedGeneration": seen, "desiredNumberScheduled": 3, "numberReady": ready,
                    "currentNumberScheduled": 3, "numberMisscheduled": 0,
                },
            });
            serde_json::from_value(object).unwrap()
        };
        assert_eq!(missing(&set(2, 1)), Some(2));
        assert_eq!(missing(&set(2, 3)), Some(0));
        assert_eq!(missing(&set(1, 3)), None);
        assert_eq!(missing(&DaemonSet::default()), None);
    }
}
