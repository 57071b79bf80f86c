//! The operator and caches that want credentials, over real TLS: what it asks them, and what it says of credentials that they refuse.
//! It must never let a credential appear anywhere but in the secrets that hold it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use binary_cache::{compression::Compression, narinfo::NarInfo};
use e2e::{
    cluster::{Cluster, chart::NAMESPACE, operator::Operator},
    documents,
    made_up::{self, Closure},
    nginx::Nginx,
    parts,
    server::Server,
    skip,
};
use serde_json::{Value, json};

const TOKEN: &str = "Swordfish-0451";
const MISTAKEN: &str = "Sardine-0451";
const NETRC: &str = "machine 127.0.0.1 login cuda password Swordfish-0452\n";
/// `cuda:Swordfish-0452`, as HTTP has it.
const BASIC: &str = "Basic Y3VkYTpTd29yZGZpc2gtMDQ1Mg==";

#[test]
fn a_cache_with_credentials_over_tls_is_asked_and_refused_ones_are_told_by_their_reason() {
    let check = "the operator and caches with credentials over TLS";
    if skip::without(check, parts::nginx()).is_none() {
        return;
    }
    let Some(cluster) = Cluster::for_operator(check).unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let closure = Closure::new("torch", 20, 1000).unwrap();
    let served = folder.path().join("cache");
    let narinfos = closure.cache(&served, Compression::Zstd).unwrap();
    let servers = [&format!("Bearer {TOKEN}"), BASIC].map(|word| Server::start_guarded(&served, word).unwrap());
    let [bearer, basic] = servers.each_ref().map(|server| Nginx::before(server).unwrap());

    make(&cluster, &closure, "bearer", &bearer, &json!({ "token": TOKEN }));
    make(&cluster, &closure, "netrc", &basic, &json!({ "netrc": NETRC }));
    make(&cluster, &closure, "mistaken", &bearer, &json!({ "token": MISTAKEN }));
    make(&cluster, &closure, "anonymous", &bearer, &Value::Null);
    let both = folder.path().join("both.pem");
    let certificates = [&bearer, &basic].map(|nginx| std::fs::read(nginx.certificate()).unwrap());
    std::fs::write(&both, certificates.concat()).unwrap();
    let operator = Operator::start_trusting(&cluster, "operator-0", &both).unwrap();

    for name in ["bearer", "netrc"] {
        is_resolved(&operator, name, &narinfos);
    }
    for name in ["mistaken", "anonymous"] {
        is_refused(&operator, name);
    }
    let answered = |server: &Server, status: u16| server.log().iter().filter(|access| access.status == status).count();
    for server in &servers {
        assert!(answered(server, 200) > 20, "every narinfo: {:?}", server.log());
    }
    assert!(answered(&servers[0], 401) > 0, "{:?}", servers[0].log());
    assert_eq!(answered(&servers[1], 401), 0, "{:?}", servers[1].log());

    cluster.apply(&secret("mistaken", &json!({ "token": TOKEN }))).unwrap();
    is_resolved(&operator, "mistaken", &narinfos);
    no_credential_is_told(&operator);
    assert!(operator.end().unwrap().success());
    without_trust_no_credential_is_sent(&cluster, &servers);
}

/// A cache of that name, its secret, and an environment that is in it alone.
fn make(cluster: &Cluster, closure: &Closure, name: &str, nginx: &Nginx, data: &Value) {
    let key = made_up::key().unwrap().public_key().to_string();
    let mut cache = documents::cache(name, &nginx.url(), &[&key]);
    if !data.is_null() {
        cluster.apply(&secret(name, data)).unwrap();
        cache["spec"]["authSecretRef"] = json!({ "name": name });
    }
    cluster.apply(&cache).unwrap();
    let variant = documents::variant("cu12", "12.8", &closure.root().to_string());
    let mut environment = documents::environment(name, &[documents::package("torch", &[variant])]);
    environment["spec"]["caches"] = json!([name]);
    cluster.apply(&environment).unwrap();
}

fn secret(name: &str, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE }, "stringData": data })
}

fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    static NONE: Value = Value::Null;
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&NONE)
}

/// The probe was answered, and the closure is known to the byte.
fn is_resolved(operator: &Operator<'_>, name: &str, narinfos: &[NarInfo]) {
    let ready = |object: &Value| condition(object, "Ready")["status"] == "True";
    operator.until_object(name, &["cbc", name], ready).unwrap();
    let arguments = ["cudaenv", name, "-n", "team-a"];
    let resolved = |object: &Value| condition(object, "Resolved")["status"] == "True";
    let object = operator.until_object(name, &arguments, resolved).unwrap();
    let bytes: u64 = narinfos.iter().map(|info| info.fields().nar_size).sum();
    let variant = &object["status"]["packages"][0]["variants"][0];
    assert_eq!(variant["closureBytes"], bytes, "{name}: {object}");
}

fn is_refused(operator: &Operator<'_>, name: &str) {
    let refused = |kind: &'static str| move |object: &Value| condition(object, kind)["reason"] == "CredentialsRefused";
    let cache = operator.until_object(name, &["cbc", name], refused("Ready")).unwrap();
    let message = condition(&cache, "Ready")["message"].as_str().unwrap();
    for part in ["HTTP 401", "spec.authSecretRef", &format!("CUDABinaryCache {name}")] {
        assert!(message.contains(part), "no `{part}`: {message}");
    }
    let arguments = ["cudaenv", name, "-n", "team-a"];
    operator.until_object(name, &arguments, refused("Resolved")).unwrap();
}

/// In no log, no event and no object that is no secret.
fn no_credential_is_told(operator: &Operator<'_>) {
    let kinds = "cudaenv,cbc,cnode,events,events.events.k8s.io";
    let told = operator.cluster.printed(&["get", kinds, "-A", "-o", "json"]).unwrap();
    assert!(told.contains("CredentialsRefused"), "what is there is found");
    let all = told + &operator.log().unwrap();
    for word in ["Swordfish", "Sardine", BASIC.trim_start_matches("Basic ")] {
        assert!(!all.contains(word), "{word}");
    }
}

/// The twin that does not know the certificate: it says so, and nothing reaches the server.
fn without_trust_no_credential_is_sent(cluster: &Cluster, servers: &[Server; 2]) {
    servers.iter().for_each(Server::clear_log);
    let operator = Operator::start(cluster, "operator-1").unwrap();
    let distrusts = |object: &Value| condition(object, "Ready")["status"] == "False";
    for name in ["bearer", "netrc"] {
        let cache = operator.until_object(name, &["cbc", name], distrusts).unwrap();
        let ready = condition(&cache, "Ready");
        assert!(ready["message"].as_str().unwrap().contains("TLS"), "{ready}");
        assert_ne!(ready["reason"], "CredentialsRefused");
    }
    for server in servers {
        assert_eq!(server.log(), []);
    }
}
