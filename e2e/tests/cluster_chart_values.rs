//! What becomes of the chart's objects when a value changes: each promise of `values.yaml` beside its opposite.
//! It must never ask an API server: `cluster_chart` does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use e2e::cluster::chart::{self, Helm, NAMESPACE};
use serde_json::{Value, json};

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

fn operators_flag(objects: &[Value], flag: &str) -> String {
    let deployment = named(objects, "Deployment", "cudaenv-operator").unwrap();
    let flags = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap();
    let values = flags
        .iter()
        .filter_map(|word| word.as_str().unwrap().strip_prefix(flag));
    let values: Vec<_> = values.collect();
    assert_eq!(values.len(), 1, "{flag}");
    values[0].to_owned()
}

#[test]
fn the_operator_finds_the_agents_pods_whatever_the_chart_is_called() {
    let Some(helm) = chart::helm("the selector of the agents' pods").unwrap() else {
        return;
    };
    for values in [vec![], vec!["--set", "nameOverride=gpu,fullnameOverride=cudaenv"]] {
        let objects = helm.objects(&values).unwrap();
        let selector = operators_flag(&objects, "--agent-pods=");
        let agents = named(&objects, "DaemonSet", "cudaenv-node-agent").unwrap();
        let labels = &agents["spec"]["template"]["metadata"]["labels"];
        for pair in selector.split(',') {
            let (key, value) = pair.split_once('=').unwrap();
            assert_eq!(labels[key], value, "{values:?}");
        }
        let operator = named(&objects, "Deployment", "cudaenv-operator").unwrap();
        let component = "app.kubernetes.io/component";
        assert!(selector.contains(component));
        assert_ne!(
            operator["spec"]["template"]["metadata"]["labels"][component],
            labels[component]
        );
    }
}

#[test]
fn the_operator_is_told_where_agents_are_placed_and_what_cleans_nodes_goes_to_the_same() {
    let Some(helm) = chart::helm("where agents are placed").unwrap() else {
        return;
    };
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a\"b<&"]}]}]}}});
    let linux = json!({"kubernetes.io/os": "linux"});
    let both = json!({"kubernetes.io/os": "linux", "accelerator": "nvidia"});
    let set = format!("nodeAgent.affinity={affinity}");
    let none = json!({});
    for (values, selector, affinity) in [
        (vec![], &linux, &none),
        (vec!["--set", "nodeAgent.nodeSelector.accelerator=nvidia"], &both, &none),
        (vec!["--set-json", &set], &linux, &affinity),
    ] {
        let objects = helm.objects(&values).unwrap();
        let told: Value = serde_json::from_str(&operators_flag(&objects, "--agent-nodes=")).unwrap();
        assert_eq!(told, json!({"nodeSelector": selector, "affinity": affinity}));
        for name in ["cudaenv-node-agent", "cudaenv-uninstall"] {
            let pod = &named(&objects, "DaemonSet", name).unwrap()["spec"]["template"]["spec"];
            assert_eq!(&pod["nodeSelector"], selector, "{name}");
            let given = if affinity == &none { &Value::Null } else { affinity };
            assert_eq!(&pod["affinity"], given, "{name}");
        }
    }
}

#[test]
fn what_cleans_nodes_is_admitted_when_the_releases_own_quota_is_gone() {
    let Some(helm) = chart::helm("the quota of what cleans nodes").unwrap() else {
        return;
    };
    for (values, given) in [
        (vec![], false),
        (
            vec!["--set", "criticalPodsQuota.enabled=true,criticalPodsQuota.pods=7"],
            true,
        ),
    ] {
        let objects = helm.objects(&values).unwrap();
        let own = named(&objects, "ResourceQuota", "cudaenv-critical-pods");
        let hook = named(&objects, "ResourceQuota", "cudaenv-uninstall-critical-pods");
        assert_eq!((own.is_some(), hook.is_some()), (given, given));
        let (Some(own), Some(hook)) = (own, hook) else { continue };
        assert_eq!(own["spec"], hook["spec"]);
        assert_eq!(own["spec"]["hard"]["pods"], "7");
        let cleaner = named(&objects, "DaemonSet", "cudaenv-uninstall").unwrap();
        let class = &cleaner["spec"]["template"]["spec"]["priorityClassName"];
        let scope = &hook["spec"]["scopeSelector"]["matchExpressions"][0]["values"];
        assert!(scope.as_array().unwrap().contains(class), "{scope}");
        let weight = |object: &Value| {
            let annotations = &object["metadata"]["annotations"];
            assert_eq!(annotations["helm.sh/hook"], "post-delete");
            annotations["helm.sh/hook-weight"]
                .as_str()
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        assert!(weight(hook) < weight(cleaner));
        assert_eq!(own["metadata"]["annotations"], Value::Null);
    }
}

/// `ACCOUNT: CONSTRAINT` of every binding to a security context constraint.
fn constraints(helm: &Helm, values: &[&str]) -> Vec<String> {
    let objects = helm.objects(values).unwrap();
    let bindings = objects.iter().filter(|object| object["kind"] == "RoleBinding");
    let mut found: Vec<_> = bindings
        .filter_map(|binding| {
            let role = binding["roleRef"]["name"].as_str().unwrap();
            let constraint = role.strip_prefix("system:openshift:scc:")?;
            assert_eq!(binding["subjects"][0]["namespace"], NAMESPACE);
            Some(format!(
                "{}: {constraint}",
                binding["subjects"][0]["name"].as_str().unwrap()
            ))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn on_openshift_every_pod_has_an_account_whose_constraint_takes_it() {
    let Some(helm) = chart::helm("OpenShift's constraints").unwrap() else {
        return;
    };
    assert_eq!(constraints(&helm, &[]), [""; 0]);
    let values = ["--set", "openshift.enabled=true"];
    let given = constraints(&helm, &values);
    assert_eq!(
        given,
        [
            "cudaenv-node-agent: privileged",
            "cudaenv-operator: nonroot-v2",
            "cudaenv-uninstall: nonroot-v2",
            "cudaenv-uninstall: privileged"
        ]
    );
    let objects = helm.objects(&values).unwrap();
    let pods = objects.iter().map(|object| &object["spec"]["template"]["spec"]);
    let mut seen = 0;
    for pod in pods.filter(|pod| !pod.is_null()) {
        let privileged = pod["containers"][0]["securityContext"]["privileged"] == true;
        assert_ne!(privileged, pod["securityContext"]["runAsUser"].is_number());
        let constraint = if privileged { "privileged" } else { "nonroot-v2" };
        let wanted = format!("{}: {constraint}", pod["serviceAccountName"].as_str().unwrap());
        assert!(given.contains(&wanted), "{wanted}");
        seen += 1;
    }
    assert_eq!(seen, 5, "agent, operator, and three of the hooks");
}

#[test]
fn the_webhook_waits_longer_than_the_operator_may_take() {
    let Some(helm) = chart::helm("the webhook's timeout").unwrap() else {
        return;
    };
    for (seconds, taken) in [("2", false), ("3", true), ("30", true), ("31", false)] {
        let rendered = helm
            .template(&["--set", &format!("webhook.timeoutSeconds={seconds}")])
            .unwrap();
        assert_eq!(rendered.code == 0, taken, "{seconds}: {}", rendered.stderr);
        assert!(
            taken || rendered.stderr.contains("timeoutSeconds"),
            "{}",
            rendered.stderr
        );
    }
}
