//! What becomes of pods that ask for an environment: what is added, kept, refused, and warned of.
//! Every refusal stands beside an accepted twin, and whatever is accepted is the same when asked twice.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

use std::sync::Arc;

use crds::{
    catalogue::{CacheEntry, Catalogue, EnvironmentEntry, EnvironmentKey, Labels},
    domain::{
        node::{DriverState, NodeFacts},
        store_path::{StorePath, System},
    },
    selection::{Contents, KnownContents},
};
use k8s_openapi::{ByteString, api::core::v1::Pod};
use operator::{
    plan::admission::{Surroundings, affinity::AgentNodes, fit, inject, review},
    snapshot::settled::NodeClass,
};
use serde_json::{Value, json};

const STORE_PATH: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda";

/// Namespace `team-a` has `pytorch`; everyone has `shared`; `gold` is for another team; `broken` names a cache that is not there.
fn catalogue() -> Catalogue {
    let spec = |cuda: &str, caches: Value| {
        json!({"caches": caches, "packages": [{"name": "cuda", "variants": [
            {"name": "only", "cuda": cuda, "storePaths": {"x86_64-linux": STORE_PATH}}]}]})
    };
    let mut all = Catalogue::default();
    for (name, cuda, caches) in [
        ("pytorch", "12.8", json!(null)),
        ("old", "11.8", json!(null)),
        ("broken", "12.8", json!(["absent"])),
    ] {
        let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
            "metadata": {"namespace": "team-a", "name": name}, "spec": spec(cuda, caches)});
        let key = EnvironmentKey {
            namespace: Some("team-a".to_owned()),
            name: name.to_owned(),
        };
        let object: crds::v1alpha1::CUDAEnvironment = serde_json::from_value(object).unwrap();
        all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
    }
    for (name, allowed) in [
        ("shared", json!(null)),
        ("gold", json!({"matchLabels": {"tier": "gold"}})),
    ] {
        let mut spec = spec("12.8", json!(null));
        spec["allowedNamespaces"] = allowed;
        let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "ClusterCUDAEnvironment",
            "metadata": {"name": name}, "spec": spec});
        let key = EnvironmentKey {
            namespace: None,
            name: name.to_owned(),
        };
        let object: crds::v1alpha1::ClusterCUDAEnvironment = serde_json::from_value(object).unwrap();
        all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
    }
    let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "cache"},
        "spec": {"url": "https://cache.example.org", "publicKeys": ["cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs="]}});
    let object: crds::v1alpha1::CUDABinaryCache = serde_json::from_value(object).unwrap();
    all.caches
        .insert("cache".to_owned(), Arc::new(CacheEntry::from(&object)));
    all.namespaces.insert("team-a".to_owned(), Labels::new());
    all
}

fn class(driver: DriverState, gpu: Option<&str>, nodes: usize) -> NodeClass {
    let facts = NodeFacts {
        driver,
        gpus: gpu.into_iter().map(|gpu| gpu.parse().unwrap()).collect(),
        system: System::X86_64Linux,
    };
    NodeClass {
        name: facts.class(),
        facts,
        nodes,
    }
}

fn ready(version: &str, cuda: &str) -> DriverState {
    DriverState::Ready {
        version: version.parse().unwrap(),
        cuda: cuda.parse().unwrap(),
    }
}

/// A node for CUDA 12.8, one for 11 only, one without driver.
fn classes() -> [NodeClass; 3] {
    [
        class(ready("580.95.05", "13.0"), Some("9.0:tesla"), 2),
        class(ready("470.256.02", "11.4"), Some("8.0:tesla"), 3),
        class(DriverState::Missing, None, 1),
    ]
}

fn asking(annotations: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "pod", "labels": {"cudaenv.dev/inject": "true"}, "annotations": annotations}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    asking(json!({"cudaenv.dev/environment": "pytorch"}), spec)
}

fn plain() -> Value {
    json!({"containers": [{"name": "main", "image": "example.org/main"}]})
}

