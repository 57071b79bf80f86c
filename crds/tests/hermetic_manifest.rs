//! Files as people and attackers write them: each refused one beside an accepted twin that differs in that one thing.
//! Never tests a private function: everything goes through `manifest`.

use crds::{
    domain::{cache::CacheSource, environment::Environment},
    manifest::{self, ManifestError},
};

const HASH: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la";
const KEY: &str = "example.org-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// An environment with everything in it that a variant can have.
fn environment() -> String {
    format!(
        r#"apiVersion: cudaenv.dev/v1alpha1
kind: CUDAEnvironment
metadata: {{name: pytorch, namespace: team-a}}
spec:
  caches: [flox, nixos]
  packages:
  - name: torch
    variants:
    - name: cu128
      cuda: "12.8"
      storePaths: {{x86_64-linux: /nix/store/{HASH}-env, aarch64-linux: /nix/store/{HASH}-env}}
      code: {{sass: ["8.0", "9.0a"], ptx: [{{target: "9.0", isa: "8.7"}}]}}
      driver: {{min: "570.26", max: ""}}
      forwardCompat: {{storePath: /nix/store/{HASH}-compat, driver: "580.95.05"}}
    - {{name: cu118, cuda: "11.8", storePaths: {{x86_64-linux: /nix/store/{HASH}-env}}}}
"#
    )
}

fn cache() -> String {
    format!(
        r#"apiVersion: cudaenv.dev/v1alpha1
kind: CUDABinaryCache
metadata: {{name: flox}}
spec:
  url: https://cache.example.org/nix
  publicKeys: ["{KEY}"]
  priority: 40
  mirrors: ["file:///srv/mirror"]
  redirectOrigins: ["https://objects.example.org:8443"]
  authSecretRef: {{name: netrc}}
  allowedNamespaces: {{matchLabels: {{team: a}}}}
"#
    )
}

fn environments(text: &str) -> Result<Vec<Environment>, ManifestError> {
    manifest::environments(text)
}

fn caches(text: &str) -> Result<Vec<CacheSource>, ManifestError> {
    manifest::caches(text)
}

/// The whole chain of an error, as a program prints it.
fn chain(error: &ManifestError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Replaces `old` in a good text; the good text is the accepted twin.
fn with(good: &str, old: &str, new: &str) -> String {
    assert_eq!(good.matches(old).count(), 1, "`{old}` must be in the twin once");
    good.replace(old, new)
}

#[test]
fn a_full_environment_is_read() {
    let read = environments(&environment()).unwrap();
    let [environment] = &read[..] else { panic!("{read:?}") };
    assert_eq!(
        (environment.namespace.as_deref(), environment.name.as_str()),
        (Some("team-a"), "pytorch")
    );
    let variant = &environment.packages[0].variants[0];
    assert_eq!(variant.store_paths.len(), 2);
    assert_eq!(variant.code.as_ref().unwrap().sass.len(), 2);
    assert_eq!(
        (variant.driver.min.is_some(), variant.driver.max.is_none()),
        (true, true)
    );
    assert_eq!(environment.packages[0].variants[1].code, None);
}

#[test]
fn a_full_cache_is_read() {
    let read = caches(&cache()).unwrap();
    assert_eq!((read[0].name.as_str(), read[0].priority), ("flox", Some(40)));
    assert_eq!(read[0].mirrors, ["file:///srv/mirror"]);
}

#[test]
fn json_and_several_documents_are_read_alike() {
    let both = format!("# two\n---\n{}---\n{}---\n", environment(), cache());
    assert_eq!(
        (environments(&both).unwrap().len(), caches(&both).unwrap().len()),
        (1, 1)
    );
    let json = format!(
        r#"{{"apiVersion":"cudaenv.dev/v1alpha1","kind":"ClusterCUDAEnvironment","metadata":{{"name":"a"}},
            "spec":{{"packages":[{{"name":"p","variants":[{{"name":"v","cuda":"12.8","storePaths":{{"x86_64-linux":"/nix/store/{HASH}-a"}}}}]}}]}}}}"#
    );
    assert_eq!(environments(&json).unwrap()[0].namespace, None);
}

