//! The operator against a real API server and a real cache, with nodes that are made up: what it writes, and what it does not.
//! It must never need a node that runs: what agents report is put there by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{collections::BTreeMap, time::Duration};

use binary_cache::compression::Compression;
use e2e::{
    cluster::{
        Cluster,
        chart::NAMESPACE,
        objects::{PUBLIC_KEY, store_path},
        operator::Operator,
    },
    made_up::{self, Closure},
    server::Server,
};
use serde_json::{Value, json};

const TAINT: &str = "cudaenv.dev/agent-not-ready";

fn applied(cluster: &Cluster, object: &Value) {
    cluster.apply(object).unwrap();
}

/// As an agent reports it.
fn reported(cluster: &Cluster, name: &str, status: &Value) {
    let object =
        json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": name}, "status": status});
    let arguments = ["apply", "--server-side", "--force-conflicts", "--subresource=status"];
    let answer = cluster.kubectl_with(&arguments, &object).unwrap();
    assert_eq!(answer.code, 0, "{object}: {answer:?}");
}

fn condition<'v>(object: &'v Value, type_: &str) -> &'v Value {
    static NONE: Value = Value::Null;
    let conditions = object["status"]["conditions"].as_array();
    let mut found = conditions.into_iter().flatten();
    found.find(|condition| condition["type"] == type_).unwrap_or(&NONE)
}

fn holds(object: &Value, type_: &str) -> Option<String> {
    condition(object, type_)["status"].as_str().map(str::to_owned)
}

/// What an agent reports that is ready, with a driver.
fn agent(driver: &str, cuda: &str) -> Value {
    let ready = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "AsExpected", "message": "",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!({
        "system": "x86_64-linux",
        "driver": {"version": driver, "kernelVersion": driver, "cuda": cuda},
        "gpus": [{"computeCapability": "8.0", "brand": "tesla", "count": 1}],
        "conditions": [ready("StoreReady"), ready("Registered")],
    })
}

fn node(name: &str, taints: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "gpu", "theirs": "1"}},
           "spec": {"taints": taints}})
}

fn csi_node(name: &str, drivers: &[&str]) -> Value {
    let drivers: Vec<_> = drivers
        .iter()
        .map(|driver| json!({"name": driver, "nodeID": name}))
        .collect();
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": drivers}})
}

fn cache(name: &str, url: &str, key: &str) -> Value {
    json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": name},
           "spec": {"url": url, "publicKeys": [key]}})
}

fn variant(name: &str, cuda: &str, path: &str) -> Value {
    json!({"name": name, "cuda": cuda, "storePaths": {"x86_64-linux": path}, "code": {"sass": ["8.0"]}})
}

fn environment(name: &str, cache: &str, variants: &[Value]) -> Value {
    json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
           "metadata": {"name": name, "namespace": "team-a"},
           "spec": {"caches": [cache], "packages": [{"name": "torch", "variants": variants}]}})
}

#[test]
fn what_a_cluster_has_is_resolved_counted_labelled_and_answered_and_then_left_alone() {
    let Some(cluster) = Cluster::for_operator("the operator on an API server").unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let closures = ["torch-12", "torch-11"].map(|name| Closure::new(name, 20, 1000).unwrap());
    let narinfos = closures
        .each_ref()
        .map(|closure| closure.cache(&folder.path().join("cache"), Compression::Zstd).unwrap());
    let server = Server::start(&folder.path().join("cache")).unwrap();
    let key = made_up::key().unwrap().public_key().to_string();
    let roots = closures.each_ref().map(|closure| closure.root().to_string());

    applied(&cluster, &cache("good", &server.url(), &key));
    applied(&cluster, &cache("distrustful", &server.url(), PUBLIC_KEY));
    applied(&cluster, &cache("gone", "http://127.0.0.1:9", &key));
    let (new, old) = (variant("cu12", "12.8", &roots[0]), variant("cu11", "11.8", &roots[1]));
    let lost = variant("lost", "12.4", &store_path("nowhere"));
    applied(&cluster, &environment("torch", "good", &[new.clone(), old]));
    applied(&cluster, &environment("partly", "good", &[new.clone(), lost]));
    applied(&cluster, &environment("untrusted", "distrustful", &[new]));

    let operator = Operator::start(&cluster, "operator-0").unwrap();
    resolved(
        &operator,
        &narinfos
            .each_ref()
            .map(|infos| infos.iter().map(|info| info.fields()).collect::<Vec<_>>()),
    );
    a_bad_variant_does_not_hide_a_good_one(&operator);
    an_untrusted_signature_names_path_cache_and_key(&operator, &roots[0]);
    caches_say_whether_they_answer(&operator);
    nodes_are_labelled_and_counted(&operator);
    the_taint_follows_the_agent(&operator);
    credentials_are_copied(&operator);
    a_preflight_is_answered(&operator);
    a_preflight_does_not_wait_for_what_cannot_be_had(&operator);
    events_tell_of_changes(&operator);
    an_idle_cluster_is_not_written_to(&operator);
}