/// The pod as it is admitted, with warnings, or the refusal. What is admitted is asked again and must stay as it is.
fn admit(pod: &Value) -> Result<(Value, Vec<String>), String> {
    let (catalogue, classes) = (catalogue(), classes());
    let around = Surroundings {
        catalogue: &catalogue,
        classes: &classes,
        contents: &KnownContents::new(),
        agents: &AgentNodes::default(),
    };
    let original: Pod = serde_json::from_value(pod.clone()).unwrap();
    let once = inject::inject(&original, "team-a", around).map_err(|refusal| refusal.to_string())?;
    let twice = inject::inject(&once.pod, "team-a", around).unwrap();
    assert_eq!(once.pod, twice.pod, "asked twice");
    let admitted = serde_json::to_value(&once.pod).unwrap();
    assert_kept(&serde_json::to_value(original).unwrap(), &admitted, "");
    Ok((admitted, once.warnings))
}

/// Everything that was there is still there, in its place.
fn assert_kept(before: &Value, after: &Value, at: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                assert_kept(value, after.get(key).unwrap_or(&Value::Null), &format!("{at}/{key}"));
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (index, value) in before.iter().enumerate() {
                assert_kept(
                    value,
                    after.get(index).unwrap_or(&Value::Null),
                    &format!("{at}/{index}"),
                );
            }
        }
        _ => assert_eq!(before, after, "{at}"),
    }
}

#[track_caller]
fn assert_refused(pod: &Value, says: &[&str]) {
    match admit(pod) {
        Ok((pod, _)) => panic!("admitted: {pod}"),
        Err(refusal) => {
            for word in says {
                assert!(refusal.contains(word), "`{word}` is not in `{refusal}`");
            }
        }
    }
}

#[track_caller]
fn admitted(pod: &Value) -> (Value, Vec<String>) {
    match admit(pod) {
        Ok(admitted) => admitted,
        Err(refusal) => panic!("refused: {refusal}"),
    }
}

fn mounts() -> Value {
    json!([
        {"name": "cudaenv", "mountPath": "/nix/store", "subPath": "nix/store", "readOnly": true},
        {"name": "cudaenv", "mountPath": "/run/opengl-driver", "subPath": "driver", "readOnly": true},
        {"name": "cudaenv", "mountPath": "/run/cudaenv", "readOnly": true},
    ])
}

