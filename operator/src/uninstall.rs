//! Leaving a cluster: what `helm uninstall` runs before and after it removes the release's own objects.
//! Never unmounts anything itself, and never removes what users wrote: environments and caches stay.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crds::v1alpha1::CUDANode;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    coordination::v1::Lease,
    core::v1::{Node, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use tracing::info;

use crate::{
    args::{FinishArgs, UninstallStep},
    plan::uninstall::{cleaned, missing, needs_an_agent},
};

/// Objects asked for at once.
const PAGE: u32 = 500;
/// Pods that are named where several are in the way.
const NAMED: usize = 20;
/// How often the API server is asked whether nodes are done.
const PACE: Duration = Duration::from_secs(2);
/// How often a node is read again because somebody else wrote it in between.
const ATTEMPTS: u32 = 10;

/// Does one step of leaving.
///
/// # Errors
/// What is in the way, with what to do; what the API server refused.
pub async fn step(client: Client, step: UninstallStep) -> anyhow::Result<()> {
    match step {
        UninstallStep::Check => check(client).await,
        UninstallStep::Finish(args) => {
            let FinishArgs {
                namespace,
                daemonset,
                timeout,
                secret,
                lease,
            } = args;
            clean_nodes(client.clone()).await?;
            forget(&client, &namespace, &secret, &lease).await?;
            tokio::time::timeout(
                Duration::from_secs(timeout),
                await_nodes(&client, &namespace, &daemonset),
            )
            .await
            .with_context(|| {
                format!("not every node was cleaned within {timeout} s: see the pods of daemonset {daemonset}")
            })?
        }
    }
}

/// Refuses while a pod holds a volume of ours.
async fn check(client: Client) -> anyhow::Result<()> {
    let pods = all(&Api::<Pod>::all(client)).await.context("pods cannot be listed")?;
    let holding: Vec<_> = pods
        .iter()
        .filter(|pod| needs_an_agent(pod))
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    if holding.is_empty() {
        info!("no pod holds a CUDA environment");
        return Ok(());
    }
    bail!(
        "{} pods hold a CUDA environment and could never be removed once the agents are gone; delete them first, then uninstall \
         again: {}{}",
        holding.len(),
        holding.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "),
        if holding.len() > NAMED { ", …" } else { "" }
    )
}

/// Takes our labels and our taint off every node.
async fn clean_nodes(client: Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client);
    let names = all(&nodes).await.context("nodes cannot be listed")?;
    for name in names.iter().map(ResourceExt::name_any) {
        clean(&nodes, &name)
            .await
            .with_context(|| format!("labels and taint of node {name} cannot be removed"))?;
    }
    Ok(())
}

async fn clean(nodes: &Api<Node>, name: &str) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(patch) = nodes.get_opt(name).await?.as_ref().and_then(cleaned) else {
            return Ok(());
        };
        match nodes
            .patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await
        {
            Ok(_) => {
                info!(node.name = name, "labels and taint removed");
                return Ok(());
            }
            // A test of the patch failed: another wrote what was to be removed.
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("it is written by somebody else all the time")
}

/// Removes what our programs made of their own accord: records of nodes, secrets, the lease.
async fn forget(client: &Client, namespace: &str, secrets: &[String], lease: &str) -> anyhow::Result<()> {
    let nodes = Api::<CUDANode>::all(client.clone());
    for name in all(&nodes)
        .await
        .context("CUDANodes cannot be listed")?
        .iter()
        .map(ResourceExt::name_any)
    {
        gone(nodes.delete(&name, &DeleteParams::default()).await)
            .with_context(|| format!("CUDANode {name} cannot be deleted"))?;
    }
    let kept = Api::<Secret>::namespaced(client.clone(), namespace);
    for name in secrets {
        gone(kept.delete(name, &DeleteParams::default()).await)
            .with_context(|| format!("secret {namespace}/{name} cannot be deleted"))?;
    }
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    gone(leases.delete(lease, &DeleteParams::default()).await)
        .with_context(|| format!("lease {namespace}/{lease} cannot be deleted"))
}

/// What is not there is as good as deleted.
fn gone<T>(deleted: kube::Result<T>) -> kube::Result<()> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the pods that clean nodes are ready everywhere, which they are when they are done.
async fn await_nodes(client: &Client, namespace: &str, daemonset: &str) -> anyhow::Result<()> {
    let sets = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    loop {
        let set = sets
            .get(daemonset)
            .await
            .with_context(|| format!("daemonset {namespace}/{daemonset} cannot be read"))?;
        match missing(&set) {
            Some(0) => return Ok(()),
            Some(count) => info!(nodes = count, "nodes are still to be cleaned"),
            None => {}
        }
        tokio::time::sleep(PACE).await;
    }
}

/// All objects of a kind, page by page.
async fn all<K>(api: &Api<K>) -> kube::Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}