type Fields<'f> = [Vec<&'f binary_cache::narinfo::Fields>; 2];

/// Sizes to the byte, as the cache's own narinfos have them.
fn resolved(operator: &Operator<'_>, narinfos: &Fields<'_>) {
    let arguments = ["cudaenv", "torch", "-n", "team-a"];
    let object = operator
        .until_object("torch is resolved", &arguments, |object| {
            holds(object, "Resolved").as_deref() == Some("True")
        })
        .unwrap();
    let variants = object["status"]["packages"][0]["variants"].as_array().unwrap();
    for (variant, infos) in variants.iter().zip(narinfos) {
        let bytes: u64 = infos.iter().map(|fields| fields.nar_size).sum();
        let download: u64 = infos.iter().map(|fields| fields.download.file_size.unwrap()).sum();
        assert_eq!(variant["closureBytes"], bytes, "{variant}");
        assert_eq!(variant["downloadBytes"], download, "{variant}");
        assert_eq!(variant["paths"], infos.len() as u64, "{variant}");
        assert_eq!(
            variant["signedBy"],
            json!([made_up::key().unwrap().name()]),
            "{variant}"
        );
    }
    assert_eq!(holds(&object, "Ready").as_deref(), Some("True"), "{object}");
    assert_eq!(holds(&object, "Compatible").as_deref(), Some("Unknown"));
    assert_eq!(condition(&object, "Ready")["observedGeneration"], 1);
    assert_eq!(object["status"]["observedGeneration"], 1);
}

