//! What a real API server makes of the five kinds: established, accepted, shown in columns, kept apart from their status,
//! read back as they were written, and unchanged by an upgrade to the same definitions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use crds::{
    domain::{cache::CacheSource, environment::Environment},
    v1alpha1::{CUDABinaryCache, CUDADriverPreflight, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment},
};
use e2e::cluster::{Cluster, objects};
use serde_json::{Value, json};

/// Resource, scope, short names, and the columns of `kubectl get -o wide` behind the name.
const KINDS: [(&str, &str, &[&str], &[&str]); 5] = [
    (
        "cudaenvironments",
        "Namespaced",
        &["cudaenv", "cenv"],
        &["READY", "NODES", "INCOMPATIBLE", "SIZE", "AGE", "REASON"],
    ),
    (
        "clustercudaenvironments",
        "Cluster",
        &["ccenv"],
        &["READY", "NODES", "INCOMPATIBLE", "SIZE", "AGE", "REASON"],
    ),
    (
        "cudabinarycaches",
        "Cluster",
        &["cbc"],
        &["URL", "PRIORITY", "READY", "AGE"],
    ),
    (
        "cudanodes",
        "Cluster",
        &["cnode"],
        &["DRIVER", "CUDA", "GPUS", "READY", "STORE", "AGE", "CLASS"],
    ),
    (
        "cudadriverpreflights",
        "Cluster",
        &["cpf"],
        &["DRIVER", "NODES", "BREAKS", "SWITCHES", "KEEPS", "AGE"],
    ),
];

fn resource(object: &Value) -> String {
    format!("{}s", object["kind"].as_str().unwrap().to_lowercase())
}

