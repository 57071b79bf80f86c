//! What a real API server refuses by the schema and its CEL rules alone, and that files are refused for the same reasons.
//! Nothing is stored: every request is a server-side dry run, next to its accepted twin.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;

use crds::{
    domain::{cache::CacheSource, driver::DriverVersion, environment::Environment},
    manifest::{self, Manifest},
};
use e2e::cluster::Cluster;
use e2e::cluster::objects::{PUBLIC_KEY, cache, cluster_environment, environment, node, preflight, store_path, with};
use serde_json::{Value, json};

/// One change that makes a good object bad, and its twin that leaves it good.
struct Row {
    /// The entry in the list of bad inputs, or what it is about.
    entry: &'static str,
    object: fn() -> Value,
    /// JSON pointer of what is changed.
    at: &'static str,
    bad: Value,
    /// Null: the object without the change.
    good: Value,
    /// What the message must name: the field, and what to do or what is allowed.
    says: &'static [&'static str],
}

fn row(
    entry: &'static str,
    object: fn() -> Value,
    at: &'static str,
    bad: Value,
    good: Value,
    says: &'static [&'static str],
) -> Row {
    Row {
        entry,
        object,
        at,
        bad,
        good,
        says,
    }
}

const PATH: &str = "/spec/packages/0/variants/0/storePaths/x86_64-linux";
const PATH_SHAPE: &[&str] = &[
    "spec.packages[0].variants[0].storePaths[x86_64-linux]",
    "write /nix/store/HASH-NAME",
];
const URL_SHAPE: &[&str] = &["spec.url", "write https://HOST/PATH", "authSecretRef"];
const KEY_SHAPE: &[&str] = &["spec.publicKeys[0]", "write a public key as Nix prints it"];
const DRIVER_SHAPE: &[&str] = &["spec.driver", "write the full driver version", "such as 580.95.05"];

