//! Leaving a cluster: what `helm uninstall` runs before and after it removes the release's own objects.
//! Never unmounts anything itself, and never removes what users wrote: environments and caches stay.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crds::v1alpha1::CUDANode;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    coordination::v1::Lease,
    core::v1::{Node, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams},
};
use tracing::info;

use crate::{
    args::{FinishArgs, UninstallStep},
    plan::uninstall::{cleaned, missing, needs_an_agent},
};

/// Objects asked for at once.
const PAGE: u32 = 500;
/// Pods that are on a node and have not ended.
const PLACED: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
/// Nodes that are written at once.
const AT_ONCE: usize = 8;
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
    let (mut holding, mut count) = (Vec::new(), 0_usize);
    let pods = Api::<Pod>::all(client);
    let mut pages = Pages::of(ListParams::default().fields(PLACED));
    while let Some(page) = pages
        .next(async |page| pods.list(page).await)
        .await
        .context("pods cannot be listed")?
    {
        for pod in page.iter().filter(|pod| needs_an_agent(pod)) {
            count += 1;
            if holding.len() < NAMED {
                holding.push(format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
            }
        }
    }
    if count == 0 {
        info!("no pod holds a CUDA environment");
        return Ok(());
    }
    bail!(
        "{count} pods hold a CUDA environment and could never be removed once the agents are gone; delete them first, then \
         uninstall again: {}{}",
        holding.join(", "),
        if count > NAMED { ", …" } else { "" }
    )
}

/// Takes our labels and our taint off every node.
async fn clean_nodes(client: Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client);
    let mut pages = Pages::of(ListParams::default());
    while let Some(page) = pages
        .next(async |page| nodes.list(page).await)
        .await
        .context("nodes cannot be listed")?
    {
        let cleaning = page.into_iter().map(|node| {
            let (nodes, name) = (&nodes, node.name_any());
            async move {
                let cleaned = clean(nodes, &name, node).await;
                cleaned.with_context(|| format!("labels and taint of node {name} cannot be removed"))
            }
        });
        stream::iter(cleaning)
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
    }
    Ok(())
}

/// Cleans a node as it was listed, and as it is where somebody has written it since.
async fn clean(nodes: &Api<Node>, name: &str, listed: Node) -> anyhow::Result<()> {
    let mut node = listed;
    for _ in 0..ATTEMPTS {
        let Some(patch) = cleaned(&node) else {
            return Ok(());
        };
        let patched = nodes
            .patch_metadata(name, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await;
        match patched {
            Ok(_) => {
                info!(node.name = name, "labels and taint removed");
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            // A test of the patch failed: another wrote what was to be removed.
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        let Some(now) = nodes.get_opt(name).await? else {
            return Ok(());
        };
        node = now;
    }
    bail!("it is written by somebody else all the time")
}

/// Removes what our programs made of their own accord: records of nodes, secrets, the lease.
async fn forget(client: &Client, namespace: &str, secrets: &[String], lease: &str) -> anyhow::Result<()> {
    let nodes = Api::<CUDANode>::all(client.clone());
    let mut pages = Pages::of(ListParams::default());
    while let Some(page) = pages
        .next(async |page| nodes.list_metadata(page).await)
        .await
        .context("CUDANodes cannot be listed")?
    {
        let deleting = page.into_iter().map(|node| {
            let (nodes, name) = (&nodes, node.name_any());
            async move {
                let deleted = nodes.delete(&name, &DeleteParams::default()).await;
                gone(deleted).with_context(|| format!("CUDANode {name} cannot be deleted"))
            }
        });
        stream::iter(deleting)
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
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

/// A list, page by page: a large cluster's objects are never held together.
struct Pages(Option<ListParams>);

impl Pages {
    fn of(what: ListParams) -> Self {
        Self(Some(what.limit(PAGE)))
    }

    /// The next page; nothing after the last.
    async fn next<K: Clone>(
        &mut self,
        list: impl AsyncFnOnce(&ListParams) -> kube::Result<ObjectList<K>>,
    ) -> kube::Result<Option<Vec<K>>> {
        let Some(page) = self.0.take() else {
            return Ok(None);
        };
        let found = list(&page).await?;
        let token = found.metadata.continue_.filter(|token| !token.is_empty());
        self.0 = token.map(|token| page.continue_token(&token));
        Ok(Some(found.items))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;
    use crate::client::answering;

    fn node(name: &str, class: Option<&str>) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"cudaenv.dev/class": class.unwrap_or("none")},
            "resourceVersion": "1"}})
    }

    fn failure(code: u16) -> (u16, Value) {
        (
            code,
            json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": "x", "message": "x"}),
        )
    }

    /// What is asked, where each PATCH in turn is answered by one of these codes.
    async fn asked(codes: &'static [u16]) -> (anyhow::Result<()>, Vec<String>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let client = answering::server(move |method, path| {
            let mut asked = kept.lock().unwrap();
            let patches = asked.iter().filter(|one: &&String| one.starts_with("PATCH")).count();
            asked.push(format!("{method} {path}"));
            match (method.as_str(), path) {
                ("GET", "/api/v1/nodes") => (
                    200,
                    json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {},
                        "items": [node("a", Some("c0ffee")), {"metadata": {"name": "clean"}}]}),
                ),
                ("PATCH", _) if codes[patches] != 200 => failure(codes[patches]),
                _ => (200, node("a", Some("beef"))),
            }
        });
        let done = clean_nodes(client.await).await;
        let asked = asked.lock().unwrap().clone();
        (done, asked)
    }

    #[tokio::test]
    async fn a_node_is_read_again_only_after_a_conflict_and_one_that_is_gone_is_done() {
        let (list, patch, get) = ("GET /api/v1/nodes", "PATCH /api/v1/nodes/a", "GET /api/v1/nodes/a");
        for (codes, expected) in [
            (&[200][..], &[list, patch][..]),
            (&[404], &[list, patch]),
            (&[409, 200], &[list, patch, get, patch]),
            (&[422, 404], &[list, patch, get, patch]),
        ] {
            let (done, asked) = asked(codes).await;
            done.unwrap();
            assert_eq!(asked, expected, "{codes:?}");
        }
        let (refused, _) = asked(&[403]).await;
        assert!(format!("{:#}", refused.unwrap_err()).starts_with("labels and taint of node a cannot be removed: "));
    }
}