/// A cluster of its own with the definitions and one good object of each kind.
fn filled(check: &str) -> Option<Cluster> {
    let cluster = Cluster::start(check).unwrap()?;
    cluster.apply_definitions().unwrap();
    for object in objects::all() {
        let answer = cluster.kubectl_with(&["create"], &object).unwrap();
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    Some(cluster)
}

#[test]
fn the_five_kinds_are_established_stored_and_shown() {
    let Some(cluster) = filled("the five kinds on an API server") else {
        return;
    };
    definitions_are_established(&cluster);
    columns_and_short_names_are_served(&cluster);
    names_of_253_characters_are_allowed(&cluster);
    what_is_read_back_means_the_same(&cluster);
    the_status_is_written_apart_from_the_spec(&cluster);
    applying_the_definitions_again_changes_nothing(&cluster);
    what_a_schema_cannot_judge_is_stored(&cluster);
    kubectl_explains_every_field(&cluster);
}

fn definitions_are_established(cluster: &Cluster) {
    let definitions = cluster.get(&["customresourcedefinitions"]).unwrap();
    let definitions = definitions["items"].as_array().unwrap();
    assert_eq!(definitions.len(), KINDS.len());
    for (plural, scope, short_names, _) in KINDS {
        let name = format!("{plural}.cudaenv.dev");
        let found = definitions
            .iter()
            .find(|item| item["metadata"]["name"] == json!(name))
            .unwrap();
        let condition = |kind: &str| {
            let conditions = found["status"]["conditions"].as_array().unwrap();
            conditions
                .iter()
                .find(|one| one["type"] == kind)
                .map(|one| one["status"].clone())
        };
        assert_eq!(condition("Established"), Some(json!("True")), "{name}");
        assert_eq!(condition("NamesAccepted"), Some(json!("True")), "{name}");
        assert_eq!(condition("NonStructuralSchema"), None, "{name}");
        assert_eq!(found["spec"]["scope"], scope, "{name}");
        assert_eq!(found["spec"]["names"]["shortNames"], json!(short_names), "{name}");
        assert_eq!(found["spec"]["names"]["categories"], json!(["cudaenv-all"]), "{name}");
        let versions = found["spec"]["versions"].as_array().unwrap();
        assert!(
            versions
                .iter()
                .all(|version| version["subresources"]["status"].is_object()),
            "{name}"
        );
    }
}

fn columns_and_short_names_are_served(cluster: &Cluster) {
    for (plural, _, short_names, columns) in KINDS {
        for name in short_names.iter().chain([&plural]) {
            let table = cluster.printed(&["get", name, "-o", "wide"]).unwrap();
            let headers: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
            assert_eq!(headers, [&["NAME"], columns].concat(), "{name}");
            assert_eq!(table.lines().count(), 2, "{table}");
        }
    }
    let all = cluster.printed(&["get", "cudaenv", "-A", "--no-headers"]).unwrap();
    assert!(all.contains("pytorch"), "{all}");
}

fn names_of_253_characters_are_allowed(cluster: &Cluster) {
    for (length, accepted) in [(253, true), (254, false)] {
        for object in objects::all() {
            let object = objects::with(object, "/metadata/name", json!("a".repeat(length)));
            let answer = cluster.kubectl_with(&["create", "--dry-run=server"], &object).unwrap();
            assert_eq!(
                answer.code == 0,
                accepted,
                "{length} {}: {}",
                object["kind"],
                answer.stderr
            );
            assert!(accepted || answer.stderr.contains("metadata.name"), "{}", answer.stderr);
        }
    }
}

fn what_is_read_back_means_the_same(cluster: &Cluster) {
    for written in objects::all() {
        let read = cluster
            .get(&[&resource(&written), written["metadata"]["name"].as_str().unwrap()])
            .unwrap();
        assert_eq!(read["spec"], written["spec"], "the API server changed the spec");
        let (written, read) = match written["kind"].as_str().unwrap() {
            "CUDAEnvironment" => {
                let meaning = |value: &Value| {
                    let object: CUDAEnvironment = serde_json::from_value(value.clone()).unwrap();
                    format!("{:?} {:?}", Environment::try_from(&object).unwrap(), object.spec)
                };
                (meaning(&written), meaning(&read))
            }
            "ClusterCUDAEnvironment" => {
                let meaning = |value: &Value| {
                    let object: ClusterCUDAEnvironment = serde_json::from_value(value.clone()).unwrap();
                    format!("{:?} {:?}", Environment::try_from(&object).unwrap(), object.spec)
                };
                (meaning(&written), meaning(&read))
            }
            "CUDABinaryCache" => {
                let meaning = |value: &Value| {
                    let object: CUDABinaryCache = serde_json::from_value(value.clone()).unwrap();
                    format!("{:?} {:?}", CacheSource::try_from(&object).unwrap(), object.spec)
                };
                (meaning(&written), meaning(&read))
            }
            "CUDANode" => {
                let meaning =
                    |value: &Value| format!("{:?}", serde_json::from_value::<CUDANode>(value.clone()).unwrap().spec);
                (meaning(&written), meaning(&read))
            }
            _ => {
                let meaning = |value: &Value| {
                    format!(
                        "{:?}",
                        serde_json::from_value::<CUDADriverPreflight>(value.clone())
                            .unwrap()
                            .spec
                    )
                };
                (meaning(&written), meaning(&read))
            }
        };
        assert_eq!(read, written);
    }
    let read = cluster.get(&["cudaenvironment", "pytorch"]).unwrap();
    let file = crds::manifest::environments(&read.to_string()).unwrap();
    assert_eq!(
        file.len(),
        1,
        "what kubectl prints is a file that the command line reads"
    );
}

/// A status that each kind's columns show something of.
fn status_of(resource: &str) -> (Value, &'static [&'static str]) {
    let ready = json!([{ "type": "Ready", "status": "True", "reason": "AllNodesReady", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    let counts = json!({ "selected": 4, "ready": 3, "fetching": 0, "incompatible": 1, "failed": 0, "summary": "3/4" });
    match resource {
        "cudaenvironments" | "clustercudaenvironments" => (
            json!({ "conditions": ready, "nodes": counts, "size": "5.1 GiB" }),
            &["True", "3/4", "1", "5.1 GiB", "AllNodesReady"],
        ),
        "cudabinarycaches" => (
            json!({ "conditions": ready }),
            &["https://cache.example.org/nix", "40", "True"],
        ),
        "cudanodes" => (
            json!({
                "conditions": ready, "driver": { "version": "550.163.01", "cuda": "12.4" }, "gpuSummary": "8 × H200",
                "store": { "capacityBytes": 10, "usedBytes": 5, "pinnedBytes": 1, "paths": 2, "summary": "5/10" }, "class": "c0ffee",
            }),
            &["550.163.01", "12.4", "8 × H200", "True", "5/10", "c0ffee"],
        ),
        _ => (
            json!({ "nodes": 12, "breaks": 3, "switches": 4, "keeps": 5 }),
            &["580.95.05", "12", "3", "4"],
        ),
    }
}

fn the_status_is_written_apart_from_the_spec(cluster: &Cluster) {
    for object in objects::all() {
        let (resource, name) = (resource(&object), object["metadata"]["name"].as_str().unwrap());
        let (status, shown) = status_of(&resource);
        let patch = json!({ "status": status }).to_string();
        cluster
            .printed(&["patch", &resource, name, "--type=merge", "-p", &patch])
            .unwrap();
        let read = cluster.get(&[&resource, name]).unwrap();
        assert_eq!(
            read.get("status"),
            None,
            "{resource}: a user's write to the status was kept"
        );

        let both =
            json!({ "status": status, "spec": { "nodeSelector": { "pool": "other" }, "priority": 1, "drain": false } })
                .to_string();
        cluster
            .printed(&[
                "patch",
                &resource,
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                &both,
            ])
            .unwrap();
        let read = cluster.get(&[&resource, name]).unwrap();
        assert_eq!(read["status"], status, "{resource}");
        assert_eq!(
            read["spec"], object["spec"],
            "{resource}: a write to the status changed the spec"
        );
        assert_eq!(
            read["metadata"]["generation"], 1,
            "{resource}: a write to the status is no new generation"
        );

        let table = cluster.printed(&["get", &resource, name, "-o", "wide"]).unwrap();
        let unseen: Vec<_> = shown.iter().filter(|text| !table.contains(**text)).collect();
        assert!(unseen.is_empty(), "{unseen:?} is not in:\n{table}");
    }
}

fn applying_the_definitions_again_changes_nothing(cluster: &Cluster) {
    let versions = || {
        let read = |what: &str| {
            cluster
                .printed(&[
                    "get",
                    what,
                    "-A",
                    "-o",
                    "jsonpath={.items[*].metadata['name','resourceVersion']}",
                ])
                .unwrap()
        };
        [
            ["customresourcedefinitions"].map(read),
            ["cudaenv,ccenv,cbc,cnode,cpf"].map(read),
        ]
    };
    let before = versions();
    let printed = cluster.apply_definitions().unwrap();
    assert_eq!(
        printed.lines().filter(|line| line.ends_with(" unchanged")).count(),
        KINDS.len(),
        "{printed}"
    );
    assert_eq!(versions(), before);
}

/// One change of a good object that only a controller can judge.
type Later = (&'static str, fn() -> Value, &'static str, Value);

#[rustfmt::skip] // a table: one row a line
fn judged_later() -> Vec<Later> {
    let other_key = objects::PUBLIC_KEY.replace("7F4O", "8F4O");
    let second_path = "/spec/packages/0/variants/1/storePaths/x86_64-linux";
    vec![
        ("K04 one path in two variants", objects::environment, second_path, json!(objects::store_path("env-12.8"))),
        ("K10 plain http, which signatures make safe", objects::cache, "/spec/url", json!("http://cache.example.org")),
        ("K11 the same URL with another key", objects::cache, "/spec/publicKeys/0", json!(other_key)),
        ("K13 a key named otherwise than the cache", objects::cache, "/spec/publicKeys/0", json!(objects::PUBLIC_KEY)),
        ("K16 a secret that is not there", objects::cache, "/spec/authSecretRef/name", json!("no-such-secret")),
        ("K20 equal priorities", objects::cache, "/spec/priority", json!(40)),
        ("K26 a selector that matches nothing", objects::environment, "/spec/nodeSelector", json!({ "no": "such" })),
        ("K26 a selector that matches everything", objects::cluster_environment, "/spec/allowedNamespaces", json!({})),
        ("K27 a reference to itself", objects::environment, "/spec/caches", json!(["judged-later"])),
        ("K27 a mirror that is the cache itself", objects::cache, "/spec/mirrors", json!(["https://cache.example.org/nix"])),
    ]
}

/// Its condition will say what is wrong.
fn what_a_schema_cannot_judge_is_stored(cluster: &Cluster) {
    for (about, object, at, value) in judged_later() {
        let object = objects::with(
            objects::with(object(), at, value),
            "/metadata/name",
            json!("judged-later"),
        );
        for verb in [&["create"][..], &["delete", "--wait=false"]] {
            let answer = cluster.kubectl_with(verb, &object).unwrap();
            assert_eq!(answer.code, 0, "{about}: {}", answer.stderr);
        }
    }
}

fn kubectl_explains_every_field(cluster: &Cluster) {
    for (field, words) in [
        ("cudaenvironment.spec.packages.variants.storePaths", "x86_64-linux"),
        ("cudabinarycache.spec.publicKeys", "no mode without signatures"),
        ("cudanode.status.class", "nodes of one class get the same answer"),
    ] {
        let text = cluster.printed(&["explain", field]).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{field}: {text}");
    }
}