/// Entries of section K that concern environments.
#[rustfmt::skip] // a table: one row a line
fn environment_rows() -> Vec<Row> {
    let variants = |count: usize| -> Value { (0..count).map(|n| variant(&format!("v{n}"))).collect() };
    let packages = |count: usize| -> Value {
        (0..count).map(|n| json!({ "name": format!("p{n}"), "variants": [variant("one")] })).collect()
    };
    vec![
        row("K01 empty spec", environment, "/spec", json!({}), environment()["spec"].clone(), &["spec.packages", "Required"]),
        row("K01 empty spec", cluster_environment, "/spec", json!({}), environment()["spec"].clone(), &["spec.packages", "Required"]),
        row("K01 no packages", environment, "/spec/packages", json!([]), packages(1), &["spec.packages", "at least 1"]),
        row("K01 no variants", environment, "/spec/packages/0/variants", json!([]), variants(1), &["spec.packages[0].variants", "at least 1"]),
        row("K02 no store paths", environment, "/spec/packages/0/variants/0/storePaths", json!({}), json!({ "x86_64-linux": store_path("a") }),
            &["spec.packages[0].variants[0].storePaths", "at least 1"]),
        row("K03 10,000 paths", environment, "/spec/packages/0/variants", variants(10_000), variants(32), &["spec.packages[0].variants", "at most 32"]),
        row("K03 too many packages", cluster_environment, "/spec/packages", packages(17), packages(16), &["spec.packages", "at most 16"]),
        row("K04 two packages of one name", environment, "/spec/packages", json!([package("a"), package("a")]), json!([package("a"), package("b")]),
            &["spec.packages[1]", "Duplicate"]),
        row("K04 two variants of one name", environment, "/spec/packages/0/variants", json!([variant("a"), variant("a")]),
            json!([variant("a"), variant("b")]), &["spec.packages[0].variants[1]", "Duplicate"]),
        row("K05 another store", environment, PATH, json!("/gnu/store/0c0sdjxm8qa3aiazwvf8dhkp0qlcx9ay-env"), json!(store_path("env")), PATH_SHAPE),
        row("K05 a home's store", cluster_environment, PATH, json!("/home/me/nix/store/0c0sdjxm8qa3aiazwvf8dhkp0qlcx9ay-env"),
            json!(store_path("env")), PATH_SHAPE),
        row("K06 a derivation", environment, PATH, json!(store_path("env.drv")), json!(store_path("env.drv1")),
            &["storePaths[x86_64-linux]", "name the built output", "nix build --print-out-paths"]),
        row("K07 dots", environment, PATH, json!("/nix/store/../../etc"), json!(store_path("..etc")), PATH_SHAPE),
        row("K08 below a store path", environment, PATH, json!(store_path("env/bin/python")), json!(store_path("env-bin-python")), PATH_SHAPE),
        row("K08 a slash at the end", environment, PATH, json!(store_path("env/")), json!(store_path("env")), PATH_SHAPE),
        row("K08 a line after it", environment, PATH, json!(store_path("env\n/etc")), json!(store_path("env")), PATH_SHAPE),
        row("hash with a letter that Nix never uses", environment, PATH, json!("/nix/store/ec0sdjxm8qa3aiazwvf8dhkp0qlcx9ay-env"),
            json!(store_path("env")), PATH_SHAPE),
        row("forward compat without a path", environment, "/spec/packages/0/variants/0/forwardCompat", json!({ "driver": "570.86.15" }),
            json!({ "storePath": store_path("compat") }), &["forwardCompat.storePath", "Required"]),
        row("another system", environment, "/spec/packages/0/variants/0/storePaths", json!({ "riscv64-linux": store_path("a") }),
            json!({ "aarch64-linux": store_path("a") }), &["storePaths", "x86_64-linux and aarch64-linux"]),
        row("CUDA as a number", environment, "/spec/packages/0/variants/0/cuda", json!(12.8), json!("12.8"), &["variants[0].cuda", "string"]),
        row("CUDA with a patch", environment, "/spec/packages/0/variants/0/cuda", json!("12.8.1"), json!("12.8"),
            &["variants[0].cuda", "major.minor"]),
        row("code that says nothing", environment, "/spec/packages/0/variants/0/code", json!({}), json!({ "sass": [] }), &["variants[0].code", "name sass, ptx or both"]),
        row("a target without its dot", environment, "/spec/packages/0/variants/0/code/sass/0", json!("sm_90"), json!("9.0"),
            &["code.sass[0]", "with its dot"]),
        row("X06 a driver of four numbers", environment, "/spec/packages/0/variants/0/driver/min", json!("550.54.15.1"), json!("550.54.15"),
            &["driver.min", "full driver version"]),
        row("an empty range", environment, "/spec/packages/0/variants/0/driver", json!({ "min": "570.26", "max": "550.54.15" }),
            json!({ "min": "550.54.15", "max": "570.26" }), &["variants[0].driver", "min must not be newer than max"]),
        row("an empty range in one branch", environment, "/spec/packages/0/variants/0/driver", json!({ "min": "550.54.15", "max": "550.9.0" }),
            json!({ "min": "550.9.0", "max": "550.54.15" }), &["variants[0].driver", "min must not be newer than max"]),
        row("a package's name that is no label", environment, "/spec/packages/0/name", json!("Py_Torch"), json!("py-torch"),
            &["spec.packages[0].name", "lower-case letters"]),
        row("a cache's name that is none", environment, "/spec/caches", json!(["Flox!"]), json!(["flox"]), &["spec.caches[0]", "lower-case letters"]),
        row("the same cache twice", environment, "/spec/caches", json!(["flox", "flox"]), json!(["flox", "nixos"]), &["spec.caches[1]", "Duplicate"]),
        row("a word that is no choice", environment, "/spec/prewarm", json!("Never"), json!("OnDemand"), &["spec.prewarm", "\"OnDemand\", \"Always\""]),
        row("K21 unknown field", environment, "/spec/package", json!([]), json!(null), &["unknown field", "spec.package"]),
        row("K21 unknown field far down", environment, "/spec/packages/0/variants/0/storePath", json!(store_path("a")), json!(null),
            &["unknown field", "spec.packages[0].variants[0].storePath"]),
        row("K22 null where an object is", environment, "/spec", json!(null), environment()["spec"].clone(), &["spec", "Required"]),
        row("K22 null where a list is", environment, "/spec/packages", json!(null), packages(1), &["spec.packages", "Required"]),
        row("K23 a list where a map is", environment, "/spec/packages/0/variants/0/storePaths", json!([store_path("a")]),
            json!({ "x86_64-linux": store_path("a") }), &["storePaths", "object"]),
        row("K23 a map where a list is", environment, "/spec/packages", json!({ "pytorch": {} }), packages(1), &["unknown field", "spec.packages.pytorch"]),
        row("K23 an empty map where a list is", environment, "/spec/packages", json!({}), packages(1), &["spec.packages", "array"]),
    ]
}