fn a_bad_variant_does_not_hide_a_good_one(operator: &Operator<'_>) {
    let arguments = ["cudaenv", "partly", "-n", "team-a"];
    let object = operator
        .until_object("partly is judged", &arguments, |object| {
            holds(object, "Degraded").as_deref() == Some("True")
        })
        .unwrap();
    let variants = &object["status"]["packages"][0]["variants"];
    assert!(
        variants[0]["closureBytes"].is_u64() && variants[0]["error"].is_null(),
        "{variants}"
    );
    let error = variants[1]["error"].as_str().unwrap();
    for part in [store_path("nowhere").as_str(), "good (http://127.0.0.1", "nix copy"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(condition(&object, "Resolved")["reason"], "NotInAnyCache");
    assert_eq!(
        holds(&object, "Ready").as_deref(),
        Some("True"),
        "one variant can be had"
    );
}

fn an_untrusted_signature_names_path_cache_and_key(operator: &Operator<'_>, root: &str) {
    let arguments = ["cudaenv", "untrusted", "-n", "team-a"];
    let object = operator
        .until_object("untrusted is refused", &arguments, |object| {
            condition(object, "Resolved")["reason"] == "SignatureUntrusted"
        })
        .unwrap();
    assert_eq!(holds(&object, "Ready").as_deref(), Some("False"));
    let error = object["status"]["packages"][0]["variants"][0]["error"]
        .as_str()
        .unwrap();
    let key = made_up::key().unwrap();
    for part in [root, "CUDABinaryCache distrustful", key.name(), "spec.publicKeys"] {
        assert!(error.contains(part), "no `{part}`: {error}");
    }
}

fn caches_say_whether_they_answer(operator: &Operator<'_>) {
    let good = operator
        .until_object("good is ready", &["cbc", "good"], |object| {
            holds(object, "Ready").as_deref() == Some("True")
        })
        .unwrap();
    assert!(good["status"]["lastChecked"].is_string(), "{good}");
    let gone = operator
        .until_object("gone is not", &["cbc", "gone"], |object| {
            holds(object, "Ready").as_deref() == Some("False")
        })
        .unwrap();
    assert_eq!(condition(&gone, "Ready")["reason"], "CacheUnreachable");
}

/// Three nodes with drivers of their own, on the first of which torch is ready.
fn make_nodes(cluster: &Cluster) {
    for (name, driver, cuda) in [
        ("new", "570.124.06", "12.8"),
        ("old", "470.256.02", "11.4"),
        ("ancient", "390.157", "9.1"),
    ] {
        applied(cluster, &node(name, &json!([])));
        applied(
            cluster,
            &json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": name}, "spec": {}}),
        );
        applied(cluster, &csi_node(name, &["csi.cudaenv.dev"]));
        let mut status = agent(driver, cuda);
        if name == "new" {
            status["environments"] = json!([{"namespace": "team-a", "name": "torch", "generation": 1, "phase": "Ready",
                "packages": [{"name": "torch", "variant": "cu12"}]}]);
        }
        reported(cluster, name, &status);
    }
}

fn nodes_are_labelled_and_counted(operator: &Operator<'_>) {
    let cluster = operator.cluster;
    make_nodes(cluster);
    let new = operator
        .until_object("new is labelled", &["node", "new"], |object| {
            object["metadata"]["labels"]["cudaenv.dev/class"].is_string()
        })
        .unwrap();
    let labels = &new["metadata"]["labels"];
    assert_eq!(
        (
            &labels["cudaenv.dev/driver-major"],
            &labels["cudaenv.dev/cuda"],
            &labels["theirs"]
        ),
        (&json!("570"), &json!("12.8"), &json!("1"))
    );
    let arguments = ["cudaenv", "torch", "-n", "team-a"];
    let object = operator
        .until_object("nodes are counted", &arguments, |object| {
            object["status"]["nodes"]["selected"] == 3 && object["status"]["nodes"]["ready"] == 1
        })
        .unwrap();
    let nodes = &object["status"]["nodes"];
    assert_eq!(
        (&nodes["incompatible"], &nodes["summary"]),
        (&json!(1), &json!("1/3")),
        "{object}"
    );
    let failure = &object["status"]["failures"][0];
    assert_eq!(
        (&failure["node"], &failure["selection"]),
        (&json!("ancient"), &json!("driver-too-old")),
        "{object}"
    );
    let variants = &object["status"]["packages"][0]["variants"];
    assert_eq!(
        (&variants[0]["nodes"], &variants[1]["nodes"]),
        (&json!(1), &json!(1)),
        "{variants}"
    );
    assert_eq!(holds(&object, "Compatible").as_deref(), Some("True"));
    // Without a driver, nothing is known to say.
    let mut without = agent("570.124.06", "12.8");
    without["driver"] = Value::Null;
    reported(cluster, "ancient", &without);
    operator
        .until_object("a label goes with what it says", &["node", "ancient"], |object| {
            let labels = &object["metadata"]["labels"];
            labels["cudaenv.dev/cuda"].is_null() && labels["cudaenv.dev/class"].is_string() && labels["theirs"] == "1"
        })
        .unwrap();
}

/// But for the one that the API server puts on every new node.
fn taints(object: &Value) -> Vec<&str> {
    let taints = object["spec"]["taints"].as_array().into_iter().flatten();
    let keys = taints.filter_map(|taint| taint["key"].as_str());
    keys.filter(|key| !key.starts_with("node.kubernetes.io/")).collect()
}

/// Off only while kubelet knows the driver and the agent says that it can mount; on again when not; others stay.
fn the_taint_follows_the_agent(operator: &Operator<'_>) {
    let cluster = operator.cluster;
    let tainted = json!([{"key": "theirs", "effect": "NoSchedule"}, {"key": TAINT, "effect": "NoSchedule"},
                         {"key": TAINT, "effect": "NoExecute"}]);
    applied(cluster, &node("fresh", &tainted));
    applied(
        cluster,
        &json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": "fresh"}, "spec": {}}),
    );
    applied(cluster, &csi_node("fresh", &["other.example.org"]));
    reported(cluster, "fresh", &agent("570.124.06", "12.8"));
    operator
        .until_object("fresh is labelled", &["node", "fresh"], |object| {
            object["metadata"]["labels"]["cudaenv.dev/cuda"] == "12.8"
        })
        .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let fresh = cluster.get(&["node", "fresh"]).unwrap();
    assert_eq!(
        taints(&fresh),
        ["theirs", TAINT, TAINT],
        "kubelet does not know the driver"
    );
    applied(cluster, &csi_node("fresh", &["other.example.org", "csi.cudaenv.dev"]));
    let fresh = operator
        .until_object("the taint is gone", &["node", "fresh"], |object| {
            taints(object).len() == 2
        })
        .unwrap();
    assert_eq!(taints(&fresh), ["theirs", TAINT], "{fresh}");
    assert_eq!(fresh["spec"]["taints"][1]["effect"], "NoExecute", "another's taint");
    // The agent of `new` goes away; the node had no taint at all.
    let mut away = agent("570.124.06", "12.8");
    away["conditions"][1]["status"] = json!("False");
    reported(cluster, "new", &away);
    operator
        .until_object("the taint is back", &["node", "new"], |object| {
            taints(object) == [TAINT]
        })
        .unwrap();
    reported(cluster, "new", &agent("570.124.06", "12.8"));
    operator
        .until_object("and gone again", &["node", "new"], |object| taints(object).is_empty())
        .unwrap();
}

fn credentials_are_copied(operator: &Operator<'_>) {
    let cluster = operator.cluster;
    let secret = |name: &str, data: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data});
    applied(cluster, &secret("flox-token", &json!({"token": "T0KEN", "other": "x"})));
    applied(cluster, &secret("unnamed", &json!({"token": "X"})));
    let mut gone = cache(
        "gone",
        "http://127.0.0.1:9",
        &made_up::key().unwrap().public_key().to_string(),
    );
    gone["spec"]["authSecretRef"] = json!({"name": "flox-token"});
    applied(cluster, &gone);
    let arguments = ["secret", "cudaenv-cache-credentials", "-n", NAMESPACE];
    let copies = operator
        .until_object("credentials are copied", &arguments, |object| {
            object["data"].is_object()
        })
        .unwrap();
    assert_eq!(copies["data"], json!({"gone.token": "VDBLRU4="}));
    gone["spec"]["authSecretRef"] = json!({"name": "nobody-made-it"});
    applied(cluster, &gone);
    operator
        .until_object("and taken away", &arguments, |object| object["data"].is_null())
        .unwrap();
    let gone = operator
        .until_object("gone says why", &["cbc", "gone"], |object| {
            condition(object, "Ready")["reason"] == "CredentialsUnusable"
        })
        .unwrap();
    let message = condition(&gone, "Ready")["message"].as_str().unwrap();
    assert!(message.contains("`nobody-made-it`"), "{message}");
}

