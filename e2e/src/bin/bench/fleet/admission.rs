//! Admission at a rate: pods through the API server as dry runs, with the label and without, and reviews to the webhook itself.
//! It must never wait for one answer before the next question is due.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::cluster::{
    Cluster,
    chart::{self, NAMESPACE},
};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{CONFIGURATION, TEAM, pods, row};
use crate::{
    https::{Https, Identity},
    measure::percentile,
};

/// Questions a second, and how many.
const RATE: u32 = 50;
const QUESTIONS: usize = 1000;
/// Connections that they are spread over, as an API server has several.
const CONNECTIONS: usize = 8;

/// Lets the API server ask the operator, and waits until the operator has said whom to trust.
pub(super) async fn configure(cluster: &Cluster, client: &Client, port: u16) -> Result<Vec<u8>> {
    for object in chart::configuration_at(NAMESPACE, CONFIGURATION, port)? {
        let answer = cluster.kubectl_with(&["apply"], &object)?;
        ensure!(answer.code == 0, "{answer:?}");
    }
    let configurations = Api::<MutatingWebhookConfiguration>::all(client.clone());
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = configurations.get(CONFIGURATION).await?;
        let mut webhooks = found.webhooks.into_iter().flatten();
        if let Some(authority) = webhooks.find_map(|webhook| webhook.client_config.ca_bundle) {
            return Ok(authority.0);
        }
    }
    anyhow::bail!("the operator does not say whom to trust")
}

/// The rows of all three.
pub(super) async fn measured(cluster: &Cluster, authority: &[u8], webhook: u16) -> Result<Vec<Vec<String>>> {
    let folder = cluster.folder().join("pki");
    let [own, certificate, key] = ["ca.crt", "admin.crt", "admin.key"].map(|name| fs::read(folder.join(name)));
    let (own, certificate, key) = (own?, certificate?, key?);
    let server = cluster.printed(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let port = server.rsplit(':').next().unwrap_or_default().trim().parse()?;
    let api = Identity {
        authority: &own,
        own: Some((&certificate, &key)),
    };
    let create = format!("/api/v1/namespaces/{TEAM}/pods?dryRun=All");
    let mut plain = pods::labelled(pods::PODS);
    drop(plain["metadata"]["labels"].take());
    let direct = Identity { authority, own: None };
    Ok(vec![
        asked(
            "dry-run create of a pod without the label",
            (port, &api),
            &create,
            &plain,
        )
        .await?,
        asked(
            "dry-run create of a pod with it",
            (port, &api),
            &create,
            &pods::labelled(pods::PODS),
        )
        .await?,
        asked("the webhook alone", (webhook, &direct), "/mutate-pods", &review()).await?,
    ])
}

/// A row of how long answers took, counted from when each question was due.
async fn asked(name: &str, (port, identity): (u16, &Identity<'_>), path: &str, body: &Value) -> Result<Vec<String>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Arc::new(Mutex::new(Https::connect(port, identity).await?)));
    }
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = JoinSet::new();
    for number in 0..QUESTIONS + CONNECTIONS {
        let due = ticks.tick().await;
        let connection = connections.get(number % CONNECTIONS).context("no connection")?.clone();
        let (path, body) = (path.to_owned(), body.to_string().into_bytes());
        asking.spawn(async move {
            let (status, answer) = connection.lock().await.post(&path, body).await?;
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
            // The first of each connection meet a server that has not met it.
            Ok((number >= CONNECTIONS).then(|| Instant::now().duration_since(due).as_secs_f64() * 1e3))
        });
    }
    let mut took = Vec::new();
    while let Some(done) = asking.join_next().await {
        took.extend(done??);
    }
    let figure = |took: &mut [f64], share| format!("{:.1}", percentile(took, share));
    let shares = [0.5, 0.9, 0.99, 1.0].map(|share| figure(&mut took, share));
    Ok(row(name, shares))
}

/// What the API server asks of a pod.
fn review() -> Value {
    let pod = pods::labelled(pods::PODS);
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": TEAM, "operation": "CREATE", "dryRun": true, "oldObject": null,
            "userInfo": {"username": "system:serviceaccount:kube-system:job-controller", "groups": ["system:authenticated"]},
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}, "object": pod,
        },
    })
}
