//! Every request that the API server knows, sent as a service account: what is not forbidden.
//! It must never judge by what the API server says of somebody's rights: the requests themselves are made.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Cluster;
use super::account::Account;

/// Requests under way at once.
const AT_ONCE: usize = 16;
/// The name of something that is not there.
const NOTHING: &str = "made-up";

/// A request that a token may or may not make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// `GROUP/RESOURCE[/SUBRESOURCE]`, or a path that is no resource.
    pub what: String,
    /// As RBAC calls it.
    pub verb: &'static str,
    /// Where: nothing for all namespaces, and for what is in none.
    pub namespace: Option<String>,
    /// Which; nothing for the whole collection.
    pub name: Option<String>,
    path: String,
}

impl Cluster {
    /// Every verb on every resource and subresource that is served, and every other path: in these namespaces and in all of them, on
    /// something that is not there, and on what is called one of the names.
    pub fn attempts(&self, namespaces: &[&str], names: &[&str]) -> Result<Vec<Attempt>> {
        let mut all = BTreeSet::new();
        for (group, root) in self.groups()? {
            let served = self.raw(&root)?;
            for resource in served["resources"].as_array().context("no resources")? {
                let name = resource["name"].as_str().context("a resource without a name")?;
                let of = Resource {
                    what: format!("{group}/{name}"),
                    root: &root,
                    name,
                };
                if resource["namespaced"] == true {
                    all.extend(of.collection(None, &["list", "watch", "deletecollection"]));
                    for namespace in namespaces {
                        all.extend(of.collection(Some(namespace), &["list", "watch", "create", "deletecollection"]));
                        all.extend(of.items(Some(namespace), names));
                    }
                } else {
                    all.extend(of.collection(None, &["list", "watch", "create", "deletecollection"]));
                    all.extend(of.items(None, names));
                }
            }
        }
        for path in self.raw("/")?["paths"].as_array().context("no paths")? {
            let path = path.as_str().context("a path that is no text")?.to_owned();
            all.insert(Attempt {
                what: path.clone(),
                verb: "get",
                namespace: None,
                name: None,
                path,
            });
        }
        Ok(all.into_iter().collect())
    }

    /// Every group, in each of its versions, and where its resources are listed.
    fn groups(&self) -> Result<Vec<(String, String)>> {
        let mut roots = vec![("core".to_owned(), "/api/v1".to_owned())];
        for group in self.raw("/apis")?["groups"].as_array().context("no groups")? {
            let name = group["name"].as_str().context("a group without a name")?;
            for version in group["versions"].as_array().context("no versions")? {
                let version = version["groupVersion"].as_str().context("no version")?;
                roots.push((name.to_owned(), format!("/apis/{version}")));
            }
        }
        Ok(roots)
    }

    fn raw(&self, path: &str) -> Result<Value> {
        let printed = self.printed(&["get", "--raw", path])?;
        serde_json::from_str(&printed).with_context(|| format!("{path} is no JSON"))
    }
}

/// A resource or subresource, and where it is.
struct Resource<'a> {
    what: String,
    root: &'a str,
    name: &'a str,
}

impl Resource<'_> {
    fn place(&self, namespace: Option<&str>) -> String {
        let within = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        format!("{}{within}", self.root)
    }

    /// Requests for all of a kind; a subresource has none.
    fn collection(&self, namespace: Option<&str>, verbs: &[&'static str]) -> Vec<Attempt> {
        if self.name.contains('/') {
            return Vec::new();
        }
        let path = format!("{}/{}", self.place(namespace), self.name);
        verbs
            .iter()
            .map(|verb| self.attempt(verb, namespace, None, &path))
            .collect()
    }

    /// Requests for one of a kind.
    fn items(&self, namespace: Option<&str>, names: &[&str]) -> Vec<Attempt> {
        let mut all = Vec::new();
        for item in names.iter().copied().chain([NOTHING]) {
            let (path, verbs): (_, &[&str]) = match self.name.split_once('/') {
                Some((kind, sub)) => (
                    format!("{}/{kind}/{item}/{sub}", self.place(namespace)),
                    &["get", "create", "update", "patch", "delete"],
                ),
                None => (
                    format!("{}/{}/{item}", self.place(namespace), self.name),
                    &["get", "update", "patch", "delete"],
                ),
            };
            all.extend(
                verbs
                    .iter()
                    .map(|verb| self.attempt(verb, namespace, Some(item), &path)),
            );
        }
        all
    }

    fn attempt(&self, verb: &'static str, namespace: Option<&str>, name: Option<&str>, path: &str) -> Attempt {
        let watching = if verb == "watch" {
            "?watch=true&timeoutSeconds=1"
        } else {
            ""
        };
        Attempt {
            what: self.what.clone(),
            verb,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            path: format!("{path}{watching}"),
        }
    }
}

impl Account<'_> {
    /// Makes all requests, and gives those that were not forbidden: done, or refused for another reason than who asked.
    pub fn allowed(&self, attempts: &[Attempt]) -> Result<BTreeSet<Attempt>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let file = Kubeconfig::read_from(self.kubeconfig())?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            let (mut running, mut allowed) = (JoinSet::new(), BTreeSet::new());
            for attempt in attempts {
                if running.len() >= AT_ONCE {
                    allowed.extend(running.join_next().await.context("nothing runs")???);
                }
                running.spawn(made(client.clone(), attempt.clone()));
            }
            while let Some(ended) = running.join_next().await {
                allowed.extend(ended??);
            }
            Ok(allowed)
        })
    }

    /// Verbs that no request has a method for, on everything: whether the API server would let it pass.
    pub fn may(&self, verb: &str, group: &str, resource: &str) -> Result<bool> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "group": group, "resource": resource } },
        });
        let answer = self.kubectl_with(&["create", "-o", "jsonpath={.status.allowed}"], &review)?;
        ensure!(answer.code == 0, "{answer:?}");
        Ok(answer.stdout == "true")
    }
}

/// The attempt, if it was not forbidden.
async fn made(client: Client, attempt: Attempt) -> Result<Option<Attempt>> {
    let any = Request::new("/any");
    let mut request = match attempt.verb {
        "create" => any.create(&PostParams::default(), b"{}".to_vec()),
        "update" => any.replace("any", &PostParams::default(), b"{}".to_vec()),
        "patch" => any.patch("any", &PatchParams::default(), &Patch::Merge(json!({}))),
        "delete" | "deletecollection" => any.delete("any", &DeleteParams::default()),
        _ => any.list(&ListParams::default()),
    }?;
    *request.uri_mut() = attempt.path.parse()?;
    match client.request_text(request).await {
        // Not a refusal of admission, which comes after.
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(" cannot ") => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 401 || status.code == 429 => {
            bail!("{attempt:?}: {status:?}")
        }
        _ => Ok(Some(attempt)),
    }
}