/// Entries of section K that concern caches, nodes and preflights.
#[rustfmt::skip] // a table: one row a line
fn other_rows() -> Vec<Row> {
    let long = |length: usize| format!("https://cache.example.org/{}", "a".repeat(length - 26));
    let keys = |count: usize| -> Value { (0..count).map(|n| format!("k{n}:{}", &PUBLIC_KEY[8..])).collect() };
    let secret = format!("cache-1:{}==", "A".repeat(86));
    let url = json!("https://cache.example.org/nix");
    vec![
        row("K01 empty spec", cache, "/spec", json!({}), cache()["spec"].clone(), &["spec.url", "spec.publicKeys", "Required"]),
        row("K09 no scheme", cache, "/spec/url", json!("cache.example.org"), url.clone(), URL_SHAPE),
        row("K09 a user in it", cache, "/spec/url", json!("https://me:word@cache.example.org"), url.clone(), URL_SHAPE),
        row("K09 a fragment", cache, "/spec/url", json!("https://cache.example.org/#a"), url.clone(), URL_SHAPE),
        row("K09 a query", cache, "/spec/url", json!("https://cache.example.org/?a"), url.clone(), URL_SHAPE),
        row("K09 file: without a path", cache, "/spec/url", json!("file:cache"), json!("file:///srv/cache"), URL_SHAPE),
        row("K09 file: on another host", cache, "/spec/url", json!("file://host/cache"), json!("file:///host/cache"), URL_SHAPE),
        row("K09 ssh:", cache, "/spec/url", json!("ssh://cache.example.org"), json!("http://cache.example.org"), URL_SHAPE),
        row("K09 2 KB long", cache, "/spec/url", json!(long(2048)), json!(long(1024)), &["spec.url", "1024"]),
        row("K09 a mirror without a scheme", cache, "/spec/mirrors/0", json!("mirror.example.org"), url.clone(), &["spec.mirrors[0]", "write https://HOST/PATH"]),
        row("a redirect's origin with a path", cache, "/spec/redirectOrigins/0", json!("https://objects.example.org/bucket"),
            json!("https://objects.example.org"), &["spec.redirectOrigins[0]", "write an origin alone"]),
        row("K12 no name", cache, "/spec/publicKeys/0", json!(&PUBLIC_KEY[8..]), json!(PUBLIC_KEY), KEY_SHAPE),
        row("K12 too short", cache, "/spec/publicKeys/0", json!("cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw=="), json!(PUBLIC_KEY), KEY_SHAPE),
        row("K12 other letters", cache, "/spec/publicKeys/0", json!(PUBLIC_KEY.replace('7', "-")), json!(PUBLIC_KEY), KEY_SHAPE),
        row("K12 a secret key", cache, "/spec/publicKeys/0", json!(secret), json!(PUBLIC_KEY), &["spec.publicKeys[0]", "withdraw it"]),
        row("K12 the same key twice", cache, "/spec/publicKeys", json!([PUBLIC_KEY, PUBLIC_KEY]), keys(2), &["spec.publicKeys[1]", "Duplicate"]),
        row("K14 zero keys", cache, "/spec/publicKeys", json!([]), keys(1), &["spec.publicKeys", "at least 1"]),
        row("K14 too many keys", cache, "/spec/publicKeys", keys(17), keys(16), &["spec.publicKeys", "at most 16"]),
        row("K14 no signatures asked for", cache, "/spec/requireSignatures", json!(false), json!(null), &["unknown field", "spec.requireSignatures"]),
        row("K15 a secret of another namespace", cache, "/spec/authSecretRef/namespace", json!("kube-system"), json!(null),
            &["unknown field", "spec.authSecretRef.namespace"]),
        row("K15 a secret without a name", cache, "/spec/authSecretRef", json!({}), json!({ "name": "token" }), &["spec.authSecretRef.name", "Required"]),
        row("K18 negative", cache, "/spec/priority", json!(-1), json!(0), &["spec.priority", "greater than or equal to 0"]),
        row("K18 overflow", cache, "/spec/priority", json!(2_147_483_648_u64), json!(2_147_483_647), &["spec.priority", "2147483647"]),
        row("K18 a fraction", cache, "/spec/priority", json!(1.5), json!(1), &["spec.priority", "integer"]),
        row("K18 negative", node, "/spec/maxBytes", json!(-1), json!(0), &["spec.maxBytes", "greater than or equal to 0"]),
        row("K18 overflow", node, "/spec/maxBytes", json!(1e300), json!(9_007_199_254_740_991_u64), &["spec.maxBytes", "integer"]),
        row("K21 unknown field", node, "/spec/maxbytes", json!(1), json!(null), &["unknown field", "spec.maxbytes"]),
        row("K23 a list where a map is", cache, "/spec/authSecretRef", json!(["token"]), json!({ "name": "token" }), &["spec.authSecretRef", "object"]),
        row("K01 empty spec", preflight, "/spec", json!({}), preflight()["spec"].clone(), &["spec.driver", "Required"]),
        row("X01 empty", preflight, "/spec/driver", json!(""), json!("580.95"), &["spec.driver"]),
        row("X02 spaces", preflight, "/spec/driver", json!(" 580.95.05"), json!("580.95.05"), DRIVER_SHAPE),
        row("X03 one number", preflight, "/spec/driver", json!("580"), json!("580.95.05"), DRIVER_SHAPE),
        row("X06 four numbers", preflight, "/spec/driver", json!("550.54.15.1"), json!("550.54.15"), DRIVER_SHAPE),
        row("X07 a letter", preflight, "/spec/driver", json!("v550.54.15"), json!("550.54.15"), DRIVER_SHAPE),
        row("X08 a package's version", preflight, "/spec/driver", json!("550.54.15-1ubuntu1"), json!("550.54.15"), DRIVER_SHAPE),
        row("X16 full-width digits", preflight, "/spec/driver", json!("５５０.54.15"), json!("550.54.15"), DRIVER_SHAPE),
        row("X17 a line after it", preflight, "/spec/driver", json!("550.54.15\n570"), json!("550.54.15"), DRIVER_SHAPE),
        row("K21 unknown field", preflight, "/spec/drivers", json!([]), json!(null), &["unknown field", "spec.drivers"]),
    ]
}

