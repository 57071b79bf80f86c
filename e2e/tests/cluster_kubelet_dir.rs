//! Kubelets that keep their files elsewhere than usual, as those of k0s and MicroK8s do, and the chart's value for it.
//! It must never lay a link at the usual place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::time::Duration;

use e2e::cluster::site::{NODES, Site, TEAM, injected, on_node, pod};
use e2e::programs::ended;

const FOLDER: &str = "/var/lib/k0s/kubelet";

#[test]
fn a_kubelet_that_keeps_its_files_elsewhere_is_served_once_the_chart_is_told_where() {
    let Some(site) = Site::elsewhere("nodes with another --root-dir", FOLDER).unwrap() else {
        return;
    };
    without_the_value_kubelet_never_hears_of_an_agent_which_says_so(&site);
    site.install(&[&format!("--set=kubeletDir={FOLDER}")]).unwrap();
    site.apply_environment().unwrap();
    for (node, _, cuda) in &NODES[1..3] {
        let script = "/run/cudaenv/packages/cuda/bin/count; exec sleep 3600";
        site.apply(&injected(on_node(pod(node, script), node), "cuda")).unwrap();
        site.cluster
            .wait(&["--for=condition=Ready", "-n", TEAM, &format!("pod/{node}")])
            .unwrap();
        let runtime = &site.stage.closure(cuda).unwrap().toolkit.soname;
        assert_eq!(
            site.cluster.first_log(TEAM, node).unwrap(),
            format!("{runtime} 100\n"),
            "{node}"
        );
        let mounts = site.cluster.mounts(node).unwrap().join("\n");
        assert!(
            mounts.contains(&format!(" {FOLDER}/pods/")) && mounts.contains("kubernetes.io~csi"),
            "{mounts}"
        );
    }
    site.pods_leave_nothing(&["node2", "node3"]).unwrap();
    uninstalling_leaves_nothing_in_kubelets_folder(&site);
}

fn without_the_value_kubelet_never_hears_of_an_agent_which_says_so(site: &Site) {
    site.install(&["--wait=false"]).unwrap();
    let served = "find /var/lib/kubelet/plugins_registry -name '*cudaenv*'";
    site.cluster
        .until("the agent serves where nobody looks", || {
            Ok(!ended(site.cluster.on("node2", "sh")?.args(["-c", served]))?
                .stdout
                .is_empty())
        })
        .unwrap();
    // One that looks finds it in a moment.
    std::thread::sleep(Duration::from_secs(5));
    let condition = "{.items[?(@.metadata.name=='node2')].status.conditions[?(@.type=='Ready')].reason}";
    site.cluster
        .until("the agent says that kubelet does not know it", || {
            Ok(site.cluster.field("cudanodes", condition)? == "NotRegistered")
        })
        .unwrap();
}

fn uninstalling_leaves_nothing_in_kubelets_folder(site: &Site) {
    let ours = format!("find {FOLDER}/plugins {FOLDER}/plugins_registry -name '*cudaenv*'");
    let found = || {
        ended(site.cluster.on("node2", "sh").unwrap().args(["-c", &ours]))
            .unwrap()
            .stdout
    };
    assert_ne!(found(), "", "the agent's sockets are there");
    let gone = site
        .cluster
        .helm(&["uninstall", "cudaenv", "--namespace", "cudaenv-system", "--wait"])
        .unwrap();
    assert_eq!(gone.code, 0, "{gone:?}");
    assert_eq!(found(), "");
}