#[test]
fn a_status_in_a_file_is_not_read() {
    let text = format!("{}status: {{conditions: 7, nonsense: true}}\n", environment());
    assert_eq!(environments(&text).unwrap(), environments(&environment()).unwrap());
}

/// Entries K01 to K26 of the corpus of bad objects, as far as they concern environments.
#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row a case")]
fn impossible_environments_are_refused_with_the_field() {
    let good = environment();
    environments(&good).unwrap();
    let compat = format!("{HASH}-compat");
    let many = "- {name: p, variants: []}\n  ".repeat(10_000);
    let empty_spec = good.split("spec:").next().unwrap();
    for (name, text, wanted) in [
        ("K01", format!("{empty_spec}spec: {{}}\n"), "spec.packages: is required"),
        ("K01b", empty_spec.to_owned(), "spec: is required"),
        (
            "K02",
            format!(
                "{empty_spec}spec: {{packages: [{{name: p, variants: [{{name: v, cuda: \"12.8\", storePaths: {{}}}}]}}]}}\n"
            ),
            "spec.packages[0].variants[0].storePaths",
        ),
        (
            "K03",
            with(&good, "- name: torch", &format!("{many}- name: torch")),
            "spec.packages: has entries 10001",
        ),
        (
            "K05",
            with(&good, &format!("/nix/store/{compat}"), &format!("/gnu/store/{compat}")),
            "spec.packages[0].variants[0].forwardCompat.storePath",
        ),
        ("K06", with(&good, &compat, &format!("{compat}.drv")), "is a derivation"),
        (
            "K07",
            with(&good, &format!("/nix/store/{compat}"), "/nix/store/../../etc"),
            "points below a store path",
        ),
        (
            "K08",
            with(&good, &compat, &format!("{compat}/lib")),
            "points below a store path",
        ),
        (
            "K21",
            with(&good, "forwardCompat:", "forwardcompat:"),
            "spec.packages[0].variants[0].forwardcompat: unknown field",
        ),
        ("K21b", with(&good, "spec:", "Spec: {}\nspec:"), "Spec: unknown field"),
        (
            "K22",
            format!("{empty_spec}spec: null\n"),
            "spec: expected an object, found nothing (null)",
        ),
        (
            "K22b",
            with(
                &good,
                "  - name: torch\n    variants:",
                "  - null\n  - name: torch\n    variants:",
            ),
            "spec.packages[0]: expected an object",
        ),
        (
            "K23",
            format!("{empty_spec}spec: []\n"),
            "spec: expected an object, found a list",
        ),
        (
            "no number",
            with(&good, "cuda: \"12.8\"", "cuda: twelve"),
            "spec.packages[0].variants[0].cuda",
        ),
        (
            "unquoted",
            with(&good, "cuda: \"12.8\"", "cuda: 12.8"),
            "found the number 12.8; put it in quotes",
        ),
        (
            "system",
            with(&good, "aarch64-linux:", "riscv64-linux:"),
            "storePaths[riscv64-linux]",
        ),
        (
            "target",
            with(&good, "\"9.0a\"", "\"9.0b\""),
            "spec.packages[0].variants[0].code.sass[1]",
        ),
        ("spelling", with(&good, "\"9.0a\"", "\"sm_90a\""), "write `9.0a`"),
        (
            "repeated",
            with(&good, "\"9.0a\"", "\"8.0\""),
            "code.sass[1]: is in the list twice",
        ),
        (
            "no code",
            with(
                &good,
                "{sass: [\"8.0\", \"9.0a\"], ptx: [{target: \"9.0\", isa: \"8.7\"}]}",
                "{}",
            ),
            "write `sass: []`",
        ),
        ("isa", with(&good, "isa: \"8.7\"", "isa: \"x\""), "code.ptx[0].isa"),
        ("driver", with(&good, "570.26", "570"), "variants[0].driver.min"),
        (
            "range",
            with(&good, "max: \"\"", "max: \"570.9\""),
            "no driver lies between 570.26 and 570.9",
        ),
        (
            "compat driver",
            with(&good, "580.95.05", "v580"),
            "forwardCompat.driver",
        ),
        (
            "variant twice",
            with(&good, "{name: cu118", "{name: cu128"),
            "variants[1].name: `cu128` is used twice",
        ),
        (
            "label",
            with(&good, "name: torch", "name: ../torch"),
            "spec.packages[0].name",
        ),
        (
            "cache twice",
            with(&good, "[flox, nixos]", "[flox, flox]"),
            "spec.caches[1]",
        ),
        (
            "cache name",
            with(&good, "[flox, nixos]", "[../flox]"),
            "spec.caches[0]",
        ),
        ("name", with(&good, "name: pytorch", "name: PyTorch"), "metadata.name"),
        (
            "no name",
            with(&good, "name: pytorch, ", ""),
            "metadata.name: is required",
        ),
        ("namespace", with(&good, "team-a", "team.a"), "metadata.namespace"),
        (
            "prewarm",
            with(&good, "spec:", "spec:\n  prewarm: Sometimes"),
            "spec.prewarm: must be one of OnDemand, Always",
        ),
        (
            "group",
            with(&good, "cudaenv.dev/v1alpha1", "cudaenv.dev/v1"),
            "only the kinds of cudaenv.dev/v1alpha1",
        ),
        (
            "kind",
            with(&good, "kind: CUDAEnvironment", "kind: Pod"),
            "(Pod team-a/pytorch)",
        ),
    ] {
        let error = chain(&environments(&text).expect_err(name));
        assert!(
            error.contains(wanted) && error.contains("document 1"),
            "{name}: {error}"
        );
    }
}

