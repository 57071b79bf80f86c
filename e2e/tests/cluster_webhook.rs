//! Admission against a real API server: the configuration that the reference shows, and the real operator behind it.
//! Pods are injected or refused as the reference says; certificates rotate while pods are created; nothing else is in the way.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use e2e::{
    cluster::{
        Cluster, chart,
        objects::{self, PUBLIC_KEY, store_path, with},
    },
    programs::{self, Ended},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "cudaenv-system";
const CONFIGURATION: &str = "cudaenv";
const SECRET: &str = "cudaenv-webhook-certificates";
/// Short enough to see a whole rotation, in seconds.
const LIFETIME: u64 = 30;

/// A running operator; it goes when this is dropped.
struct Operator {
    process: Child,
    port: u16,
}

impl Operator {
    fn start(cluster: &Cluster, name: &str) -> Self {
        let port = free_port();
        let log = File::create(cluster.folder().join(format!("log/{name}.log"))).unwrap();
        let process = Command::new(programs::operator().unwrap())
            .args(["run", "--namespace", NAMESPACE, "--pod-name", name])
            .args([
                "--http",
                "127.0.0.1:0",
                "--webhook-service",
                "webhook",
                "--webhook-configuration",
                CONFIGURATION,
            ])
            .args(["--webhook-host", "127.0.0.1"])
            .args(["--webhook-authority-lifetime", &LIFETIME.to_string()])
            .args(["--webhook-certificate-lifetime", &LIFETIME.to_string()])
            .arg(format!("--webhook-address=127.0.0.1:{port}"))
            .env("KUBECONFIG", cluster.folder().join("admin.kubeconfig"))
            .env("CUDAENV_LOG", "operator=debug,info")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, port }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Asks until the answer is there, for a minute at most.
#[expect(clippy::disallowed_methods, reason = "the test's own deadline")]
fn until<T>(what: &str, log: &Path, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        if Instant::now() > end {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("not within a minute: {what}\n{log}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn pods_that_ask_are_injected_and_everything_else_is_left_alone() {
    let Some(cluster) = Cluster::start("admission on an API server").unwrap() else {
        return;
    };
    cluster.apply_definitions().unwrap();
    prepare(&cluster);
    let port = free_port();
    configure(&cluster, port);
    without_operator(&cluster);

    let first = Operator::start(&cluster, "operator-0");
    configure(&cluster, first.port);
    let log = cluster.folder().join("log/operator-0.log");
    until("a pod is injected", &log, || {
        let answer = dry_run(&cluster, &asking("first", "pytorch"));
        (answer.code == 0).then_some(())
    });
    a_pod_is_injected(&cluster);
    pods_are_refused_and_told_why(&cluster);
    what_a_person_should_know_is_warned_of(&cluster);
    an_environment_may_come_in_the_same_breath(&cluster);
    namespaces_of_the_system_are_untouched(&cluster);
    objects_are_judged(&cluster);
    certificates_rotate_while_pods_are_created(&cluster, &log);
    a_second_replica_takes_up_what_is_there(&cluster, &first);
    a_deleted_or_damaged_secret_is_made_anew(&cluster, &log);
    a_secret_of_somebody_else_is_left_alone(&cluster, &log);
    the_end_disturbs_nobody(&cluster, first);
    without_operator(&cluster);
}

/// Namespaces with what pods need, an environment, its cache, and a node that it does not fit.
fn prepare(cluster: &Cluster) {
    for namespace in [NAMESPACE, "team-a", "kube-system"] {
        // The API server makes its own namespaces, but not their service accounts.
        let named = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
        for object in [named, account] {
            applied(cluster, &object);
        }
    }
    let mut cache = objects::cache();
    cache["spec"] = json!({"url": "https://cache.example.org", "publicKeys": [PUBLIC_KEY]});
    applied(cluster, &cache);
    for name in ["pytorch", "old"] {
        applied(cluster, &environment(name));
    }
    let mut node = objects::node();
    node["metadata"]["name"] = json!("old-node");
    applied(cluster, &node);
    let status = json!({"status": {"system": "x86_64-linux",
        "driver": {"version": "470.256.02", "kernelVersion": "470.256.02", "cuda": "11.4"},
        "gpus": [{"computeCapability": "8.0", "brand": "tesla", "count": 1}]}});
    let patch = status.to_string();
    cluster
        .printed(&[
            "patch",
            "cudanode",
            "old-node",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])
        .unwrap();
}

fn environment(name: &str) -> Value {
    let cuda = if name == "old" { "11.4" } else { "12.8" };
    json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment", "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"packages": [{"name": "cuda", "variants": [{"name": "only", "cuda": cuda, "code": {"sass": ["8.0"]},
            "storePaths": {"x86_64-linux": store_path(name)}}]}]}})
}

