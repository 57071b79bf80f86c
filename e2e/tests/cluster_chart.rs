//! The chart: what helm makes of it is what a real API server accepts, and what our service accounts may do is what is written down.
//! It must never install anything in a cluster that runs pods: that is `cluster_install`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::cluster::account::{Account, lines};
use e2e::cluster::attempts::Attempt;
use e2e::cluster::chart::{self, Helm, NAMESPACE, RELEASE};
use e2e::cluster::{self, Cluster, objects};
use e2e::programs::{self, finished};
use node_agent::observe::cluster::access::RULES;
use serde_json::{Value, json};

/// What our accounts may do, for people to read: `COMPONENT, WHERE: GROUP/RESOURCE [NAME]: VERBS`.
const RIGHTS: &str = include_str!("data/rights.txt");

const DIGEST: &str = "sha256:0f343b0931126a20f133d67c2b018a3b5f7d1b5ab8d6e2b3a9ff2c1b7d1c0a11";

/// Settings that users make, each with every toggle the other way somewhere.
fn settings() -> Vec<Vec<&'static str>> {
    let list = |words: &'static str| words.split(' ').collect::<Vec<_>>();
    vec![
        vec![],
        list(
            "--set networkPolicy.enabled=true,podMonitor.enabled=true,podMonitor.labels.release=prometheus,openshift.enabled=true",
        ),
        list(
            "--set criticalPodsQuota.enabled=true,agentPolicy.enabled=false,uninstall.enabled=false,operator.replicas=1,operator.minAvailable=null",
        ),
        list(
            "--set kubeletDir=/var/lib/k0s/kubelet,stateDir=/mnt/disks/ssd0/cudaenv,nodeAgent.jobs=4,webhook.excludedNamespaces={gitops}",
        ),
        [
            list("--set nodeAgent.extraArgs={--gpu,8.0:tesla},imagePullSecrets[0].name=registry"),
            list("--set nodeAgent.updateStrategy.type=OnDelete,nodeAgent.updateStrategy.rollingUpdate=null"),
        ]
        .concat(),
        vec![
            "--set-json",
            r#"nodeAgent.extraVolumes=[{"name":"ca","configMap":{"name":"ca"}}],operator.extraVolumes=[{"name":"ca","configMap":{"name":"ca"}}]"#,
            "--set-json",
            r#"nodeAgent.extraVolumeMounts=[{"name":"ca","mountPath":"/etc/ca"}],operator.extraVolumeMounts=[{"name":"ca","mountPath":"/etc/ca"}]"#,
        ],
        vec![
            "--set-json",
            r#"nodeAgent.extraEnv=[{"name":"CUDAENV_LOG_FORMAT","value":"json"}]"#,
            "--set",
            "nodeAgent.image.digest=sha256:0f343b0931126a20f133d67c2b018a3b5f7d1b5ab8d6e2b3a9ff2c1b7d1c0a11",
        ],
    ]
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn helm_finds_no_fault_in_the_chart_and_names_a_wrong_value() {
    let Some(helm) = chart::helm("the chart by helm lint").unwrap() else {
        return;
    };
    for values in settings() {
        let linted = helm.lint(&values).unwrap();
        assert_eq!(linted.code, 0, "{values:?}: {linted:?}");
    }
    for (wrong, said) in [
        ("nodeAgent.imag.tag=1", "'imag'"),
        ("kubeletDir=var/lib/kubelet", "/kubeletDir"),
        ("stateDir=/var/lib/kubelet/cudaenv", "neither may be below"),
        ("operator.replicas=0", "/operator/replicas"),
        ("nodeAgent.image.digest=latest", "/nodeAgent/image/digest"),
        ("nodeAgent.updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
    ] {
        let refused = helm.template(&["--set", wrong]).unwrap();
        assert_ne!(refused.code, 0, "{wrong}");
        assert!(refused.stderr.contains(said), "{wrong}: {}", refused.stderr);
    }
}

#[test]
fn images_are_named_by_digest_where_one_is_given() {
    let Some(helm) = chart::helm("images of the chart").unwrap() else {
        return;
    };
    let image = |values: &[&str]| {
        let objects = helm.objects(values).unwrap();
        let set = kind(&objects, "DaemonSet")
            .into_iter()
            .find(|set| set["metadata"]["name"] == "cudaenv-node-agent")
            .unwrap();
        set["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(image(&[]), "ghcr.io/cudaenv/node-agent:0.1.0");
    assert_eq!(
        image(&["--set", "nodeAgent.image.tag=1.2"]),
        "ghcr.io/cudaenv/node-agent:1.2"
    );
    let digest = format!("nodeAgent.image.digest={DIGEST}");
    assert_eq!(
        image(&["--set", &digest]),
        format!("ghcr.io/cudaenv/node-agent@{DIGEST}")
    );
}

#[test]
fn the_programs_know_every_flag_and_variable_that_the_chart_gives_them() {
    let Some(helm) = chart::helm("the chart's flags against the programs").unwrap() else {
        return;
    };
    let objects = helm
        .objects(&["--set", "nodeAgent.jobs=4,uninstall.removeState=false"])
        .unwrap();
    let mut seen = BTreeSet::new();
    for object in objects.iter().filter(|object| !object["spec"]["template"].is_null()) {
        let pod = &object["spec"]["template"]["spec"];
        let containers = ["initContainers", "containers"]
            .into_iter()
            .filter_map(|field| pod[field].as_array());
        for container in containers.flatten() {
            seen.extend(unknown_words(container));
        }
    }
    assert_eq!(
        seen,
        [
            "node-agent serve",
            "node-agent uninstall",
            "operator run",
            "operator uninstall check",
            "operator uninstall finish"
        ]
        .map(str::to_owned)
        .into(),
    );
}

/// What a container runs, if its program knows every flag and variable; else those that it does not know.
fn unknown_words(container: &Value) -> Vec<String> {
    let agent = container["image"].as_str().unwrap().contains("node-agent");
    let program = if agent {
        programs::node_agent()
    } else {
        programs::operator()
    };
    let words = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap());
    let (flags, subcommand): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with("--"));
    let help = finished(Command::new(program.unwrap()).args(&subcommand).arg("--help")).unwrap();
    let known: BTreeSet<_> = help.split([' ', '\n', ',', '=', ']']).collect();
    let flags = flags.iter().map(|flag| flag.split('=').next().unwrap());
    let variables = container["env"].as_array().into_iter().flatten();
    let given = flags.chain(variables.map(|variable| variable["name"].as_str().unwrap()));
    let unknown: Vec<_> = given
        .filter(|word| !known.contains(word))
        .map(|word| format!("{subcommand:?}: {word}"))
        .collect();
    if unknown.is_empty() {
        vec![format!(
            "{} {}",
            if agent { "node-agent" } else { "operator" },
            subcommand.join(" ")
        )]
    } else {
        unknown
    }
}

#[test]
fn the_driver_object_says_what_kubelet_must_know() {
    let Some(helm) = chart::helm("the CSIDriver of the chart").unwrap() else {
        return;
    };
    let objects = helm.objects(&[]).unwrap();
    let driver = kind(&objects, "CSIDriver")[0];
    assert_eq!(driver["metadata"]["name"], "csi.cudaenv.dev");
    assert_eq!(
        driver["metadata"]["labels"]["security.openshift.io/csi-ephemeral-volume-profile"],
        "restricted"
    );
    let spec = json!({
        "attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"], "fsGroupPolicy": "None",
        "seLinuxMount": false, "requiresRepublish": false, "storageCapacity": false,
    });
    assert_eq!(driver["spec"], spec);
}