/// A preflight once it is answered.
fn asked(operator: &Operator<'_>, name: &str, driver: &str) -> Value {
    applied(
        operator.cluster,
        &json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDADriverPreflight", "metadata": {"name": name},
                "spec": {"driver": driver, "nodeSelector": {"pool": "gpu"}}}),
    );
    operator
        .until_object(name, &["cpf", name], |object| {
            holds(object, "Complete").is_some_and(|complete| complete != "Unknown")
        })
        .unwrap()
}

/// Status and reason.
fn complete(object: &Value) -> (Value, Value) {
    let condition = condition(object, "Complete");
    (condition["status"].clone(), condition["reason"].clone())
}

fn a_preflight_is_answered(operator: &Operator<'_>) {
    let down = asked(operator, "down", "390.157");
    assert_eq!(complete(&down), (json!("True"), json!("Answered")), "{down}");
    // `partly` is unresolved in part, which keeps no answer back.
    let changes = down["status"]["changes"].as_array().unwrap();
    let torch: Vec<_> = changes
        .iter()
        .filter(|change| change["environment"] == "torch")
        .collect();
    let broken: BTreeMap<_, _> = torch
        .iter()
        .map(|change| (change["from"].as_str().unwrap(), change["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(broken, [("cu12", "Breaks"), ("cu11", "Breaks")].into(), "{down}");
    assert_eq!(torch[0]["reason"], "driver-too-old");
    let up = asked(operator, "up", "580.95.05");
    assert_eq!(complete(&up), (json!("True"), json!("Answered")), "{up}");
    let changes = up["status"]["changes"].as_array().unwrap();
    let outcomes = |outcome: &str| {
        let of_torch = |change: &&Value| change["environment"] == "torch" && change["outcome"] == outcome;
        changes.iter().filter(of_torch).count()
    };
    assert_eq!(
        (outcomes("Breaks"), outcomes("Switches"), outcomes("Heals")),
        (0, 1, 1),
        "{up}"
    );
    let unknown = asked(operator, "unknown", "999.1.1");
    assert_eq!(complete(&unknown), (json!("False"), json!("UnknownDriver")));
}

/// What every node would fetch ahead, nobody signed: it is said, and not waited for.
fn a_preflight_does_not_wait_for_what_cannot_be_had(operator: &Operator<'_>) {
    let variants = operator.cluster.get(&["cudaenv", "untrusted", "-n", "team-a"]).unwrap();
    let mut ahead = environment("ahead", "distrustful", &[]);
    ahead["spec"]["prewarm"] = json!("Always");
    ahead["spec"]["packages"] = variants["spec"]["packages"].clone();
    applied(operator.cluster, &ahead);
    let arguments = ["cudaenv", "ahead", "-n", "team-a"];
    operator
        .until_object("ahead is judged", &arguments, |object| {
            condition(object, "Resolved")["reason"] == "SignatureUntrusted"
        })
        .unwrap();
    let untrusted = asked(operator, "untrusted", "580.95.05");
    assert_eq!(complete(&untrusted), (json!("False"), json!("SignatureUntrusted")));
    assert!(untrusted["status"]["downloadBytes"].is_null(), "{untrusted}");
    let message = condition(&untrusted, "Complete")["message"].as_str().unwrap();
    assert!(
        message.contains("CUDAEnvironment team-a/ahead needs a closure"),
        "{message}"
    );
    // Answers of before are given anew.
    operator
        .until_object("down knows of it", &["cpf", "down"], |object| {
            let mut changes = object["status"]["changes"].as_array().into_iter().flatten();
            changes.any(|change| change["environment"] == "ahead")
        })
        .unwrap();
}

fn events_tell_of_changes(operator: &Operator<'_>) {
    let reasons = || {
        let events = operator.cluster.get(&["events.events.k8s.io", "-n", "team-a"]).ok()?;
        let events = events["items"].as_array()?.clone();
        let named = |event: &Value| {
            let name = event["regarding"]["name"].as_str()?.to_owned();
            Some((
                name,
                event["type"].as_str()?.to_owned(),
                event["reason"].as_str()?.to_owned(),
            ))
        };
        Some(events.iter().filter_map(named).collect::<Vec<_>>())
    };
    let wanted = [
        ("torch", "Normal", "Resolved"),
        ("partly", "Warning", "NotInAnyCache"),
        ("untrusted", "Warning", "SignatureUntrusted"),
    ];
    let found = operator
        .until("events", || {
            let found = reasons()?;
            let all = wanted.iter().all(|(name, type_, reason)| {
                let mut found = found.iter();
                found.any(|event| (event.0.as_str(), event.1.as_str(), event.2.as_str()) == (*name, *type_, *reason))
            });
            all.then_some(found)
        })
        .unwrap();
    let twice = found
        .iter()
        .filter(|event| (event.0.as_str(), event.2.as_str()) == ("untrusted", "SignatureUntrusted"));
    assert_eq!(twice.count(), 1, "{found:?}");
}

/// The versions of everything that the operator may write, but for its lease.
fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = "cudaenv,ccenv,cbc,cpf,cnode,nodes,secrets,events.events.k8s.io";
    let list = cluster.get(&[kinds, "-A"]).unwrap();
    let versions = list["items"].as_array().unwrap().iter().map(|object| {
        let name = format!(
            "{} {}/{}",
            object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
        );
        (name, object["metadata"]["resourceVersion"].to_string())
    });
    versions.collect()
}

/// Past the times at which caches, questions and nodes are looked at again after what went before.
fn an_idle_cluster_is_not_written_to(operator: &Operator<'_>) {
    let settled = operator
        .until("nothing is written for five seconds", || {
            let before = (versions(operator.cluster), operator.writes());
            std::thread::sleep(Duration::from_secs(5));
            (before == (versions(operator.cluster), operator.writes())).then_some(before)
        })
        .unwrap();
    assert!(settled.0.len() > 10, "{settled:?}");
    std::thread::sleep(Duration::from_secs(35));
    assert_eq!(versions(operator.cluster), settled.0);
    assert_eq!(operator.writes(), settled.1);
    let times = operator.metric("cudaenv_operator_write_duration_seconds_count");
    assert_eq!(times, Some(settled.1), "each write's time counts");
    assert!(operator.metric("cudaenv_operator_plan_duration_seconds_count") > Some(0.0));
    assert_eq!(operator.metric("cudaenv_operator_write_failures_total"), Some(0.0));
}

#[test]
fn of_two_replicas_one_writes_and_a_change_is_a_few_writes_however_many_nodes_there_are() {
    let Some(cluster) = Cluster::for_operator("two replicas of the operator").unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let closure = Closure::new("torch", 5, 100).unwrap();
    closure.cache(&folder.path().join("cache"), Compression::Zstd).unwrap();
    let server = Server::start(&folder.path().join("cache")).unwrap();
    let key = made_up::key().unwrap().public_key().to_string();
    let path = closure.root().to_string();
    fleet(&cluster, 200);
    applied(&cluster, &cache("good", &server.url(), &key));

    let first = Operator::start(&cluster, "operator-0").unwrap();
    first.until("the first leads", || first.leads().then_some(())).unwrap();
    let second = Operator::start(&cluster, "operator-1").unwrap();
    let labelled = || {
        let nodes = cluster.get(&["nodes", "-l", "cudaenv.dev/class"]).ok()?;
        (nodes["items"].as_array()?.len() == 200).then_some(())
    };
    first.until("all nodes are labelled", labelled).unwrap();
    second
        .until("the second answers", || second.metric("cudaenv_operator_leader"))
        .unwrap();
    let before = first.writes();
    applied(
        &cluster,
        &environment("torch", "good", &[variant("cu12", "12.8", &path)]),
    );
    let arguments = ["cudaenv", "torch", "-n", "team-a"];
    first
        .until_object("torch is ready", &arguments, |object| {
            holds(object, "Ready").as_deref() == Some("True") && object["status"]["nodes"]["selected"] == 200
        })
        .unwrap();
    let written = first.writes() - before;
    assert!((1.0..=4.0).contains(&written), "{written} writes for one change");
    assert!(!second.leads());
    assert_eq!(second.writes(), 0.0, "the other replica only watches");

    let settled = cluster.get(&arguments).unwrap();
    drop(first);
    the_second_takes_over_where_the_first_was(second, &settled, &path);
}

fn the_second_takes_over_where_the_first_was(second: Operator<'_>, settled: &Value, path: &str) {
    let (cluster, arguments) = (second.cluster, ["cudaenv", "torch", "-n", "team-a"]);
    second
        .until("the second takes over", || second.leads().then_some(()))
        .unwrap();
    second
        .until("it asks the caches itself", || {
            (second.metric("cudaenv_operator_closures_asked_total")? > 0.0).then_some(())
        })
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let taken_over = cluster.get(&arguments).unwrap();
    assert_eq!(
        taken_over["status"], settled["status"],
        "nobody sees that another replica writes"
    );
    assert_eq!(second.writes(), 0.0, "there is nothing to write");
    let mut changed = environment("torch", "good", &[variant("cu12", "12.8", path)]);
    changed["spec"]["packages"][0]["variants"][0]["name"] = json!("renamed");
    applied(cluster, &changed);
    second
        .until_object("the second writes", &arguments, |object| {
            object["status"]["observedGeneration"] == 2 && holds(object, "Ready").as_deref() == Some("True")
        })
        .unwrap();
    assert!(second.writes() > 0.0);
    // Told to end, it gives the lease back.
    let ended = second.end().unwrap();
    assert!(ended.success(), "{ended}");
    let lease = cluster.get(&["lease", "cudaenv-operator", "-n", NAMESPACE]).unwrap();
    assert!(lease["spec"]["holderIdentity"].is_null(), "{lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 2, "{lease}");
}

/// So many nodes whose agents are ready.
fn fleet(cluster: &Cluster, count: usize) {
    let names: Vec<_> = (0..count).map(|number| format!("node-{number}")).collect();
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let cuda = |name: &String| json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": name}, "spec": {}});
    let all = names
        .iter()
        .flat_map(|name| [node(name, &json!([])), csi_node(name, &["csi.cudaenv.dev"]), cuda(name)]);
    applied(cluster, &list(all.collect()));
    let reports = names.iter().map(|name| {
        let mut object = cuda(name);
        object["status"] = agent("570.124.06", "12.8");
        object
    });
    let arguments = ["apply", "--server-side", "--subresource=status"];
    let answer = cluster.kubectl_with(&arguments, &list(reports.collect())).unwrap();
    assert_eq!(answer.code, 0, "{}", answer.stderr);
}