fn applied(cluster: &Cluster, object: &Value) {
    let answer = cluster.kubectl_with(&["apply"], object).unwrap();
    assert_eq!(answer.code, 0, "{object}: {answer:?}");
}

/// The configuration of the reference, with an address in the place of the service.
fn configure(cluster: &Cluster, port: u16) {
    let objects = chart::configuration_at(NAMESPACE, CONFIGURATION, port).unwrap();
    let webhooks = objects.iter().filter_map(|object| object["webhooks"].as_array());
    assert_eq!(webhooks.map(Vec::len).sum::<usize>(), 2, "webhooks in the reference");
    for object in &objects {
        applied(cluster, object);
    }
}

fn pod(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "main", "image": "example.org/main"}]}})
}

fn asking(name: &str, environment: &str) -> Value {
    let mut pod = pod(name, "team-a");
    pod["metadata"]["labels"] = json!({"cudaenv.dev/inject": "true"});
    pod["metadata"]["annotations"] = json!({"cudaenv.dev/environment": environment});
    pod
}

fn dry_run(cluster: &Cluster, object: &Value) -> Ended {
    cluster
        .kubectl_with(&["create", "--dry-run=server", "-o", "json"], object)
        .unwrap()
}

fn without_operator(cluster: &Cluster) {
    let plain = dry_run(cluster, &pod("plain", "team-a"));
    assert_eq!(plain.code, 0, "{plain:?}");
    let refused = dry_run(cluster, &asking("asking", "pytorch"));
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("failed calling webhook \"pods.cudaenv.dev\""),
        "{refused:?}"
    );
    // Objects are accepted on the word of the schema.
    let accepted = dry_run(cluster, &environment("another"));
    assert_eq!(accepted.code, 0, "{accepted:?}");
}

fn a_pod_is_injected(cluster: &Cluster) {
    let mut wanted = asking("injected", "old");
    wanted["spec"]["initContainers"] = json!([{"name": "first", "image": "example.org/first"}]);
    wanted["spec"]["hostUsers"] = json!(false);
    let created = cluster.kubectl_with(&["create"], &wanted).unwrap();
    assert_eq!((created.code, created.stderr.as_str()), (0, ""), "{created:?}");
    let spec = cluster.get(&["pod", "-n", "team-a", "injected"]).unwrap()["spec"].take();
    let csi = &spec["volumes"][0]["csi"];
    assert_eq!(
        (&csi["driver"], &csi["readOnly"]),
        (&json!("csi.cudaenv.dev"), &json!(true))
    );
    assert_eq!(
        csi["volumeAttributes"],
        json!({"environment": "old", "kind": "CUDAEnvironment", "view": "plain"})
    );
    for container in [&spec["containers"][0], &spec["initContainers"][0]] {
        let places: Vec<_> = container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].clone())
            .collect();
        assert_eq!(places, ["/nix/store", "/run/opengl-driver", "/run/cudaenv"]);
        assert_eq!(container["env"], json!([{"name": "CUDAENV", "value": "/run/cudaenv"}]));
    }
    // `old` fits the old node; `pytorch` does not, and its pods avoid that class beside those without a driver.
    let avoided = |spec: &Value| {
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let expression = &required["nodeSelectorTerms"][0]["matchExpressions"][0];
        assert_eq!(
            (&expression["key"], &expression["operator"]),
            (&json!("cudaenv.dev/class"), &json!("NotIn"))
        );
        expression["values"].as_array().unwrap().len()
    };
    let other: Value = serde_json::from_str(&dry_run(cluster, &asking("other", "pytorch")).stdout).unwrap();
    assert_eq!((avoided(&spec), avoided(&other["spec"])), (2, 3));
}