#[test]
fn a_real_api_server_accepts_whatever_the_chart_renders() {
    let check = "the chart's objects on an API server";
    let (Some(helm), Some(cluster)) = (chart::helm(check).unwrap(), Cluster::start(check).unwrap()) else {
        return;
    };
    cluster.apply_definitions().unwrap();
    let monitors = cluster::pod_monitor("the chart's PodMonitors on an API server").unwrap();
    if let Some(definition) = &monitors {
        let definition = definition.to_str().unwrap();
        // Too long for the annotation that a plain `apply` writes.
        cluster.printed(&["create", "-f", definition]).unwrap();
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", definition];
        cluster.printed(&wait).unwrap();
    }
    chart::make_namespace(&cluster).unwrap();
    for values in settings() {
        let objects = helm.objects(&values).unwrap();
        let monitored = values.iter().any(|words| words.contains("podMonitor.enabled=true"));
        let rendered = kind(&objects, "PodMonitor").len();
        assert_eq!(rendered, if monitored { 2 } else { 0 });
        let (foreign, mut served): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object["kind"] == "PodMonitor");
        if monitors.is_some() {
            served.extend(foreign);
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": served });
        let answer = cluster
            .kubectl_with(&["apply", "--dry-run=server", "--validate=strict"], &list)
            .unwrap();
        assert_eq!(answer.code, 0, "{values:?}: {}", answer.stderr);
        assert_eq!(answer.stderr, "", "{values:?}: the API server warns");
    }
    if monitors.is_some() {
        a_wrong_monitor_is_refused(&cluster, &helm);
    }
}