fn variant(name: &str) -> Value {
    json!({ "name": name, "cuda": "12.8", "storePaths": { "x86_64-linux": store_path("a"), "aarch64-linux": store_path("a") } })
}

fn package(name: &str) -> Value {
    json!({ "name": name, "variants": [variant("one")] })
}

/// What the command line says of the same object in a file.
fn read(object: &Value) -> Result<(), String> {
    let read = manifest::parse(&object.to_string()).map_err(|error| error.to_string())?;
    let said = |error: &dyn std::fmt::Display| error.to_string();
    match &read[..] {
        [Manifest::Environment(object)] => Environment::try_from(&**object).map(drop).map_err(|error| said(&error)),
        [Manifest::ClusterEnvironment(object)] => {
            Environment::try_from(&**object).map(drop).map_err(|error| said(&error))
        }
        [Manifest::BinaryCache(object)] => CacheSource::try_from(&**object).map(drop).map_err(|error| said(&error)),
        [Manifest::Preflight(object)] => object
            .spec
            .driver
            .parse::<DriverVersion>()
            .map(drop)
            .map_err(|error| said(&error)),
        [Manifest::Node(_) | Manifest::Namespace(_)] => Ok(()),
        more => Err(format!("{} objects", more.len())),
    }
}

fn check(rows: &[Row]) {
    let Some(cluster) = Cluster::shared("what the API server refuses").unwrap() else {
        return;
    };
    let ask = |object: &Value| {
        cluster
            .kubectl_with(&["create", "--dry-run=server", "--validate=strict"], object)
            .unwrap()
    };
    let (mut accepted, mut wrong) = (BTreeSet::new(), Vec::new());
    for Row {
        entry,
        object,
        at,
        bad,
        good,
        says,
    } in rows
    {
        let twin = if good.is_null() {
            object()
        } else {
            with(object(), at, good.clone())
        };
        if accepted.insert(twin.to_string()) {
            let answer = ask(&twin);
            if answer.code != 0 {
                wrong.push(format!("{entry} ({at}): the good twin is refused: {}", answer.stderr));
            }
        }
        if let Err(error) = read(&twin) {
            wrong.push(format!("{entry} ({at}): the good twin is refused in a file: {error}"));
        }
        let bad = with(object(), at, bad.clone());
        let answer = ask(&bad);
        if answer.code == 0 {
            wrong.push(format!("{entry} ({at}): accepted"));
        }
        let unsaid: Vec<_> = says.iter().filter(|words| !answer.stderr.contains(**words)).collect();
        if answer.code != 0 && !unsaid.is_empty() {
            wrong.push(format!("{entry} ({at}): {unsaid:?} is not in: {}", answer.stderr));
        }
        if read(&bad).is_ok() && bad["kind"] != "CUDANode" {
            wrong.push(format!("{entry} ({at}): accepted in a file"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

#[test]
fn environments_that_mean_nothing_are_refused_by_field_and_remedy() {
    check(&environment_rows());
}

#[test]
fn caches_nodes_and_preflights_that_mean_nothing_are_refused_by_field_and_remedy() {
    check(&other_rows());
}

#[test]
fn a_secret_given_by_mistake_is_not_repeated_in_the_answer() {
    let Some(cluster) = Cluster::shared("secrets in refusals").unwrap() else {
        return;
    };
    let secret = "NotForAnyEyes".repeat(7);
    for (at, value) in [
        ("/spec/publicKeys/0", format!("cache-1:{secret}")),
        ("/spec/url", format!("https://me:{secret}@cache.example.org")),
    ] {
        let object = with(cache(), at, json!(value));
        let answer = cluster.kubectl_with(&["create", "--dry-run=server"], &object).unwrap();
        assert_ne!(answer.code, 0, "{at}");
        assert!(!answer.stderr.contains("NotForAnyEyes"), "{at}: {}", answer.stderr);
    }
}