fn pods_are_refused_and_told_why(cluster: &Cluster) {
    let taken = json!([{"name": "main", "image": "a", "volumeMounts": [{"name": "own", "mountPath": "/nix/store"}]}]);
    let mut in_the_way = with(asking("refused", "pytorch"), "/spec/containers", taken);
    in_the_way["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    for (pod, says) in [
        (
            asking("refused", "absent"),
            vec!["namespace `team-a` has no CUDAEnvironment `absent` that its pods may use"],
        ),
        (
            asking("refused", "Py Torch"),
            vec!["metadata.annotations[cudaenv.dev/environment]", "lower-case letters"],
        ),
        (
            in_the_way,
            vec![
                "spec.containers[0] (`main`).volumeMounts[0]",
                "cudaenv.dev/skip-containers",
            ],
        ),
    ] {
        let answer = cluster.kubectl_with(&["create"], &pod).unwrap();
        assert_ne!(answer.code, 0, "{answer:?}");
        assert!(
            answer
                .stderr
                .contains("admission webhook \"pods.cudaenv.dev\" denied the request: "),
            "{answer:?}"
        );
        for word in says {
            assert!(answer.stderr.contains(word), "{word}: {answer:?}");
        }
    }
}

fn what_a_person_should_know_is_warned_of(cluster: &Cluster) {
    let mut no_label = asking("warned", "pytorch");
    no_label["metadata"]["labels"] = json!({});
    let mut no_annotation = asking("warned", "pytorch");
    no_annotation["metadata"]["annotations"] = json!({});
    for (pod, says) in [
        (
            no_label,
            "the annotation cudaenv.dev/environment does nothing without the label",
        ),
        (
            no_annotation,
            "the label cudaenv.dev/inject does nothing without the annotation",
        ),
        (
            asking("warned", "pytorch"),
            "CUDAEnvironment team-a/pytorch fits none of the 1 nodes that have reported",
        ),
    ] {
        let answer = dry_run(cluster, &pod);
        assert_eq!(answer.code, 0, "{answer:?}");
        assert!(
            answer.stderr.contains("Warning: ") && answer.stderr.contains(says),
            "{says}: {answer:?}"
        );
    }
    let quiet = dry_run(cluster, &asking("quiet", "old"));
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
}

fn an_environment_may_come_in_the_same_breath(cluster: &Cluster) {
    for n in 0..5 {
        let name = format!("breath-{n}");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [environment(&name), asking(&name, &name)]});
        applied(cluster, &list);
        let found = cluster.get(&["pod", "-n", "team-a", &name]).unwrap();
        assert_eq!(
            found["spec"]["volumes"][0]["csi"]["volumeAttributes"]["environment"],
            json!(name)
        );
    }
}

fn namespaces_of_the_system_are_untouched(cluster: &Cluster) {
    for namespace in ["kube-system", NAMESPACE] {
        let mut pod = asking("own", "absent");
        pod["metadata"]["namespace"] = json!(namespace);
        let answer = dry_run(cluster, &pod);
        assert_eq!((answer.code, answer.stderr.as_str()), (0, ""), "{answer:?}");
        let created: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(
            (&created["spec"]["volumes"], &created["spec"]["affinity"]),
            (&json!(null), &json!(null))
        );
    }
}

fn objects_are_judged(cluster: &Cluster) {
    let mut cache = objects::cache();
    cache["metadata"]["name"] = json!("other");
    let cache = with(
        cache,
        "/spec/allowedNamespaces",
        json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}),
    );
    let answer = dry_run(cluster, &cache);
    assert_ne!(answer.code, 0, "{answer:?}");
    assert!(
        answer
            .stderr
            .contains("spec.allowedNamespaces.matchExpressions[0].operator: write In"),
        "{answer:?}"
    );
    let good = with(
        cache,
        "/spec/allowedNamespaces/matchExpressions/0/operator",
        json!("In"),
    );
    assert_eq!(dry_run(cluster, &good).code, 0);
    let unknown = with(environment("warned"), "/spec/caches", json!(["absent"]));
    let answer = dry_run(cluster, &unknown);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(
        answer.stderr.contains("Warning: ") && answer.stderr.contains("spec.caches names `absent`"),
        "{answer:?}"
    );
}