/// What would be accepted whatever it says proves nothing.
fn a_wrong_monitor_is_refused(cluster: &Cluster, helm: &Helm) {
    let set = "--set=podMonitor.enabled=true,podMonitor.interval=soon";
    let objects = helm.objects(&[set, "--skip-schema-validation"]).unwrap();
    let monitor = kind(&objects, "PodMonitor")[0];
    let answer = cluster
        .kubectl_with(&["apply", "--dry-run=server", "--validate=strict"], monitor)
        .unwrap();
    assert!(answer.code != 0 && answer.stderr.contains("interval"), "{answer:?}");
}

#[test]
fn admission_is_configured_as_its_reference_says() {
    let Some(helm) = chart::helm("the chart's admission and its reference").unwrap() else {
        return;
    };
    let yaml = chart::written_configuration()
        .unwrap()
        .replace("RELEASE", NAMESPACE)
        .replace("SERVICE", "cudaenv-operator");
    let written = serde_saphyr::from_multiple::<Value>(&yaml.replace("CONFIGURATION", "cudaenv")).unwrap();
    assert_eq!(written.len(), 4);
    let rendered = helm.objects(&[]).unwrap();
    for object in written {
        let twin = rendered
            .iter()
            .find(|twin| twin["kind"] == object["kind"] && twin["metadata"]["name"] == object["metadata"]["name"])
            .unwrap();
        for field in ["webhooks", "spec"] {
            assert_eq!(twin[field], object[field], "{}", object["kind"]);
        }
    }
}

/// The rights that a rendered chart gives, in the words of the golden list.
fn rendered_rights(objects: &[Value]) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    let bindings = kind(objects, "ClusterRoleBinding")
        .into_iter()
        .map(|binding| (binding, "cluster"));
    let bindings = bindings.chain(
        kind(objects, "RoleBinding")
            .into_iter()
            .map(|binding| (binding, NAMESPACE)),
    );
    for (binding, place) in bindings {
        let component = &binding["metadata"]["labels"]["app.kubernetes.io/component"];
        let role = objects
            .iter()
            .find(|role| {
                role["kind"] == binding["roleRef"]["kind"] && role["metadata"]["name"] == binding["roleRef"]["name"]
            })
            .unwrap();
        for rule in role["rules"].as_array().unwrap() {
            for line in lines(rule) {
                rights.insert(format!("{}, {place}: {line}", component.as_str().unwrap()));
            }
        }
    }
    rights
}

fn golden() -> BTreeSet<String> {
    RIGHTS.lines().map(str::to_owned).collect()
}

#[test]
fn the_rights_given_are_those_written_down_and_none_is_a_wildcard_or_a_secret_of_the_agent() {
    let Some(helm) = chart::helm("the rights that the chart gives").unwrap() else {
        return;
    };
    let objects = helm.objects(&[]).unwrap();
    let rights = rendered_rights(&objects);
    let (given, written) = (&rights, &golden());
    assert_eq!(
        given.difference(written).collect::<Vec<_>>(),
        [""; 0],
        "given but not written down"
    );
    assert_eq!(
        written.difference(given).collect::<Vec<_>>(),
        [""; 0],
        "written down but not given"
    );
    let too_much = |line: &&String| {
        let agent = line.starts_with("node-agent");
        let secret = line.contains("secrets") && (agent || !line.contains(NAMESPACE));
        line.contains('*') || secret || (agent && line.contains("core/nodes") && !line.ends_with(": get list watch"))
    };
    assert_eq!(rights.iter().filter(too_much).collect::<Vec<_>>(), [""; 0]);
    let roles = [kind(&objects, "ClusterRole"), kind(&objects, "Role")].concat();
    assert_eq!(roles.len(), 5, "each role has a binding that was read above");
}

