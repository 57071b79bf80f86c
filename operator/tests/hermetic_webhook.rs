//! The webhook's server over real TLS on loopback: what is answered to whom, and that a new certificate disturbs nobody.
//! No cluster: what is known of it is put into the channel by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, client::conn::http1, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use operator::{
    admission::{
        Admission,
        serve::{self, Limits},
        tls,
    },
    metrics::Metrics,
    plan::admission::affinity::AgentNodes,
    snapshot::{settled::Settled, world::World},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A self-signed certificate for `localhost`.
fn certificate() -> (Arc<CertifiedKey>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let der = made.cert.der().clone();
    let certified = CertifiedKey::from_der(vec![der.clone()], key, &ring::default_provider()).unwrap();
    (Arc::new(certified), der)
}

/// A server, and what it can be told.
struct Webhook {
    address: std::net::SocketAddr,
    worlds: watch::Sender<Option<Arc<Settled>>>,
    serving: watch::Sender<Option<Arc<CertifiedKey>>>,
    metrics: Metrics,
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn webhook(first: Option<Arc<CertifiedKey>>) -> Webhook {
    limited(first, Limits::default()).await
}

#[expect(clippy::disallowed_methods, reason = "the test is the composition root")]
async fn limited(first: Option<Arc<CertifiedKey>>, limits: Limits) -> Webhook {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (worlds, known) = watch::channel(Some(Arc::new(Settled::default())));
    let (serving, latest) = watch::channel(first);
    let metrics = Metrics::new().unwrap();
    let admission = Admission::new(known, "cudaenv".to_owned(), AgentNodes::default(), metrics.clone());
    let address = listener.local_addr().unwrap();
    let (ending, told) = watch::channel(false);
    let task = tokio::spawn(serve::serve(
        listener,
        tls::config(latest).unwrap(),
        admission,
        told,
        limits,
    ));
    Webhook {
        address,
        worlds,
        serving,
        metrics,
        ending,
        task,
    }
}

/// A connection that trusts exactly `root`.
async fn connect(
    webhook: &Webhook,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(webhook.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

type Sender = http1::SendRequest<Full<Bytes>>;

#[expect(clippy::disallowed_methods, reason = "the connection's own task")]
async fn speak(webhook: &Webhook, root: &CertificateDer<'static>) -> Sender {
    let stream = connect(webhook, root, b"http/1.1").await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn post(sender: &mut Sender, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let request = Request::post(path)
        .header("host", "localhost")
        .body(Full::new(body.into()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn review(kind: &str, operation: &str, object: Value) -> String {
    let request = json!({"uid": "u1", "kind": {"group": "", "version": "v1", "kind": kind}, "namespace": "team-a",
        "operation": operation, "object": object});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

fn asking() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"cudaenv.dev/inject": "true"}, "annotations": {"cudaenv.dev/environment": "absent"}},
        "spec": {"containers": [{"name": "main"}]}})
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn what_is_no_question_is_refused_by_its_status() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    let mut sender = speak(&webhook, &root).await;
    let good = review("Pod", "CREATE", json!({"metadata": {}, "spec": {"containers": []}}));
    let beta = good.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let empty = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string();
    let no_pod = review("Pod", "CREATE", json!({"spec": 7}));
    let no_object = review("Pod", "CREATE", Value::Null);
    for (path, body, status, says) in [
        ("/mutate-pods", good.as_str(), StatusCode::OK, "\"allowed\":true"),
        (
            "/mutate-pods",
            "{",
            StatusCode::BAD_REQUEST,
            "the body is no AdmissionReview",
        ),
        (
            "/mutate-pods",
            "",
            StatusCode::BAD_REQUEST,
            "the body is no AdmissionReview",
        ),
        (
            "/mutate-pods",
            &beta,
            StatusCode::BAD_REQUEST,
            "admission.k8s.io/v1beta1",
        ),
        ("/mutate-pods", &empty, StatusCode::BAD_REQUEST, "has no request"),
        (
            "/mutate-pods",
            &no_pod,
            StatusCode::BAD_REQUEST,
            "the request's object is no Pod",
        ),
        (
            "/mutate-pods",
            &no_object,
            StatusCode::BAD_REQUEST,
            "the request's object is no Pod",
        ),
        (
            "/validate-objects",
            "[]",
            StatusCode::BAD_REQUEST,
            "the body is no AdmissionReview",
        ),
        (
            "/elsewhere",
            &good,
            StatusCode::NOT_FOUND,
            "/mutate-pods and /validate-objects",
        ),
    ] {
        let (found, text) = post(&mut sender, path, body.to_owned()).await;
        assert_eq!(found, status, "{path} {body}: {text}");
        assert!(text.contains(says), "{text}");
    }
    let get = Request::get("/mutate-pods")
        .header("host", "localhost")
        .body(Full::default())
        .unwrap();
    assert_eq!(
        sender.send_request(get).await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    let count = |outcome: &str| webhook.metrics.admission.with_label_values(&["pods", outcome]).get();
    assert_eq!((count("unchanged"), count("malformed")), (1, 6));
    let times = webhook.metrics.admission_seconds.with_label_values(&["pods"]);
    assert_eq!(times.get_sample_count(), 7, "each answer's time counts");
}

#[tokio::test]
async fn a_body_is_bounded() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    let fits = vec![b' '; 4 << 20];
    let (status, _) = post(&mut speak(&webhook, &root).await, "/mutate-pods", fits).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for (announced, status) in [((4 << 20) + 1, "413"), (10, "408")] {
        // Nothing follows the head: what is too large is refused at once, what does not come is not waited for.
        let mut stream = connect(&webhook, &root, b"http/1.1").await.unwrap();
        let head = format!("POST /mutate-pods HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
    }
    let (status, _) = post(&mut speak(&webhook, &root).await, "/mutate-pods", "{").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_new_certificate_is_served_and_open_connections_go_on() {
    let ((first, old), (second, new)) = (certificate(), certificate());
    let webhook = webhook(None).await;
    connect(&webhook, &old, b"http/1.1").await.unwrap_err();
    webhook.serving.send_replace(Some(first));
    let mut open = speak(&webhook, &old).await;
    let good = review("Pod", "CREATE", json!({"metadata": {}, "spec": {"containers": []}}));
    assert_eq!(post(&mut open, "/mutate-pods", good.clone()).await.0, StatusCode::OK);
    webhook.serving.send_replace(Some(second));
    assert_eq!(post(&mut open, "/mutate-pods", good.clone()).await.0, StatusCode::OK);
    connect(&webhook, &old, b"http/1.1").await.unwrap_err();
    assert_eq!(
        post(&mut speak(&webhook, &new).await, "/mutate-pods", good).await.0,
        StatusCode::OK
    );
}

#[expect(clippy::disallowed_methods, reason = "the connection's own task")]
#[tokio::test]
async fn http_2_is_spoken() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    let stream = connect(&webhook, &root, b"h2").await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("https://localhost/mutate-pods")
        .body(Full::new(Bytes::from("{")))
        .unwrap();
    assert_eq!(
        sender.send_request(request).await.unwrap().status(),
        StatusCode::BAD_REQUEST
    );
}

#[expect(clippy::disallowed_methods, reason = "the connections' own tasks")]
#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let (key, root) = certificate();
    let idle = Duration::from_millis(600);
    let limits = Limits {
        idle,
        ..Limits::default()
    };
    let webhook = limited(Some(key), limits).await;
    let mut closed = Vec::new();
    for _ in 0..2 {
        let stream = connect(&webhook, &root, b"h2").await.unwrap();
        let spoken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection): (http2::SendRequest<Full<Bytes>>, _) = spoken.unwrap();
        closed.push((sender, tokio::spawn(connection)));
    }
    let (mut busy, going_on) = closed.pop().unwrap();
    let (_unused, idle_one) = closed.pop().unwrap();
    // A question that takes longer than a connection may be idle, and others that come one after the other.
    for question in [
        review("Pod", "CREATE", asking()),
        "{".to_owned(),
        "{".to_owned(),
        "{".to_owned(),
    ] {
        let request = Request::post("https://localhost/mutate-pods")
            .body(Full::new(Bytes::from(question)))
            .unwrap();
        busy.send_request(request).await.unwrap();
        tokio::time::sleep(idle / 2).await;
    }
    assert!(idle_one.is_finished() && !going_on.is_finished());
    tokio::time::timeout(10 * idle, going_on)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn one_address_cannot_hold_all_connections() {
    let (key, root) = certificate();
    let limits = Limits {
        per_address: 2,
        ..Limits::default()
    };
    let webhook = limited(Some(key), limits).await;
    let (first, mut second) = (speak(&webhook, &root).await, speak(&webhook, &root).await);
    connect(&webhook, &root, b"http/1.1").await.unwrap_err();
    assert_eq!(post(&mut second, "/mutate-pods", "{").await.0, StatusCode::BAD_REQUEST);
    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut next = speak(&webhook, &root).await;
    assert_eq!(post(&mut next, "/mutate-pods", "{").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn at_the_end_open_connections_are_closed_after_their_answer_and_new_ones_are_served() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    let (mut idle, mut busy) = (speak(&webhook, &root).await, speak(&webhook, &root).await);
    assert_eq!(post(&mut idle, "/mutate-pods", "{").await.0, StatusCode::BAD_REQUEST);
    let end = async {
        // The question waits for its environment meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        webhook.ending.send_replace(true);
    };
    let (answered, ()) = tokio::join!(post(&mut busy, "/mutate-pods", review("Pod", "CREATE", asking())), end);
    assert_eq!(answered.0, StatusCode::OK);
    for connection in [&mut idle, &mut busy] {
        connection.ready().await.unwrap_err();
    }
    assert_eq!(
        post(&mut speak(&webhook, &root).await, "/mutate-pods", "{").await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_pod_waits_for_what_was_written_just_before_it_and_not_for_longer() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    let mut sender = speak(&webhook, &root).await;
    let question = review("Pod", "CREATE", asking());
    let (status, text) = post(&mut sender, "/mutate-pods", question.clone()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &answer["response"]["allowed"]),
        (StatusCode::OK, &json!(false)),
        "{text}"
    );
    assert!(
        text.contains("namespace `team-a` has no CUDAEnvironment `absent`"),
        "{text}"
    );
    let written = async {
        // The question is on its way when the object comes.
        tokio::time::sleep(Duration::from_millis(200)).await;
        webhook.worlds.send_replace(Some(Arc::new(with_environment().into())));
    };
    let (answered, ()) = tokio::join!(post(&mut sender, "/mutate-pods", question), written);
    let answer: Value = serde_json::from_str(&answered.1).unwrap();
    assert_eq!(answer["response"]["allowed"], json!(true), "{}", answered.1);
    assert_eq!(answer["response"]["patchType"], json!("JSONPatch"));
}

#[tokio::test]
async fn an_operator_that_knows_nothing_yet_says_so_and_judges_what_needs_no_knowledge() {
    let (key, root) = certificate();
    let webhook = webhook(Some(key)).await;
    webhook.worlds.send_replace(None);
    let mut sender = speak(&webhook, &root).await;
    let (_, text) = post(&mut sender, "/mutate-pods", review("Pod", "CREATE", asking())).await;
    assert!(
        text.contains("\"allowed\":false") && text.contains("try again"),
        "{text}"
    );
    for own in ["kube-system", "cudaenv"] {
        let question = review("Pod", "CREATE", asking()).replace("team-a", own);
        let (_, text) = post(&mut sender, "/mutate-pods", question).await;
        assert!(
            text.contains("\"allowed\":true") && text.contains("get no CUDA environment"),
            "{text}"
        );
    }
    let (_, text) = post(&mut sender, "/mutate-pods", review("Pod", "UPDATE", asking())).await;
    assert!(text.contains("\"allowed\":true"), "{text}");
    let cache = json!({"metadata": {"name": "c"}, "spec": {"url": "ftp://x", "publicKeys": []}});
    let (_, text) = post(
        &mut sender,
        "/validate-objects",
        review("CUDABinaryCache", "CREATE", cache),
    )
    .await;
    assert!(
        text.contains("\"allowed\":false") && text.contains("spec.url"),
        "{text}"
    );
}

/// A world with the environment that [`asking`] names.
fn with_environment() -> World {
    let mut world = World::default();
    let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment", "metadata": {"namespace": "team-a", "name": "absent"},
        "spec": {"packages": [{"name": "cuda", "variants": [{"name": "only", "cuda": "12.8",
            "storePaths": {"x86_64-linux": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda"}}]}]}});
    let object: crds::v1alpha1::CUDAEnvironment = serde_json::from_value(object).unwrap();
    let key = crds::catalogue::EnvironmentKey {
        namespace: Some("team-a".to_owned()),
        name: "absent".to_owned(),
    };
    let entry = crds::catalogue::EnvironmentEntry::from(&object);
    world.catalogue.environments.insert(key, entry.into());
    let cache = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "cache"},
        "spec": {"url": "https://cache.example.org", "publicKeys": ["cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs="]}});
    let cache: crds::v1alpha1::CUDABinaryCache = serde_json::from_value(cache).unwrap();
    let entry = crds::catalogue::CacheEntry::from(&cache);
    world.catalogue.caches.insert("cache".to_owned(), entry.into());
    world
}