/// What looks odd and is allowed: K04, K10, K20, K25.
#[test]
fn odd_but_possible_objects_are_accepted() {
    environments(&with(
        &environment(),
        "name: pytorch",
        &format!("name: {}", "a".repeat(253)),
    ))
    .unwrap();
    environments(&with(
        &environment(),
        "code: {sass: [\"8.0\", \"9.0a\"], ptx: [{target: \"9.0\", isa: \"8.7\"}]}",
        "code: {sass: []}",
    ))
    .unwrap();
    caches(&with(
        &cache(),
        "https://cache.example.org/nix",
        "http://cache.nix-cache.svc:8080",
    ))
    .unwrap();
    caches(&with(&cache(), "example.org-1:", "key_1:")).unwrap();
    let tie = format!("{}---\n{}", cache(), with(&cache(), "name: flox", "name: other"));
    assert_eq!(caches(&tie).unwrap().len(), 2);
}

/// Entries K09 to K18 of the corpus, as far as they concern caches.
#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row a case")]
fn impossible_caches_are_refused_with_the_field() {
    let good = cache();
    caches(&good).unwrap();
    let url = "https://cache.example.org/nix";
    let secret = format!("example.org-1:{}==", "A".repeat(86));
    for (name, text, wanted) in [
        ("K09 scheme", with(&good, url, "cache.example.org"), "spec.url"),
        (
            "K09 user",
            with(&good, url, "https://me:hunter2@cache.example.org"),
            "spec.url",
        ),
        (
            "K09 fragment",
            with(&good, url, "https://cache.example.org/#x"),
            "spec.url",
        ),
        ("query", with(&good, url, "https://cache.example.org/?x"), "spec.url"),
        ("K09 file", with(&good, url, "file:srv"), "spec.url"),
        ("K09 file host", with(&good, url, "file://host/srv"), "spec.url"),
        ("K09 ssh", with(&good, url, "ssh://cache.example.org"), "spec.url"),
        (
            "K09 long",
            with(&good, url, &format!("{url}/{}", "a".repeat(2048))),
            "spec.url",
        ),
        ("no host", with(&good, url, "https:///nix"), "spec.url"),
        (
            "blank",
            with(&good, url, "\"https://cache.example.org/a b\""),
            "spec.url",
        ),
        (
            "K12 colon",
            with(&good, "example.org-1:", "example.org-1"),
            "spec.publicKeys[0]",
        ),
        ("K12 short", with(&good, "AAA=", "AA="), "spec.publicKeys[0]"),
        ("K12 name", with(&good, "example.org-1:", ":"), "spec.publicKeys[0]"),
        ("K12 secret", with(&good, KEY, &secret), "is a secret key"),
        (
            "K14",
            with(&good, &format!("\"{KEY}\""), ""),
            "spec.publicKeys: has entries 0",
        ),
        (
            "K14 flag",
            with(&good, "  priority: 40", "  requireSignatures: false"),
            "spec.requireSignatures: unknown field",
        ),
        (
            "key twice",
            with(&good, &format!("\"{KEY}\""), &format!("\"{KEY}\", \"{KEY}\"")),
            "spec.publicKeys[1]",
        ),
        (
            "K15",
            with(&good, "{name: netrc}", "{name: netrc, namespace: kube-system}"),
            "spec.authSecretRef.namespace: unknown field",
        ),
        (
            "K18 negative",
            with(&good, "priority: 40", "priority: -1"),
            "spec.priority",
        ),
        (
            "K18 overflow",
            with(&good, "priority: 40", "priority: 4294967296"),
            "spec.priority",
        ),
        ("K18 huge", with(&good, "priority: 40", "priority: 1e1000"), "priority"),
        (
            "K19",
            with(&good, "priority: 40", "timeout: 0"),
            "spec.timeout: unknown field",
        ),
        (
            "mirror",
            with(&good, "file:///srv/mirror", "ftp://mirror"),
            "spec.mirrors[0]",
        ),
        (
            "origin path",
            with(
                &good,
                "https://objects.example.org:8443",
                "https://objects.example.org/x",
            ),
            "spec.redirectOrigins[0]",
        ),
        (
            "origin user",
            with(
                &good,
                "https://objects.example.org:8443",
                "https://a@objects.example.org",
            ),
            "spec.redirectOrigins[0]",
        ),
    ] {
        let error = chain(&caches(&text).expect_err(name));
        assert!(error.contains(wanted), "{name}: {error}");
        assert!(
            !error.contains("hunter2") && !error.contains(&"A".repeat(86)),
            "{name} quotes a secret: {error}"
        );
    }
}