#[test]
fn the_agents_rights_are_those_that_its_program_asks_for() {
    let asked = RULES.iter().map(|rule| {
        let group = if rule.group.is_empty() { "core" } else { rule.group };
        format!("{group}/{}: {}", rule.resource, rule.verbs.join(" "))
    });
    assert_eq!(asked.collect::<BTreeSet<_>>(), written("node-agent", NAMESPACE));
}

/// Puts accounts, roles, bindings and policies of the rendered chart on the API server.
fn with_rights(cluster: &Cluster, helm: &Helm) {
    cluster.apply_definitions().unwrap();
    chart::make_namespace(cluster).unwrap();
    let wanted = [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let objects = helm.objects(&[]).unwrap().into_iter();
    let items: Vec<_> = objects
        .filter(|object| wanted.contains(&object["kind"].as_str().unwrap()))
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let answer = cluster.kubectl_with(&["apply"], &list).unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn the_tokens_of_our_accounts_can_do_what_is_written_down_and_nothing_else() {
    let check = "what our tokens may do";
    let (Some(helm), Some(cluster)) = (chart::helm(check).unwrap(), Cluster::start(check).unwrap()) else {
        return;
    };
    with_rights(&cluster, &helm);
    cluster
        .printed(&["create", "serviceaccount", "nobody", "-n", NAMESPACE])
        .unwrap();
    let nobody = cluster.account(NAMESPACE, "nobody", None).unwrap();
    let attempts = every_attempt(&cluster);
    let everybodys = nobody.allowed(&attempts).unwrap();
    for component in ["node-agent", "operator", "uninstall"] {
        let account = cluster
            .account(NAMESPACE, &format!("cudaenv-{component}"), None)
            .unwrap();
        says_what_is_written_down(&account, &nobody, component);
        let own: BTreeSet<_> = account
            .allowed(&attempts)
            .unwrap()
            .difference(&everybodys)
            .cloned()
            .collect();
        let expected: BTreeSet<_> = attempts
            .iter()
            .filter(|one| is_written(component, one))
            .cloned()
            .collect();
        let (own, expected) = (&own, &expected);
        assert!(expected.len() > 10, "{component}: {expected:?}");
        assert_eq!(
            own.difference(expected).collect::<Vec<_>>(),
            [&attempts[0]; 0],
            "{component} may more"
        );
        assert_eq!(
            expected.difference(own).collect::<Vec<_>>(),
            [&attempts[0]; 0],
            "{component} may less"
        );
        for (verb, group, resource) in UNASKED {
            assert!(
                !account.may(verb, group, resource).unwrap(),
                "{component}: {verb} {resource}"
            );
        }
        let as_another = account
            .kubectl(&["get", "secrets", "-A", "--as=admin", "--as-group=system:masters"])
            .unwrap();
        assert!(
            as_another.stderr.contains("cannot impersonate"),
            "{component}: {as_another:?}"
        );
    }
}

/// Rights that no request asks for by itself: what stands behind others' requests, and everything at once.
const UNASKED: [(&str, &str, &str); 12] = [
    ("*", "*", "*"),
    ("*", "", "secrets"),
    ("use", "policy", "podsecuritypolicies"),
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "roles"),
    ("approve", "certificates.k8s.io", "signers"),
    ("sign", "certificates.k8s.io", "signers"),
];

/// Every request there is, on what does not exist and on what a line of the golden list names.
fn every_attempt(cluster: &Cluster) -> Vec<Attempt> {
    let named = RIGHTS
        .lines()
        .filter_map(|line| line.split_once(" [")?.1.split_once(']'));
    let names: BTreeSet<_> = named.flat_map(|(names, _)| names.split(',')).collect();
    let names: Vec<_> = names.into_iter().collect();
    let attempts = cluster
        .attempts(&["default", NAMESPACE, "kube-system"], &names)
        .unwrap();
    let (verbs, kinds): (BTreeSet<_>, BTreeSet<_>) = attempts.iter().map(|one| (one.verb, &*one.what)).unzip();
    assert_eq!(verbs.len(), 8, "{verbs:?}");
    for kind in [
        "core/secrets",
        "core/pods/exec",
        "core/nodes/proxy",
        "core/serviceaccounts/token",
        "/metrics",
    ] {
        assert!(kinds.contains(kind), "{kind} was not tried: {kinds:?}");
    }
    attempts
}

/// Whether a line of the golden list allows it.
fn is_written(component: &str, attempt: &Attempt) -> bool {
    let place = attempt.namespace.as_deref().unwrap_or("cluster");
    RIGHTS.lines().any(|line| {
        let (who, right) = line.split_once(": ").unwrap();
        let (what, verbs) = right.split_once(": ").unwrap();
        let (what, names) = what.split_once(" [").unwrap_or((what, ""));
        let named = |name: &String| names.trim_end_matches(']').split(',').any(|one| one == name);
        ["cluster", place]
            .map(|place| format!("{component}, {place}"))
            .contains(&who.to_owned())
            && what == attempt.what
            && verbs.split(' ').any(|verb| verb == attempt.verb)
            && (names.is_empty() || attempt.name.as_ref().is_some_and(named))
    })
}

/// What the API server says of a token's rights when it is asked.
fn says_what_is_written_down(account: &Account<'_>, nobody: &Account<'_>, component: &str) {
    for namespace in ["default", NAMESPACE] {
        let everybodys = nobody.rules(namespace).unwrap();
        let rules = account.rules(namespace).unwrap();
        let own: BTreeSet<_> = rules.difference(&everybodys).cloned().collect();
        assert_eq!(own, written(component, namespace), "{component} in {namespace}");
    }
}

/// What the golden list says of a component in a namespace.
fn written(component: &str, namespace: &str) -> BTreeSet<String> {
    let places = [format!("{component}, cluster: "), format!("{component}, {namespace}: ")];
    let lines = RIGHTS.lines();
    lines
        .filter_map(|line| places.iter().find_map(|place| line.strip_prefix(place.as_str())))
        .map(str::to_owned)
        .collect()
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

fn cuda_node(name: &str) -> Value {
    json!({ "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": { "name": name }, "spec": {} })
}

#[test]
fn an_agent_writes_the_record_of_its_own_node_and_of_no_other() {
    let check = "the policy that keeps agents to their own nodes";
    let (Some(helm), Some(cluster)) = (chart::helm(check).unwrap(), Cluster::start(check).unwrap()) else {
        return;
    };
    with_rights(&cluster, &helm);
    for name in ["node1", "node2"] {
        let answer = cluster.kubectl_with(&["create"], &node(name)).unwrap();
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    let agent = cluster.account(NAMESPACE, "cudaenv-node-agent", Some("node1")).unwrap();
    let nowhere = cluster.account(NAMESPACE, "cudaenv-node-agent", None).unwrap();
    policy_is_in_force(&agent);
    let refused = |account: &Account<'_>, object: &Value, says: &str| {
        let answer = account.kubectl_with(&["create"], object).unwrap();
        assert_ne!(answer.code, 0, "{object}");
        assert!(answer.stderr.contains(says), "{says}: {}", answer.stderr);
    };
    refused(
        &agent,
        &cuda_node("node2"),
        "the agent of node node1 may not write CUDANode node2",
    );
    refused(&nowhere, &cuda_node("node1"), "this token names no node");
    let foreign = json!([{ "apiVersion": "v1", "kind": "Node", "name": "node2", "uid": "1" }]);
    refused(
        &agent,
        &objects::with(cuda_node("node1"), "/metadata/ownerReferences", foreign),
        "owned by its Node",
    );
    refused(
        &agent,
        &objects::with(
            cuda_node("node1"),
            "/spec",
            json!({ "maxBytes": 1_000_000_000_000_u64 }),
        ),
        "not for its agent to write",
    );
    let own = json!([{ "apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "1" }]);
    let good = objects::with(cuda_node("node1"), "/metadata/ownerReferences", own);
    let answer = agent.kubectl_with(&["create"], &good).unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = cluster.kubectl_with(&["create"], &cuda_node("node2")).unwrap();
    assert_eq!(answer.code, 0, "another's record is there: {answer:?}");
    for (name, code) in [("node1", 0), ("node2", 1)] {
        let status = objects::with(cuda_node(name), "/status", json!({ "class": "c0ffee" }));
        let apply = [
            "apply",
            "--server-side",
            "--field-manager=node-agent",
            "--subresource=status",
        ];
        let answer = agent.kubectl_with(&apply, &status).unwrap();
        assert_eq!(answer.code, code, "{name}: {answer:?}");
    }
    assert_eq!(
        cluster.field("cudanodes", "{.items[*].status.class}").unwrap(),
        "c0ffee"
    );
}

/// A new policy is enforced a moment after it was stored.
fn policy_is_in_force(agent: &Account<'_>) {
    let mut last = None;
    let enforced = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let answer = agent
            .kubectl_with(&["create", "--dry-run=server"], &cuda_node("nowhere"))
            .unwrap();
        let refused = answer.stderr.contains("may not write CUDANode");
        last = Some(answer);
        refused
    });
    assert!(enforced, "the policy is not enforced: {last:?}");
}

/// The chart as an older release may have been: one kind is not there yet, and one field of another.
fn older_chart(folder: &Path) -> PathBuf {
    finished(Command::new("cp").arg("-r").arg(chart::folder()).arg(folder)).unwrap();
    let older = folder.join("cudaenv");
    let definitions = older.join("templates/crds");
    std::fs::remove_file(definitions.join("cudadriverpreflights.yaml")).unwrap();
    let kind = definitions.join("cudaenvironments.yaml");
    let definition = std::fs::read_to_string(&kind).unwrap();
    let mut definition: Value = serde_saphyr::from_str(&definition).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = definition.pointer_mut(spec).unwrap().as_object_mut().unwrap();
    assert!(fields.remove("prewarm").is_some());
    std::fs::write(kind, definition.to_string()).unwrap();
    older
}

#[test]
fn an_upgrade_brings_the_definitions_up_to_date_and_what_users_wrote_outlives_the_release() {
    let check = "an upgrade from older definitions";
    let (Some(_), Some(cluster)) = (chart::helm(check).unwrap(), Cluster::start(check).unwrap()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (older, newer) = (older_chart(folder.path()), chart::folder());
    let helm = |arguments: &[&str], chart: Option<&Path>| {
        let chart = chart.map(|path| path.to_str().unwrap());
        let namespace = ["--namespace", NAMESPACE];
        let all = [arguments, &[RELEASE], chart.as_slice(), &namespace].concat();
        let done = cluster.helm(&all).unwrap();
        assert_eq!(done.code, 0, "{all:?}: {done:?}");
    };
    let written = objects::environment();
    let uid = || {
        let found = cluster.get(&["cudaenvironment", "pytorch", "-n", "default"]).unwrap();
        let field = |pointer: &str| {
            found
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        (field("/metadata/uid"), field("/spec/prewarm"))
    };
    let apply = || {
        let answer = cluster.kubectl_with(&["apply", "--validate=false"], &written).unwrap();
        assert_eq!(answer.code, 0, "{answer:?}");
    };
    helm(&["install", "--create-namespace"], Some(&older));
    let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
    cluster.printed(&established).unwrap();
    assert_ne!(cluster.kubectl(&["get", "cudadriverpreflights"]).unwrap().code, 0);
    apply();
    let before = uid();
    assert_eq!(before.1, "", "the older definition does not know the field");

    helm(&["upgrade"], Some(&newer));
    cluster.printed(&established).unwrap();
    assert_eq!(cluster.kubectl(&["get", "cudadriverpreflights"]).unwrap().code, 0);
    apply();
    assert_eq!(uid(), (before.0.clone(), "Always".to_owned()));

    // There is no node that a hook could run on.
    helm(&["uninstall", "--no-hooks"], None);
    assert_eq!(uid().0, before.0);
    helm(&["install"], Some(&newer));
    assert_eq!(uid().0, before.0);
}