fn bundle(cluster: &Cluster) -> String {
    let found = cluster.get(&["mutatingwebhookconfiguration", CONFIGURATION]).unwrap();
    found["webhooks"][0]["clientConfig"]["caBundle"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// From one authority over two to another one, and no pod is refused in between.
fn certificates_rotate_while_pods_are_created(cluster: &Cluster, log: &Path) {
    let first = bundle(cluster);
    let (mut pods, mut lengths) = (0_u32, vec![first.len()]);
    until("the first authority is dropped", log, || {
        let answer = dry_run(cluster, &asking("rotating", "old"));
        assert_eq!(answer.code, 0, "{answer:?}\n{}", std::fs::read_to_string(log).unwrap());
        pods += 1;
        let now = bundle(cluster);
        if lengths.last() != Some(&now.len()) {
            lengths.push(now.len());
        }
        (now.len() == first.len() && now != first).then_some(())
    });
    assert_eq!(lengths.len(), 3, "one authority, two, one: {lengths:?}");
    assert!(pods > 10, "{pods} pods while the certificates rotated");
}

fn a_second_replica_takes_up_what_is_there(cluster: &Cluster, first: &Operator) {
    let second = Operator::start(cluster, "operator-1");
    let log = cluster.folder().join("log/operator-1.log");
    until("the second replica listens", &log, || {
        std::net::TcpStream::connect(("127.0.0.1", second.port)).ok()
    });
    configure(cluster, second.port);
    until("the second replica injects", &log, || {
        (dry_run(cluster, &asking("second", "old")).code == 0).then_some(())
    });
    configure(cluster, first.port);
    until("the first replica injects", &log, || {
        (dry_run(cluster, &asking("first", "old")).code == 0).then_some(())
    });
}

fn a_deleted_or_damaged_secret_is_made_anew(cluster: &Cluster, log: &Path) {
    let damage = json!({"data": {"tls.key": "bm8ga2V5"}}).to_string();
    for change in [
        ["delete", "secret", "-n", NAMESPACE, SECRET].as_slice(),
        &["patch", "secret", "-n", NAMESPACE, SECRET, "-p", &damage],
    ] {
        let before = bundle(cluster);
        cluster.printed(change).unwrap();
        until("another authority is trusted", log, || {
            (bundle(cluster) != before).then_some(())
        });
        injected_again(cluster, log);
    }
}

fn injected_again(cluster: &Cluster, log: &Path) {
    until("pods are injected again", log, || {
        (dry_run(cluster, &asking("again", "old")).code == 0).then_some(())
    });
}

fn a_secret_of_somebody_else_is_left_alone(cluster: &Cluster, log: &Path) {
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"tls.key": "mine"}});
    // Between the two commands the operator may make its own: then that one goes too.
    until("the name is taken", log, || {
        cluster
            .printed(&["delete", "secret", "-n", NAMESPACE, SECRET, "--ignore-not-found"])
            .unwrap();
        (cluster.kubectl_with(&["create"], &foreign).unwrap().code == 0).then_some(())
    });
    until("the operator says what is in the way", log, || {
        let said = std::fs::read_to_string(log).unwrap();
        (said.contains("is not the operator's own") && said.contains("--webhook-secret")).then_some(())
    });
    let found = cluster.get(&["secret", "-n", NAMESPACE, SECRET]).unwrap();
    assert_eq!(
        (&found["type"], &found["data"]),
        (&json!("Opaque"), &json!({"tls.key": "bWluZQ=="}))
    );
    cluster.printed(&["delete", "secret", "-n", NAMESPACE, SECRET]).unwrap();
    until("the secret is made again", log, || {
        let found = cluster.kubectl(&["get", "secret", "-n", NAMESPACE, SECRET]).unwrap();
        (found.code == 0).then_some(())
    });
    injected_again(cluster, log);
}

/// Between the signal and the end, what still comes is answered.
fn the_end_disturbs_nobody(cluster: &Cluster, mut operator: Operator) {
    let pid = operator.process.id().to_string();
    programs::finished(Command::new("kill").arg(pid)).unwrap();
    for _ in 0..3 {
        let answer = dry_run(cluster, &asking("late", "old"));
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    assert!(operator.process.wait().unwrap().success());
}