#[test]
fn the_document_and_the_object_are_named() {
    let second = with(&environment(), "\"12.8\"", "\"12\"");
    let error = environments(&format!("{}---\n{second}", cache()))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("document 2 (CUDAEnvironment team-a/pytorch): spec.packages[0].variants[0].cuda: "),
        "{error}"
    );
}

#[test]
fn files_that_only_cost_time_or_memory_are_refused() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30 {
        let previous = format!("*a{},", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let deep = format!("spec: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let twice = with(&environment(), "spec:", "kind: CUDAEnvironment\nspec:");
    let merge = with(&environment(), "spec:", "x: &x {a: b}\nspec:\n  <<: *x");
    for (name, text) in [
        ("aliases", bomb),
        ("nesting", deep),
        ("duplicate key", twice),
        ("merge", merge),
        ("no YAML", "{".to_owned()),
    ] {
        let error = manifest::parse(&text).expect_err(name);
        assert!(matches!(error, ManifestError::Syntax(_)), "{name}: {error:?}");
    }
    let long = format!("{}#{}", environment(), "a".repeat(manifest::LONGEST));
    assert!(matches!(manifest::parse(&long), Err(ManifestError::TooLong)));
    for empty in ["", "---\n---\n", "# nothing\n"] {
        assert!(matches!(manifest::parse(empty), Err(ManifestError::Empty)), "{empty:?}");
    }
    for text in ["- a\n", "7\n", "text\n"] {
        assert!(
            matches!(manifest::parse(text), Err(ManifestError::Kind { .. })),
            "{text:?}"
        );
    }
}