#[test]
fn a_pod_that_asks_gets_volume_mounts_variable_and_affinity() {
    let (pod, warnings) = admitted(&pod(json!({
        "initContainers": [{"name": "first", "image": "a"}],
        "containers": [{"name": "main", "image": "a", "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "b"}],
        "ephemeralContainers": [{"name": "debugger", "image": "c"}],
    })));
    let spec = &pod["spec"];
    assert_eq!(
        spec["volumes"],
        json!([{"name": "cudaenv", "csi": {"driver": "csi.cudaenv.dev", "readOnly": true,
            "volumeAttributes": {"environment": "pytorch", "kind": "CUDAEnvironment"}}}])
    );
    let variable = json!({"name": "CUDAENV", "value": "/run/cudaenv"});
    for container in [
        &spec["initContainers"][0],
        &spec["containers"][0],
        &spec["containers"][1],
    ] {
        assert_eq!(container["volumeMounts"], mounts());
        assert_eq!(container["env"].as_array().unwrap().last(), Some(&variable));
    }
    assert_eq!(spec["ephemeralContainers"], json!([{"name": "debugger", "image": "c"}]));
    let terms =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let expressions = &terms[0]["matchExpressions"];
    assert_eq!(
        (terms.as_array().unwrap().len(), expressions.as_array().unwrap().len()),
        (1, 1)
    );
    assert_eq!(
        (&expressions[0]["key"], &expressions[0]["operator"]),
        (&json!("cudaenv.dev/class"), &json!("NotIn"))
    );
    let [good, old, none] = classes().map(|class| json!(class.name));
    let avoided = expressions[0]["values"].as_array().unwrap();
    assert!(
        avoided.contains(&old) && avoided.contains(&none) && !avoided.contains(&good),
        "{avoided:?}"
    );
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn a_pod_that_does_not_ask_is_left_alone() {
    let label = |value: &str| json!({"cudaenv.dev/inject": value});
    let environment = json!({"cudaenv.dev/environment": "absent"});
    let mirror = json!({"cudaenv.dev/environment": "absent", "kubernetes.io/config.mirror": "x"});
    for (labels, annotations, warns) in [
        (json!({}), json!({}), None),
        (label("false"), json!({}), None),
        (label("true"), mirror, None),
        (
            label("true"),
            json!({}),
            Some("does nothing without the annotation cudaenv.dev/environment"),
        ),
        (
            json!({}),
            environment.clone(),
            Some("does nothing without the label cudaenv.dev/inject"),
        ),
        (
            label("yes"),
            environment,
            Some("does nothing without the label cudaenv.dev/inject"),
        ),
    ] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "pod", "labels": labels, "annotations": annotations}, "spec": plain()});
        let (after, warnings) = admitted(&pod);
        assert_eq!(after, pod);
        assert_eq!(warnings.len(), usize::from(warns.is_some()), "{warnings:?}");
        assert!(warns.is_none_or(|warns| warnings[0].contains(warns)), "{warnings:?}");
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn annotations_name_the_environment_or_are_named_in_the_refusal() {
    let asked = |name: &str, kind: Option<&str>, skip: Option<&str>| {
        let mut annotations = json!({"cudaenv.dev/environment": name});
        if let Some(kind) = kind {
            annotations["cudaenv.dev/environment-kind"] = json!(kind);
        }
        if let Some(skip) = skip {
            annotations["cudaenv.dev/skip-containers"] = json!(skip);
        }
        asking(annotations, json!({"containers": [{"name": "main"}, {"name": "side"}]}))
    };
    let cluster = Some("ClusterCUDAEnvironment");
    for good in [
        asked("pytorch", None, None),
        asked("pytorch", Some("CUDAEnvironment"), Some("")),
        asked("shared", cluster, Some(" side , ")),
    ] {
        admitted(&good);
    }
    let name = "metadata.annotations[cudaenv.dev/environment]";
    let skip = "metadata.annotations[cudaenv.dev/skip-containers]";
    for (bad, says) in [
        (asked("", None, None), vec![name, "is required"]),
        (
            asked("Py Torch", None, None),
            vec![name, "`Py Torch`", "lower-case letters"],
        ),
        (
            asked("../pytorch", None, None),
            vec![name, "no environment can be called"],
        ),
        (
            asked("pytorch", Some("Pod"), None),
            vec![
                "metadata.annotations[cudaenv.dev/environment-kind]",
                "`Pod`",
                "ClusterCUDAEnvironment",
            ],
        ),
        (
            asked("absent", None, None),
            vec![
                "namespace `team-a` has no CUDAEnvironment `absent` that its pods may use",
                "ask the platform team",
            ],
        ),
        (
            asked("absent", cluster, None),
            vec!["namespace `team-a` has no ClusterCUDAEnvironment `absent` that its pods may use"],
        ),
        (
            asked("gold", cluster, None),
            vec!["namespace `team-a` has no ClusterCUDAEnvironment `gold` that its pods may use"],
        ),
        (asked("broken", None, None), vec!["spec.caches names `absent`"]),
        (
            asked("pytorch", None, Some("a b")),
            vec![skip, "no container can be called `a b`"],
        ),
        (
            asked("pytorch", None, Some("main,side")),
            vec![skip, "every container", "remove the label"],
        ),
    ] {
        assert_refused(&bad, &says);
    }
}

#[test]
fn containers_that_are_passed_over_get_nothing() {
    let annotations = json!({"cudaenv.dev/environment": "pytorch", "cudaenv.dev/skip-containers": "side, later"});
    let side = json!({"name": "side", "volumeMounts": [{"name": "own", "mountPath": "/nix/store"}]});
    let (pod, warnings) = admitted(&asking(
        annotations,
        json!({"containers": [{"name": "main"}, side], "volumes": [{"name": "own", "emptyDir": {}}]}),
    ));
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], mounts());
    assert_eq!(pod["spec"]["containers"][1], side);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("names `later`, and the pod has no such container"),
        "{warnings:?}"
    );
}

#[test]
fn mounts_in_the_way_are_refused_and_others_are_kept() {
    let with = |mounts: Value| {
        pod(
            json!({"containers": [{"name": "first"}, {"name": "main", "volumeMounts": mounts}],
            "volumes": [{"name": "own", "emptyDir": {}}]}),
        )
    };
    let own = |path: &str| with(json!([{"name": "other", "mountPath": "/x"}, {"name": "own", "mountPath": path}]));
    for path in [
        "/",
        "/nix",
        "/run",
        "/nix/store2",
        "/run/cudaenv2",
        "/run/opengl-driver-32",
        "/home/nix/store",
        "/nix/store/../var",
    ] {
        let (pod, _) = admitted(&own(path));
        assert_eq!(
            pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(),
            5,
            "{path}"
        );
    }
    let place = "spec.containers[1] (`main`).volumeMounts[1]";
    for (path, says) in [
        ("/nix/store", "mounted at /nix/store, where the environment goes"),
        ("/nix/store/", "mounted at /nix/store, where"),
        ("//nix/./store", "mounted at /nix/store, where"),
        ("nix/store", "mounted at /nix/store, where"),
        ("/nix/var/../store", "mounted at /nix/store, where"),
        ("/run/opengl-driver", "mounted at /run/opengl-driver, where"),
        ("/run/cudaenv", "mounted at /run/cudaenv, where"),
        ("/nix/store/own", "below /nix/store, which is read-only"),
        ("/run/cudaenv/driver/lib", "below /run/cudaenv, which is read-only"),
    ] {
        assert_refused(&own(path), &[place, "`own`", says, "cudaenv.dev/skip-containers"]);
    }
    // Ours, written by hand, is kept; with another part of the volume it is another mount.
    let (pod, _) = admitted(&with(
        json!([{"name": "cudaenv", "mountPath": "/nix/store", "subPath": "nix/store/"}]),
    ));
    assert_eq!(
        pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(),
        3
    );
    assert_refused(
        &with(json!([{"name": "cudaenv", "mountPath": "/nix/store", "subPath": "nix"}])),
        &["`cudaenv`", "mounted at /nix/store"],
    );
    assert_refused(
        &with(json!([{"name": "cudaenv", "mountPath": "/nix/store", "subPath": "nix/store", "subPathExpr": "$(X)"}])),
        &["mounted at /nix/store"],
    );
}

#[test]
fn the_variable_of_the_user_is_kept() {
    let with = |variable: Value| pod(json!({"containers": [{"name": "main", "env": [variable]}]}));
    let same = json!({"name": "CUDAENV", "value": "/run/cudaenv"});
    for (variable, warned) in [
        (same, 0),
        (json!({"name": "CUDAENV", "value": "/opt/mine"}), 1),
        (
            json!({"name": "CUDAENV", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            1,
        ),
    ] {
        let (pod, warnings) = admitted(&with(variable.clone()));
        assert_eq!(pod["spec"]["containers"][0]["env"], json!([variable]));
        assert_eq!(warnings.len(), warned, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|text| text.contains("spec.containers[0] (`main`) keeps its own CUDAENV"))
        );
    }
}

#[test]
fn a_volume_of_our_name_is_ours_or_refused() {
    let with = |volume: Value| {
        pod(json!({"containers": [{"name": "main"}], "volumes": [{"name": "own", "emptyDir": {}}, volume]}))
    };
    let ours = |attributes: Value| json!({"name": "cudaenv", "csi": {"driver": "csi.cudaenv.dev", "readOnly": true, "volumeAttributes": attributes}});
    let good = ours(json!({"environment": "pytorch"}));
    let (pod, _) = admitted(&with(good.clone()));
    assert_eq!(pod["spec"]["volumes"][1], good);
    for bad in [
        json!({"name": "cudaenv", "emptyDir": {}}),
        json!({"name": "cudaenv", "csi": {"driver": "csi.example.org", "volumeAttributes": {"environment": "pytorch"}}}),
        ours(json!({"environment": "old"})),
        ours(json!({"environment": "pytorch", "kind": "ClusterCUDAEnvironment"})),
        ours(json!({})),
    ] {
        assert_refused(&with(bad), &["spec.volumes[1] (`cudaenv`)", "rename it"]);
    }
}

#[test]
fn volumes_written_by_hand_follow_the_same_rules() {
    let with = |csi: Value| {
        let mut source = json!({"driver": "csi.cudaenv.dev"});
        for (key, value) in csi.as_object().unwrap() {
            source[key] = value.clone();
        }
        asking(
            json!({}),
            json!({"containers": [{"name": "main"}], "volumes": [{"name": "hand", "csi": source}]}),
        )
    };
    let attributes = |environment: &str| json!({"environment": environment});
    let (pod, warnings) = admitted(&with(json!({"volumeAttributes": attributes("pytorch")})));
    let volume = json!({"name": "hand", "csi": {"driver": "csi.cudaenv.dev", "readOnly": true, "volumeAttributes": attributes("pytorch")}});
    assert_eq!(pod["spec"]["volumes"], json!([volume]));
    assert_eq!(pod["spec"]["containers"], json!([{"name": "main"}]));
    assert!(pod["spec"]["affinity"]["nodeAffinity"].is_object(), "{pod}");
    assert_eq!(warnings, [""; 0]);
    for (csi, says) in [
        (json!({}), "csi.volumeAttributes.environment: is required"),
        (
            json!({"volumeAttributes": {"environment": "pytorch", "kindd": "x"}}),
            "csi.volumeAttributes.kindd: is not known",
        ),
        (
            json!({"volumeAttributes": attributes("pytorch"), "readOnly": false}),
            "csi.readOnly: volumes of csi.cudaenv.dev cannot be written to",
        ),
        (
            json!({"volumeAttributes": attributes("pytorch"), "nodePublishSecretRef": {"name": "x"}}),
            "csi.nodePublishSecretRef",
        ),
    ] {
        assert_refused(&with(csi), &["spec.volumes[0] (`hand`)", says]);
    }
    assert_refused(
        &with(json!({"volumeAttributes": attributes("absent")})),
        &["namespace `team-a` has no CUDAEnvironment `absent`"],
    );
}

#[test]
fn a_pod_with_users_of_its_own_gets_a_plain_view() {
    let with = |view: Value, host_users: Value| {
        let mut attributes = json!({"environment": "pytorch"});
        if view.is_string() {
            attributes["view"] = view;
        }
        let csi = json!({"driver": "csi.cudaenv.dev", "volumeAttributes": attributes});
        asking(
            json!({}),
            json!({"hostUsers": host_users, "containers": [{"name": "main"}], "volumes": [{"name": "hand", "csi": csi}]}),
        )
    };
    for (view, host_users, expected) in [
        (json!(null), json!(false), json!("plain")),
        (json!("plain"), json!(false), json!("plain")),
        (json!(null), json!(true), json!(null)),
        (json!(null), json!(null), json!(null)),
        (json!("overlay"), json!(true), json!("overlay")),
    ] {
        let (pod, _) = admitted(&with(view, host_users));
        assert_eq!(pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["view"], expected);
    }
    assert_refused(
        &with(json!("overlay"), json!(false)),
        &["spec.volumes[0] (`hand`)", "hostUsers: false", "view: plain"],
    );
    let mut injected = plain();
    injected["hostUsers"] = json!(false);
    let (pod, _) = admitted(&pod(injected));
    assert_eq!(
        pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["view"],
        json!("plain")
    );
}

#[test]
fn every_term_of_an_affinity_gets_the_requirement_and_an_empty_one_stays_empty() {
    let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
    let name = json!({"key": "metadata.name", "operator": "In", "values": ["node1"]});
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [zone]}}]);
    let mut spec = plain();
    spec["affinity"] = json!({"podAffinity": {}, "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [zone]}, {"matchFields": [name]}, {}, {"matchExpressions": []}]},
        "preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    let (pod, _) = admitted(&pod(spec));
    let affinity = &pod["spec"]["affinity"]["nodeAffinity"];
    assert_eq!(affinity["preferredDuringSchedulingIgnoredDuringExecution"], preferred);
    let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let lengths: Vec<_> = terms
        .as_array()
        .unwrap()
        .iter()
        .map(|term| term["matchExpressions"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(lengths, [2, 1, 0, 0]);
    assert_eq!(terms[1]["matchFields"], json!([name]));
    assert_eq!(terms[0]["matchExpressions"][1], terms[1]["matchExpressions"][0]);
}

#[test]
fn a_pod_that_was_placed_by_hand_gets_no_affinity() {
    let mut spec = plain();
    spec["nodeName"] = json!("node1");
    let (placed, _) = admitted(&pod(spec));
    assert_eq!(placed["spec"]["affinity"], json!(null));
    assert_eq!(placed["spec"]["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pod_of_another_system_is_refused() {
    let os = |name: &str| {
        let mut spec = plain();
        spec["os"] = json!({"name": name});
        pod(spec)
    };
    admitted(&os("linux"));
    assert_refused(&os("windows"), &["spec.os.name", "remove the label"]);
}

#[test]
fn an_environment_that_fits_nowhere_is_warned_of_with_the_reason() {
    let around = |classes: &[NodeClass]| {
        let catalogue = catalogue();
        let pod: Pod = serde_json::from_value(pod(plain())).unwrap();
        let around = Surroundings {
            catalogue: &catalogue,
            classes,
            contents: &KnownContents::new(),
            agents: &AgentNodes::default(),
        };
        inject::inject(&pod, "team-a", around).unwrap().warnings
    };
    let [good, old, none] = classes();
    assert_eq!(around(&[good, old.clone()]), [""; 0]);
    assert_eq!(around(&[]), [""; 0]);
    let warnings = around(&[none, old]);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("CUDAEnvironment team-a/pytorch fits none of the 4 nodes that have reported"),
        "{warnings:?}"
    );
    assert!(
        warnings[0].contains("cuda/only: ") && warnings[0].contains("470.256.02"),
        "{warnings:?}"
    );
    assert!(warnings[0].len() <= 256, "{warnings:?}");
}

#[test]
fn what_an_agent_has_read_of_a_variant_decides_where_its_pods_may_go() {
    let catalogue = catalogue();
    let key = EnvironmentKey {
        namespace: Some("team-a".to_owned()),
        name: "pytorch".to_owned(),
    };
    let granted = [catalogue.grant("team-a", &key).unwrap()];
    let [good, ..] = classes();
    let carries = |sass: &str| {
        let mut contents = Contents::default();
        contents.code.sass.insert(sass.parse().unwrap());
        KnownContents::from([(StorePath::parse(STORE_PATH).unwrap(), contents)])
    };
    let unfit = |known: &KnownContents| fit::unfit(&granted, std::slice::from_ref(&good), known).contains(&good.name);
    assert!(!unfit(&KnownContents::new()), "unread, it counts as fitting");
    assert!(!unfit(&carries("9.0")));
    assert!(unfit(&carries("8.0a")));
}

#[test]
fn classes_in_an_affinity_are_bounded_and_those_with_most_nodes_come_first() {
    let catalogue = catalogue();
    let key = EnvironmentKey {
        namespace: Some("team-a".to_owned()),
        name: "pytorch".to_owned(),
    };
    let granted = [catalogue.grant("team-a", &key).unwrap()];
    let many: Vec<_> = (0..200_usize)
        .map(|n| class(ready(&format!("470.{}.02", n + 1), "11.4"), Some("8.0:tesla"), n))
        .collect();
    let unfit = fit::unfit(&granted, &many, &KnownContents::new());
    assert_eq!(unfit.len(), fit::MOST_CLASSES);
    assert!(unfit.contains(&many[199].name) && !unfit.contains(&many[0].name));
    // Without any report: nodes without driver, of both systems.
    assert_eq!(fit::unfit(&granted, &[], &KnownContents::new()).len(), 2);
}

#[test]
fn the_patch_adds_only_and_leaves_fields_that_this_build_does_not_know() {
    let mut spec = json!({"containers": [{"name": "main", "env": [], "newer": 1}], "volumes": [], "newer": {"a": [1]}});
    spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "Exists", "newer": true}]}]}}});
    let before = pod(spec);
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "team-a", "operation": "CREATE", "object": before}});
    let (catalogue, classes) = (catalogue(), classes());
    let agents = r#"{"nodeSelector": {"pool": "gpu"}, "affinity": {"nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]},
            {"matchExpressions": [{"key": "arch", "operator": "In", "values": ["arm64"]}]}]}}}}"#;
    let around = Surroundings {
        catalogue: &catalogue,
        classes: &classes,
        contents: &KnownContents::new(),
        agents: &agents.parse().unwrap(),
    };
    let request = review::read(body.to_string().as_bytes()).unwrap();
    let reply = review::pod(&request, "cudaenv", Some(around)).unwrap().to_review();
    assert_eq!(
        (&reply["response"]["uid"], &reply["response"]["allowed"]),
        (&json!("u1"), &json!(true))
    );
    let patch: ByteString = serde_json::from_value(reply["response"]["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    let adds = |operation: &json_patch::PatchOperation| matches!(operation, json_patch::PatchOperation::Add(_));
    assert!(patch.0.iter().all(adds), "{patch:?}");
    let mut after = before.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    assert_kept(&before, &after, "");
    assert_eq!(after["spec"]["containers"][0]["volumeMounts"], mounts());
    assert_eq!(after["spec"]["volumes"].as_array().unwrap().len(), 1);
    let terms = after["spec"]
        .pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    let terms = terms.unwrap().as_array().unwrap();
    let kept_to = |arch: &str| terms.iter().filter(|term| term.to_string().contains(arch)).count();
    assert_eq!(
        (terms.len(), kept_to("amd64"), kept_to("arm64")),
        (2, 1, 1),
        "{terms:?}"
    );
}
